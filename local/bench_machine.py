"""What the bench says about the machine: cores, load, and the memory and processor time of processes."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

BUSY_SHARE: Final = 0.1  # of the cores: above that, others take part in what is measured
LOOK_S: Final = 0.5
LOOK_AGAIN_S: Final = 0.02
_NAMED: Final = ("aiohttp", "gunicorn", "uvloop", "pyzmq", "ipykernel")


def facts() -> dict[str, Any]:
    """Cores, load average, kernel, Python and the libraries that matter."""
    return {
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _NAMED},
    }


def busy_share() -> float:
    """The share of the cores' time that was used in the last LOOK_S seconds: by others, when the bench itself rests.

    The load average would not do: it goes back a minute, over the figure before.
    """
    before = _cpu_ticks()
    time.sleep(LOOK_S)
    busy, total = (now - then for now, then in zip(_cpu_ticks(), before, strict=True))
    return busy / total if total else 0.0


def pss_mb(pids: Iterable[int]) -> float:
    """Proportional set size of some processes together, in MB (10^6 bytes): shared pages count once among all."""
    return sum(_pss_kib(pid) for pid in pids) * 1024 / 1e6


def children(pid: int) -> list[int]:
    """The pids of the direct children of a process, whichever of its threads started them."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def tree(pid: int) -> list[int]:
    """A process and all that descend from it. What ends meanwhile is left out."""
    found = [pid]
    for one in found:  # grows while it is walked
        with suppress(FileNotFoundError, ProcessLookupError):
            found += children(one)
    return found


def cpu_ns(pids: Iterable[int]) -> int:
    """Processor time that the threads of some processes have used (proc(5), schedstat: to the nanosecond).

    /proc/PID/stat would not do: it counts ticks of 10 ms, and two hundred idle processes use less than one each.
    """
    used = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with suppress(FileNotFoundError, ProcessLookupError):
                used += int(task.read_text().split()[0])
    return used


def at_rest(pids: Iterable[int]) -> bool:
    """Whether none of the processes has run for LOOK_AGAIN_S, nor wants to."""
    pids = list(pids)
    before = cpu_ns(pids)
    time.sleep(LOOK_AGAIN_S)
    return all(_state(pid) == "S" for pid in pids) and cpu_ns(pids) == before


def parent(pid: int) -> int:
    """The parent's pid."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def _cpu_ticks() -> tuple[int, int]:
    """Ticks that were used, and all (proc(5), /proc/stat: user nice system idle iowait irq softirq steal)."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _pss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
