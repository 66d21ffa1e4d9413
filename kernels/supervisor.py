"""The supervisor: starts the nursery, and starts it again if it dies.

`python -m kernels.supervisor --runtime DIR --grace-s N` turns into a daemon that holds the lock
`<runtime>/nursery.lock`, so there is one for each runtime directory. It inherits the kernels of a nursery
that was killed (it is their subreaper) and waits for those that end. It ends when the nursery ends in good
order; SIGTERM is passed on. It never looks at a kernel's files.

`ensure_nursery` is for whoever needs a nursery to be there.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from kernels import bounded_log, nursery_call, nursery_wire, processes
from kernels.confine.options import Options
from kernels.errors import NurseryUnavailable
from kernels.nursery_wire import ANOTHER_RUNS
from kernels.records import now_utc
from kernels.warmth import Warmth

INHERITED: Final = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
"""All that supervisor and nursery get of the environment: enough to run Python, nothing that is secret."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
SHORT_LIFE_S: Final = 5.0
HOPELESS: Final = 30
"""After so many short lives in a row the supervisor gives up: the installation is broken."""

ORPHAN_S: Final = 0.2
"""An orphan is left a zombie this long: a nursery that has taken it over reads from /proc how it ended."""

TRIM_S: Final = 5.0


class Supervisor:
    """Watches one nursery at a time until one ends in good order."""

    def __init__(self, runtime: Path, nursery_arguments: list[str]) -> None:
        self._runtime = runtime
        self._nursery_arguments = nursery_arguments
        self._stopping = False
        self._poll = select.poll()
        self._wake_read, wake_write = os.pipe()
        for fd in (self._wake_read, wake_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._poll.register(self._wake_read, select.POLLIN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._stop)

    def run(self) -> int:
        """Exit code: 0 in good order, 1 when the nursery cannot be kept up."""
        pause_s, short_lives = FIRST_PAUSE_S, 0
        while short_lives < HOPELESS:
            began = time.monotonic()
            code = self._watch(self._find() or self._start())
            if code == 0:
                return 0
            if time.monotonic() - began > SHORT_LIFE_S:
                pause_s, short_lives = FIRST_PAUSE_S, 0
            _say("nursery_ended", code=code, pause_s=pause_s)
            self._pause(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            short_lives += code != ANOTHER_RUNS
        _say("nursery_hopeless", tries=HOPELESS)
        return 1

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _find(self) -> int | None:
        """The pid of a nursery that runs already: its own supervisor was killed, so this one takes over."""
        try:
            pid = int(nursery_call.ask(self._runtime, "status", 1.0)["pid"])
        except NurseryUnavailable:
            return None
        _say("nursery_found", pid=pid)
        return pid

    def _start(self) -> int:
        command = [sys.executable, "-P", "-m", "kernels.nursery"]
        command += self._nursery_arguments
        # SIGTERM is held back until the nursery can stop in good order; otherwise one that is passed on while
        # it starts would kill it, and its kernels would go on.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            child = subprocess.Popen(command, env=os.environ, cwd="/", stdin=subprocess.DEVNULL)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        child.returncode = 0  # waited for by pid, below
        _say("nursery_started", pid=child.pid)
        return child.pid

    def _watch(self, pid: int) -> int | None:
        """Until the nursery has ended. Its exit code, minus the signal, or None when nobody can know."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return self._code_of(pid)
        self._poll.register(pidfd, select.POLLIN)
        told = False
        try:
            while True:
                # Before waiting: a signal that comes from here on has written to the pipe and ends the wait.
                if self._stopping and not told:
                    signal.pidfd_send_signal(pidfd, signal.SIGTERM)
                    told = True
                if self._ended(pidfd):
                    break
                self._reap(pid)
        finally:
            self._poll.unregister(pidfd)
            os.close(pidfd)
        return self._code_of(pid)

    def _ended(self, pidfd: int) -> bool:
        """Waits for news; True when it is that the nursery has ended."""
        ready = [fd for fd, _ in self._poll.poll(TRIM_S * 1000)]
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        bounded_log.trim(self._runtime / "nursery.log")
        return pidfd in ready

    def _code_of(self, pid: int) -> int | None:
        try:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        except ChildProcessError:  # found, not started here: in good order it removes its socket, killed it cannot
            return 0 if not nursery_wire.socket_path(self._runtime).exists() else None

    def _reap(self, nursery: int) -> None:
        """Waits for orphans that have ended."""
        while (pid := processes.ended_child()) not in (None, nursery):
            time.sleep(ORPHAN_S)
            while (pid := processes.ended_child()) not in (None, nursery):
                assert pid is not None
                os.waitpid(pid, 0)

    def _pause(self, pause_s: float) -> None:
        """Before the next start; not when told to stop, since then a nursery is started just to end kernels."""
        end = time.monotonic() + pause_s
        while not self._stopping and (left_s := end - time.monotonic()) > 0:
            self._poll.poll(left_s * 1000)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)


def ensure_nursery(
    runtime: Path, grace_s: float, timeout_s: float, warmth: Warmth | None = None, confine: Options | None = None
) -> None:
    """Returns once a supervised nursery answers in `runtime`, started if there was none. Blocks.

    With `warmth` one that is started here forks Python kernels, with `confine` it confines kernels as far as the host
    can; one that runs already stays as it is.
    Any number of processes may ask at once. Raises NurseryUnavailable after `timeout_s`.
    """
    nursery_wire.check_runtime(runtime)
    runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    end = time.monotonic() + timeout_s
    while True:
        if not supervisor_runs(runtime):
            _start_supervisor(_arguments(runtime, grace_s, warmth, confine))
        if nursery_call.answers(runtime):
            return
        if time.monotonic() > end:
            words = bounded_log.tail(runtime / "nursery.log", 1000)
            raise NurseryUnavailable(f"no nursery has answered in {runtime} within {timeout_s:g} s. {words}")
        time.sleep(0.05)


def main(arguments: list[str] | None = None) -> int:
    """Turns this process into the supervisor. Ends at once, with 0, if there is one already."""
    parser = argparse.ArgumentParser(prog="python -m kernels.supervisor")
    parser.add_argument("--runtime", type=Path, required=True)
    parser.add_argument("--grace-s", type=float, default=1800.0)
    parser.add_argument("--preload")
    parser.add_argument("--spares", type=int, default=2)
    parser.add_argument("--confine")
    given = parser.parse_args(arguments)
    lock = _take_lock(given.runtime)
    if lock is None:
        return 0
    _become_daemon(given.runtime / "nursery.log")
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    processes.become_subreaper()
    processes.undo_ignored_signals()
    warmth = None if given.preload is None else Warmth(tuple(filter(None, given.preload.split(","))), given.spares)
    confine = None if given.confine is None else Options.from_text(given.confine)
    return Supervisor(given.runtime, _arguments(given.runtime, given.grace_s, warmth, confine)).run()


def _arguments(runtime: Path, grace_s: float, warmth: Warmth | None, confine: Options | None) -> list[str]:
    """Of supervisor and nursery alike."""
    found = ["--runtime", str(runtime), "--grace-s", str(grace_s)]
    if warmth is not None:
        found += ["--preload", ",".join(warmth.preload), "--spares", str(warmth.spares)]
    if confine is not None:
        found += ["--confine", confine.to_text()]
    return found


def _take_lock(runtime: Path) -> int | None:
    """Held as long as this process and its forks live; exec closes it, so no nursery or kernel holds it."""
    fd = os.open(runtime / "nursery.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def supervisor_runs(runtime: Path) -> bool:
    """Whether some supervisor has the runtime directory, with a nursery or between two."""
    # Shared, so that two who ask do not see each other. A supervisor that starts in this very moment takes it
    # for another's and ends; whoever started it asks again.
    fd = os.open(runtime / "nursery.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def _start_supervisor(arguments: list[str]) -> None:
    command = [sys.executable, "-P", "-m", "kernels.supervisor", *arguments]
    done = subprocess.run(
        command,
        env=_clean_env(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip()[-1000:]
        raise NurseryUnavailable(f"the nursery's supervisor does not start: {words}")


def _clean_env() -> dict[str, str]:
    env = {name: os.environ[name] for name in INHERITED if name in os.environ}
    # This package may lie where only the caller's working directory makes it importable.
    here = str(Path(__file__).resolve().parent.parent)
    known = os.environ.get("PYTHONPATH")
    return {"PATH": os.defpath} | env | {"PYTHONPATH": f"{here}:{known}" if known else here}


def _become_daemon(log: Path) -> None:
    """Leaves the caller's session and process tree; what is written from now on goes to the log."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.umask(0o077)
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def _say(event: str, **facts: object) -> None:
    """A line in the form of the nursery's own; the supervisor loads no logging library."""
    pairs = "".join(f" {name}={value!r}" for name, value in facts.items())
    print(f"timestamp={now_utc()!r} level='info' event={event!r}{pairs}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
