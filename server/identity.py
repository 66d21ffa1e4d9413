"""Who is asking: every request is given its user, or turned away.

Owns the middleware that sets `request[USER]`, and the list of addresses that need no user. A user comes
from a token (`Authorization: Bearer`, `Authorization: token`, `?token=`, in this order) or else from the
login cookie, never from any other header. A token that is there decides: a bad one is refused even beside a
good cookie.

It never looks at what belongs to whom: handlers do, with the user that they find here.
"""

import warnings
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from aiohttp_session import session_middleware
from redis.asyncio import Redis

from server import app_keys
from server.api_errors import api_error, is_api, json_errors
from server.login import LOGIN_FAILURES, Logins, failed, failed_page, session_standing, session_user
from server.login_limit import LoginLimit
from server.login_page import redirect, with_next, without_token
from server.login_session import LoginSessions
from server.page_tokens import FILES, FILES_COOKIE, PageTokens
from server.request_keys import REQUEST_ID, STANDING, USER
from server.same_origin import SAFE_METHODS, ensure_xsrf, guard_cookie, is_websocket
from server.session_records import SessionRecords
from server.tokens import TokenVerifier

__all__ = ["REQUEST_ID", "USER", "setup_identity", "token_of"]

PUBLIC: Final = frozenset({"/healthz", "/readyz", "/login", "/logout", "/static", "/favicon.ico"})
PUBLIC_UNDER: Final = (
    "/static/",
    "/lab/extensions/",
    "/lab/api/themes/",  # style sheets, which no page can ask for with a header
    # Shown in frames of other sites' pages: they find out themselves who is asking (`server/frontend/embed.py`).
    "/embed/",
    "/embedded/",
)


def setup_identity(
    app: web.Application,
    *,
    verifier: TokenVerifier,
    redis: Redis,
    session_key: bytes,
    hours: float,
    guests: bool,
    behind_tls: bool,
) -> None:
    """Add the middlewares (errors, session, identity) and the routes of logging in and out.

    `redis` without decode_responses; `session_key` from `derive_session_key`. The caller closes `redis`,
    after the application's own cleanup; the verifier is closed here.
    """
    # aiohttp-session keeps its two values in the request by plain names, of which aiohttp would warn in the log.
    warnings.filterwarnings("ignore", category=web.NotAppKeyWarning, module="aiohttp_session")
    sessions = LoginSessions(SessionRecords(redis), key=session_key, hours=hours, guests=guests, behind_tls=behind_tls)
    limit = LoginLimit(behind_proxy=behind_tls)
    logins = Logins(verifier, sessions, PageTokens(session_key, hours), guests, behind_tls, limit)
    app[app_keys.LOGINS] = logins
    app.middlewares.extend([json_errors, session_middleware(sessions), identity(logins)])
    app.router.add_get("/login", logins.get_login)
    app.router.add_post("/login", logins.post_login)
    app.router.add_post("/logout", logins.post_logout)

    async def close_verifier(_: web.Application) -> None:
        await verifier.close()

    app.on_cleanup.append(close_verifier)


def identity(logins: Logins) -> Middleware:
    """The middleware that lets a request through with its user, or answers it."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = None if is_public(request) else await _identify(logins, request)
        response = refusal if refusal is not None else await handler(request)
        if isinstance(response, web.Response) and response.content_type == "text/html" and _is_page(request):
            ensure_xsrf(request, response, secure=logins.behind_tls or request.secure)
        return response

    return middleware


def is_public(request: web.Request) -> bool:
    """By the route that will answer, not by the path as written: no spelling of a path slips through."""
    resource = request.match_info.route.resource
    return resource is not None and (resource.canonical in PUBLIC or resource.canonical.startswith(PUBLIC_UNDER))


def token_of(request: web.Request) -> tuple[str | None, bool]:
    """The token that a request carries, and whether it stands in the address."""
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").strip().partition(" ")
    if scheme.lower() in ("bearer", "token") and token.strip():
        return token.strip(), False
    return request.query.get("token") or None, True


async def _identify(logins: Logins, request: web.Request) -> web.Response | None:
    """Set request[USER]; else the answer to give instead, or an error."""
    token, in_address = token_of(request)
    if token is None:
        return await _by_cookie(logins, request)
    if in_address and request.method == "GET" and _is_page(request):
        return await logins.exchange(request, token)
    try:
        request[USER] = await logins.bearer(token)
        request[STANDING] = await logins.standing(token)
    except LOGIN_FAILURES as error:
        if _is_page(request):
            return failed_page(request, error, without_token(request))
        raise failed(error) from None
    return None


async def _by_cookie(logins: Logins, request: web.Request) -> web.Response | None:
    user = await session_user(request) or _reader(logins, request)
    if user is None:
        return _turn_away(request)
    guard_cookie(request, behind_tls=logins.behind_tls)
    request[USER], request[STANDING] = user, await session_standing(request)
    return None


def _reader(logins: Logins, request: web.Request) -> str | None:
    """Whose files the page in a frame shows, when that is all that is asked for."""
    resource = request.match_info.route.resource
    reads_file = resource is not None and resource.canonical.startswith(FILES) and request.method in SAFE_METHODS
    return logins.pages.reader(request.cookies.get(FILES_COOKIE)) if reads_file else None


def _turn_away(request: web.Request) -> web.Response:
    """Nobody yet: a page leads to the login, everything else is refused as Jupyter does (403)."""
    if _is_page(request) and request.method in SAFE_METHODS:
        return redirect(with_next(request))
    raise api_error(403, "Forbidden", "Log in, or send a token.")


def _is_page(request: web.Request) -> bool:
    return not is_api(request) and not is_websocket(request)
