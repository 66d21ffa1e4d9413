"""Tokens: who may ask, as a signed sentence (JWT) that this server can check by itself.

Owns verifying (`TokenVerifier`) and making (`mint_user`, `mint_guest`) tokens. PyJWT checks signature,
algorithm, expiry, audience and issuer. Which algorithm is allowed follows from the configuration: HS256
only ever with the secret, RS256 and ES256 only ever with published keys; so neither `none` nor a public key
used as an HMAC secret can pass. It never logs a token, never quotes one in an error, knows nothing of
requests.
"""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
from jwt.exceptions import InvalidSubjectError

from server.expiring_lru import ExpiringLru
from server.published_keys import ASYMMETRIC, PublishedKeys, UnknownKey
from server.roles import NOBODY_SPECIAL, USUAL, Claims, Standing
from server.token_errors import KeysUnavailable, TokenError, TokenRefused

__all__ = [
    "MIN_SECRET_BYTES",
    "KeysUnavailable",
    "TokenError",
    "TokenRefused",
    "TokenVerifier",
    "Verified",
    "mint_guest",
    "mint_user",
]

MIN_SECRET_BYTES: Final = 32  # HMAC-SHA256's own size (RFC 7518, 3.2)
MAX_TOKEN_CHARS: Final = 8192  # above aiohttp's limit for a header line, far above any real token
MAX_USER_CHARS: Final = 255  # OpenID Connect's limit for `sub`
CLOCK_SKEW_S: Final = 10.0  # between this machine and the one that made the token
REMEMBERED_TOKENS: Final = 4096
LATEST_EXPIRY: Final = 1 << 53  # the whole numbers that a float holds
GUEST_CLAIM: Final = "kernelring_guest"


@dataclass(frozen=True, slots=True)
class Verified:
    """What a good token says: a user, or (`guest`) that its bearer may become a guest."""

    user: str | None
    guest: bool
    expires: float  # seconds since 1970
    standing: Standing = NOBODY_SPECIAL


class TokenVerifier:
    """Checks tokens against the secret, the published keys, or both, as configured.

    `secret`: HS256, at least MIN_SECRET_BYTES (ValueError). `jwks_url`: RS256 and ES256. `audience` and
    `issuer` are demanded when given. A token that passed is a dictionary lookup until it expires.
    """

    def __init__(
        self,
        *,
        secret: str | None,
        jwks_url: str | None = None,
        audience: str | None = None,
        issuer: str | None = None,
        claims: Claims = USUAL,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if secret is not None:
            check_secret(secret)
        self._secret = secret
        self._audience = audience
        self._issuer = issuer
        self._claims = claims
        self._passed: ExpiringLru[bytes, Verified] = ExpiringLru(REMEMBERED_TOKENS, clock)
        # A key that is no longer published must not live on in what was remembered by it.
        self._published = PublishedKeys(jwks_url, on_change=self._passed.clear) if jwks_url else None

    async def verify(self, token: str) -> Verified:
        """Who the token is for. Raises TokenRefused with a sentence, or KeysUnavailable (try again later)."""
        if not token.isascii() or len(token) > MAX_TOKEN_CHARS:
            raise TokenRefused("The token is too long or not made of plain characters.")
        name = hashlib.sha256(token.encode()).digest()
        known = self._passed.get(name)
        if known is None:
            known = await self._check(token)
            self._passed.put(name, known, known.expires)
        return known

    async def close(self) -> None:
        """Stop fetching keys."""
        if self._published is not None:
            await self._published.close()

    async def _check(self, token: str) -> Verified:
        header = _header(token)
        algorithm = str(header.get("alg"))  # whatever a stranger wrote there
        if algorithm == "HS256" and self._secret is not None:
            return self._read(token, self._secret, "HS256")
        if algorithm in ASYMMETRIC and self._published is not None:
            try:
                key = await self._published.key(header.get("kid"), algorithm)
            except UnknownKey:
                raise TokenRefused("The token is signed with a key that is not published.") from None
            return self._read(token, key, algorithm)
        raise TokenRefused("The token is signed with an algorithm that this server does not accept.")

    def _read(self, token: str, key: str | jwt.PyJWK, algorithm: str) -> Verified:
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=CLOCK_SKEW_S,
                options={"require": ["exp"], "enforce_minimum_key_length": True},
            )
        except jwt.PyJWTError as error:
            raise TokenRefused(_sentence(error)) from None
        return self._verified(claims, may_invite=algorithm == "HS256")

    def _verified(self, claims: Mapping[str, Any], *, may_invite: bool) -> Verified:
        expires = float(min(int(claims["exp"]), LATEST_EXPIRY))
        guest = claims.get(GUEST_CLAIM) is True
        if guest and "sub" not in claims and may_invite:
            return Verified(None, True, expires)
        if guest:
            raise TokenRefused("A guest token has no user and is signed with the server's own secret.")
        if "sub" not in claims:
            raise TokenRefused("The token has no 'sub' claim: it does not say who it is for.")
        try:
            user = check_user(claims["sub"])
        except ValueError as error:
            raise TokenRefused(str(error)) from None
        return Verified(user, False, expires, self._claims.standing(claims))


def mint_user(
    secret: str,
    user: str,
    *,
    lifetime_s: float,
    audience: str | None = None,
    issuer: str | None = None,
    claims: Mapping[str, Any] | None = None,
) -> str:
    """A token for one user, with further `claims`. ValueError when the secret is short or the id is not one."""
    check_user(user)
    return _mint(secret, {**(claims or {}), "sub": user}, lifetime_s, audience, issuer)


def mint_guest(secret: str, *, lifetime_s: float, audience: str | None = None, issuer: str | None = None) -> str:
    """A token with which each browser becomes a guest of its own."""
    return _mint(secret, {GUEST_CLAIM: True}, lifetime_s, audience, issuer)


def check_secret(secret: str) -> None:
    """ValueError with a sentence when a secret is shorter than HMAC-SHA256 wants."""
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise ValueError(f"The secret must have at least {MIN_SECRET_BYTES} bytes.")


def check_user(user: object) -> str:
    """The id itself, or ValueError: 1 to 255 printable characters, no space at either end.

    Printable (str.isprintable) leaves out control characters, line breaks, half surrogates, which no
    header or key could carry, and invisible ones, with which two ids would look alike.
    """
    if not isinstance(user, str) or not user:
        raise ValueError("The user id (sub) must be a text that is not empty.")
    if len(user) > MAX_USER_CHARS:
        raise ValueError(f"The user id (sub) is longer than {MAX_USER_CHARS} characters.")
    if not user.isprintable() or user != user.strip():
        raise ValueError("The user id (sub) has characters that cannot be printed, or a space at its end.")
    return user


def _mint(secret: str, claims: dict[str, Any], lifetime_s: float, audience: str | None, issuer: str | None) -> str:
    check_secret(secret)
    now = int(time.time())
    claims |= {"iat": now, "exp": now + math.ceil(lifetime_s)}
    if audience is not None:
        claims["aud"] = audience
    if issuer is not None:
        claims["iss"] = issuer
    return jwt.encode(claims, secret, algorithm="HS256")


def _header(token: str) -> dict[str, Any]:
    """The header as sent: good for choosing a key, not for believing anything."""
    try:
        return jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise TokenRefused(_sentence(error)) from None


# What a person reads for each of PyJWT's errors: by type, the narrow ones first. Their own texts may quote
# the token.
_SENTENCES: Final[tuple[tuple[type[jwt.PyJWTError], str], ...]] = (
    (jwt.ExpiredSignatureError, "The token has expired."),
    (jwt.ImmatureSignatureError, "The token is not valid yet."),
    (jwt.InvalidAudienceError, "The token is for another audience."),
    (jwt.InvalidIssuerError, "The token is from another issuer."),
    (InvalidSubjectError, "The user id (sub) must be a text that is not empty."),
    (jwt.InvalidAlgorithmError, "The token is signed with an algorithm that this server does not accept."),
    (jwt.InvalidSignatureError, "The token's signature is wrong."),
    (jwt.PyJWTError, "This is not a valid token (JWT)."),
)


def _sentence(error: jwt.PyJWTError) -> str:
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"The token has no {error.claim!r} claim."
    return next(sentence for kind, sentence in _SENTENCES if isinstance(error, kind))
