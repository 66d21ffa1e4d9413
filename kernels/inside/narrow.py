"""What a kernel does otherwise that can make no sockets with a path and has a part of /dev/shm for itself.

Owns the replacements, made before any of the user's code: shared memory and semaphores of `multiprocessing` in the
kernel and in what it forks, the way its processes connect, and commands (`!ls`) without a terminal. A Python that is
run anew (`spawn`, joblib's workers) has none of this and is refused what it then asks for.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from typing import Any, Final

from kernels.inside.confined import CONFINED, LANDLOCK, MEMORY

_SEMAPHORE_BYTES: Final = 64  # sem_t has 32
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def narrows() -> bool:
    """Whether this kernel is such a one."""
    return os.environ.get(CONFINED) == LANDLOCK


def narrow() -> None:
    """In the kernel's process. What it changes takes 50 ms to import, so only here."""
    import multiprocessing.connection
    import multiprocessing.heap
    import multiprocessing.synchronize

    memory = os.environ.get(MEMORY, "")
    _share_memory_in(memory)
    semaphores: Any = Semaphores()
    multiprocessing.synchronize._multiprocessing = semaphores  # type: ignore[attr-defined]
    connection: Any = multiprocessing.connection
    connection.default_family = "AF_INET"
    heap: Any = multiprocessing.heap
    heap.Arena._dir_candidates = [memory]


def _share_memory_in(folder: str) -> None:
    def shm_open(path: str, flags: int, mode: int = 0o777) -> int:
        return os.open(_place(path), flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode)

    def shm_unlink(path: str) -> None:
        os.unlink(_place(path))  # noqa: PTH108 (as the original)

    def _place(path: str) -> str:
        name = path.removeprefix("/")
        if "/" in name or name in ("", ".", ".."):
            raise ValueError(f"{path!r} is no name for shared memory")
        return f"{folder}/{name}"

    from multiprocessing import shared_memory

    module: Any = shared_memory
    module._posixshmem.shm_open, module._posixshmem.shm_unlink = shm_open, shm_unlink


class Semaphores:
    """Stands where `_multiprocessing` does: its semaphores have no names, and lie in memory that forks share."""

    def __init__(self) -> None:
        import _multiprocessing  # type: ignore[import-not-found]

        self._theirs: Any = _multiprocessing
        self._pages: list[mmap.mmap] = []
        self._used, self._process = mmap.PAGESIZE, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._theirs, name)

    def SemLock(self, kind: int, value: int, maxvalue: int, name: str, unlink: bool) -> Any:  # noqa: N802 (theirs)
        """As theirs, which has none without a name but can be told where one lies."""
        if not unlink:  # for a process that is run anew, which finds it by its name
            return self._theirs.SemLock(kind, value, maxvalue, name, unlink)
        address = self._place()
        if _LIBC.sem_init(ctypes.c_void_p(address), 1, ctypes.c_uint(value)) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return self._theirs.SemLock._rebuild(address, kind, maxvalue, None)

    def _place(self) -> int:
        """Of the next one. A place is used once: who else has it, in which process, is not known.

        Nor does a process go on with a page of the one that has forked it: both would give the same places.
        """
        if self._used == mmap.PAGESIZE or self._process != os.getpid():
            self._pages.append(mmap.mmap(-1, mmap.PAGESIZE))
            self._used, self._process = 0, os.getpid()
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._pages[-1]))
        self._used += _SEMAPHORE_BYTES
        return start + self._used - _SEMAPHORE_BYTES


def run_piped(command: str) -> int:
    """A command of the shell, with what it says on our streams as it says it. Its exit code."""
    shell = os.environ.get("SHELL") or "/bin/sh"
    child = subprocess.Popen(
        [shell, "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert child.stdout is not None
    try:
        while text := os.read(child.stdout.fileno(), 65536):
            sys.stdout.write(text.decode(errors="replace"))
            sys.stdout.flush()
    except KeyboardInterrupt:
        child.terminate()
        raise
    finally:
        child.stdout.close()
        child.wait()
    return child.returncode
