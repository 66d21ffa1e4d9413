"""How far a client has come: what it was sent, and what it has said that it has got.

Owns the pings that say a number and the pongs that bring it back: a stock client proves with each pong that it has got
all that was sent before the ping. One ping is under way at a time, so a slow client is asked as often as it answers.
Knows nothing of owners and kernels.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from kernels.framing import Number

# What was sent and not asked about yet is what an entry worker's death repeats. At 100 ms that was 4 to 7 lines in
# 10,000 of a chaos run, at this pace it is below 1 (of which the recorder's pace, ACK_EVERY_S, has its part).
ASK_EVERY_S: Final = 0.02
MAX_SEQ: Final = 24
MAX_UNNUMBERED: Final = 64


class Receipts:
    """`ping` sends one to the client. `got` is the newest output that the client is known to have."""

    def __init__(self, ping: Callable[[bytes], Awaitable[None]], got: Number | None) -> None:
        self.got = got
        self._ping = ping
        self._sent = got
        self._unnumbered: list[str] = []  # what it was sent besides; of the first `_asked` the ping asks, too
        self._asked = 0
        self.got_unnumbered: deque[str] = deque(maxlen=MAX_UNNUMBERED)  # the newest of them, for a next owner
        self._more = asyncio.Event()  # something was sent since the last ping
        self._answered = asyncio.Event()

    def begin(self, number: Number | None) -> None:
        """Where the client's seat begins, if nothing better is known."""
        self.got = self.got or number
        self._sent = self._sent or number

    def sent(self, number: Number) -> None:
        """The client was sent the output `number`."""
        self._sent = number
        self._more.set()

    def sent_unnumbered(self, msg_id: str) -> None:
        """The client was sent the reply to this request, or this message of the server's own."""
        if self._sent:  # else the kernel numbers nothing
            self._unnumbered.append(msg_id)
            self._more.set()

    def heard(self, payload: bytes) -> tuple[Number, list[str]] | None:
        """A pong has come: return what the client has got, output up to a number and what has none, if that is news."""
        number = number_said(payload.decode("ascii", "replace"))
        if number is None or self._sent is None or number > self._sent:
            return None
        self._answered.set()
        unnumbered, self._unnumbered = self._unnumbered[: self._asked], self._unnumbered[self._asked :]
        self._asked = 0
        self.got_unnumbered.extend(unnumbered)
        if self.got and number <= self.got and not unnumbered:
            return None
        self.got = max(number, self.got or number)
        return self.got, unnumbered

    async def ask(self) -> None:
        """Ask, as long as this task runs: at once when there is something new, then at that pace."""
        while True:
            await self._more.wait()
            await self._ask_once()
            await asyncio.sleep(ASK_EVERY_S)

    async def settle(self, within_s: float) -> None:
        """Return when the client has answered for all that it was sent, or after `within_s`. Nothing else asks now."""
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(within_s):
                while self.got != self._sent or self._unnumbered:
                    await self._ask_once()

    async def _ask_once(self) -> None:
        assert self._sent
        self._more.clear()
        self._answered.clear()
        self._asked = len(self._unnumbered)
        await self._ping(b"%d.%d" % self._sent)
        await self._answered.wait()


def number_said(text: str) -> Number | None:
    """The number in `<incarnation>.<n>`; None for anything else."""
    incarnation, _, n = text.partition(".")
    if len(text) <= MAX_SEQ and incarnation.isdecimal() and n.isdecimal():
        return int(incarnation), int(n)
    return None
