"""The home page at `/`: who I am, my kernels, the workers and the ring, and a cell to try them with.

Owns the page's shell, its headers and the files that it loads from `/static/`. The shell is the same for everybody but
for the name; all that changes is fetched by its scripts from the API. It never looks at kernels or the ring itself, and
nothing on the page comes from another site.
"""

import html
from pathlib import Path
from string import Template
from typing import Final

from aiohttp import hdrs, web

from server.request_keys import USER

PAGES: Final = Path(__file__).with_name("pages")

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; "  # data: shows the images that cells draw
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_NOSNIFF: Final[dict[str, str]] = {"X-Content-Type-Options": "nosniff"}
_PAGE_HEADERS: Final[dict[str, str]] = _NOSNIFF | {
    "Content-Security-Policy": _POLICY,
    hdrs.CACHE_CONTROL: "no-store",
    # Not "no-referrer": a browser then sends "Origin: null" with the form that logs out, and the server refuses it.
    "Referrer-Policy": "same-origin",
}
# Asked for again each time and answered with 304: after a deployment no page runs with yesterday's scripts.
_FILE_HEADERS: Final[dict[str, str]] = _NOSNIFF | {hdrs.CACHE_CONTROL: "no-cache"}
_CONTENT_TYPES: Final[dict[str, str]] = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# The names that can be asked for. A name is looked up here and never joined to a path, so there is nothing to escape.
_FILES: Final[dict[str, Path]] = {file.name: file for file in PAGES.iterdir() if file.suffix in _CONTENT_TYPES}
_SHELL: Final = Template((PAGES / "home.html").read_text(encoding="utf-8"))


async def home(request: web.Request) -> web.Response:
    """`GET /`, for somebody who is logged in: `request[USER]` is set."""
    text = _SHELL.substitute(user=html.escape(request[USER]))
    return web.Response(text=text, content_type="text/html", headers=_PAGE_HEADERS)


def add_static(app: web.Application) -> None:
    """Serve the pages' scripts, styles and pictures at `/static/`; they are the same for everybody."""
    app.router.add_get("/static/{name}", _file)


async def _file(request: web.Request) -> web.FileResponse:
    file = _FILES.get(request.match_info["name"])
    if file is None:
        raise web.HTTPNotFound
    headers = _FILE_HEADERS | {hdrs.CONTENT_TYPE: _CONTENT_TYPES[file.suffix]}
    return web.FileResponse(file, headers=headers)
