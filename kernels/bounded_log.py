"""Log files that others write into and that must not grow without end.

Both functions open a path that its writer may have replaced by something else (a link, a FIFO), so they
follow no link, never wait, and touch regular files only.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

LOG_BYTES = 1024 * 1024
"""A log is cut back once it is longer than this."""

_KEPT_BYTES = 64 * 1024
_SAFE = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def trim(path: Path, limit_bytes: int = LOG_BYTES) -> bool:
    """Cuts a log that is longer than `limit_bytes` to its last part. True if it did.

    The writers have the file open for appending, so they go on at its new end. What they write between the
    reading and the cutting is lost.
    """
    try:
        if path.lstat().st_size <= limit_bytes:
            return False
        fd = os.open(path, os.O_RDWR | os.O_APPEND | _SAFE)
    except OSError:
        return False
    try:
        return _cut(fd, limit_bytes)
    finally:
        os.close(fd)


def tail(path: Path, limit_bytes: int = 2048) -> str:
    """The last lines of a log, at most `limit_bytes`; empty when there is no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | _SAFE)
    except OSError:
        return ""
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return ""
        start = max(0, found.st_size - limit_bytes)
        text = os.pread(fd, limit_bytes, start).decode(errors="replace")
    finally:
        os.close(fd)
    return (text.partition("\n")[2] if start and "\n" in text else text).strip()


def _cut(fd: int, limit_bytes: int) -> bool:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_size <= limit_bytes:
        return False
    kept = os.pread(fd, _KEPT_BYTES, found.st_size - _KEPT_BYTES)
    os.ftruncate(fd, 0)
    os.write(fd, b"[the beginning was cut off]\n" + kept)
    return True
