"""When a kernel was last used: what counts, and how that outlives the worker that has seen it.

Owns the rule, and one empty file in the kernel's directory whose time of change it is. What counts is Jupyter's
definition (`MappingKernelManager.untracked_message_types`) with its gaps closed: what a client asks for, and what cells
put out, but not what an open page says by itself. Blocks: reading and noting are for a thread.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson

FILE: Final = "active"
# A page asks for these when it connects, again and again where the network is bad, or by the clock.
CHATTER: Final = frozenset({
    "kernel_info_request", "comm_info_request", "connect_request", "interrupt_request", "shutdown_request",
    "debug_request", "usage_request", "comm_open", "comm_close",
})  # fmt: skip
RESTORING: Final = b'"request_state'  # a page that asks for the widgets that it is to show


def is_use(kind: str, content: bytes) -> bool:
    """Whether a client's message is one: a cell, a completion, a widget that is moved."""
    return kind not in CHATTER and not (kind == "comm_msg" and RESTORING in content)


def said_at(header: bytes, parent: bytes, now: datetime) -> datetime | None:
    """When the kernel said that a cell begins or has ended; None for what is no cell's. It may be heard much later."""
    if b'"execute_request"' not in parent:
        return None
    with suppress(ValueError, TypeError, KeyError):
        said = datetime.fromisoformat(orjson.loads(header)["date"])
        return min(now, said if said.tzinfo else said.replace(tzinfo=UTC))
    return now


def noted(directory: Path) -> datetime | None:
    """When it was last used, as an owner has noted; None when none has."""
    try:
        return datetime.fromtimestamp((directory / FILE).lstat().st_mtime, UTC)
    except (OSError, OverflowError):
        return None


def note(directory: Path, used_at: datetime) -> None:
    """Note it, where no later time is noted. An owner that is late has nothing later than its successor."""
    before = noted(directory)
    if before and before >= used_at:
        return
    with suppress(FileNotFoundError, NotADirectoryError):  # the kernel has ended meanwhile
        fd = os.open(directory / FILE, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.utime(fd, (used_at.timestamp(), used_at.timestamp()))
        finally:
            os.close(fd)
