"""The memory and the number of all that a kernel has started, looked at every other second.

Owns the bound that no limit of a single process can be: on the sum over a kernel's processes, on shared memory, and on
files in /dev/shm. A kernel that is above it twice in a row is killed with all of that, and its user is told. How memory
is read is `kernels.resident`'s. It stays in the nursery's one thread, and lets others go on after a few processes.

A kernel's are the processes of its session, and their children wherever they have gone. What has come loose from all of
them is known by its uid where kernels have uids: it counts with each kernel of that user. Where they are confined
without, all has the server's uid, nothing can come loose, each kernel has a part of /dev/shm for itself, and it is here
that the number of processes is bounded: the operating system counts by uid.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import structlog

from kernels import processes, resident
from kernels.confine import one_uid, warden
from kernels.nursery_ends import too_many_processes, too_much_memory
from kernels.nursery_ward import Ward
from kernels.resident import Memory, Process

LOOK_S: Final = 2.0
AGAIN_S: Final = 1.0
"""When one was above its bound: what it takes for a moment is forgiven, and it cannot take much more until then."""

AT_ONCE: Final = 16
"""So many processes are looked at before others in the nursery have their turn: half a millisecond."""

FILES_KIB: Final = 16 * 1024
"""As long as there is less in /dev/shm, its files are not looked at."""

log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class Theirs:
    """The processes that count with one kernel. `loose`: with each kernel of its user."""

    uid: int
    own: list[Process] = field(default_factory=list)
    loose: list[Process] = field(default_factory=list)

    @property
    def all(self) -> list[Process]:
        """Both."""
        return [*self.own, *self.loose]


def bound_of(total_mib: int, memory_mib: int) -> int:
    """What a kernel may have in all: as its order says, or a quarter more than each of its processes may have. 0: any.

    With the quarter a process that is alone comes to its own limit first, and gets a MemoryError.
    """
    return total_mib or memory_mib * 5 // 4


def whose(found: Iterable[Process], kernels: Collection[int], server_uid: int) -> dict[int, Theirs]:
    """By the pid of the kernel. Everything may have the server's own uid: nothing is told by that."""
    known = {process.pid: process for process in found}
    theirs = {pid: Theirs(known[pid].uid) for pid in kernels if pid in known}
    owners = {pid: pid for pid in theirs}
    loose: dict[int, list[Process]] = defaultdict(list)
    for process in known.values():
        if owner := _owner(process, known, theirs.keys(), owners):
            theirs[owner].own.append(process)
        elif process.uid != server_uid:
            loose[process.uid].append(process)
    for each in theirs.values():
        each.loose = loose[each.uid]
    return theirs


def _owner(start: Process, known: dict[int, Process], kernels: Collection[int], owners: dict[int, int]) -> int:
    """The kernel in whose session it is, or that it descends from; 0 for none. `owners`: what is known of others."""
    way: list[int] = []
    at: Process | None = start
    owner = 0
    while at is not None and at.pid not in way:
        owner = owners.get(at.pid, at.session if at.session in kernels else 0)
        if owner or at.pid in owners:
            break
        way.append(at.pid)
        at = known.get(at.parent)
    owners.update(dict.fromkeys([start.pid, *way], owner))
    return owner


def total_kib(parts: Iterable[Memory], unmapped_kib: int = 0) -> int:
    """`unmapped_kib`: of files in /dev/shm, what no process has mapped."""
    return sum(map(sum, parts)) + unmapped_kib


class Watch:
    """`run` it. `memory_mib`: what one process of a confined kernel may have; 0 where none is confined. `processes`:
    how many a kernel may have, with threads, where they have no uids; else 0."""

    def __init__(self, wards: Callable[[], Iterable[Ward]], memory_mib: int, processes: int = 0) -> None:
        self._wards = wards
        self.memory_mib = memory_mib
        self._processes = processes
        self._over: set[int] = set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self.look()
            except OSError as error:
                log.warning("memory_not_seen", error=str(error))
            await asyncio.sleep(AGAIN_S if self._over else LOOK_S)

    async def look(self) -> None:
        """Once. Who was above its bound at the last look and is so still is killed."""
        bounds = {ward.record.pid: self._bound_kib(ward) for ward in self._wards() if ward.pidfd >= 0}
        bounds = {pid: kib for pid, kib in bounds.items() if kib}
        if not bounds:
            self._over.clear()
            return
        found = [process async for pid in _in_turn(resident.pids()) if (process := resident.look_at(pid))]
        theirs = whose(found, bounds.keys(), os.getuid())
        files = await self._files(theirs)
        over: set[int] = set()
        for pid, each in theirs.items():
            most_kib = total_kib((process.memory for process in each.all), files[pid])
            if 0 < self._processes < sum(process.threads for process in each.own):
                self._end(pid, each, too_many_processes(self._processes))
            elif most_kib > bounds[pid] and await self._is_over(pid, bounds[pid], theirs, files[pid]):
                over.add(pid)
        self._over = over

    async def _is_over(self, pid: int, bound_kib: int, theirs: dict[int, Theirs], files_kib: int) -> bool:
        """Now exactly. What a user's processes share is taken to be their files in /dev/shm, which so count once."""
        mine = theirs[pid]
        ours = mine.uid == os.getuid()
        same = [
            process
            for each in theirs.values()
            if each is mine or each.uid == mine.uid != os.getuid()
            for process in each.own
        ]
        counted = {*same, *mine.loose} if files_kib else set(mine.all)
        parts = {process.pid: resident.part_of(process) async for process in _in_turn(counted, 1)}
        unmapped_kib = max(0, files_kib - sum(part.shared for part in parts.values()))
        loose_kib = total_kib((parts[process.pid] for process in mine.loose), unmapped_kib)
        found_kib = total_kib((parts[process.pid] for process in mine.own), loose_kib)
        if found_kib <= bound_kib:
            return False
        if pid in self._over:
            found_mib, bound_mib = found_kib // 1024, bound_kib // 1024
            self._end(pid, mine, too_much_memory(bound_mib), found_mib=found_mib, bound_mib=bound_mib)
            if loose_kib > bound_kib and not ours:
                warden.forget_shared_memory(mine.uid)  # else the next kernel of this user would be above it, too
        return True

    def _end(self, pid: int, theirs: Theirs, why: str, **figures: int) -> None:
        """`figures`: of memory; without, it is for the number of processes."""
        ward = self._ward(pid)
        if ward is None:  # it has ended since we looked
            return
        record = ward.record
        ward.struck = why
        log.warning(
            "kernel_over_memory" if figures else "kernel_over_processes",
            kernel=record.kernel_id,
            user=record.user,
            pid=pid,
            processes=len(theirs.all),
            **figures,
        )
        processes.signal_group(pid, ward.pidfd, signal.SIGKILL)
        for process in theirs.all:
            resident.kill(process)

    def _ward(self, pid: int) -> Ward | None:
        return next((ward for ward in self._wards() if ward.record.pid == pid and ward.pidfd >= 0), None)

    async def _files(self, theirs: dict[int, Theirs]) -> dict[int, int]:
        """KiB in /dev/shm, by the pid of the kernel: all that has its uid, or where that is ours, in its own part."""
        if resident.shared_files_kib() <= FILES_KIB:
            return dict.fromkeys(theirs, 0)
        of_users = await _files_of_users()
        return {pid: of_users.get(each.uid) or self._files_of(pid) for pid, each in theirs.items()}

    def _files_of(self, pid: int) -> int:
        ward = self._ward(pid) if self._processes else None
        return resident.files_kib(str(one_uid.memory_of(ward.record.directory))) if ward else 0

    def _bound_kib(self, ward: Ward) -> int:
        return bound_of(ward.bounds.total_mib, self.memory_mib) * 1024


async def _files_of_users() -> dict[int, int]:
    """KiB in /dev/shm of each uid but ours."""
    found: dict[int, int] = defaultdict(int)
    async for uid, kib in _in_turn(resident.shared_files()):
        found[uid] += kib
    found.pop(os.getuid(), None)
    return found


async def _in_turn(items: Iterable[T], at_once: int = AT_ONCE) -> AsyncIterator[T]:
    for number, item in enumerate(items, 1):
        yield item
        if number % at_once == 0:
            await asyncio.sleep(0)
