"""The login session: an aiohttp-session storage whose cookie is enough to know who somebody is.

Owns the cookie `kernelring`: a JWT signed with a key of its own that carries the session's id, the user and
the expiry. A good signature, a time before the expiry and no logout make a login; the record in Redis
(server.session_records) is made again from the cookie when Redis has lost it, and with Redis away the cookie
alone is believed. Only a new login needs Redis.

It never takes a session id from a client into a new login (fixation), and never extends a session: it ends
`hours` after the login.
"""

import hashlib
import hmac
import secrets
import time
from typing import Any, Final

import jwt
import orjson
from aiohttp import web
from aiohttp_session import AbstractStorage, Session, new_session

from server.api_errors import api_error
from server.expiring_lru import ExpiringLru
from server.roles import NOBODY_SPECIAL, STUDENT, Standing
from server.session_records import Login, RecordsUnavailable, SessionRecords

COOKIE: Final = "kernelring"
USER_VALUE: Final = "user"
STUDENTS_VALUE: Final = "students"
MAX_COOKIE_CHARS: Final = 4096  # RFC 6265's least limit; no browser keeps more
REMEMBERED_COOKIES: Final = 8192
_CLAIMS: Final = ["sid", "sub", "iat", "exp"]

# The login behind this request's session: what its cookie says, or what `begin` has just issued.
LOGIN: Final = web.RequestKey("login", Login)


def derive_session_key(secret: str) -> bytes:
    """The key of the cookies, from a secret that may serve other ends too.

    Derived (HMAC with a label), so that a token can never pass as a cookie, nor a cookie as a token.
    """
    return hmac.digest(secret.encode(), b"kernelring login session", "sha256")


class LoginCookies:
    """Signs and reads the cookie's text. No I/O."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._read: ExpiringLru[bytes, Login] = ExpiringLru(REMEMBERED_COOKIES, time.time)

    def sign(self, login: Login) -> str:
        claims: dict[str, Any] = {
            "sid": login.sid, "sub": login.user, "iat": login.issued, "exp": login.expires
        }  # fmt: skip
        if login.guest:
            claims["guest"] = True
        if login.role != STUDENT:
            claims["role"] = login.role
        # As UTF-8: PyJWT's own encoding writes 12 characters for an emoji, and a long id of them
        # would not fit into a cookie.
        return jwt.PyJWS().encode(orjson.dumps(claims), self._key, "HS256")

    def read(self, cookie: str | None) -> Login | None:
        """None for whatever is not a cookie of ours in its time."""
        if not cookie or len(cookie) > MAX_COOKIE_CHARS or not cookie.isascii():
            return None
        name = hashlib.sha256(cookie.encode()).digest()
        login = self._read.get(name)
        if login is None:
            login = self._verify(cookie)
            if login is not None:
                self._read.put(name, login, login.expires)
        return login

    def _verify(self, cookie: str) -> Login | None:
        try:
            claims = jwt.decode(cookie, self._key, algorithms=["HS256"], options={"require": _CLAIMS})
        except jwt.PyJWTError:
            return None
        return Login(
            claims["sid"],
            claims["sub"],
            claims.get("guest") is True,
            claims["iat"],
            claims["exp"],
            claims.get("role", STUDENT),
        )


class LoginSessions(AbstractStorage):
    """`key` from derive_session_key; `hours` from login to the end of the session."""

    def __init__(self, records: SessionRecords, *, key: bytes, hours: float, guests: bool, behind_tls: bool) -> None:
        super().__init__(cookie_name=COOKIE, max_age=int(hours * 3600), httponly=True, samesite="Lax")
        self._records = records
        self._cookies = LoginCookies(key)
        self._guests = guests
        self._behind_tls = behind_tls

    async def load_session(self, request: web.Request) -> Session:
        """The session of the cookie, with the user under "user"; an empty new one without a good cookie."""
        login = self._cookies.read(self.load_cookie(request))
        if login is None or (login.guest and not self._guests):
            return await self.new_session()
        values = await self._records.check(login)
        if values is None:
            return await self.new_session()
        request[LOGIN] = login
        kept = {**values, USER_VALUE: login.user}
        return Session(
            login.sid,
            data={"created": login.issued, "session": kept},
            new=False,
            max_age=self.max_age,
        )

    async def begin(
        self, request: web.Request, user: str, *, guest: bool = False, standing: Standing = NOBODY_SPECIAL
    ) -> None:
        """Log this browser in. Raises RecordsUnavailable, and then nothing has changed.

        Always a new id: one that somebody may have planted in this browser ends here. The role is in the cookie. An
        instructor's students, for whom that may be too small, are in the record: without Redis, or when it has lost
        them, the instructor sees nobody until the next login.
        """
        now = int(time.time())
        assert self.max_age is not None
        login = Login(secrets.token_hex(16), user, guest, now, now + self.max_age, standing.role)
        values = {STUDENTS_VALUE: sorted(standing.students)} if standing.students else {}
        await self._records.open(login, values)
        former = self._cookies.read(self.load_cookie(request))
        if former is not None:
            await self._records.end(former)
        session = await new_session(request)
        session.set_new_identity(login.sid)
        session.update(values)
        session[USER_VALUE] = user
        request[LOGIN] = login

    async def save_session(self, request: web.Request, response: web.StreamResponse, session: Session) -> None:
        """Called by aiohttp-session for a session that changed: a login, a logout, or new values in it.

        Values kept in a session are lost with Redis' data, and with Redis away refused (503).
        """
        login = request.get(LOGIN)
        if login is None or session.empty:
            await self._forget(login, response)
        elif session.new:
            self._set(request, response, login)
        else:
            await self._keep(login, session)

    async def _keep(self, login: Login, session: Session) -> None:
        try:
            await self._records.open(login, dict(session))
        except RecordsUnavailable:
            raise api_error(503, "Service Unavailable", "The session cannot be saved now.") from None

    async def _forget(self, login: Login | None, response: web.StreamResponse) -> None:
        if login is not None:
            await self._records.end(login)
        response.del_cookie(COOKIE, path="/")

    def _set(self, request: web.Request, response: web.StreamResponse, login: Login) -> None:
        response.set_cookie(
            COOKIE,
            self._cookies.sign(login),
            max_age=self.max_age,
            path="/",
            httponly=True,
            samesite="Lax",
            secure=self._behind_tls or request.secure,
        )
