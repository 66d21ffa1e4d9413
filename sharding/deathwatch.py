"""Tells the ring at once that a worker has died. For gunicorn's `child_exit` hook, in the arbiter.

The arbiter must neither wait nor stumble: an exception in the hook stops gunicorn, and DNS or Redis may hang
where no timeout reaches. So the call is made by a grandchild process, which an alarm ends. It is a
grandchild because gunicorn reaps its children itself: an unknown one might confuse it, an orphan is init's.

If the news is lost, a refused connection or the lease brings it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from pathlib import Path

import redis

from sharding.registry import SCRIPTS, preamble

CALL_S = 2.0
"""How long the grandchild may live."""


def evict_child(redis_url: str, host: str, pid: int) -> None:
    """Take the worker with this pid, which has been reaped, off the ring of this host.

    Returns after two forks (milliseconds), whether or not Redis answers. Never raises.
    """
    # Whatever goes wrong, the arbiter goes on: an exception in its hook stops gunicorn.
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns when a process with threads forks
        child = os.fork()
        if child == 0:
            _become_orphan(redis_url, host, pid)
        os.waitpid(child, 0)


def _become_orphan(redis_url: str, host: str, pid: int) -> None:
    """In the child: fork the one that calls Redis, and end. Never returns, in neither process."""
    try:
        if os.fork() == 0:
            _shed()
            _call(redis_url, host, pid)
    finally:
        # No cleanup: everything here belongs to the arbiter.
        os._exit(0)


def _shed() -> None:
    """Let go of what is the arbiter's: signal handlers, and descriptors (its listening sockets among them:
    a gunicorn that starts again must be able to bind)."""
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(signum, signal.SIG_DFL)
    # The default action ends the process even while it is inside the C library, as in a DNS lookup.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.setitimer(signal.ITIMER_REAL, CALL_S)
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):  # the listing's own one is closed already
            if int(entry.name) > 2:
                os.close(int(entry.name))


def _call(redis_url: str, host: str, pid: int) -> None:
    keys, first = preamble(host, lease_s=0.0)  # this script grants no lease
    with redis.Redis.from_url(redis_url, socket_timeout=CALL_S, socket_connect_timeout=CALL_S) as client:
        client.eval(SCRIPTS["evict_pid"], len(keys), *keys, *first, pid)
