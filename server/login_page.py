"""The login page: one field, no script, nothing from elsewhere. And the redirects of logging in.

Owns HTML, its headers, and which addresses a redirect may name. It never knows a token: the field is always
empty.
"""

import html
from typing import Final
from urllib.parse import quote

from aiohttp import hdrs, web

LANDING: Final = "/tree"  # where a login leads that was for no page: to the student's notebooks

# A page or redirect whose address may have held a token: not kept, not told to the next site.
PRIVATE: Final[dict[str, str]] = {hdrs.CACHE_CONTROL: "no-store", "Referrer-Policy": "no-referrer"}

RETRY_SOON: Final[dict[str, str]] = {hdrs.RETRY_AFTER: "2"}

_HEADERS: Final[dict[str, str]] = PRIVATE | {
    # Not "no-referrer": a browser then sends "Origin: null" with the forms of this page, and the server refuses them.
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in - kernelring</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 30rem; margin: 12vh auto 0; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; }}
label {{ display: block; font-weight: 600; }}
input {{ font: inherit; box-sizing: border-box; width: 100%; padding: .5rem; margin: .25rem 0 .75rem; }}
button {{ font: inherit; padding: .5rem 1.25rem; }}
.refused {{ border-left: .3rem solid #c62828; padding: .25rem .75rem; }}
</style>
</head>
<body>
<main>
<h1>Log in</h1>
{notes}<form method="post" action="{action}">
<label for="token">Token</label>
<input id="token" name="token" type="password" required autofocus autocomplete="off" aria-describedby="help">
<p id="help">Whoever runs this server gives you a token, or an address with one in it.</p>
<button type="submit">Log in</button>
</form>
{leave}</main>
</body>
</html>
"""

_LEAVE: Final = """<form method="post" action="/logout"><button type="submit">Log out</button></form>
"""


def login_page(
    *, status: int = 200, refused: str | None = None, user: str | None = None, goal: str = LANDING
) -> web.Response:
    """The page. `refused`: why the last try failed; `user`: who is logged in; `goal`: where to go after."""
    notes = ""
    if refused is not None:
        notes += f'<p class="refused" role="alert">{html.escape(refused)}</p>\n'
    if user is not None:
        there = html.escape(goal)
        notes += f'<p>You are logged in as <strong>{html.escape(user)}</strong>. <a href="{there}">Go on</a></p>\n'
    action = "/login" if goal == LANDING else f"/login?next={quote(goal, safe='')}"
    body = _PAGE.format(notes=notes, action=html.escape(action), leave=_LEAVE if user is not None else "")
    headers = dict(_HEADERS)
    if status == 503:
        headers |= RETRY_SOON
    return web.Response(status=status, text=body, content_type="text/html", headers=headers)


def local_address(address: str | None) -> str:
    """The address if it stays on this server, else LANDING.

    Browsers read "//host" and "/\\host" as another host, and drop line breaks and tabs before they look.
    """
    if address is None or not address.startswith("/") or address.startswith("//"):
        return LANDING
    if "\\" in address or not address.isprintable():
        return LANDING
    return address


def redirect(address: str) -> web.Response:
    """302 to an address of this server (anything else: LANDING)."""
    location = quote(local_address(address), safe="/?#&=%:@!$'()*+,;[]~", errors="replace")
    return web.Response(status=302, headers=PRIVATE | {hdrs.LOCATION: location})


def without_token(request: web.Request) -> str:
    """The request's own address, less every `token` in its query."""
    url = request.rel_url
    query = "&".join(part for part in url.raw_query_string.split("&") if part.partition("=")[0] != "token")
    return f"{url.raw_path}?{query}" if query else url.raw_path


def with_next(request: web.Request) -> str:
    """The login page's address that leads back to this request's. From "/", which people type, it leads to LANDING."""
    back = without_token(request)
    return "/login" if back == "/" else f"/login?next={quote(back, safe='')}"
