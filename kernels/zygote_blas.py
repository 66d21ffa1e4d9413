"""OpenBLAS in a forked kernel: one thread in the zygote, and as many as it takes by itself once somebody uses it.

Owns the moment: when the user's code imports numpy, or another module that the zygote has imported already. That is
when a kernel that was exec'd has its threads. Started with the kernel they would take 50 ms of processor time from it,
for OpenBLAS' threads wait for work in a loop before they sleep.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, Final

_NAMES: Final = (
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads",
)
_SET_THREADS: Final[list[Callable[[int], Any]]] = []
_WANTED: Final[list[int]] = []


class _Watched(ModuleSpec):
    """Of a module that the zygote has imported. An `import` of what is there asks whether it is being initialized."""

    @property
    def _initializing(self) -> bool:
        if _WANTED:
            with suppress(IndexError):  # another thread has just done it
                _SET_THREADS[0](_WANTED.pop())
        return False


def watch(modules: set[str]) -> None:
    """In the zygote, when all is imported: notice imports of these modules and numpy, and of what is in them."""
    if found := _openblas():
        _SET_THREADS[:] = [found]
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in modules | {"numpy"} and type(module.__spec__) is ModuleSpec:
                module.__spec__.__class__ = _Watched


def arm(env: Mapping[str, str]) -> None:
    """In the child, when nothing but the user's code imports any more."""
    wanted = env.get("OPENBLAS_NUM_THREADS") or env.get("OMP_NUM_THREADS") or str(len(os.sched_getaffinity(0)))
    if _SET_THREADS and wanted.isdecimal():
        _WANTED[:] = [int(wanted)]


def _openblas() -> Any:
    """numpy's own OpenBLAS' function that sets the number of threads, if numpy has one."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.rpartition(" ")[2]
        if "openblas" in path and ".so" in path:
            library = ctypes.CDLL(path)
            for name in _NAMES:
                if found := getattr(library, name, None):
                    return found
    return None
