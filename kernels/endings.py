"""Requests that the kernel has answered and not yet said to be done with.

Owns the wait for their idle status, which follows the reply at once. If it does not come, output was dropped and
nothing came after it that would show that. Knows nothing of what is done about it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

MAX_EARLY: Final = 8  # reply and status come over two sockets, and one may be ahead by a little
IDLE_WITHIN_S: Final = 0.5  # a busy kernel or worker may take that long; to ask in vain costs some milliseconds


class Endings:
    """`overdue` is called when an idle status is missing."""

    def __init__(self, overdue: Callable[[], None]) -> None:
        self._overdue = overdue
        self._open: dict[str, None] = {}
        self._early: deque[str] = deque(maxlen=MAX_EARLY)  # idle statuses that have overtaken their reply
        self._timer: asyncio.TimerHandle | None = None

    def replied(self, msg_id: str) -> None:
        """The reply has come; the idle status is to follow."""
        if msg_id in self._early:
            self._early.remove(msg_id)
            return
        self._open[msg_id] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(IDLE_WITHIN_S, self._look, msg_id)

    def idle(self, msg_id: str) -> None:
        """It has come."""
        if msg_id in self._open:
            del self._open[msg_id]
        else:
            self._early.append(msg_id)

    def forget(self) -> None:
        """The kernel's process is another one, or not ours any more."""
        self._open.clear()
        self._early.clear()
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _look(self, oldest: str) -> None:
        self._timer = None
        if oldest in self._open:
            self._open.clear()  # asked for once: some replies have no status
            self._overdue()
        elif self._open:
            oldest = next(iter(self._open))
            self._timer = asyncio.get_running_loop().call_later(IDLE_WITHIN_S, self._look, oldest)
