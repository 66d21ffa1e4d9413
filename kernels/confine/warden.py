"""The nursery's side of confinement: a room for each kernel, and what there is to do when it has started or ended.

Owns the step from an order to the order that is carried out in a room. Runs in the nursery's one thread.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from kernels import nursery_disk
from kernels.confine import folders, one_uid
from kernels.confine.folders import FolderError
from kernels.confine.host import Report
from kernels.confine.options import LANDLOCK, NONE, UIDS, Options, Room, Walls
from kernels.confine.uids import Uids, UidsError
from kernels.errors import SpawnRefused
from kernels.inside.confined import CONFINED, MEMORY
from kernels.records import SpawnOrder

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 (looked through, and nothing is made there)
_OF_THE_SERVER: Final = frozenset(
    {"IPYTHONDIR", "MPLCONFIGDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"}
)
"""Directories that a kernel could not write to; without the variables they are in its HOME."""

_MAKES_ITS_SOCKETS: Final = (
    "this kernel makes its sockets itself, which Landlock alone cannot keep from others: it needs a server whose level "
    "of confinement is namespaces or uids"
)

log = structlog.get_logger(__name__)


class Warden:
    """Confines the kernels of one nursery, if the host offers anything (`confines`)."""

    def __init__(self, options: Options, report: Report, walls: Walls, runtime: Path) -> None:
        self.report = report
        self.walls = walls
        self.memory_mib = options.memory_mib
        self.processes = 0 if self.gives_uids else options.processes  # of a kernel, which the nursery has to count
        self._notebooks = options.notebooks.resolve()
        self._first, self._last = options.uids
        self._uids = Uids(self._notebooks, *options.uids)
        self._folder = runtime / "k"
        if self.confines:
            self._notebooks.mkdir(mode=0o711, parents=True, exist_ok=True)
            for directory in (runtime, runtime / "k", self._notebooks):
                if self.gives_uids:
                    folders.open_way(directory)
            one_uid.sweep_memory(self._folder)

    @property
    def confines(self) -> bool:
        """Whether there is a level that it could confine at."""
        return self.report.level != NONE

    @property
    def gives_uids(self) -> bool:
        """Whether each user has a uid; else all kernels have the server's."""
        return self.report.level == UIDS

    def admit(self, order: SpawnOrder) -> tuple[SpawnOrder, Room]:
        """The order as it is to be carried out, and a room for it with all that it needs. Raises SpawnRefused."""
        home = self._home(order)
        if not self.gives_uids:
            return self._admit_with_our_uid(order, home)
        try:
            uid = self._uids.of(order.user, home.name)
            folders.give_home(home, uid)
            folders.give_kernel(order.directory, uid)
        except (UidsError, FolderError) as error:
            raise SpawnRefused(str(error)) from error
        except OSError as error:
            raise SpawnRefused(f"the kernel's directories cannot be made its own: {error}") from error
        room = Room(uid, str(home), str(order.directory))
        return replace(order, env=self._environment(order, room)), room

    def _admit_with_our_uid(self, order: SpawnOrder, home: Path) -> tuple[SpawnOrder, Room]:
        alone = self.report.level == LANDLOCK
        if alone and not order.recorder:
            raise SpawnRefused(_MAKES_ITS_SOCKETS)
        try:
            one_uid.keep_home(home)
            (order.directory / "t").mkdir(mode=0o700, exist_ok=True)
            memory = one_uid.give_memory(order.directory) if alone else one_uid.SHARED_MEMORY
        except (FolderError, OSError) as error:
            raise SpawnRefused(f"the kernel's directories cannot be made its own: {error}") from error
        place = str(order.directory.resolve())
        room = Room(0, str(home), place, str(memory), makes_sockets=not order.recorder)
        return replace(order, env=self._environment(order, room)), room

    def born_with(self, order: SpawnOrder) -> AbstractContextManager[tuple[int, ...]]:
        """The sockets that a kernel is given; none where it makes them itself. Raises OSError."""
        return nullcontext(()) if self.gives_uids or not order.recorder else one_uid.born_with(order.directory)

    def seal(self, directory: Path) -> bool:
        """Closes the directory of a kernel's sockets when all are there. Whether it is closed. Raises OSError."""
        if not self.gives_uids:
            return one_uid.seal(directory)
        uid = self._uid_of(directory)
        return not uid or folders.seal(directory, uid)

    def left(self, directory: Path, *, last: bool) -> None:
        """A kernel has ended. With the `last` of its user so does what they have left running, and their shared memory
        goes; where there are no uids it is that of the kernel, each time. Raises OSError.
        """
        if not self.gives_uids:
            one_uid.forget_memory(directory)
        elif last and (uid := self._uid_of(directory)):
            _kill_all_of(uid)
            forget_shared_memory(uid)

    def end_strays(self, running: Collection[int]) -> None:
        """Ends what kernels that are not among those `running` have left, where no uid tells it. Raises OSError."""
        if not self.gives_uids:
            one_uid.end_strays(running)

    def _uid_of(self, directory: Path) -> int:
        """Whose kernel this is, by the group that `admit` gave its directory; 0 if it was not confined, or is gone."""
        try:
            group = directory.lstat().st_gid
        except FileNotFoundError:
            return 0
        return group if self._first <= group <= self._last else 0

    def _home(self, order: SpawnOrder) -> Path:
        """The user's directory: the one in the notebooks in which the kernel starts, itself or further below."""
        inside = order.cwd.parts[: len(self._notebooks.parts) + 1]
        home = Path(*inside) if inside else order.cwd
        if home.parent != self._notebooks or home.name.startswith(".") or ".." in order.cwd.parts:
            raise SpawnRefused(f"{order.cwd} is not in a user's directory in {self._notebooks}")
        return home

    def _environment(self, order: SpawnOrder, room: Room) -> dict[str, str]:
        """The kernel's, with a home of its own in it."""
        kept = {name: value for name, value in order.env.items() if name not in _OF_THE_SERVER}
        known = kept.get("PYTHONPATH")
        own = {
            "HOME": room.home,
            "USER": order.user,
            "LOGNAME": order.user,
            "TMPDIR": f"{room.directory}/t",
            CONFINED: self.report.level,
            # Its arena is counted as data when it is committed at once, and then pyarrow does not start.
            "MIMALLOC_ARENA_EAGER_COMMIT": "0",
            "PYTHONPATH": f"{known}:{room.packages}" if known else room.packages,
        }
        if self.report.level == LANDLOCK:
            own[MEMORY] = room.memory
        if sys.prefix != sys.base_prefix:  # in a virtual environment pip knows no packages of a user's own
            own["PIP_PREFIX"] = f"{room.home}/.local"
        return kept | own


def _kill_all_of(uid: int) -> None:
    """Whatever runs as the uid, however it came loose. A child does it: kill(-1) of a uid reaches that uid alone."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def forget_shared_memory(uid: int) -> None:
    """Remove what the uid has in /dev/shm."""
    for path in _SHARED_MEMORY.iterdir():
        try:
            found = path.lstat()
            if found.st_uid == uid and stat.S_ISDIR(found.st_mode):
                nursery_disk.start_removing(path)
            elif found.st_uid == uid:
                path.unlink()
        except OSError as error:
            log.info("shared_memory_left", path=path.name, error=str(error))
