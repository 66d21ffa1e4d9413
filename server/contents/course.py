"""A read-only folder of assignments that every student finds as `course`, beside their own files.

What is in it is listed as if it were the student's. The first time that a file is opened it is copied to the student's
own `course` folder, together with the data beside it, and is theirs from then on; deleting it brings back the original.
Nothing is ever written to the course itself.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any, Final

import structlog
from tornado.web import HTTPError

from server.contents import listing
from server.contents.beneath import Beneath, LeavesRoot
from server.contents.files import Files, Model
from server.contents.paths import joined, split

log = structlog.get_logger(__name__)

NAME: Final = "course"


class Course:
    """The course in the folder `root`. `state`: a folder for notebook signatures, of which it needs none."""

    def __init__(self, root: Path, state: Path) -> None:
        self._root, self._state = root, state

    def open(self) -> Files | None:
        """The course's files; None, with a line in the log, while the folder is away."""
        try:
            return Files(self._root, self._state, _read_only)
        except OSError as error:
            log.warning("course_unreadable", folder=str(self._root), why=repr(error))
            return None


def inside(path: str) -> str | None:
    """The path within the course of a student's checked `path`; None when it is not there."""
    if path == NAME:
        return ""
    return path.removeprefix(f"{NAME}/") if path.startswith(f"{NAME}/") else None


def kind(course: Files, path: str) -> str | None:
    """`directory`, `file` or None: what the course has at the student's `path`."""
    within = inside(path)
    if within is None or any(part.startswith(".") for part in within.split("/")):
        return None
    try:
        found = course.beneath.stat(within)
    except LeavesRoot:
        return None
    if found is None or not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        return None
    return "directory" if stat.S_ISDIR(found.st_mode) else "file"


def model(course: Files, path: str, **options: Any) -> Model:
    """The course's own model of the student's `path`; what is in it may be written to, for it is copied then."""
    within = inside(path) or ""
    found: Model = course.get(within, **options)
    found |= {"path": path, "name": split(path)[1], "writable": True}
    if found["type"] == "directory" and found["content"] is not None:
        found["content"] = offered(course, path)
    return found


def offered(course: Files, path: str) -> list[Model]:
    """What the course has in the student's folder `path`."""
    within = inside(path) or ""
    return [
        each | {"path": joined(path, each["name"]), "writable": listing.NOTE not in each}
        for each in listing.entries(course, within)
    ]


def bring(files: Files, course: Files, path: str) -> None:
    """Copy the course's file to the student's `path`, with the data beside it; what the student has stays."""
    within, target = inside(path) or "", path
    if os.path.lexists(files.beneath.root / target):
        return
    folder = split(within)[0]
    files.beneath.make_folders(split(target)[0])
    for each, found in _data(course.beneath, folder):
        mine = joined(NAME, each)
        if os.path.lexists(files.beneath.root / mine):
            continue
        files.beneath.make_folders(split(mine)[0])
        _copy(files, course, each, mine, found.st_size)
    lesson = course.beneath.stat(within)
    if lesson is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    _copy(files, course, within, target, lesson.st_size)  # last: as long as it is missing, this is done again


def _copy(files: Files, course: Files, path: str, to: str, size: int) -> None:
    files.grow(size)
    files.beneath.copy(course.beneath, path, to)


def _data(course: Beneath, folder: str) -> list[tuple[str, os.stat_result]]:
    """Files beside a notebook, and those in folders without any notebook: what its cells may read."""
    beside: list[tuple[str, os.stat_result]] = []
    below: dict[str, list[tuple[str, os.stat_result]]] = {}
    for path, found in _visible(course, folder):
        step = path[len(folder) :].strip("/")
        if stat.S_ISDIR(found.st_mode):
            continue
        if "/" in step:
            below.setdefault(step.partition("/")[0], []).append((path, found))
        elif not path.endswith(".ipynb"):
            beside.append((path, found))
    lessons = {name for name, files in below.items() if any(path.endswith(".ipynb") for path, _ in files)}
    return beside + [each for name, files in below.items() if name not in lessons for each in files]


def _visible(course: Beneath, folder: str) -> list[tuple[str, os.stat_result]]:
    try:
        return [(path, found) for path, found in listing.tree(course, folder) if "/." not in f"/{path}"]
    except HTTPError as error:
        log.warning("course_folder_too_large", folder=folder, why=error.log_message)
        return []


def _read_only(n_bytes: int) -> None:
    raise PermissionError(errno.EROFS, f"The course is read-only ({n_bytes} bytes)")
