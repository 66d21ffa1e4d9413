"""Telling processes apart and ending the right one. Knows nothing of members or rings.

A pid alone names a process only until it is reused; with its start time it names it for good.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_STARTTIME = 22 - 3
"""Field 22 of /proc/<pid>/stat (proc(5)), counted from field 3: what comes before may contain spaces."""


def started_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot. None: no such process, or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return int(fields[_STARTTIME])


def runs(pid: int, pid_started: int) -> bool:
    """Does the very process that started then still run?"""
    return started_ticks(pid) == pid_started


def kill(pid: int, pid_started: int) -> bool:
    """SIGKILL that very process. False: it was gone already, or is not ours to end.

    The order matters. Checked before the pidfd is open: it ends, its pid is reused, the stranger is
    killed. With the pidfd open first, the pid cannot change its meaning between the check and the signal.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not runs(pid, pid_started):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(pidfd)
