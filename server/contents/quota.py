"""How much of the disk a user's files take, and whether there is room for more.

Counted are blocks of the disk, hidden files and checkpoints too. The count is made by walking, so it is kept for a
while, during which what this server writes is added to it; what kernels write is seen at the next walk. Before anything
is refused the files are counted anew, so whoever has just deleted something can save at once. The walk also removes
what nobody will come back for: hidden files to which this server began to write a day ago.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tornado.web import HTTPError

from server.contents.paths import UNFINISHED

MIB: Final = 2**20
KEPT_S: Final = 10.0
KEPT_WALKS: Final = 50.0  # ... or this many times as long as the walk took, so that counting is at most 2% of the time
MAX_COUNTED: Final = 200_000
ABANDONED_S: Final = 86_400.0
FULL: Final = 507


@dataclass(slots=True)
class Usage:
    """One user's. Belongs to whoever holds the user's lock. `limit_mib` 0: no limit."""

    root: Path
    limit_mib: int
    n_bytes: int = 0
    fresh_until: float = 0.0

    def grow(self, n_bytes: int) -> None:
        """Note that so much more will be written. Raises HTTPError 507 when it is more than there is room for."""
        if not self.limit_mib:
            return
        if n_bytes > 0 and time.monotonic() >= self.fresh_until:
            self._count()
        if n_bytes > 0 and self.n_bytes + n_bytes > self.limit_mib * MIB:
            self._count()
            if self.n_bytes + n_bytes > self.limit_mib * MIB:
                raise self._no_room(n_bytes)
        self.n_bytes += n_bytes

    def _count(self) -> None:
        began = time.monotonic()
        self.n_bytes = counted(self.root)
        took = time.monotonic() - began
        self.fresh_until = time.monotonic() + max(KEPT_S, KEPT_WALKS * took)

    def _no_room(self, n_bytes: int) -> HTTPError:
        used = f"Your notebooks use {self.n_bytes // MIB:,} of {self.limit_mib:,} MiB"
        if n_bytes >= MIB and self.n_bytes < self.limit_mib * MIB:
            used += f", and this needs {-(-n_bytes // MIB):,} MiB more"
        return HTTPError(FULL, f"{used}: delete something, then save again.", reason="Quota exceeded")


def counted(root: Path) -> int:
    """The bytes that files below `root` take on disk; of what lies beyond MAX_COUNTED entries nothing is known.

    Folders are opened one below the other and never through a link, so the walk stays in `root`. Whoever counts
    holds the user's lock: no upload goes on meanwhile.
    """
    total, n, before = 0, 0, time.time() - ABANDONED_S
    for _, folders, files, folder in os.fwalk(root, follow_symlinks=False, onerror=None):
        for name in [*folders, *files]:
            n += 1
            try:
                found = os.lstat(name, dir_fd=folder)
                if name.startswith(UNFINISHED) and stat.S_ISREG(found.st_mode) and found.st_mtime < before:
                    os.unlink(name, dir_fd=folder)
                else:
                    total += found.st_blocks * 512
            except OSError:  # gone just now
                continue
        if n > MAX_COUNTED:
            break
    return total
