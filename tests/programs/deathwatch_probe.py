"""Calls `evict_child` as gunicorn's arbiter would, and reports in one line of JSON what became of it.

Usage: deathwatch_probe.py REDIS_URL HOST PID TIMES

Reports {"returned_s": the quickest call, "orphans": statuses of the grandchildren, "orphans_s": until the last
has ended, "rebound": whether the port that this process listened on could be bound while they ran,
"handled": signals that reached a handler of this process}. It makes itself the subreaper, so that the
orphans are its to wait for.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from sharding.deathwatch import CALL_S, evict_child

PR_SET_CHILD_SUBREAPER = 36


def rebinds(port: int, until: float) -> bool:
    """Can the port be bound by then? Not at once: the orphans need a moment to let go of what they got."""
    while time.monotonic() < until:
        with socket.socket() as again, contextlib.suppress(OSError):
            again.bind(("127.0.0.1", port))
            again.listen()
            return True
    return False


def main(url: str, host: str, pid: str, times: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    handled: list[int] = []
    signal.signal(signal.SIGALRM, lambda signum, _: handled.append(signum))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        begun, took = time.monotonic(), []
        for _ in range(int(times)):
            before = time.monotonic()
            evict_child(url, host, int(pid))
            took.append(time.monotonic() - before)
    statuses, rebound = [], rebinds(port, begun + CALL_S * 0.9)
    while True:
        try:
            statuses.append(os.wait()[1])
        except ChildProcessError:
            break
    report = {
        "returned_s": min(took),
        "orphans": statuses,
        "orphans_s": time.monotonic() - begun,
        "rebound": rebound,
        "handled": handled,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
