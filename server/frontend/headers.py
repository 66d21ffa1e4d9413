"""The headers of what the front ends are served with.

Owns what a browser may do with a page: who may frame it, what it keeps, and the sandbox for what users have written.
"""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web

from server import app_keys

NOSNIFF: Final[dict[str, str]] = {"X-Content-Type-Options": "nosniff"}
# Names that hold a hash of the contents: 16 or more hex digits. They never change, so nobody need ask again.
IMMUTABLE: Final = "public, max-age=31536000, immutable"
ASK_AGAIN: Final = "no-cache"
# Pages change their icon with each cell that begins and ends, and the browser would ask for it each time.
ICON: Final = "public, max-age=86400"


def page_headers(request: web.Request) -> dict[str, str]:
    """Of a page: not kept, and framed only by whom the setting names.

    As with Jupyter itself there is no rule for scripts: notebooks show what their authors draw, from wherever.
    """
    return NOSNIFF | {
        "Content-Security-Policy": policy(request),
        hdrs.CACHE_CONTROL: "no-store",
        # Not "no-referrer": a browser then sends "Origin: null" with forms, and the server refuses them.
        "Referrer-Policy": "same-origin",
    }


def policy(request: web.Request) -> str:
    """The content security policy that Jupyter's own pages have."""
    ancestors = " ".join(request.app[app_keys.SETTINGS].frame_ancestors)
    return f"frame-ancestors {ancestors}; object-src 'self' data: blob:; base-uri 'self'; form-action 'self'"


def sandboxed(request: web.Request) -> dict[str, str]:
    """Of a file that a user has: scripts in it run as of an origin of their own, and reach nothing here."""
    return page_headers(request) | {
        "Content-Security-Policy": f"{policy(request)}; sandbox allow-scripts",
        hdrs.CACHE_CONTROL: ASK_AGAIN,
    }
