"""What may name a file: paths as the contents API has them, checked before anything looks at the disk.

Never opens a file. Whether a path that passes here stays in the user's directory when links are followed is
`beneath.py`'s matter.
"""

from __future__ import annotations

import os
from typing import Final

from tornado.web import HTTPError

MAX_PATH_BYTES: Final = 2048
MAX_NAME_BYTES: Final = 240  # a file system's 255, less "-checkpoint"
MAX_DEPTH: Final = 64
OURS: Final = ".kernelring"  # what names of files that only this server makes begin with; hidden, as Jupyter hides dots
DRAFT: Final = f"{OURS}-draft"
"""What a write goes to first. One name for each folder: a user has one writer at a time, so what a killed one left is
known, and goes with the next write."""
UPLOAD: Final = f"{OURS}-upload-"  # and a hash: where an upload gathers
UNFINISHED: Final = (DRAFT, UPLOAD)


def checked(path: str) -> str:
    """Return `path` without slashes at its ends and doubled ones. Raises HTTPError 404 for what names no file."""
    parts = [part for part in path.split("/") if part]
    if len(parts) > MAX_DEPTH or not all(map(is_name, parts)):
        raise not_here(path)
    clean = "/".join(parts)
    if len(clean.encode()) > MAX_PATH_BYTES:
        raise not_here(path)
    return clean


def is_name(name: str) -> bool:
    """Whether `name` can be one step of a path."""
    if name in ("", ".", "..") or any(char in name for char in "\0\\/"):
        return False
    try:
        return len(name.encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:  # bytes on disk that are no UTF-8
        return False


def not_here(path: str) -> HTTPError:
    """The one refusal of paths that lead elsewhere, or nowhere."""
    return HTTPError(404, f"This is not a path among your files: {shown(path)}")


def shown(path: str) -> str:
    """`path` as a message may quote it: short, and without anything that is no text."""
    return repr(path if len(path) <= 200 else f"{path[:200]}…")[1:-1]


def is_hidden(path: str) -> bool:
    """Whether a part of `path` is hidden by its name."""
    return any(part.startswith(".") for part in path.split("/"))


def split(path: str) -> tuple[str, str]:
    """The folder of a checked path ("" is the user's own), and the name in it."""
    folder, _, name = path.rpartition("/")
    return folder, name


def joined(folder: str, name: str) -> str:
    """The path of `name` in `folder`."""
    return os.path.join(folder, name)  # noqa: PTH118 - not a path of this machine
