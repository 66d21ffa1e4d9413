"""Users whose cells fill the disk: their kernels are stopped, and they are told why.

Beyond a user's quota the server saves nothing more; what cells write nothing refuses. So each worker looks at the files
of the users whose kernels it owns, now and then, and at once when the disk has become fuller. Owns the decision and its
words. Whoever has too much and writes no more is left alone: they may be about to delete something.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from kernels.chores import Chores
from kernels.errors import KernelsError, NurseryUnavailable
from kernels.house import House
from kernels.tenant import Tenant
from server.confinement import Identity, as_user
from server.contents.quota import MAX_COUNTED, MIB, measured

log = structlog.get_logger(__name__)

LOOK_S: Final = 2.0  # between two looks at the disk
ROUND_S: Final = 60.0  # between two rounds of all users, while it does not fill
REST: Final = 9.0  # a round takes a tenth of the time, or a little more when it is long
MOST_REST_S: Final = 10.0
LEAST_MARGIN: Final = 64 * MIB
MANY_FILES: Final = 20_000

Home = Callable[[str], tuple[Path, Identity | None]]


class Room(NamedTuple):
    """What the disk has left."""

    n_bytes: int
    n_files: int


class Used(NamedTuple):
    """What a user has on it."""

    n_bytes: int
    n_files: int


class DiskWatch:
    """`home` tells a user's directory and identity. `quota_mib`: 0 for no limit, and no watch.

    A quarter more than the quota (64 MiB at the least) is let pass: it may be on its way to be deleted. So much less
    room on the disk begins a round, too.
    """

    def __init__(self, house: House, home: Home, notebooks: Path, quota_mib: int) -> None:
        self._house = house
        self._home = home
        self._notebooks = notebooks
        self._quota_mib = quota_mib
        self._margin = max(quota_mib * MIB // 4, LEAST_MARGIN)
        self._seen: dict[str, Used] = {}
        self._chores = Chores()

    def start(self) -> None:
        """Begin."""
        if self._quota_mib:
            self._chores.begin(self._run(), "disk_watch")

    async def stop(self) -> None:
        """End."""
        await self._chores.stop()

    async def _run(self) -> None:
        last, due = Room(0, 0), 0.0
        while True:
            try:
                room = await asyncio.to_thread(_room, self._notebooks)
                fills = last.n_bytes - room.n_bytes >= self._margin or last.n_files - room.n_files >= MANY_FILES
                if fills or time.monotonic() >= due:
                    began = time.monotonic()
                    last, due = room, began + ROUND_S  # first: a round that fails is not tried at each look
                    await self._round(fills=fills)
                    await asyncio.sleep(min(MOST_REST_S, REST * (time.monotonic() - began)))
                last = Room(max(last.n_bytes, room.n_bytes), max(last.n_files, room.n_files))
            except Exception as error:  # whatever lies in somebody's directory, the others are watched on
                known = isinstance(error, OSError)
                log.warning("disk_not_seen", why=str(error), exc_info=None if known else error)
            await asyncio.sleep(LOOK_S)

    async def _round(self, *, fills: bool) -> None:
        """Look at all users, first at those with cells. What one has too much counts when seen again, and grown."""
        theirs: dict[str, list[Tenant]] = defaultdict(list)
        for tenant in sorted(self._house.mine, key=_is_idle):
            theirs[tenant.record.user].append(tenant)
        seen, self._seen = self._seen, {}
        for user, tenants in theirs.items():
            with suppress(NurseryUnavailable):  # whose directory it is will be known again
                used = await asyncio.to_thread(self._used, user, [one.record.directory / "t" for one in tenants])
                before, self._seen[user] = seen.get(user), used
                at_work = fills and not all(map(_is_idle, tenants))
                if before and self._is_too_much(used, before, at_work=at_work):
                    await self._stop(user, tenants, used)

    def _used(self, user: str, scratch: Iterable[Path]) -> Used:
        home, identity = self._home(user)
        n_bytes = n_files = 0
        with as_user(identity):
            for folder in (home, *scratch):
                with suppress(OSError):  # it has none, or has closed it
                    more_bytes, more_files = _measured(folder)
                    n_bytes, n_files = n_bytes + more_bytes, n_files + more_files
        return Used(n_bytes, n_files)

    def _is_too_much(self, used: Used, before: Used, *, at_work: bool) -> bool:
        """`at_work`: the disk fills, and a cell of theirs runs. Else what grew may have come to its end since."""
        most = self._quota_mib * MIB + self._margin
        if used.n_bytes > most:
            return used.n_bytes > before.n_bytes and (at_work or before.n_bytes > most)
        # Of more files than are counted it is not known whether there are still more.
        return used.n_files > MAX_COUNTED and (at_work or used.n_files > before.n_files)

    async def _stop(self, user: str, tenants: list[Tenant], used: Used) -> None:
        log.warning("disk_filled", user=user, mib=used.n_bytes // MIB, files=used.n_files)
        for tenant in tenants:
            try:
                await self._house.restart(tenant, self._words(used), now=True)
            except KernelsError as error:  # it has ended, or is another worker's by now
                log.info("kernel_not_stopped", user=user, kernel=tenant.record.kernel_id, why=str(error))

    def _words(self, used: Used) -> str:
        have = f"{used.n_bytes // MIB:,} of {self._quota_mib:,} MiB"
        if used.n_files > MAX_COUNTED:
            have = f"more than {MAX_COUNTED:,} files"
        return (
            f"Your files take {have}, and a cell went on to write (KERNELRING_QUOTA_MIB). So the kernel was stopped. "
            "A new one takes its place; variables are lost. Delete something."
        )


def _measured(folder: Path) -> tuple[int, int]:
    try:
        return measured(folder)
    except RecursionError:  # folders in folders, deeper than Python walks: how many is not known
        return 0, MAX_COUNTED + 1


def _is_idle(tenant: Tenant) -> bool:
    return tenant.kernel.life.execution_state != "busy"


def _room(folder: Path) -> Room:
    """Of the disk that it is on; made with the first user, it is on its parent's until then."""
    found = os.statvfs(next(path for path in (folder, *folder.parents) if path.exists()))
    return Room(found.f_bavail * found.f_frsize, found.f_favail)
