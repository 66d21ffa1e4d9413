"""Did this server's own page send the request, or did somebody else's make the browser send it?

Owns the checks for requests that carry the login cookie, which a browser adds whoever asked: state-changing
ones, and WebSockets. Requests with a token need none: no foreign page has one. Hosts are compared whole and
exactly, never by pattern. It never opens anything to another origin.
"""

import hmac
import secrets
from typing import Final

from aiohttp import hdrs, web

from server.api_errors import api_error

XSRF_COOKIE: Final = "_xsrf"
XSRF_HEADER: Final = "X-XSRFToken"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def is_websocket(request: web.BaseRequest) -> bool:
    """True for a request to upgrade to a WebSocket."""
    return request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"


def guard_cookie(request: web.Request, *, behind_tls: bool) -> None:
    """Raise 403 unless a request that rests on the login cookie comes from this server's own pages.

    A WebSocket without Origin passes: every browser sends one, so no page made it. Other state-changing
    requests must prove themselves: by Origin, by Sec-Fetch-Site, or as Jupyter's clients do, by repeating the
    `_xsrf` cookie in a header, which no foreign page can set.
    """
    if is_websocket(request):
        guard_browser(request, behind_tls=behind_tls)
    elif request.method not in SAFE_METHODS:
        guard_browser(request, behind_tls=behind_tls)
        if not (_says_same_origin(request) or _repeats_xsrf(request)):
            raise api_error(
                403,
                "Forbidden",
                f"A login by cookie needs {XSRF_HEADER} or an Origin header to change anything.",
            )


def guard_browser(request: web.Request, *, behind_tls: bool) -> None:
    """Raise 403 when the browser itself says that another site sent this; pass when it says nothing."""
    origins = request.headers.getall(hdrs.ORIGIN, [])
    own = _own_origins(request, behind_tls=behind_tls)
    site = request.headers.get("Sec-Fetch-Site", "same-origin").lower()
    if any(origin.lower() not in own for origin in origins) or site not in ("same-origin", "none"):
        raise api_error(403, "Forbidden", "The request comes from a page of another site.")


def ensure_xsrf(request: web.Request, response: web.Response, *, secure: bool) -> None:
    """Give a page the `_xsrf` cookie that its scripts repeat. Readable by them, hence not httponly."""
    if not request.cookies.get(XSRF_COOKIE):
        response.set_cookie(XSRF_COOKIE, secrets.token_hex(16), path="/", samesite="Lax", secure=secure, httponly=False)


def _own_origins(request: web.Request, *, behind_tls: bool) -> set[str]:
    """As the browser would write them: in lower case, without the scheme's own port."""
    host = request.headers.get(hdrs.HOST, "").lower()
    if not host:
        return set()
    own = {"https://" + host.removesuffix(":443")}
    if not behind_tls:
        own.add("http://" + host.removesuffix(":80"))
    return own


def _says_same_origin(request: web.Request) -> bool:
    """After guard_browser: an Origin that is there is our own."""
    return hdrs.ORIGIN in request.headers or request.headers.get("Sec-Fetch-Site", "").lower() == "same-origin"


def _repeats_xsrf(request: web.Request) -> bool:
    sent, kept = request.headers.get(XSRF_HEADER, ""), request.cookies.get(XSRF_COOKIE, "")
    # As bytes, and anything that a header may hold: compare_digest refuses texts that are not ASCII.
    return bool(sent) and hmac.compare_digest(_raw(sent), _raw(kept))


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
