"""How much memory new kernels could be given: the least of what the machine and each control group around us has left.

Owns the reading. What can be had back at once (file pages that nobody has used lately) counts as free, as it does in
MemAvailable.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from kernels.oom import CGROUPS, own_group

_MIB: Final = 2**20
_AVAILABLE: Final = re.compile(r"^MemAvailable:\s+(\d+) kB", re.MULTILINE)
_IDLE_FILES: Final = re.compile(r"^(?:total_)?inactive_file (\d+)", re.MULTILINE)
_V2: Final = ("memory.max", "memory.current")
_V1: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes")


class FreeMemory:
    """`mib` reads anew each time. The paths are for tests."""

    def __init__(
        self, cgroups: Path = CGROUPS, group: str | None = None, meminfo: Path = Path("/proc/meminfo")
    ) -> None:
        self._meminfo = meminfo
        own = own_group() if group is None else group
        self._limited = [*_limited(cgroups, own, _V2), *_limited(cgroups / "memory", own, _V1)]

    def mib(self) -> int:
        """MiB; also when nothing of it can be read, which no Linux does: then there is no bound."""
        found = [_left(*files) for files in self._limited]
        with suppress(OSError):
            if told := _AVAILABLE.search(self._meminfo.read_text()):
                found.append(int(told[1]) * 1024)
        return min((each for each in found if each is not None), default=2**50) // _MIB


def _limited(top: Path, own: str, names: tuple[str, str]) -> list[tuple[Path, Path, Path]]:
    """The files of each group from ours up to the top, as far as they are there (in a container ours is the top)."""
    parts = Path(own).parts
    groups = [top.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return [
        (group / names[0], group / names[1], group / "memory.stat") for group in groups if (group / names[0]).exists()
    ]


def _left(limit: Path, used: Path, stat: Path) -> int | None:
    """Bytes; None where there is no limit."""
    with suppress(OSError, ValueError):
        most = limit.read_text().strip()
        if most != "max":
            idle = _IDLE_FILES.findall(stat.read_text())
            return max(0, int(most) - int(used.read_text()) + int(idle[-1] if idle else 0))  # v1 has the sum last
    return None
