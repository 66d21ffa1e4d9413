"""Namespaces: a process, and all that it starts, in a view of the machine that has nothing of others in it.

Owns the system calls (unshare(2), mount(2), mount_setattr(2)), and what the view shows: the machine read-only, with
empty places where others' work, sockets and scratch are, and in these what is opened for the kernel. Needs no right but
that to make a user namespace; what can be mounted in it is gone with the last capability.

A process cannot enter a PID namespace itself; its first child is pid 1 in it. When that ends, all in it end.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from kernels.confine.options import Room, Walls

_NEW: Final = 0x10000000 | 0x20000000 | 0x00020000 | 0x08000000  # user, PID, mounts, System V and POSIX queues
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same on all machines
_CLONE, _RECURSIVE, _EMPTY_PATH, _FROM_DESCRIPTOR = 1 | os.O_CLOEXEC, 0x8000, 0x1000, 0x4
_HERE: Final = -100
_READ_ONLY, _NO_SETUID = 0x1, 0x2
_PRIVATE: Final = 0x4000 | 0x40000  # recursively
_PLAIN: Final = 0x2 | 0x4  # neither setuid nor devices
_NO_PROGRAMS: Final = 0x8

COVERED: Final = ("/tmp", "/var", "/run", "/home", "/root", "/srv", "/mnt", "/media")  # noqa: S108 (they are hidden)
_COVER: Final = "size=1m,nr_inodes=2k,mode=0755"

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_SYSCALL: Final = _LIBC.syscall
_SYSCALL.restype = ctypes.c_long


def begin() -> None:
    """In a process with one thread whose next child is to be apart. Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    _checked(_LIBC.unshare(_NEW))
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


class View:
    """As the child that is apart makes it: `cover` before its kernel is known, `open` when it is. Raise OSError."""

    def __init__(self, walls: Walls) -> None:
        self._walls = walls
        self._behind: dict[str, int] = {}

    def cover(self) -> None:
        """All is read-only, and nobody's work is seen."""
        _mount(None, "/", None, _PRIVATE)
        theirs = [path for path in self._walls.covered if Path(path).is_dir()]
        covers = _outermost([*filter(os.path.isdir, COVERED), *theirs])
        self._behind = {path: os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in theirs}
        kept = {path: _tree(_HERE, path) for path in self._walls.readable if _is_below(path, covers)}
        _set(_HERE, "/", _RECURSIVE, on=_READ_ONLY | _NO_SETUID)
        for path in covers:
            _mount("tmpfs", path, "tmpfs", _PLAIN, _COVER)
        for path, tree in kept.items():
            _set(tree, "", _EMPTY_PATH | _RECURSIVE, on=_READ_ONLY)
            _attach(tree, path)
        _mount("proc", "/proc", "proc", _PLAIN | _NO_PROGRAMS)
        _mount("devpts", "/dev/pts", "devpts", _PLAIN & ~0x4 | _NO_PROGRAMS, "newinstance,ptmxmode=0666,mode=0620")
        _mount("tmpfs", "/dev/shm", "tmpfs", _PLAIN, f"size={self._walls.memory_mib}m,mode=0700")  # noqa: S108

    def open(self, room: Room) -> None:
        """What a kernel may reach is in its place."""
        for path, writes in [(path, False) for path in room.readable] + [(path, True) for path in room.writable]:
            for above, behind in self._behind.items():
                if path.startswith(f"{above}/"):
                    tree = _tree(behind, path[len(above) + 1 :])
                    if writes:
                        _set(tree, "", _EMPTY_PATH, off=_READ_ONLY)
                    _attach(tree, path)
        for behind in self._behind.values():
            os.close(behind)


def _outermost(paths: Iterable[str]) -> list[str]:
    found = sorted(set(paths))
    return [path for path in found if not _is_below(path, [other for other in found if other != path])]


def _is_below(path: str, above: Iterable[str]) -> bool:
    return any(path.startswith(f"{each}/") for each in above)


def _tree(folder: int, path: str) -> int:
    """A copy of what is mounted there, and below, that is nowhere yet."""
    return _checked(_SYSCALL(_OPEN_TREE, folder, os.fsencode(path), _CLONE | _RECURSIVE))


def _attach(tree: int, path: str) -> None:
    """Puts it there, in the emptiness of a cover. Closes it."""
    try:
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            if stat.S_ISDIR(os.fstat(tree).st_mode):
                place.mkdir()
            else:
                place.touch(exist_ok=False)
        _checked(_SYSCALL(_MOVE_MOUNT, tree, b"", _HERE, os.fsencode(path), _FROM_DESCRIPTOR))
    finally:
        os.close(tree)


def _set(folder: int, path: str, flags: int, *, on: int = 0, off: int = 0) -> None:
    attributes = struct.pack("QQQQ", on, off, 0, 0)
    size = ctypes.c_size_t(len(attributes))
    _checked(_SYSCALL(_MOUNT_SETATTR, folder, os.fsencode(path), flags, attributes, size))


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    texts = [text if text is None else text.encode() for text in (source, target, kind)]
    if _LIBC.mount(*texts, ctypes.c_ulong(flags), data.encode() or None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mounting {kind or 'nothing'} at {target}: {os.strerror(number)}")


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)
