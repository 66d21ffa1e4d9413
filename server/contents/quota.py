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
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tornado.web import HTTPError

from server.contents.paths import UNFINISHED

MIB: Final = 2**20
BLOCK: Final = 512  # of st_blocks, whatever the disk has
KEPT_S: Final = 10.0
KEPT_WALKS: Final = 50.0  # ... or this many times as long as the walk took, so that counting is at most 2% of the time
MAX_COUNTED: Final = 200_000
ABANDONED_S: Final = 86_400.0
FULL: Final = 507
TOO_DEEP: Final = "Your folders lie too deep in each other to be counted: delete the deepest, then save again."


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
        try:
            self.n_bytes = counted(self.root)
        except RecursionError:
            raise HTTPError(FULL, TOO_DEEP, reason="Quota exceeded") from None
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
    total, before = 0, time.time() - ABANDONED_S
    for folder, name, found in _entries(root):
        if name.startswith(UNFINISHED) and stat.S_ISREG(found.st_mode) and found.st_mtime < before:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
        else:
            total += found.st_blocks * BLOCK
    return total


def measured(root: Path) -> tuple[int, int]:
    """(bytes, entries) below `root`, as `counted` has them. Changes nothing, and needs no lock."""
    total = n = 0
    for _, _, found in _entries(root):
        total, n = total + found.st_blocks * BLOCK, n + 1
    return total, n


def _entries(root: Path) -> Iterator[tuple[int, str, os.stat_result]]:
    """(descriptor of the folder, name, what it is)."""
    n = 0
    for _, folders, files, folder in os.fwalk(root, follow_symlinks=False, onerror=None):
        for name in [*folders, *files]:
            n += 1
            with suppress(OSError):  # gone just now
                yield folder, name, os.lstat(name, dir_fd=folder)
        if n > MAX_COUNTED:
            break
