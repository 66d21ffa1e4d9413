"""When clients may come in to a kernel, and when what they send passes on to it.

Owns the two gates, why one waits before the second, and the error that is left when both stay open for nobody. Says
nothing to anybody.
"""

from __future__ import annotations

import asyncio


class Doors:
    """Both are shut at first. `why`: what is said to those who have come in and wait; "" when there is nothing."""

    def __init__(self) -> None:
        self._open = asyncio.Event()  # clients may come in: the kernel is attached, or there are words for who waits
        self._passing = asyncio.Event()
        self.why = ""
        self.closed: Exception | None = None

    @property
    def are_passing(self) -> bool:
        """Whether what is sent passes on, or an error is all there is."""
        return self._passing.is_set()

    async def passed(self, *, to_send: bool) -> None:
        """Return when a client may come in, or may send; raise what `close` was given when there is no more kernel."""
        await (self._passing if to_send else self._open).wait()
        if self.closed:
            raise self.closed

    async def settled(self) -> None:
        """Return when it is not about to change whether what is sent passes on."""
        await self._passing.wait()

    def let_wait(self, why: str) -> bool:
        """Let clients in, who wait for this reason. Whether that is news."""
        if self.closed or (why == self.why and self._open.is_set()):
            return False
        self.why = why
        self._open.set()
        return True

    def open(self) -> None:
        """Both."""
        self._open.set()
        self._passing.set()

    def shut(self) -> None:
        """Both."""
        self._open.clear()
        self._passing.clear()

    def hold(self) -> None:
        """What is sent waits, until `open` or `shut`; who wants to come in may still."""
        self._passing.clear()

    def close(self, error: Exception) -> None:
        """Nobody waits any longer; all get the error."""
        self.closed = error
        self.open()
