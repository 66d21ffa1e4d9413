"""How a kernel ended, in words: what its process' status says, and which limit it came to.

Owns the words alone; it asks no process. That a library has got no memory is nowhere to be read but in what the kernel
wrote last: a process that aborts then looks like any other.
"""

from __future__ import annotations

import re
import signal
import time
from dataclasses import replace
from typing import Final

from kernels import bounded_log, nursery_disk
from kernels.nursery_ward import Ward
from kernels.records import Exit

EARLY_S: Final = 30.0
"""A kernel that ends by itself within this time has its last words told in the reason."""

_NO_MEMORY: Final = re.compile(
    r"bad_alloc|MemoryError|cannot allocate memory|out of memory|memory allocation", re.IGNORECASE
)
_BROKEN: Final = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS})


def how_it_ended(ward: Ward, status: int | None, *, for_memory: bool, memory_mib: int) -> Exit:
    """`for_memory`: at this moment the operating system has killed something for want of memory. `memory_mib`: what a
    kernel may have; 0 when nothing bounds it."""
    found = Exit.of_status(status, for_memory=for_memory)
    if ward.ending:
        return replace(found, reason=f"ended: {ward.ending}")
    if ward.struck:
        return replace(found, reason=ward.struck)
    words = bounded_log.tail(ward.record.directory / nursery_disk.LOG)
    if reason := _limit_reached(found, ward.bounds.cpu_s, words, for_memory=for_memory, memory_mib=memory_mib):
        return replace(found, reason=reason)
    if ward.born and time.monotonic() - ward.born < EARLY_S and found.code != 0 and words:
        return replace(found, reason=f"{found.reason}; its last words were:\n{words}")
    return found


def too_much_memory(mib: int) -> str:
    """Of a kernel that is killed for what it has together with all that it has started."""
    return f"Your notebook and what it has started used more than {mib:,} MiB of memory (KERNELRING_KERNEL_TOTAL_MIB)."


def too_many_processes(most: int) -> str:
    """Of a kernel that is killed for how many it has, where they cannot be refused to it alone."""
    return f"Your notebook has started more than {most:,} processes and threads (KERNELRING_USER_PROCESSES)."


def _limit_reached(found: Exit, cpu_s: int, words: str, *, for_memory: bool, memory_mib: int) -> str:
    """The reason when a limit was, or may have been, reached; else ""."""
    if found.signal == signal.SIGXCPU or (cpu_s and found.code == signal.SIGXCPU):  # the latter is `inside/first.py`'s
        share = f"its {_hours(cpu_s)} of processor time" if cpu_s else "all of the processor time that it may have"
        return f"Your notebook has used {share}."
    if not memory_mib or found.code == 0:
        return ""
    if found.signal == signal.SIGKILL:
        return f"{found.reason}; a notebook may have {memory_mib:,} MiB" if for_memory else ""
    if _NO_MEMORY.search(words):
        return f"Your notebook used more than its {memory_mib:,} MiB."
    if found.signal in _BROKEN:
        return f"{found.reason}, as when a library needs more than the {memory_mib:,} MiB that a notebook may have"
    return ""


def _hours(seconds: int) -> str:
    if seconds < 3600:
        return f"{seconds} seconds"
    return "1 hour" if seconds == 3600 else f"{seconds / 3600:g} hours"
