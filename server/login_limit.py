"""How many logins may fail that come from one address.

Owns that count, in this worker's memory: a flood of them shall cost no Redis. A good token is taken whatever else came
from its address, which a whole class may share.
"""

from __future__ import annotations

import time
from typing import Final

import structlog
from aiohttp import hdrs, web

from server.expiring_lru import ExpiringLru
from server.tokens import TokenRefused

log = structlog.get_logger(__name__)

MOST: Final = 30
WITHIN_S: Final = 60.0
REMEMBERED: Final = 8192  # addresses
_FORWARDED: Final = "X-Forwarded-For"


class TooManyFailed(TokenRefused):
    """From this address so many logins have failed that another is not looked into. `retry_s`: when it may be."""

    def __init__(self, retry_s: int) -> None:
        super().__init__(f"Too many logins from your address have failed. Try again in {retry_s} seconds.")
        self.retry_s = retry_s


class LoginLimit:
    """`behind_proxy`: clients are those that the proxy before this server names."""

    def __init__(self, *, behind_proxy: bool) -> None:
        self._behind_proxy = behind_proxy
        self._failed: ExpiringLru[str, tuple[int, float]] = ExpiringLru(REMEMBERED, time.monotonic)

    def failed(self, request: web.Request, error: TokenRefused) -> TokenRefused:
        """A login has failed; what its sender is told."""
        address = self._address(request)
        count, ends = self._failed.get(address) or (0, time.monotonic() + WITHIN_S)
        self._failed.put(address, (count + 1, ends), ends)
        if count < MOST:
            return error
        if count == MOST:
            log.warning("logins_limited", address=address, most=MOST, within_s=WITHIN_S)
        return TooManyFailed(max(1, round(ends - time.monotonic())))

    def _address(self, request: web.Request) -> str:
        """Of several, the last: the proxy has added it, and the ones before it anybody can write."""
        forwarded = request.headers.getall(_FORWARDED, []) if self._behind_proxy else []
        return (forwarded[-1].rpartition(",")[2].strip() if forwarded else request.remote or "")[:64]


def retry_header(error: Exception) -> dict[str, str]:
    """`Retry-After` where the client is to wait."""
    return {hdrs.RETRY_AFTER: str(error.retry_s)} if isinstance(error, TooManyFailed) else {}
