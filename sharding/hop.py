"""What one worker tells another about a forwarded request: header names, and the typed request key.

The headers count only on the internal site, after `peer_site.peer_guard`. On a site for clients they mean
nothing: there, nobody puts HOP into a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiohttp import web

USER_HEADER: Final = "X-Kernelring-User"
"""The user's id, percent-encoded UTF-8."""
REQUEST_HEADER: Final = "X-Kernelring-Request"
"""The request id, percent-encoded UTF-8."""
EPOCH_HEADER: Final = "X-Kernelring-Epoch"
"""To the peer: the epoch at which the caller resolved. From the peer, with 421: the newest that it knows."""
BEHALF_HEADER: Final = "X-Kernelring-Behalf"
"""On whose behalf, where that is not the user: percent-encoded UTF-8, what it means is the caller's matter."""
SECRET_HEADER: Final = "X-Kernelring-Secret"  # noqa: S105  (a name, no secret)
"""The per-host secret, in hex."""
REFUSED_HEADER: Final = "X-Kernelring-Refused"
"""From the peer: the guard refused this request before any handler saw it."""

PING_PATH: Final = "/peer/ping"


@dataclass(frozen=True, slots=True)
class Hop:
    """A request that another worker of this host has let in and forwarded."""

    user: str
    request_id: str
    epoch: int
    behalf: str = ""


HOP: Final = web.RequestKey("kernelring.hop", Hop)
"""`request[HOP]`: set by the guard, and by nothing else."""
