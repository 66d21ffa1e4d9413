"""Whether the kernel of the operating system has lately killed something for want of memory.

Owns one reading: the count of such kills in the nursery's control group, where there is one (its kernels are in it, and
those below it), else of the whole machine. A process that was killed with SIGKILL at that moment was killed by it:
nothing else in Linux tells the parent so.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

LATELY_S: Final = 2.0
"""How long ago the kill may have been. A process of many GiB takes that long to be gone, and its parent hears then."""

_COUNT: Final = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
CGROUPS: Final = Path("/sys/fs/cgroup")


class OomKills:
    """`look` from time to time, at least every `LATELY_S`; then `lately` says whether there was one."""

    def __init__(self, sources: Iterable[Path] | None = None) -> None:
        found = (path for path in (sources or _sources()) if _count(path) is not None)
        self._source = next(found, None)
        self._known: int | None = None
        self._struck_s = float("-inf")
        self.look()

    def look(self) -> None:
        """Notice kills since the last look."""
        count = _count(self._source) if self._source else None
        if count is None:
            return
        if self._known is not None and count > self._known:
            self._struck_s = time.monotonic()
        self._known = count

    def lately(self) -> bool:
        """Whether there was a kill in the last `LATELY_S`."""
        self.look()
        return time.monotonic() - self._struck_s <= LATELY_S


def _sources() -> list[Path]:
    """Of control groups v2 (as seen from a container, and from outside), v1, and the machine; most exact first."""
    own = own_group()
    return [CGROUPS / own / "memory.events", CGROUPS / "memory" / own / "memory.oom_control", Path("/proc/vmstat")]


def own_group() -> str:
    """The path of the nursery's control group; "" at the top, where v2 counts nothing."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            return path.strip("/")
    return ""


def _count(source: Path) -> int | None:
    try:
        found = _COUNT.search(source.read_text())
    except OSError:
        return None
    return int(found[1]) if found else None
