"""How a kernel with a flight recorder is taken over, and kept up with.

Owns an identity that carries the epoch, the number of the newest output heard, and what the kernel is told of its
clients' places. Output whose number does not follow the last one shows that some was dropped on the way: the recorder
is asked for it before anything else is handed up. Knows nothing of clients but their names.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import orjson

from kernels import framing
from kernels.adoption import NOTHING, AlreadyHeard, Skipped
from kernels.errors import ClaimRefused, PortLost
from kernels.framing import Number
from kernels.wires import WINDOW_BYTES, Wires

OVERTAKEN: Final = 4
FRUITLESS: Final = 2
MAX_UNCLAIMED: Final = 2048
# An acknowledgement costs the kernel 0.16 ms of processor time (measured): 0.8 % of a core while it prints.
ACK_EVERY_S: Final = 0.02
# The recorder does not note where a request came from. All others come on shell.
CONTROL_REPLIES: Final = frozenset({
    "interrupt_reply", "shutdown_reply", "debug_reply", "usage_reply",
    "create_subshell_reply", "delete_subshell_reply", "list_subshell_reply",
})  # fmt: skip


_LINKS: Final = itertools.count(1)


class Recorded:
    """The kernel itself grants the identity, which is this connection's own, and tells again what it has said."""

    recorded = True

    def __init__(self, epoch: int, boot: str, claim: Callable[[], Awaitable[None]]) -> None:
        self._epoch, self._boot, self._link, self._claim = epoch, boot, next(_LINKS), claim
        self.first: Number = NOTHING
        self.last: Number = NOTHING
        self.acks: dict[str, Number] = {}
        self._at: int | None = None  # while replies are replayed: the number of the output before the reply
        self._told: dict[str, Number] = {}  # of `acks`, what the kernel is to be told of soon
        self._lenient = False  # whether output is taken that does not follow the last one
        self._told_replies: list[str] = []
        self._telling = False  # whether a timer runs at whose end it is told
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
        await wires.connect(f"kernelring:{self._epoch}:{self._boot}:{self._link}".encode())
        told, buffers = await self._ask(wires, None)
        self.first = (told["incarnation"], told["first"])
        self.last = (told["incarnation"], told["first"] - 1)
        self.acks = {client: (told["incarnation"], n) for client, n in told["acks"].items()}
        self._replay(wires, told, buffers, lambda _: True)
        wires.release()

    async def catch_up(
        self, wires: Wires, tell_missed: Callable[[int], None], waits_for: Callable[[str], bool]
    ) -> None:
        """Hear what was dropped since `last`; what comes meanwhile waits behind it.

        `tell_missed` is called where so many outputs are missing for ever; of replies only those are handed up that
        somebody `waits_for`. Raises as `join`; then all that waits is for the next owner, who asks for it again.
        """
        wires.hold()
        fruitless = 0
        while wires.holds:
            before = self.last
            told, buffers = await self._ask(wires, self.last)
            if told["missed"]:
                tell_missed(told["missed"])
            self.last = (told["incarnation"], max(self.last[1], told["first"] - 1))
            self._replay(wires, told, buffers, waits_for)
            # If what has waited shows that more was dropped, it waits again. A kernel that counts as it likes (its
            # user may have seen to that) is not asked for ever.
            fruitless = fruitless + 1 if self.last == before else 0
            self._lenient = fruitless >= FRUITLESS
            wires.release()
        self._lenient = False

    async def _ask(self, wires: Wires, since: Number | None) -> tuple[dict[str, Any], list[bytes]]:
        owner = {"epoch": self._epoch, "boot": self._boot, "link": self._link}
        asked = owner | {"since": since, "window": WINDOW_BYTES}
        reply = await wires.ask("kernelring_attach_request", asked)
        told = orjson.loads(reply[3])
        if not told["granted"]:
            raise ClaimRefused(f"the kernel has an owner of epoch {told['epoch']}", told["epoch"])
        return told, reply[4:]

    def _replay(
        self, wires: Wires, told: dict[str, Any], buffers: list[bytes], waits_for: Callable[[str], bool]
    ) -> None:
        taken = 0

        def take(count: int) -> list[bytes]:
            nonlocal taken
            taken += count
            return buffers[taken - count : taken]

        self._lenient = True  # what it has kept is without gaps, or its own affair
        for count in told["output"]:
            wires.replay("iopub", take(count))
        self._lenient = False
        for at, count in told["replies"]:
            signed = take(count)
            if waits_for(framing.msg_id_of(signed[2])):
                self._at = at
                kind = orjson.loads(signed[1])["msg_type"]
                wires.replay("control" if kind in CONTROL_REPLIES else "shell", signed)
        self._at = None
        for count in told["questions"]:
            wires.replay("stdin", take(count))

    def number(self, metadata: bytes) -> Number | None:
        """The number. Raises AlreadyHeard when it is not a new one, Skipped when it is not the next one."""
        found = framing.number_of(metadata)
        if found is None:
            return None
        if found <= self.last:
            raise AlreadyHeard
        if found != (self.last[0], self.last[1] + 1) and not self._lenient:
            raise Skipped
        self.last = found
        return found

    def skip_to(self, metadata: bytes) -> tuple[Number, int]:
        """Go on with an output although others are missing before it: its number, and how many are."""
        found = framing.number_of(metadata)
        assert found
        missed, self.last = found[1] - self.last[1] - 1, found
        return found, missed

    def acknowledge(self, client: str, number: Number, replies: Iterable[str], wires: Wires) -> None:
        """A client has got all output up to `number`, and the replies to these requests.

        The kernel is told at once, or soon, and only of the newest.
        """
        self.acks[client] = self._told[client] = number
        self._told_replies.extend(replies)
        if not self._telling:
            self.tell_acks(wires)
            self._telling = True
            asyncio.get_running_loop().call_later(ACK_EVERY_S, self._told_long_ago, wires)

    def _told_long_ago(self, wires: Wires) -> None:
        self._telling = False
        if self._told:
            self.acknowledge(*self._told.popitem(), (), wires)

    def tell_acks(self, wires: Wires) -> None:
        """Tell the kernel now."""
        told = {"clients": self._told, "replies": self._told_replies}
        if self._told:
            self._told, self._told_replies = {}, []
            with suppress(PortLost, KeyError):  # the wires have been cut meanwhile
                wires.tell("kernelring_ack_request", told)

    def unclaimed(self, asked: str, session: str) -> None:
        """Something came for a request that an owner before us was given, by a client that is not here."""
        self._unclaimed.append((self.last[1] if self._at is None else self._at, asked, session))
        del self._unclaimed[:-MAX_UNCLAIMED]

    def claimed(self, replies: list[str]) -> None:
        """The clients have these replies, although the kernel did not know that when we asked it."""
        self._unclaimed = [one for one in self._unclaimed if one[1] not in replies]
        self._told_replies.extend(replies)

    def claimable(self, client: str, place: Number) -> list[str]:
        """The requests of a client whose replies it may not have got when it had got output up to `place`.

        Front ends put into their messages the session_id that they connect with. Outputs and replies go different ways,
        so that one may overtake the other by a little.
        """
        return [asked for at, asked, session in self._unclaimed if session == client and at >= place[1] - OVERTAKEN]
