"""Folders in folders, deeper than Python walks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def nested(folder: Path) -> Iterator[None]:
    """Below `folder` as many as Python calls functions. Changes the working directory meanwhile."""
    before, depth = Path.cwd(), sys.getrecursionlimit()
    os.chdir(folder)
    for _ in range(depth):
        os.mkdir("d")  # noqa: PTH102 (such a path is too long to be named)
        os.chdir("d")
    try:
        yield
    finally:
        for _ in range(depth):
            os.chdir("..")
            os.rmdir("d")  # noqa: PTH106
        os.chdir(before)
