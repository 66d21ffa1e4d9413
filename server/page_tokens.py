"""Page tokens: what a notebook in a frame on another site's page logs in with, instead of the cookie.

Browsers keep a login cookie from frames on other sites' pages, and more of them every year. So such a page gets a token
of its own and sends it with each request. It is made from the token in the frame's address, which may therefore be of
short life and has no further use; it can neither log a browser in nor make another of its kind, and ends when a login
would.

Owns how they are signed and read. No I/O, nothing of requests.
"""

import hashlib
import hmac
import time
from typing import Final

import jwt

from server.expiring_lru import ExpiringLru
from server.token_errors import TokenRefused

# Pictures beside a notebook are asked for by the browser itself, which sends no header: for them, and for nothing but
# reading files, such a page's token is a cookie too. Browsers keep it apart for each site that shows the frame (CHIPS).
FILES_COOKIE: Final = "kernelring_files"
FILES: Final = "/files/"

PREFIX: Final = "page."  # no JWT begins like this, so the two kinds cannot be taken for each other
MAX_CHARS: Final = 8192
REMEMBERED: Final = 4096


class PageTokens:
    """`secret`: of the login cookies; the key is another one. `hours` from making to the end."""

    def __init__(self, secret: bytes, hours: float) -> None:
        self._key = hmac.digest(secret, b"kernelring page token", "sha256")
        self._lifetime_s = int(hours * 3600)
        self._passed: ExpiringLru[bytes, str] = ExpiringLru(REMEMBERED, time.time)

    def make(self, user: str) -> str:
        """A token for the page of `user`."""
        claims = {"sub": user, "exp": int(time.time()) + self._lifetime_s}
        return PREFIX + jwt.encode(claims, self._key, algorithm="HS256")

    def reader(self, cookie: str | None) -> str | None:
        """Who may read files by the cookie of that name; None when it is none of ours, or no longer."""
        try:
            return self.user(cookie) if cookie else None
        except TokenRefused:
            return None

    def user(self, token: str) -> str | None:
        """Who a page's token is for; None when it is a token of another kind. Raises TokenRefused."""
        if not token.startswith(PREFIX):
            return None
        if not token.isascii() or len(token) > MAX_CHARS:
            raise TokenRefused("The token is too long or not made of plain characters.")
        name = hashlib.sha256(token.encode()).digest()
        return self._passed.get(name) or self._read(token.removeprefix(PREFIX), name)

    def _read(self, token: str, name: bytes) -> str:
        try:
            claims = jwt.decode(token, self._key, algorithms=["HS256"], options={"require": ["sub", "exp"]})
        except jwt.ExpiredSignatureError:
            raise TokenRefused("This page was opened too long ago: open its lesson again.") from None
        except jwt.PyJWTError:
            raise TokenRefused("This is not a valid page token.") from None
        user = str(claims["sub"])
        self._passed.put(name, user, claims["exp"])
        return user
