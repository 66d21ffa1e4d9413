"""What is in a folder: as the contents API lists it, and as what copies and counts it walks it. Both are bounded."""

from __future__ import annotations

import mimetypes
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from jupyter_server.services.contents.filemanager import _get_created_timestamp
from jupyter_server.services.contents.manager import copy_pat
from tornado.web import HTTPError

from server.contents.beneath import Beneath, LeavesRoot
from server.contents.paths import OURS, is_name, joined

if TYPE_CHECKING:
    from server.contents.files import Files

COPY: Final = copy_pat
MAX_LISTED: Final = 2_000  # Lab draws as many without a pause; a folder with more is data
MAX_COPIED: Final = 10_000
NOTE: Final = "note"  # a key of the entry that is a sentence


def entries(files: Files, path: str) -> list[dict[str, Any]]:
    """Models, without content, of what a student sees in the folder `path`, by name. Raises OSError.

    The last one may say how many more there are.
    """
    with files.beneath.folder(path) as folder:
        # By its descriptor, for which pathlib has no name.
        names = sorted(name for name in os.listdir(folder) if _is_listed(files, name))  # noqa: PTH208
        found = (_entry(files, folder, path, name) for name in names[:MAX_LISTED])
        models = [each for each in found if each]
    if len(names) > MAX_LISTED:
        models.append(_note(path, f"({MAX_LISTED:,} of {len(names):,} files are listed)"))
    return models


def _is_listed(files: Files, name: str) -> bool:
    return is_name(name) and not name.startswith(".") and files.should_list(name)


def _entry(files: Files, folder: int, path: str, name: str) -> dict[str, Any] | None:
    """The model of one entry as jupyter_server has it (`_base_model`); None for what is not listed."""
    where = joined(path, name)
    try:
        found = os.lstat(name, dir_fd=folder)
        target = files.beneath.stat(where) if stat.S_ISLNK(found.st_mode) else found
    except (LeavesRoot, OSError):  # a link that leads elsewhere or in a ring; gone just now
        return None
    if target is None or not (stat.S_ISREG(target.st_mode) or stat.S_ISDIR(target.st_mode)):
        return None
    kind = "directory" if stat.S_ISDIR(target.st_mode) else "notebook" if name.endswith(".ipynb") else "file"
    entry = model(where, kind, found)
    entry["writable"] = os.access(name, os.W_OK, dir_fd=folder, effective_ids=True)
    return entry


def model(path: str, kind: str, found: os.stat_result) -> dict[str, Any]:
    """What jupyter_server tells of a file, without its content."""
    return {
        "name": path.rpartition("/")[2],
        "path": path,
        "last_modified": time(found.st_mtime),
        "created": time(_get_created_timestamp(found)),
        "content": None,
        "format": None,
        "mimetype": mimetypes.guess_type(path)[0] if kind == "file" else None,
        "size": None if kind == "directory" else found.st_size,
        "writable": True,
        "hash": None,
        "hash_algorithm": None,
        "type": kind,
    }


def _note(path: str, text: str) -> dict[str, Any]:
    """An entry that is no file: the one place in a list where a front end shows a sentence."""
    empty = os.stat_result((stat.S_IFREG, 0, 0, 0, 0, 0, 0, 0, 0, 0))
    return model(joined(path, text), "file", empty) | {"writable": False, NOTE: True}


def time(timestamp: float) -> datetime:
    """A file's time."""
    try:
        return datetime.fromtimestamp(timestamp, UTC)
    except (ValueError, OverflowError, OSError):  # what `touch` can set and no calendar has
        return datetime.fromtimestamp(0, UTC)


def tree(beneath: Beneath, path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Folders and regular files below `path`, each folder before what is in it; links and all else are left out.

    Raises HTTPError 400 when there are too many.
    """
    waiting, n = [path], 0
    while waiting:
        where = waiting.pop()
        with beneath.folder(where) as folder, os.scandir(folder) as scanned:
            for entry in scanned:
                if not _is_copied(entry):
                    continue
                n += 1
                if n > MAX_COPIED:
                    raise HTTPError(400, f"{path} has more than {MAX_COPIED:,} files: copy it in a cell or console.")
                below = joined(where, entry.name)
                yield below, entry.stat(follow_symlinks=False)
                if _is_folder(entry):
                    waiting.append(below)


def _is_copied(entry: os.DirEntry[str]) -> bool:
    if not is_name(entry.name) or entry.name.startswith(OURS):
        return False
    return entry.is_file(follow_symlinks=False) or _is_folder(entry)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)
