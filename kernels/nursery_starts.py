"""Which kernels may start now and which wait: the one place on a host that decides it.

Owns the line and the question whether there is room. A kernel that is started again takes the place that it had and
never waits. It starts nothing itself: whose turn has come is told to the nursery's `Kernels`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from kernels.bounds import Bounds
from kernels.free_memory import FreeMemory
from kernels.nursery_line import Line
from kernels.nursery_ward import Ward
from kernels.records import SpawnOrder

AT_ONCE: Final = max(8, 4 * (os.cpu_count() or 1))
"""So many may be on their way at once: more would only make each of them slower."""

COMING_MIB: Final = 64
"""What a kernel on its way is taken to need, since it does not have it yet. Our figure: an idle one has less."""

LOOK_S: Final = 0.2

log = structlog.get_logger(__name__)


class Starts:
    """`begin` starts a kernel whose turn has come; `give_up` ends the wait of one with a sentence."""

    def __init__(
        self,
        wards: Callable[[], Iterable[Ward]],
        begin: Callable[[Ward, SpawnOrder], None],
        give_up: Callable[[Ward, str], None],
    ) -> None:
        self._wards, self._begin, self._give_up = wards, begin, give_up
        self._line = Line()
        self._orders: dict[str, tuple[Ward, SpawnOrder, float]] = {}
        self._memory = FreeMemory()
        self._timer: asyncio.TimerHandle | None = None

    def must_wait(self, bounds: Bounds) -> bool:
        """Whether one more cannot start now. Nobody passes those that wait already."""
        return len(self._line) > 0 or not self._has_room(bounds)

    def wait(self, ward: Ward, order: SpawnOrder) -> None:
        """Put a kernel in the line."""
        self._orders[order.kernel_id] = (ward, order, time.monotonic())
        self._line.join(order.kernel_id, order.user)
        log.info("kernel_waits", kernel=order.kernel_id, user=order.user, waiting=len(self._line))
        self._look_in(LOOK_S)

    def leave(self, kernel_id: str) -> None:
        """It is not to be started any more."""
        self._line.leave(kernel_id)
        self._orders.pop(kernel_id, None)

    def place(self, kernel_id: str) -> int:
        """1 for the first in the line; 0 for one that does not wait."""
        return self._line.place(kernel_id)

    def room_made(self) -> None:
        """A kernel has come to its own, or has ended."""
        if len(self._line):
            self._look_in(0)

    def _look_in(self, pause_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(pause_s, self._look)

    def _look(self) -> None:
        """One start, and then whatever else the nursery has to do: a start takes it some milliseconds."""
        self._timer = None
        self._end_long_waits()
        first = self._orders.get(self._line.first())
        if first is None:
            return
        ward, order, since_s = first
        has_room = self._has_room(order.bounds)
        if has_room:
            self._line.call()
            del self._orders[order.kernel_id]
            log.info("kernel_waited", kernel=order.kernel_id, waited_s=round(time.monotonic() - since_s, 3))
        if len(self._line):
            self._look_in(0 if has_room else LOOK_S)
        if has_room:
            self._begin(ward, order)

    def _end_long_waits(self) -> None:
        now = time.monotonic()
        for kernel_id, (ward, order, since_s) in list(self._orders.items()):
            if 0 < order.bounds.wait_s <= now - since_s:
                self.leave(kernel_id)
                self._give_up(ward, f"This machine had no room for another kernel in {order.bounds.wait_s} s.")

    def _has_room(self, bounds: Bounds) -> bool:
        running = [ward for ward in self._wards() if ward.has_a_place()]
        coming = sum(ward.is_coming() for ward in running)
        if coming >= AT_ONCE or 0 < bounds.host_kernels <= len(running):
            return False
        return not bounds.free_mib or self._memory.mib() - coming * COMING_MIB >= bounds.free_mib
