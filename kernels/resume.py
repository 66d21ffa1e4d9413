"""Where a client goes on, as its entry worker tells the kernel's owner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kernels.framing import Number


@dataclass(frozen=True, slots=True)
class Resume:
    """What a client's entry worker knows when it takes a seat (again).

    `after`: the msg_id of the last message that the client was sent; `number`: what the kernel's recorder numbered it
    with. `got`: up to where the client itself has said that it has come; what it was sent since may be lost together
    with its entry worker. `unnumbered`: what it has lately said that it has got besides (see `Seat.acknowledge`).
    `pending`: (channel, header) of requests that were handed on and not answered. `since`: when the owner before was
    last heard, ISO 8601. All empty for a new client.
    """

    client: str
    after: str | None = None
    number: Number | None = None
    pending: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    since: str | None = None
    got: Number | None = None
    unnumbered: list[str] = field(default_factory=list)

    @property
    def is_new(self) -> bool:
        """Whether nothing is known of the client: it is new, or its entry worker is."""
        return self.after is None and self.number is None and self.got is None and not self.pending
