"""A user's settings, workspaces and sections of configuration on disk.

Owns the directory that holds them, beside the users' notebooks and not among them: what a kernel can write is never
followed here, and no user's own directory begins with a dot (`server/workdir.py`). Files are replaced whole, so any
worker may read and write them. Bounded in size and number. All functions block.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from server.api_errors import api_error
from server.workdir import user_directory

PLACE: Final = ".kernelring/!lab"
SETTINGS: Final = "settings"
WORKSPACES: Final = "workspaces"
CONFIG: Final = "config"
MAX_FILE_BYTES: Final = 512 * 1024
MAX_FILES: Final = 200  # of a kind; Lab has some 100 plugins with settings
LAB_MADE: Final = "auto-"  # so JupyterLab calls the workspaces that it makes for second tabs


class Preferences:
    """Of one user."""

    def __init__(self, notebooks: Path, user: str) -> None:
        self._root = notebooks / PLACE
        self._user = user

    def directory(self, kind: str) -> Path:
        """Where files of a kind lie; it need not exist."""
        return user_directory(self._root, self._user) / kind

    def files(self, kind: str) -> list[Path]:
        """All files of a kind."""
        return sorted(path for path in self.directory(kind).rglob("*") if path.is_file())

    def replace(self, kind: str, write: Callable[[str], None]) -> None:
        """Have `write(directory)` write one file there, and put that in its place, whole.

        `write` is a function of jupyterlab_server, which empties a file before it writes: another worker could read it
        in between. Raises ApiError (413, 507) when the file or their number is beyond the bounds.
        """
        goal = self.directory(kind)
        goal.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="half-", dir=goal.parent) as half:
            write(half)
            written = next(path for path in Path(half).rglob("*") if path.is_file())
            kept = goal / written.relative_to(half)
            self._check(kind, written, kept)
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            written.replace(kept)

    def _check(self, kind: str, written: Path, kept: Path) -> None:
        if written.stat().st_size > MAX_FILE_BYTES:
            raise api_error(413, "Request Entity Too Large", f"{kind} may have {MAX_FILE_BYTES} bytes each.")
        if kept.exists():
            return
        there = self.files(kind)
        if len(there) >= MAX_FILES:
            _forget_oldest([path for path in there if path.name.startswith(LAB_MADE)])
            if len(self.files(kind)) >= MAX_FILES:
                raise api_error(507, "Insufficient Storage", f"You have {MAX_FILES} {kind}; remove some of them.")


def _forget_oldest(files: list[Path]) -> None:
    """Remove the one that was not used for longest; another worker may be doing the same."""
    for oldest in sorted(files, key=_used)[:1]:
        oldest.unlink(missing_ok=True)


def _used(file: Path) -> float:
    with suppress(OSError):
        return file.stat().st_mtime
    return 0.0
