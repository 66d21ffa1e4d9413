"""When the nursery confines: what is asked of the warden around the start and the end of each kernel.

Owns the moments, and that a nursery without a warden does nothing at any of them. What is done, the warden knows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial

import structlog

from kernels.confine import apart, folders
from kernels.confine.child import Fitting
from kernels.confine.options import NAMESPACES, Room
from kernels.confine.warden import Warden
from kernels.nursery_ward import Ward
from kernels.records import SpawnOrder

FIRST_SEAL_S, LAST_SEAL_S = 0.05, 30.0
"""When it is looked whether a kernel has all of its sockets: so soon, then after twice that, and so on to a minute."""

log = structlog.get_logger(__name__)


class Rooms:
    """Of the kernels that `wards` gives. `warden` is None where kernels are not confined."""

    def __init__(self, warden: Warden | None, wards: Callable[[], Iterable[Ward]]) -> None:
        self._warden = warden
        self._wards = wards

    def admit(self, order: SpawnOrder) -> tuple[SpawnOrder, Room | None]:
        """The order as it is to be carried out. Raises SpawnRefused, OSError."""
        folders.fresh_sockets(order.directory)
        return self._warden.admit(order) if self._warden else (order, None)

    def born_with(self, order: SpawnOrder) -> AbstractContextManager[tuple[int, ...]]:
        """The sockets that it is given, if it does not make them itself. Raises OSError."""
        return self._warden.born_with(order) if self._warden else contextlib.nullcontext(())

    @property
    def begin_apart(self) -> Callable[[], None] | None:
        """What a process does whose child is to be in namespaces of its own; None: nothing."""
        return apart.begin if self._warden and self._warden.walls.level == NAMESPACES else None

    def confining(self, room: Room | None) -> Callable[[], None] | None:
        """What a child does before it execs."""
        return partial(Fitting(self._warden.walls).enter, room) if self._warden and room else None

    def seal(self, ward: Ward, pause_s: float = FIRST_SEAL_S, *, again: bool = True) -> None:
        """Looks now and then whether the kernel has its sockets, which no descriptor tells, to close their directory.

        While it is open a student could put something else in the place of one: hence also the look before connecting,
        and the signatures.
        """
        if self._warden is None or ward.pidfd < 0:
            return
        try:
            done = self._warden.seal(ward.record.directory)
            if pause_s > LAST_SEAL_S:
                folders.close_sockets(ward.record.directory)
        except OSError as error:
            log.warning("kernel_not_sealed", kernel=ward.record.kernel_id, error=str(error))
            return
        if again and not done and pause_s <= LAST_SEAL_S:
            self.seal_later(ward, pause_s)

    def seal_later(self, ward: Ward, pause_s: float = FIRST_SEAL_S) -> None:
        """Begins to look."""
        if self._warden is not None:
            asyncio.get_running_loop().call_later(pause_s, self.seal, ward, pause_s * 2)

    def leave(self, ward: Ward) -> None:
        """When no kernel of its user's is left, nothing else of theirs stays."""
        user = ward.record.user
        if self._warden is None or ward.pidfd >= 0:
            return
        last = not any(other.pidfd >= 0 for other in self._wards() if other.record.user == user)
        try:
            self._warden.left(ward.record.directory, last=last)
        except OSError as error:
            log.warning("user_not_cleared", user=user, error=str(error))

    def end_strays(self) -> None:
        """To be called whenever a child has ended: only then does what it has started come to the nursery."""
        if self._warden is not None:
            try:
                self._warden.end_strays({ward.record.pid for ward in self._wards() if ward.pidfd >= 0})
            except OSError as error:
                log.warning("strays_not_ended", error=str(error))
