"""How a kernel is taken over: two ways, for kernels with and without a flight recorder.

Owns the order of the steps at the kernel's sockets, and what is known afterwards of what the kernel has said. Knows
nothing of clients: `AttachedKernel` and its seats do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Protocol

import orjson
import structlog

from kernels import framing
from kernels.errors import ClaimRefused, PortLost
from kernels.framing import Number
from kernels.wires import OWNER_IDENTITY, WINDOW_BYTES, Wires

log = structlog.get_logger(__name__)

OVERTAKEN: Final = 4
MAX_UNCLAIMED: Final = 2048
ACK_EVERY_S: Final = 0.25
NOTHING: Final[Number] = (0, 0)
# The recorder does not note where a request came from. All others come on shell.
CONTROL_REPLIES: Final = frozenset({
    "interrupt_reply", "shutdown_reply", "debug_reply", "usage_reply",
    "create_subshell_reply", "delete_subshell_reply", "list_subshell_reply",
})  # fmt: skip


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
        """The number of an output; None when the kernel does not number. Raises AlreadyHeard for what came before."""


class AlreadyHeard(Exception):  # noqa: N818 (it is no error)
    """An output that has come a second time, live after it was replayed."""


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


class Recorded:
    """An identity that carries the epoch; the kernel itself grants it, and tells again what it has said."""

    recorded = True

    def __init__(self, epoch: int, boot: str, claim: Callable[[], Awaitable[None]]) -> None:
        self._epoch, self._boot, self._claim = epoch, boot, claim
        self.first: Number = NOTHING
        self.last: Number = NOTHING
        self.acks: dict[str, Number] = {}
        self._at: int | None = None  # while replies are replayed: the number of the output before the reply
        self._told: dict[str, Number] = {}  # of `acks`, what the kernel is to be told of soon
        # What came for requests that nobody here has sent: (number of the output before it, msg_id, session) of each.
        self._unclaimed: list[tuple[int, str, str]] = []

    async def join(self, wires: Wires, may_connect: Callable[[], None], *, running: bool) -> None:
        """Subscribe, connect, and ask for the replay; live output waits behind that.

        Each output is in the replay or comes live, or both: we are subscribed before we ask. Each reply is in the
        replay or comes to our identity: the kernel turns to us and answers in one step.
        """
        wires.hold()
        await wires.subscribe_for_sure()
        if running:
            # Not for the kernel's sake: an owner before that goes on writing is not heard, and would not know.
            await self._claim()
        may_connect()
        await wires.connect(f"kernelring:{self._epoch}:{self._boot}".encode())
        asked = {"epoch": self._epoch, "boot": self._boot, "since": None, "window": WINDOW_BYTES}
        reply = await wires.ask("kernelring_attach_request", asked)
        told = orjson.loads(reply[3])
        if not told["granted"]:
            raise ClaimRefused(f"the kernel has an owner of epoch {told['epoch']}", told["epoch"])
        self.first = (told["incarnation"], told["first"])
        self.last = (told["incarnation"], 0)
        self.acks = {client: (told["incarnation"], n) for client, n in told["acks"].items()}
        self._replay(wires, told, reply[4:])
        wires.release()

    def _replay(self, wires: Wires, told: dict[str, Any], buffers: list[bytes]) -> None:
        taken = 0

        def take(count: int) -> list[bytes]:
            nonlocal taken
            taken += count
            return buffers[taken - count : taken]

        for count in told["output"]:
            wires.replay("iopub", take(count))
        for at, count in told["replies"]:
            signed = take(count)
            self._at = at
            kind = orjson.loads(signed[1])["msg_type"]
            wires.replay("control" if kind in CONTROL_REPLIES else "shell", signed)
        self._at = None
        for count in told["questions"]:
            wires.replay("stdin", take(count))

    def number(self, metadata: bytes) -> Number | None:
        """The number; AlreadyHeard when it is not a new one."""
        found = framing.number_of(metadata)
        if found is None:
            return None
        if found <= self.last:
            raise AlreadyHeard
        self.last = found
        return found

    def acknowledge(self, client: str, number: Number, wires: Wires) -> None:
        """A client has got all output up to `number`. The kernel is told soon, and only of the newest.

        Of a new client it is told at once: were we and its entry worker killed within that time, nobody would know
        where to go on.
        """
        is_first, timer_runs = client not in self.acks, bool(self._told)
        self._told[client] = number
        if is_first:
            self._tell_acks(wires)
        elif not timer_runs:
            asyncio.get_running_loop().call_later(ACK_EVERY_S, self._tell_acks, wires)
        self.acks[client] = number

    def _tell_acks(self, wires: Wires) -> None:
        told, self._told = self._told, {}
        if not told:
            return
        with suppress(PortLost, KeyError):  # the wires have been cut meanwhile
            wires.tell("kernelring_ack_request", dict(told))

    def unclaimed(self, asked: str, session: str) -> None:
        """Something came for a request that an owner before us was given, by a client that is not here."""
        self._unclaimed.append((self.last[1] if self._at is None else self._at, asked, session))
        del self._unclaimed[:-MAX_UNCLAIMED]

    def claimable(self, client: str, place: Number) -> list[str]:
        """The requests of a client whose replies it may not have got when it had got output up to `place`.

        Front ends put into their messages the session_id that they connect with. Outputs and replies go different ways,
        so that one may overtake the other by a little.
        """
        return [asked for at, asked, session in self._unclaimed if session == client and at >= place[1] - OVERTAKEN]
