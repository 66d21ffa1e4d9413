"""The nursery's side of kernels that all have the server's own uid: what each is given, and what it leaves behind.

Owns the sockets that such a kernel is born with, its part of /dev/shm, and the end of what it has left running. A uid
would tell whose all of that is; here it is the nursery that makes it, and a kernel's orphans stay below the kernel
while it lives (`child.py`), so what comes to the nursery behind a filter is of one that has ended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import stat
import zlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from kernels import nursery_disk
from kernels.confine.folders import SEALED, SOCKETS, FolderError

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 (a folder of random name and mode 0700 is made there)
_WAITING: Final = 128
_HERE, _EXCHANGE = -100, 2
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_FILTERS: Final = b"\nSeccomp_filters:\t"


@contextmanager
def born_with(directory: Path) -> Iterator[tuple[int, ...]]:
    """Descriptors of a kernel's sockets, made in its `s/`, in the order of their numbers; ours are closed at the end.

    The kernel may make none itself, and can put nothing in their place: it has no right in `s/`. Who connects before it
    takes them waits, until it does or has ended.
    """
    (directory / SEALED).touch()
    with ExitStack() as closing:
        made = []
        for name in SOCKETS:
            listening = closing.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(str(directory / "s" / name))
            listening.listen(_WAITING)
            listening.setblocking(False)
            made.append(listening.fileno())
        yield tuple(made)


def seal(directory: Path) -> bool:
    """Takes the sockets away that a kernel has made itself. True once all are there, and out of its reach.

    It goes on to see the directory in which it has made them; by that name others see another one from now on.
    """
    made, sealed, draft = directory / "s", directory / SEALED, directory / f"{SEALED}-{os.getpid()}"
    if sealed.exists() or not all(os.path.lexists(made / name) for name in SOCKETS):
        return sealed.exists()
    draft.mkdir(mode=0o700)
    for name in SOCKETS:
        os.link(made / name, draft / name, follow_symlinks=False)
        if not stat.S_ISSOCK((draft / name).lstat().st_mode):
            (draft / name).unlink()
    if _LIBC.renameat2(_HERE, os.fsencode(made), _HERE, os.fsencode(draft), _EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    draft.rename(sealed)
    return True


def keep_home(home: Path) -> None:
    """A user's directory is the server's and closed to others. Raises FolderError, OSError."""
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise FolderError(f"{home} is not a directory")
    if found.st_uid != os.geteuid():
        raise FolderError(f"{home} belongs to uid {found.st_uid}, not to the server's, {os.geteuid()}")
    if stat.S_IMODE(found.st_mode) != 0o700:
        home.chmod(0o700)


def memory_of(directory: Path) -> Path:
    """Where a kernel's shared memory is. The runtime directory's name is in it: several may be in use on a machine."""
    base = SHARED_MEMORY if SHARED_MEMORY.is_dir() else directory
    return base / f"{_prefix(directory.parent)}{directory.name}"


def give_memory(directory: Path) -> Path:
    """An empty one, for its next start. Raises OSError."""
    memory = memory_of(directory)
    forget_memory(directory)
    memory.mkdir(mode=0o700)
    return memory


def forget_memory(directory: Path) -> None:
    """Remove what a kernel has there."""
    memory = memory_of(directory)
    if os.path.lexists(memory):
        nursery_disk.remove(memory)


def sweep_memory(folder: Path) -> None:
    """Of kernels whose directories are gone from `folder`."""
    with suppress(FileNotFoundError):
        for path in SHARED_MEMORY.glob(f"{_prefix(folder)}*"):
            if not (folder / path.name.removeprefix(_prefix(folder))).exists():
                nursery_disk.remove(path)


def _prefix(folder: Path) -> str:
    return f"kernelring-{zlib.crc32(os.fsencode(folder)):08x}-"


def end_strays(running: Collection[int]) -> None:
    """SIGKILL to what kernels that have ended have left. What that has started comes to the nursery then, and is next.

    `running`: the kernels that have not ended. A nursery before this one has left its orphans to the supervisor.
    """
    mine = _filters(os.getpid())
    for parent in (os.getpid(), os.getppid()):
        for pid in _children(parent):
            if pid not in running and _filters(pid) > mine:
                _kill(pid, parent)


def _kill(pid: int, parent: int) -> None:
    with suppress(ProcessLookupError):
        if parent == os.getpid():  # we have not waited for it: the number is still its own
            os.kill(pid, signal.SIGKILL)
            return
        pidfd = os.pidfd_open(pid)
        try:
            if pid in _children(parent):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def _children(parent: int) -> list[int]:
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(pid) for pid in (task / "children").read_bytes().split()]
    return found


def _filters(pid: int) -> int:
    """Behind how many filters a process is; 0 when it has gone. A container has one for all."""
    try:
        text = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return 0
    before, name, after = text.partition(_FILTERS)
    return int(after.split(None, 1)[0]) if name and b"\nState:\tZ" not in before else 0
