"""How a kernel is taken over: what the two ways have in common, and the one for kernels without a flight recorder.

Owns the order of the steps at the kernel's sockets. Knows nothing of clients: `AttachedKernel` and its seats do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from kernels.framing import Number
from kernels.wires import OWNER_IDENTITY, Wires

NOTHING: Final[Number] = (0, 0)


class Adoption(Protocol):
    """One way, for one process and one owner."""

    recorded: bool
    """Whether requests may be sent again, and output is numbered."""
    first: Number
    """The number of the oldest output that could still be had."""

    async def join(self, wires: Wires, may_connect: Callable[[], None], *, running: bool) -> None:
        """Become the owner of the process at the other end; what it has to say comes through the wires.

        `running`: another owner may serve it until now. Raises ClaimRefused, KernelSilent; and what `may_connect`
        raises, which is asked at the last moment before the identity is taken.
        """

    def number(self, metadata: bytes) -> Number | None:
        """The number of an output; None when the kernel does not number. Raises AlreadyHeard, Skipped."""


class AlreadyHeard(Exception):  # noqa: N818 (it is no error)
    """An output that has come a second time, live after it was replayed."""


class Skipped(Exception):  # noqa: N818 (it is no error)
    """An output before which others have not come."""


class Unrecorded:
    """One fixed identity for whoever owns the kernel. `claim` has the owner before write no more.

    The order makes a planned move lossless. What the kernel sends is heard by the owner before us (who passes it
    on until we have connected), by us, or by both; the client's last msg_id tells where to go on. And `claim`
    returns when that owner writes no more: what it has written is in the kernel before its identity is taken.
    """

    recorded = False
    first = NOTHING

    def __init__(self, claim: Callable[[], Awaitable[None]]) -> None:
        self._claim = claim

    async def join(self, wires: Wires, may_connect: Callable[[], None], *, running: bool) -> None:
        """Subscribe, claim, take the identity."""
        await wires.subscribe()
        if running:
            await self._claim()
        may_connect()
        await wires.connect(OWNER_IDENTITY)

    def number(self, metadata: bytes) -> Number | None:
        """None."""
        return None
