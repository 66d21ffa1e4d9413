"""What a zygote imports before it forks, and how it learns that.

Owns the import of ipykernel and of the modules of KERNELRING_PRELOAD, and the rehearsal: a child that is a kernel
for a moment and reports what that made it import. Each module is tried in a child first: one that starts a thread
there, or ends it, is left out, because a process with two threads cannot be forked whole. It never forks a kernel.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

from kernels import processes, zygote_kernel
from kernels.zygote_rehearsal import rehearse

KERNEL: Final = (
    "ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "ipykernel.debugger", "ipykernel.inprocess",
    "ipykernel.datapub", "IPython", "IPython.core.completerlib", "IPython.core.debugger", "IPython.core.oinspect",
    "IPython.core.pylabtools", "IPython.extensions.storemagic", "comm", "tornado.platform.asyncio",
    "asyncio", "faulthandler", "pdb", "multiprocessing", "concurrent.futures", "subprocess", "zmq.eventloop.zmqstream",
)  # fmt: skip
"""ipykernel, and what it imports only once it runs or when a front end first asks for something."""

MORE: Final = {
    "matplotlib": ("matplotlib.pyplot", "matplotlib.backends.backend_agg", "matplotlib_inline.config"),
    "pandas": ("pandas.io.formats.format", "pandas.io.formats.html"),
    "numpy": ("numpy.linalg", "numpy.random"),
}  # fmt: skip
"""What comes with a module, because the first cell that uses it imports it."""

_INLINE: Final = "matplotlib_inline.backend_inline"
NEVER: Final = frozenset({_INLINE, "__main__", "antigravity", "this"})
"""The inline backend sets itself up in the shell that imports it, so each kernel must."""

QUIET: Final = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # what ipykernel sets before anything is imported
    "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pandas imports pyarrow, whose jemalloc starts a thread
    "MIMALLOC_ARENA_EAGER_COMMIT": "0",  # else the memory that pyarrow only reserves counts against RLIMIT_DATA
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # debugpy's warning about frozen modules; each cold kernel logs it
}  # fmt: skip
"""In the zygote's environment while it imports."""

TRIAL_S: Final = 60.0
_THREAD: Final = "it starts a thread"


def preload(names: list[str], runtime: Path) -> dict[str, Any]:
    """Imports all of it, and learns the rest from a rehearsal. What it did, for the log."""
    scratch = runtime / "zygote"
    scratch.mkdir(mode=0o700, exist_ok=True)  # what matplotlib has found out about fonts is kept
    os.environ.update(QUIET | {"HOME": str(scratch), "MPLCONFIGDIR": str(scratch), "IPYTHONDIR": str(scratch / "ipy")})
    wanted = [*KERNEL, *(part for name in names for part in (name, *MORE.get(name, ())))]
    fit, left_out = _tried([name for name in wanted if name not in NEVER])
    _import(fit)
    zygote_kernel.prepare()
    learnt = _rehearsed()
    more, also_left_out = _tried([name for name in learnt if name not in sys.modules and name not in NEVER])
    _import(more)
    zygote_kernel.warm_up()
    if sys.modules.pop(_INLINE, None):  # its package imports it
        del sys.modules["matplotlib_inline"].backend_inline
    return {"modules": len(sys.modules), "learnt": len(more), "left_out": left_out | also_left_out}


def _import(names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(Exception):  # it was tried; what fails here is left to the kernels
            importlib.import_module(name)


def _tried(names: list[str]) -> tuple[list[str], dict[str, str]]:
    """(those that can be imported here, {those that cannot: why}). A missing one is neither."""
    fit: list[str] = []
    left_out: dict[str, str] = {}
    while names:
        told = in_child(partial(_attempt, names))
        fit += [name for name, why in told if why is None]
        left_out |= {name: why for name, why in told if why}
        names = names[len(told) :]
        if names and (not told or told[-1][1] != _THREAD):
            left_out[names[0]] = "importing it ends the process, or takes too long"
            names = names[1:]
    return fit, left_out


def _attempt(names: list[str], tell: Callable[[Any], None]) -> None:
    """In a child: imports one after the other and tells (name, what is wrong with it; "" if it is not there)."""
    for name in names:
        why = _import_one(name)
        tell([name, why])
        if why == _THREAD:
            return  # what comes after it is tried in a child without it


def _import_one(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        return "" if name.startswith(error.name or "?") else str(error)
    except Exception as error:
        return repr(error)
    return None if _threads() == 1 else _THREAD


def _rehearsed() -> list[str]:
    """The modules that a kernel has after it has started and run a few cells. Empty when that fails."""
    with tempfile.TemporaryDirectory(prefix="kr-") as folder:
        told = in_child(lambda tell: rehearse(Path(folder), tell))
    return told[0] if told else []


def in_child(work: Callable[[Callable[[Any], None]], None], within_s: float = TRIAL_S) -> list[Any]:
    """What `work`, run in a forked child, has told. The child is killed when that takes longer."""
    read, write = os.pipe()
    zygote = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        processes.die_with_parent(zygote)
        with contextlib.suppress(BaseException):
            os.setsid()
            work(lambda what: _write_all(write, json.dumps(what).encode() + b"\n"))
        os._exit(0)
    os.close(write)
    try:
        text = _read_all(read, within_s)
    finally:
        os.close(read)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]


def _write_all(fd: int, text: bytes) -> None:
    while text:
        text = text[os.write(fd, text) :]


def _read_all(fd: int, within_s: float) -> bytes:
    parts = []
    while select.select([fd], [], [], within_s)[0] and (part := os.read(fd, 65536)):
        parts.append(part)
    return b"".join(parts)


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))
