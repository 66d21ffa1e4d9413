"""Landlock: what a process, and all that it starts, may do with files, signals and abstract sockets.

Owns the system calls (landlock(7); Python has none of them) and which rights a path gets. The PyPI package `landlock`
knows neither signals nor abstract sockets. It decides on no path.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from typing import Final

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on all machines
_VERSION, _PATH_BENEATH = 1, 1
_QUIET: Final = 1  # since version 7: a student who tries things must not fill the audit log

_EXECUTE, _WRITE, _READ, _READ_DIR, _REFER, _TRUNCATE, _IOCTL = (1 << bit for bit in (0, 1, 2, 3, 13, 14, 15))
_DEVICES: Final = 1 << 6 | 1 << 11  # making character and block devices
_CONNECT: Final = 1 << 16  # to a Unix socket that has a path and was not made inside

_FS: Final = {1: 0x1FFF, 2: _REFER, 3: _TRUNCATE, 5: _IOCTL, 9: _CONNECT}
_FOR_FILES: Final = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL | _CONNECT
_SCOPES: Final = 0b11  # since version 6: abstract sockets, and signals, of the outside

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_SYSCALL: Final = _LIBC.syscall
_SYSCALL.restype = ctypes.c_long


def version() -> int:
    """Of this machine's Landlock; 0 when it has none."""
    return max(0, int(_SYSCALL(_CREATE, None, ctypes.c_size_t(0), _VERSION)))


def create(abi: int) -> int:
    """A ruleset that allows nothing yet, as a descriptor. Raises OSError."""
    attributes = struct.pack("QQQ", _handled(abi), 0, _SCOPES if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    return _checked(_SYSCALL(_CREATE, attributes, ctypes.c_size_t(size), 0))


def allow_reading(ruleset: int, abi: int, paths: Iterable[str]) -> None:
    """Reading and running what is there, or below. A path that is gone is passed over. Raises OSError."""
    _allow(ruleset, paths, _EXECUTE | _READ | _READ_DIR)


def allow_devices(ruleset: int, abi: int, paths: Iterable[str]) -> None:
    """What one does with a terminal or /dev/null. Raises OSError."""
    _allow(ruleset, paths, (_READ | _WRITE | _READ_DIR | _TRUNCATE | _IOCTL) & _handled(abi))


def allow_writing(ruleset: int, abi: int, paths: Iterable[str]) -> None:
    """All but making devices. Raises OSError."""
    _allow(ruleset, paths, _handled(abi) & ~_DEVICES & ~_IOCTL)


def restrict(ruleset: int, abi: int) -> None:
    """Puts this process, which must have no_new_privs, behind the ruleset, for ever. Raises OSError."""
    _checked(_SYSCALL(_RESTRICT, ruleset, _QUIET if abi >= 7 else 0))


def _handled(abi: int) -> int:
    return sum(rights for since, rights in _FS.items() if abi >= since)


def _allow(ruleset: int, paths: Iterable[str], rights: int) -> None:
    for path in paths:
        try:
            fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISLNK(mode):
                granted = rights if stat.S_ISDIR(mode) else rights & _FOR_FILES
                _checked(_SYSCALL(_ADD, ruleset, _PATH_BENEATH, struct.pack("=Qi", granted, fd), 0))
        finally:
            os.close(fd)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
