# ruff: noqa: N818  (each is named for what it says: "PeerLost" needs no "Error")
"""The errors of this package: two small trees. Foreign exceptions are mapped where they arise.

`PeerError` is split by phase, since that decides what a caller may do: could the peer have seen the request?
"""

from __future__ import annotations


class ShardingError(Exception):
    """Base of everything that this package raises on purpose."""


class RegistryUnavailable(ShardingError):
    """Redis cannot be reached or does not answer in time."""


class EmptyRing(ShardingError):
    """The ring has no member, so nobody owns anything."""


class PeerError(ShardingError):
    """A request to a peer did not end in an answer to be passed on."""


class PeerUnreachable(PeerError):
    """No connection came about: the peer cannot have seen the request. Safe to resolve again and resend."""


class PeerLost(PeerError):
    """The connection ended, or time ran out, after sending began: the peer may have seen the request."""


class NotOwner(PeerError):
    """The peer does not agree that it owns the user. `epoch` is the newest that the peer knows."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the peer is not the owner at epoch {epoch}")
        self.epoch = epoch


class PeerRefused(PeerError):
    """The peer answered, but not with what was asked for: our secret was refused (403 by the guard), or a
    WebSocket request got a plain answer. `status` is the HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the peer answered {status} {reason}")
        self.status = status
        self.reason = reason
