"""Logging in and out: how a token becomes a browser's login session, and how that ends.

Owns GET and POST /login, POST /logout, the exchange of `?token=` for the cookie, and what a guest is. It
never decides who may call the API (server.identity does), and never passes a token on to an address or a log
line.
"""

import secrets
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeAlias
from urllib.parse import parse_qs

import orjson
import structlog
from aiohttp import web
from aiohttp_session import get_session

from server.api_errors import api_error, request_id
from server.bodies import read_body
from server.login_limit import LoginLimit, TooManyFailed, retry_header
from server.login_page import RETRY_SOON, local_address, login_page, redirect, without_token
from server.login_session import LOGIN, STUDENTS_VALUE, USER_VALUE, LoginSessions
from server.page_tokens import PageTokens
from server.roles import NOBODY_SPECIAL, Standing, standing_of
from server.same_origin import guard_browser, guard_cookie
from server.session_records import RecordsUnavailable
from server.tokens import KeysUnavailable, TokenRefused, TokenVerifier

log = structlog.get_logger(__name__)

# Jupyter's own login form calls the field "password", and VS Code fills that in.
TOKEN_FIELDS: Final = ("token", "password")

NO_GUESTS: Final = "This is a guest token, and this server takes no guests."
NOT_FOR_PROGRAMS: Final = (
    "This is a guest token: open it in a browser, or make a token with `python -m server.token --user NAME`."
)
NO_NEW_LOGINS: Final = (
    "New logins wait: the session store (Redis) cannot be reached. Try again in a few seconds; "
    "whoever is logged in stays so."
)

LoginFailure: TypeAlias = TokenRefused | KeysUnavailable | RecordsUnavailable
LOGIN_FAILURES: Final = (TokenRefused, KeysUnavailable, RecordsUnavailable)


def status_and_sentence(error: LoginFailure) -> tuple[int, str]:
    """403 for a bad token, 429 after too many of them, 503 for what may be good later."""
    if isinstance(error, RecordsUnavailable):
        return 503, NO_NEW_LOGINS
    if isinstance(error, TooManyFailed):
        return 429, str(error)
    return (403 if isinstance(error, TokenRefused) else 503), str(error)


def failed(error: LoginFailure) -> web.HTTPException:
    """The failure for a program."""
    status, sentence = status_and_sentence(error)
    headers = retry_header(error) if status == 429 else RETRY_SOON if status == 503 else None
    return api_error(status, HTTPStatus(status).phrase, sentence, headers=headers)


def failed_page(request: web.Request, error: LoginFailure, goal: str) -> web.Response:
    """The failure for a person: the login page says it."""
    status, sentence = status_and_sentence(error)
    path = request.rel_url.raw_path
    log.warning("login_refused", status=status, reason=sentence, request=request_id(request), path=path)
    page = login_page(status=status, refused=sentence, goal=goal)
    page.headers.update(retry_header(error))
    return page


async def session_user(request: web.Request) -> str | None:
    """Who the login cookie says this is."""
    user = (await get_session(request)).get(USER_VALUE)
    return user if isinstance(user, str) else None


async def session_standing(request: web.Request) -> Standing:
    """What the token that this browser was logged in with has said."""
    session, login = await get_session(request), request.get(LOGIN)
    return standing_of(login.role, session.get(STUDENTS_VALUE)) if login else NOBODY_SPECIAL


@dataclass(frozen=True, slots=True)
class Logins:
    """The handlers, and what they need."""

    verifier: TokenVerifier
    sessions: LoginSessions
    pages: PageTokens
    guests: bool
    behind_tls: bool
    limit: LoginLimit

    async def bearer(self, token: str) -> str:
        """The user of a token that accompanies each request. Raises TokenRefused, KeysUnavailable."""
        return self.pages.user(token) or await self.named(token)

    async def standing(self, token: str) -> Standing:
        """What the same token says of its user. A page in a frame works for itself alone. Raises as `bearer`."""
        return NOBODY_SPECIAL if self.pages.user(token) else (await self.verifier.verify(token)).standing

    async def named(self, token: str) -> str:
        """The user of a token that was made elsewhere. Raises TokenRefused, KeysUnavailable."""
        verified = await self.verifier.verify(token)
        if verified.user is None:
            raise TokenRefused(NOT_FOR_PROGRAMS if self.guests else NO_GUESTS)
        return verified.user

    async def admit(self, request: web.Request, token: str) -> str:
        """Log this browser in with a token; the user. Raises one of LOGIN_FAILURES.

        A guest token makes a guest of a browser that is nobody yet, and changes nobody who is somebody.
        """
        try:
            verified = await self.verifier.verify(token)
        except TokenRefused as error:
            raise self.limit.failed(request, error) from None
        user = verified.user
        if user is None:
            if not self.guests:
                raise TokenRefused(NO_GUESTS)
            present = await session_user(request)
            if present is not None:
                return present
            user = f"guest-{secrets.token_hex(4)}"
        await self.sessions.begin(request, user, guest=verified.guest, standing=verified.standing)
        log.info("logged_in", user=user, guest=verified.guest, request=request_id(request))
        return user

    async def exchange(self, request: web.Request, token: str) -> web.Response:
        """A page opened with `?token=`: the cookie instead, and the token out of the address."""
        try:
            await self.admit(request, token)
        except LOGIN_FAILURES as error:
            return failed_page(request, error, without_token(request))
        return redirect(without_token(request))

    async def get_login(self, request: web.Request) -> web.Response:
        """GET /login: the page; with `?token=`, the login itself."""
        goal = local_address(request.query.get("next"))
        token = request.query.get("token")
        if not token or request.method != "GET":
            return login_page(user=await session_user(request), goal=goal)
        try:
            await self.admit(request, token)
        except LOGIN_FAILURES as error:
            return failed_page(request, error, goal)
        return redirect(goal)

    async def post_login(self, request: web.Request) -> web.Response:
        """POST /login with a token: JSON is answered with JSON `{user}`, a form with 302 to `?next=`."""
        # Else a foreign page could log a browser in as its own user, and read what is typed there.
        guard_browser(request, behind_tls=self.behind_tls)
        goal = local_address(request.query.get("next"))
        as_json = request.content_type == "application/json"
        token = _token_in(await read_body(request), as_json=as_json, content_type=request.content_type)
        try:
            user = await self.admit(request, token)
        except LOGIN_FAILURES as error:
            if as_json:
                raise failed(error) from None
            return failed_page(request, error, goal)
        return web.json_response({"user": user}) if as_json else redirect(goal)

    async def post_logout(self, request: web.Request) -> web.Response:
        """POST /logout: 204, or for a browser's form 302 to the login page. Logging out twice is no error."""
        session = await get_session(request)
        login = request.get(LOGIN)
        if login is not None:
            guard_cookie(request, behind_tls=self.behind_tls)
            log.info("logged_out", user=login.user, request=request_id(request))
        session.invalidate()
        wants_page = "text/html" in request.headers.get("Accept", "")
        return redirect("/login") if wants_page else web.Response(status=204)


def _token_in(body: bytes, *, as_json: bool, content_type: str) -> str:
    """The token that a login sends. Raises 400 or 415."""
    if as_json:
        token = _from_json(body)
    elif content_type == "application/x-www-form-urlencoded":
        token = _from_form(body)
    else:
        raise api_error(415, "Unsupported Media Type", "Send the token as JSON or as a URL-encoded form.")
    if not token:
        raise api_error(400, "Bad Request", "The login has no token.")
    return token


def _from_json(body: bytes) -> str | None:
    try:
        document = orjson.loads(body)
    except ValueError:
        raise api_error(400, "Bad Request", "Invalid JSON in body of request") from None
    token = document.get("token") if isinstance(document, dict) else None
    return token if isinstance(token, str) else None


def _from_form(body: bytes) -> str | None:
    try:
        fields = parse_qs(body.decode(), max_num_fields=16)
    except ValueError:
        raise api_error(400, "Bad Request", "The form cannot be read.") from None
    return next((fields[name][0] for name in TOKEN_FIELDS if name in fields), None)
