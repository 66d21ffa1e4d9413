"""The kernels in the nursery's care: start, watch, signal, claim, end.

Owns the records and the processes behind them. It knows no sockets: who asked, and who is to be told, is
`kernels.nursery`'s matter. All of it runs in the one thread of the nursery's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from kernels import bounded_log, nursery_disk, processes
from kernels.confine.options import Room
from kernels.confine.warden import Warden
from kernels.errors import ClaimRefused, KernelStuck, SpawnRefused, TooManyKernels, UnknownKernel
from kernels.nursery_ends import how_it_ended
from kernels.nursery_rooms import Rooms
from kernels.nursery_starts import Starts
from kernels.nursery_ward import Ward, check_first, check_owner, check_successor, first_record
from kernels.nursery_watch import Watch
from kernels.nursery_zygote import Nest, NoSpare
from kernels.oom import OomKills
from kernels.records import Exit, KernelRecord, SpawnOrder, checked_notes
from kernels.zygote_wire import BOUND

BOUND_S = 5.0
"""How long a worker waits to be told that a kernel has its sockets. Then it finds out for itself."""

STILL_WAITS_S = 2.0
"""How long a worker waits to be told that a kernel which waits has begun, before it tells that kernel's clients so."""

RETIRED_S = 15.0
"""How long the owner of a retired kernel may take to end it: jupyter_client gives a kernel 5 s to go by itself."""

SWEEP_AGE_S = 60.0

log = structlog.get_logger(__name__)


class Kernels:
    """All kernels of this host. `on_exit` is called with the record of each that has exited."""

    def __init__(
        self,
        folder: Path,
        on_exit: Callable[[KernelRecord], None],
        nest: Nest | None = None,
        warden: Warden | None = None,
    ) -> None:
        self._folder = folder
        self._nest = nest
        self._on_exit = on_exit
        self._wards: dict[str, Ward] = {}
        self._rooms = Rooms(warden, self._wards.values)
        self._starts = Starts(self._wards.values, self._begin, self._not_begun)
        self.oom = OomKills()
        self.watch = Watch(self._wards.values, warden.memory_mib if warden else 0, warden.processes if warden else 0)
        self._orphans: set[asyncio.Task[None]] = set()  # retired kernels that are ended in their owner's place

    def recover(self) -> None:
        """Takes over what an earlier nursery has left: watches what runs, notes what has ended."""
        for record in nursery_disk.load_all(self._folder):
            ward = self._wards[record.kernel_id] = Ward(record)
            if record.state == "running":
                self._rewatch(ward)
            elif record.state == "waiting":  # its environment and command were in the memory of that nursery alone
                self._not_begun(ward, "This kernel was not started: what starts kernels here was itself started anew.")
            ward.settled.set()
        for ward in self._wards.values():
            self._rooms.seal(ward)
            self._rooms.leave(ward)
        self._rooms.end_strays()

    def records(self, user: str | None = None) -> list[KernelRecord]:
        """All records, or those of one user."""
        return [ward.record for ward in self._wards.values() if user in (None, ward.record.user)]

    def in_use(self, user: str | None = None) -> list[KernelRecord]:
        """As `records`, without those that are about to be ended."""
        wards = [ward for ward in self._wards.values() if not ward.retired]
        return [ward.record for ward in wards if user in (None, ward.record.user)]

    def record(self, kernel_id: str) -> KernelRecord:
        """Raises UnknownKernel, also for one that is about to be ended."""
        ward = self._ward(kernel_id)
        if ward.retired:
            raise UnknownKernel(f"kernel {kernel_id} is about to be ended")
        return ward.record

    def spawn(self, order: SpawnOrder) -> KernelRecord:
        """Starts a kernel, or returns the record of this incarnation if it was started before.

        Raises SpawnRefused: a lower incarnation than the last, one while the last still runs, one of a kernel that has
        been ended meanwhile, a directory that is not this kernel's, a command that cannot be run.
        """
        ward = self._wards.get(order.kernel_id)
        if ward:
            check_owner(ward, order)
            if ward.record.incarnation == order.incarnation:
                return ward.record
            check_successor(ward.record, order)
        nursery_disk.check_directory(order, self._folder)
        if ward is None:
            check_first(order)
            self._check_share(order)
        never_ran = ward is None or not ward.record.pid
        if never_ran and self._starts.must_wait(order.bounds):
            return self._have_wait(order, ward.record if ward else None)
        return self._launch(order, ward.record if ward else None)

    def place(self, kernel_id: str) -> int:
        """Which one it is of those that wait to be started; 0: it does not. Raises UnknownKernel."""
        self._ward(kernel_id)
        return self._starts.place(kernel_id)

    def _check_share(self, order: SpawnOrder) -> None:
        """Every start passes here, one after the other, whoever is (or believes to be) the user's owner: it is exact.

        Those that have died count, too: their user sees them. Raises TooManyKernels.
        """
        mine = sum(ward.record.user == order.user and not ward.ending for ward in self._wards.values())
        if 0 < order.bounds.user_kernels <= mine:
            have = "1 kernel" if mine == 1 else f"{mine} kernels"
            raise TooManyKernels(f"You have {have}, the limit. Shut one down first (Running tab).")

    def signal(self, kernel_id: str, signum: int) -> bool:
        """Signals the kernel's process group. False if it has exited. Raises UnknownKernel."""
        ward = self._ward(kernel_id)
        return ward.pidfd >= 0 and processes.signal_group(ward.record.pid, ward.pidfd, signum)

    def claim(self, kernel_id: str, epoch: int, boot: str) -> KernelRecord:
        """Makes `boot` the kernel's owner. Returns the new record.

        Raises ClaimRefused for an epoch below the highest seen, or for that epoch from another boot.
        """
        ward, record = self._ward(kernel_id), self.record(kernel_id)
        held, holder = record.claim_epoch, record.claim_boot
        if epoch < held or (epoch == held and holder not in ("", boot)):
            raise ClaimRefused(f"kernel {kernel_id} is held by {holder} in epoch {held}", held)
        self._keep(ward, replace(ward.record, claim_epoch=epoch, claim_boot=boot))
        return ward.record

    def retire(self, kernel_id: str, boot: str, reason: str) -> KernelRecord:
        """Settles that its owner ends it. Raises ClaimRefused when that is not `boot` (any more), UnknownKernel."""
        ward = self._ward(kernel_id)
        if ward.record.claim_boot != boot:
            raise ClaimRefused(f"kernel {kernel_id} is held by {ward.record.claim_boot}", ward.record.claim_epoch)
        ward.retired, ward.ending = True, ward.ending or reason
        task = asyncio.create_task(self._end_retired(ward), name="end_retired")
        self._orphans.add(task)
        task.add_done_callback(self._orphans.discard)
        return ward.record

    async def _end_retired(self, ward: Ward) -> None:
        """In the place of an owner that has died before it could; until it has gone."""
        await asyncio.sleep(RETIRED_S)
        while self._wards.get(ward.record.kernel_id) is ward:
            try:
                await self.end(ward.record.kernel_id, ward.ending)
            except (KernelStuck, OSError) as error:
                log.warning("retired_kernel_not_ended", kernel=ward.record.kernel_id, why=str(error))
                await asyncio.sleep(RETIRED_S)

    def note(self, kernel_id: str, notes: dict[str, Any]) -> KernelRecord:
        """Replaces the kernel's notes. Raises UnknownKernel, BadRequest."""
        ward = self._ward(kernel_id)
        self._keep(ward, replace(ward.record, notes=checked_notes(notes)))
        return ward.record

    async def settled(self, kernel_id: str) -> KernelRecord:
        """The record once a forked kernel has its sockets or has ended; at once for all others, and after BOUND_S.

        Of one that waits to be started after STILL_WAITS_S, if it still does. Raises UnknownKernel.
        """
        ward = self._ward(kernel_id)
        with contextlib.suppress(TimeoutError):
            if ward.record.state == "waiting":
                await asyncio.wait_for(ward.begun.wait(), STILL_WAITS_S)
            await asyncio.wait_for(ward.settled.wait(), BOUND_S)
        return ward.record

    async def end(self, kernel_id: str, reason: str) -> None:
        """Ends a kernel and all of its group, removes directory and record. Nothing to end is fine.

        Raises KernelStuck; the record then stays, and it can be asked again.
        """
        ward = self._wards.get(kernel_id)
        if ward is not None:
            ward.ending = ward.ending or reason
            self._starts.leave(kernel_id)
            ward.begun.set()
            await self._kill(ward)
        await nursery_disk.removed(self._folder / kernel_id)
        if self._wards.get(kernel_id) is ward:
            self._wards.pop(kernel_id, None)

    def reap(self) -> None:
        """Waits for every child that has ended: kernels, and orphans that kernels have left behind."""
        known = {ward.record.pid: ward for ward in self._wards.values() if ward.pidfd >= 0}
        while (pid := processes.ended_child()) is not None:
            if pid in known:
                self._exited(known.pop(pid))
            else:
                os.waitpid(pid, 0)
        self._rooms.end_strays()

    def trim_logs(self) -> None:
        """Cuts the logs that have grown too long."""
        for ward in self._wards.values():
            bounded_log.trim(ward.record.directory / nursery_disk.LOG)

    def sweep(self, older_than_s: float = SWEEP_AGE_S) -> None:
        """Removes directories that have had no record for that long."""
        nursery_disk.sweep(self._folder, frozenset(self._wards), older_than_s)

    def _ward(self, kernel_id: str) -> Ward:
        try:
            return self._wards[kernel_id]
        except KeyError:
            raise UnknownKernel(f"there is no kernel {kernel_id}") from None

    def _keep(self, ward: Ward, record: KernelRecord) -> None:
        ward.record = record
        try:
            nursery_disk.save(record)
        except OSError as error:  # a full disk, a directory that its kernel has removed: it is true all the same
            log.warning("kernel_record_not_saved", kernel=record.kernel_id, error=str(error))

    def _launch(self, order: SpawnOrder, before: KernelRecord | None) -> KernelRecord:
        fresh: list[KernelRecord] = []

        def keep(pid: int, started: int, *, warm: bool = False) -> None:
            fresh[:] = [replace(first_record(order, before, pid, started), warm=warm)]
            nursery_disk.save(fresh[0])

        try:
            order, room = self._rooms.admit(order)
            with nursery_disk.open_log(order.directory) as log_file, self._rooms.born_with(order) as sockets:
                handed = (log_file.fileno(), *sockets)
                wire = self._launch_warm(order, room, handed, partial(keep, warm=True))
                if wire is None:
                    processes.launch(order, handed, keep, self._rooms.confining(room), self._rooms.begin_apart)
        except (SpawnRefused, OSError) as error:
            self._forget_attempt(order, before)
            raise SpawnRefused(str(error)) from error
        known = self._wards.get(order.kernel_id)
        ward = known if known and known.record.state == "waiting" else Ward(fresh[0])
        ward.record, ward.born, ward.bounds = fresh[0], time.monotonic(), order.bounds
        ward.born_with_sockets = bool(sockets)
        self._wards[order.kernel_id] = ward
        self._watch(ward, os.pidfd_open(ward.record.pid))  # a child that is not waited for keeps its pid
        if wire:
            asyncio.get_running_loop().add_reader(wire, self._settle, ward, wire)
        else:
            ward.settled.set()
        self._rooms.seal_later(ward)
        return ward.record

    def _have_wait(self, order: SpawnOrder, before: KernelRecord | None) -> KernelRecord:
        record = replace(first_record(order, before, 0, 0), state="waiting")
        nursery_disk.save(record)
        ward = self._wards[order.kernel_id] = Ward(record)
        self._starts.wait(ward, order)
        return record

    def _begin(self, ward: Ward, order: SpawnOrder) -> None:
        try:
            self._launch(order, ward.record)
        except (SpawnRefused, OSError) as error:
            self._not_begun(ward, f"The kernel could not be started: {error}.")
        ward.begun.set()

    def _not_begun(self, ward: Ward, sentence: str) -> None:
        self._keep(ward, replace(ward.record, state="exited", exit=Exit(None, None, sentence)))
        for event in (ward.begun, ward.settled, ward.exited):
            event.set()
        self._on_exit(ward.record)

    def _launch_warm(
        self, order: SpawnOrder, room: Room | None, handed: tuple[int, ...], keep: Callable[[int, int], None]
    ) -> socket.socket | None:
        """Where it says that its sockets are there; None when it has to be exec'd."""
        if self._nest is None or not order.forkable:
            return None
        try:
            return self._nest.launch(order, room, handed, keep)
        except NoSpare as error:
            self._nest.why_cold(str(error))
            return None

    def _settle(self, ward: Ward, wire: socket.socket) -> None:
        """A forked kernel has its sockets, or has ended. A byte is all that is read: its user's code may run by now."""
        asyncio.get_running_loop().remove_reader(wire)
        with contextlib.suppress(OSError), wire:
            if wire.recv(1) == BOUND:
                ward.record = replace(ward.record, bound=True)
                self._rooms.seal(ward, again=False)
                ward.settled.set()
                self._starts.room_made()

    def _forget_attempt(self, order: SpawnOrder, before: KernelRecord | None) -> None:
        if before:
            nursery_disk.save(before)
        else:
            (order.directory / nursery_disk.RECORD).unlink(missing_ok=True)

    def _rewatch(self, ward: Ward) -> None:
        pid, started = ward.record.pid, ward.record.pid_started
        pidfd = processes.open_pidfd(pid, started)
        if pidfd is not None:
            self._watch(ward, pidfd)
            return
        if processes.start_ticks(pid) is None:  # not used again, so the group, if there is one, is still its own
            processes.kill_group(pid)
        self._keep(ward, replace(ward.record, state="exited", exit=Exit.of_status(None)))
        ward.exited.set()

    def _watch(self, ward: Ward, pidfd: int) -> None:
        ward.pidfd = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._exited, ward)

    def _exited(self, ward: Ward) -> None:
        if ward.pidfd < 0:
            return
        asyncio.get_running_loop().remove_reader(ward.pidfd)
        os.close(ward.pidfd)
        pid, ward.pidfd, ward.ended = ward.record.pid, -1, time.monotonic()
        # Before waiting for it: as a zombie it still holds its pid, so the group cannot be another's.
        processes.kill_group(pid)
        status, for_memory = processes.wait_status(pid, ward.record.pid_started), self.oom.lately()
        found = how_it_ended(ward, status, for_memory=for_memory, memory_mib=self.watch.memory_mib)
        self._keep(ward, replace(ward.record, state="exited", exit=found))
        self._rooms.leave(ward)
        self._rooms.end_strays()
        ward.settled.set()
        ward.group_left = True
        ward.emptying = asyncio.create_task(self._see_empty(ward))
        ward.exited.set()
        self._starts.room_made()
        self._on_exit(ward.record)

    async def _kill(self, ward: Ward) -> None:
        if ward.pidfd >= 0:
            processes.signal_group(ward.record.pid, ward.pidfd, 9)
            try:
                await asyncio.wait_for(ward.exited.wait(), processes.KILL_S)
            except TimeoutError:
                pid, waited = ward.record.pid, processes.KILL_S
                raise KernelStuck(f"process {pid} is still there {waited:g} s after SIGKILL") from None
        if ward.group_left:
            await processes.group_gone(ward.record.pid)

    async def _see_empty(self, ward: Ward) -> None:
        try:
            await processes.group_gone(ward.record.pid)
            ward.group_left = False
        except KernelStuck as error:
            log.warning("kernel_group_stuck", kernel=ward.record.kernel_id, error=str(error))
