"""What processes have in memory, as /proc says it.

Owns the reading, and the one safe way to kill what was read. It decides nothing and knows no kernels. A process may
be gone at any moment: then it has nothing.
"""

from __future__ import annotations

import os
import re
import signal
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 (looked through, and nothing is made there)

_READ_BYTES: Final = 8192
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST: Final = 16  # a descriptor is held for each folder on the way down
_ROLLUP: Final = re.compile(rb"^(Pss|Pss_Anon|Pss_Shmem|SwapPss): +(\d+) kB", re.MULTILINE)


class Memory(NamedTuple):
    """In KiB: what is a process' alone or in swap, and what it has of shared memory. Files that are mapped are not
    counted, for Linux takes those pages back when it needs them."""

    private: int = 0
    shared: int = 0


@dataclass(frozen=True, slots=True)
class Process:
    """`memory` counts a page that several processes have in each of them."""

    pid: int
    parent: int
    session: int
    uid: int
    memory: Memory
    threads: int = 1


def pids() -> list[int]:
    """Of all processes."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 (no path is wanted)


def look_at(pid: int) -> Process | None:
    """None when it is gone, or is a thread of the kernel's own, or a zombie: those have no memory. It takes 30 µs."""
    text = _read(pid, "status")
    private = _number(text, b"\nRssAnon:")
    if private is None:
        return None
    memory = Memory(private + (_number(text, b"\nVmSwap:") or 0), _number(text, b"\nRssShmem:") or 0)
    session = _number(text, b"\nNSsid:")  # is missing where Linux was made without namespaces
    if session is None:
        session = _session(pid)
    parent, uid, threads = (_number(text, name) or 0 for name in (b"\nPPid:", b"\nUid:", b"\nThreads:"))
    return Process(pid, parent, session, uid, memory, threads)


def part_of(process: Process) -> Memory:
    """As its `memory`, but of each page the part that is its own: of one that two processes have, half.

    It takes milliseconds. What we may not read counts as before.
    """
    try:
        found = {name: int(kib) for name, kib in _ROLLUP.findall(_read(process.pid, "smaps_rollup", refuse=True))}
    except PermissionError:
        return process.memory
    private = found.get(b"Pss_Anon", found.get(b"Pss", 0))  # not told apart before Linux 5.4
    return Memory(private + found.get(b"SwapPss", 0), found.get(b"Pss_Shmem", 0))


def kill(process: Process) -> None:
    """SIGKILL, if it is still the same one."""
    with suppress(OSError):
        pidfd = os.pidfd_open(process.pid)
        try:
            now = look_at(process.pid)
            if now is not None and (now.session, now.uid) == (process.session, process.uid):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def shared_files_kib() -> int:
    """What all files in /dev/shm take. One call."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return 0
    return (found.f_blocks - found.f_bfree) * found.f_frsize // 1024


def shared_files() -> Iterator[tuple[int, int]]:
    """(uid, KiB) of each file in /dev/shm, also in folders as far as it goes down."""
    with suppress(OSError):
        yield from _files_in(os.open(SHARED_MEMORY, _FOLDER), _DEEPEST)


def files_kib(folder: str) -> int:
    """What the files in a folder take; none is fine."""
    with suppress(OSError):
        return sum(kib for _, kib in _files_in(os.open(folder, _FOLDER), _DEEPEST))
    return 0


def _files_in(folder: int, depth: int) -> Iterator[tuple[int, int]]:
    """Closes `folder`. A student may put a link in the place of anything while we look: none is followed."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    yield found.st_uid, found.st_blocks // 2
                    if depth and stat.S_ISDIR(found.st_mode):
                        yield from _files_in(os.open(entry.name, _FOLDER, dir_fd=folder), depth - 1)
    finally:
        os.close(folder)


def _read(pid: int, name: str, *, refuse: bool = False) -> bytes:
    """Empty when there is none. Raises PermissionError if it is to `refuse`."""
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if refuse and isinstance(error, PermissionError):
            raise
        return b""
    try:
        return os.read(fd, _READ_BYTES)
    except OSError as error:  # ESRCH: gone since it was opened
        if refuse and isinstance(error, PermissionError):
            raise
        return b""
    finally:
        os.close(fd)


def _number(text: bytes, name: bytes) -> int | None:
    """The first one after a name. A regular expression would take as long as the reading."""
    at = text.find(name)
    return None if at < 0 else int(text[at + len(name) : text.index(b"\n", at + 1)].split(None, 1)[0])


def _session(pid: int) -> int:
    with suppress(OSError):
        return os.getsid(pid)
    return 0
