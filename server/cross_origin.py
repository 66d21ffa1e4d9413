"""Which pages of other origins may call the API, and what a browser must hear so that it lets them (CORS).

Owns the answers to a browser's preflights and the Access-Control headers. A foreign page is let in only when its origin
is on the list (compared whole) and its request carries a token. It is never told that it may send cookies
(Access-Control-Allow-Credentials), so whoever is logged in here is nobody to it. What a cookie may do is
`server/same_origin.py`'s business, and stays as it is. A WebSocket needs nothing of this: browsers ask no leave for it,
and its token or its Origin decides.
"""

from collections.abc import Sequence
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from server.api_errors import is_api
from server.identity import token_of

_EXPOSED: Final = "Content-Disposition, Location, Retry-After, X-Kernelring-Entry, X-Kernelring-Owner"
_PREFLIGHT: Final[dict[str, str]] = {
    hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, HEAD, POST, PUT, PATCH, DELETE",
    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: "authorization, content-type, x-xsrftoken",
    # Each address is asked about once in ten minutes: a page's polling costs no second round trip.
    hdrs.ACCESS_CONTROL_MAX_AGE: "600",
}


def setup_cross_origin(app: web.Application, origins: Sequence[str]) -> None:
    """Let pages of `origins` call the API with tokens. Before `setup_identity`: a preflight never has a token."""
    if not origins:
        return
    allowed = frozenset(origins)

    async def tell(request: web.Request, response: web.StreamResponse) -> None:
        """Errors, streams and what peers have answered come through here as well."""
        if is_api(request):
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)  # beside what the handler has said
            origin = _origin(request)
            if origin in allowed and (_is_preflight(request) or token_of(request)[0] is not None):
                response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
                response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED

    app.middlewares.append(_preflights(allowed))
    app.on_response_prepare.append(tell)


def _preflights(allowed: frozenset[str]) -> Middleware:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_api(request) and _is_preflight(request) and _origin(request) in allowed:
            return web.Response(status=204, headers=_PREFLIGHT)
        return await handler(request)

    return middleware


def _is_preflight(request: web.Request) -> bool:
    return request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers


def _origin(request: web.Request) -> str:
    """The one origin that the request names, as sent; "" (which is on no list) for none or several."""
    origins = request.headers.getall(hdrs.ORIGIN, [])
    return origins[0] if len(origins) == 1 else ""
