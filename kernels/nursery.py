"""The nursery: the process, one per host, whose children the kernels are.

`python -m kernels.nursery --runtime DIR --grace-s N`. Owns what makes it a process of its own: it is the
only one in its runtime directory, the subreaper of what its kernels leave behind, and single-threaded, so
that it may fork. It holds no secret, and it never talks to a kernel's sockets.

Started by `kernels.supervisor`, with an environment that names little more than a PATH.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import os
import resource
import sys
import time
from pathlib import Path

import structlog

from kernels import processes
from kernels.confine import host
from kernels.confine.options import Options
from kernels.confine.warden import Warden
from kernels.nursery_desk import Desk
from kernels.nursery_wire import ANOTHER_RUNS
from kernels.warmth import Warmth

LOCK_S = 5.0

log = structlog.get_logger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Runs a nursery in this process. 0: stopped in good order; ANOTHER_RUNS: the directory is taken."""
    parser = argparse.ArgumentParser(prog="python -m kernels.nursery")
    parser.add_argument("--runtime", type=Path, required=True)
    parser.add_argument("--grace-s", type=float, default=1800.0)
    parser.add_argument("--preload", help="fork kernels from a process that has imported these modules")
    parser.add_argument("--spares", type=int, default=2, help="how many forked kernels wait")
    parser.add_argument("--confine", help="confine kernels as far as this host can; options, as JSON")
    given = parser.parse_args(arguments)
    os.umask(0o077)
    os.chdir("/")
    log_to_stderr()
    folder = given.runtime / "k"
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = _lock(folder)
    if lock is None:
        log.warning("nursery_another_runs", runtime=str(given.runtime))
        return ANOTHER_RUNS
    processes.become_subreaper()
    processes.undo_ignored_signals()
    _raise_file_limit()
    warmth = None if given.preload is None else Warmth(tuple(filter(None, given.preload.split(","))), given.spares)
    warden = None if given.confine is None else _warden(Options.from_text(given.confine), given.runtime)
    asyncio.run(Desk(given.runtime, given.grace_s, warmth, warden).run())
    return 0


def log_to_stderr() -> None:
    """One event a line, with its time, on standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _warden(options: Options, runtime: Path) -> Warden:
    """Knows what this host offers, which may be nothing: then it confines nobody. Whoever serves several users asks."""
    report, walls = host.probe(options, runtime)
    log.info("confinement", layers=report.name, missing=list(report.missing))
    return Warden(options, report, walls, runtime)


def _lock(folder: Path) -> int | None:
    """A lock on the folder of all kernels, held as long as this process lives; None when another holds it.

    Waits a little: a child of a nursery that was killed between fork and exec holds it for a moment more.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    end = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                os.close(fd)
                return None
            time.sleep(0.02)
        else:
            return fd


def _raise_file_limit() -> None:
    """One descriptor for each kernel: the soft limit of 1,024 would be reached by a large class."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
