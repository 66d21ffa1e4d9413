"""The keys of an identity provider, as published at a JWKS address.

Owns fetching and remembering them. The last good set stays when the address fails; a key that nobody knows
is asked for at most once in REFRESH_PAUSE_S, however many tokens name one. It fetches with aiohttp, because
PyJWT's own client (urllib) would block the event loop. It never verifies anything and never takes a symmetric
key.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

import aiohttp
import jwt
import orjson
import structlog

from server.token_errors import KeysUnavailable

log = structlog.get_logger(__name__)

ASYMMETRIC: Final = frozenset({"RS256", "ES256"})
REFRESH_PAUSE_S: Final = 5.0
FRESH_S: Final = 300.0  # as long as PyJWT's own client keeps a set
FETCH_TIMEOUT_S: Final = 5.0
MAX_SET_BYTES: Final = 1 << 20


class UnknownKey(Exception):  # noqa: N818
    """No key of that name and algorithm is published."""


class PublishedKeys:
    """`on_change` is called when a fetched set differs from the one before it."""

    def __init__(self, url: str, *, on_change: Callable[[], None]) -> None:
        self._url = url
        self._on_change = on_change
        self._keys: dict[tuple[str | None, str], list[jwt.PyJWK]] = {}
        self._published: bytes | None = None
        self._fetched_at = self._tried_at = -float("inf")
        self._failed = False
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, kid: str | None, algorithm: str) -> jwt.PyJWK:
        """The key of that name; without a name, the only one there is for the algorithm.

        Raises UnknownKey, or KeysUnavailable when the address failed when last asked.
        """
        found = self._find(kid, algorithm)
        if found is not None:
            if time.monotonic() - self._fetched_at > FRESH_S:
                self._refresh()  # beside this request, which need not wait: its key is known
            return found
        fetching = self._refresh()
        if fetching is not None:
            # Shielded: the client that asked first may go away while others wait for the same answer.
            await asyncio.shield(fetching)
        found = self._find(kid, algorithm)
        if found is None and self._failed:
            raise KeysUnavailable("The keys that tokens are signed with cannot be fetched right now.")
        if found is None:
            raise UnknownKey
        return found

    async def close(self) -> None:
        """Give up a fetch under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            with suppress(asyncio.CancelledError):
                await self._fetching

    def _find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        candidates = self._keys.get((kid, algorithm), [])
        return candidates[0] if candidates and (kid is not None or len(candidates) == 1) else None

    def _refresh(self) -> asyncio.Task[None] | None:
        """The fetch under way, else a new one, else (too soon) None."""
        if self._fetching is not None:
            return self._fetching
        if time.monotonic() - self._tried_at < REFRESH_PAUSE_S:
            return None
        self._tried_at = time.monotonic()
        self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        try:
            body = await _get(self._url)
            self._take(body)
        except (aiohttp.ClientError, OSError, ValueError, jwt.PyJWTError) as error:
            self._failed = True
            log.warning("published_keys_unavailable", url=self._url, error=type(error).__name__)
        finally:
            self._fetching = None

    def _take(self, body: bytes) -> None:
        document = orjson.loads(body)
        if not isinstance(document, dict):
            raise jwt.PyJWKSetError("a JWKS is a JSON object")
        keys = _by_name(jwt.PyJWKSet.from_dict(document))
        changed = self._published is not None and body != self._published
        self._keys, self._published = keys, body
        self._fetched_at, self._failed = time.monotonic(), False
        if changed:
            self._on_change()


def _by_name(keys: Iterable[jwt.PyJWK]) -> dict[tuple[str | None, str], list[jwt.PyJWK]]:
    """Signing keys by (kid, algorithm), and all of an algorithm by (None, algorithm)."""
    named: dict[tuple[str | None, str], list[jwt.PyJWK]] = {}
    for key in keys:
        if key.algorithm_name in ASYMMETRIC and key.public_key_use in (None, "sig"):
            named.setdefault((None, key.algorithm_name), []).append(key)
            if isinstance(key.key_id, str):
                named.setdefault((key.key_id, key.algorithm_name), []).append(key)
    return named


async def _get(url: str) -> bytes:
    """The body of a 200. A redirect is a failure: the operator names the final address."""
    timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(url, allow_redirects=False) as response,
    ):
        if response.status != 200:
            raise ValueError(f"status {response.status}")
        body = await response.content.read(MAX_SET_BYTES + 1)
        while not response.content.at_eof() and len(body) <= MAX_SET_BYTES:
            body += await response.content.read(MAX_SET_BYTES + 1 - len(body))
        if len(body) > MAX_SET_BYTES:
            raise ValueError("the set is larger than a MiB")
        return body
