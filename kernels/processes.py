"""Processes of Linux, as the nursery and its supervisor need them.

Owns the fork and exec of a kernel, and the questions and signals to a process that may be gone and its
pid used again. It keeps no state and knows no records.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from kernels.errors import KernelStuck, SpawnRefused
from kernels.inside.confined import SOCKETS
from kernels.records import SpawnOrder

KILL_S = 4.0
"""How long a killed process may take to be gone. Our figure: only one waiting for a dead disk takes long."""

GROUP_PAUSE_S = 0.01

_PR_SET_CHILD_SUBREAPER, _PR_SET_PDEATHSIG = 36, 1
_OOM_FIRST = b"1000"
HEED_XCPU_S = 5
SESSION_NICE = 5
"""What a kernel's session is nicer than its process: with it a session weighs a third."""
_STATE, _GROUP, _SESSION, _STARTED, _EXIT_CODE = 0, 2, 3, 19, 49
"""Places in /proc/<pid>/stat after the command's name: fields 3, 5, 6, 22 and 52 of proc(5)."""

_WITH_ACTION = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
"""Made once: to make it in a forked child copies 0.3 MB of pages."""

SOFT_FILES, _ = resource.getrlimit(resource.RLIMIT_NOFILE)


def become_subreaper() -> None:
    """From now on, orphans among this process' descendants become its children."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def undo_ignored_signals() -> None:
    """Sets every signal that was ignored at start back to its default.

    Ignored signals are inherited through exec: started by `nohup` or by a shell's `&`, a nursery would
    otherwise give birth to kernels that cannot be interrupted.
    """
    for signum in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when there is none (a zombie is one)."""
    found = _stat(pid)
    return int(found[_STARTED]) if found else None


def threads(pid: int) -> int:
    """How many a process has; 0 when it has gone."""
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return 0


def zombie_status(pid: int, started: int) -> int | None:
    """The wait status of a process that has ended and that its parent has not waited for; else None."""
    found = _stat(pid)
    if not found or found[_STATE] != b"Z" or int(found[_STARTED]) != started:
        return None
    return int(found[_EXIT_CODE])


def open_pidfd(pid: int, started: int) -> int | None:
    """A descriptor of exactly this process (readable once it has ended); None when it is gone.

    The start time is compared after opening: the descriptor keeps meaning the process that it was opened
    for, so whatever /proc says then of this pid is said of that process or of a later one.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    if start_ticks(pid) == started:
        return pidfd
    os.close(pidfd)
    return None


def signal_group(pid: int, pidfd: int, signum: int) -> bool:
    """Signals the group that the process leads, or the process alone if that fails. False: it is gone."""
    try:
        signal.pidfd_send_signal(pidfd, 0)  # the pid is still its own, so the group is too
        os.killpg(pid, signum)
    except ProcessLookupError:
        return _signal_alone(pidfd, signum)
    except PermissionError:
        return _signal_alone(pidfd, signum)
    return True


def kill_group(group: int) -> None:
    """SIGKILL to what is left of a group whose leader has ended but whose number cannot be another's yet."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def group_lives(group: int) -> bool:
    """Whether a process of the group is left that is not a mere zombie.

    Zombies do not count: whose child they are is to wait for them, and not every PID 1 does so soon.
    """
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    wanted = b"%d" % group
    return any(found[_GROUP] == wanted and found[_STATE] not in b"ZX" for _, found in _all_stats())


def ended_child() -> int | None:
    """The pid of some child that has ended, which stays a zombie; None for none."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found else None


def leaders_naming(directory: Path) -> Iterator[int]:
    """Session leaders whose command line names a file in `directory`: kernels that no record knows."""
    needle = os.fsencode(directory) + b"/"
    for pid, found in _all_stats():
        with contextlib.suppress(OSError):
            if int(found[_SESSION]) == pid and needle in Path(f"/proc/{pid}/cmdline").read_bytes():
                yield pid


def launch(
    order: SpawnOrder,
    handed: Sequence[int],
    keep: Callable[[int, int], None],
    confine: Callable[[], None] | None = None,
    begin_apart: Callable[[], None] | None = None,
) -> int:
    """Forks and execs a kernel, which calls `confine` before. Its pid, or SpawnRefused with the reason.

    With `begin_apart` a process in the middle calls it, and has the kernel as its first child; see `confine/apart.py`.

    `handed`: descriptors of its log, and of the sockets that it is born with, if it does not make them itself.

    `keep(pid, start ticks)` is called between the fork and the exec, and the child execs only once it has
    returned. So whenever this process is killed, no kernel runs that is not on record:
    killed before `keep`: the child's pipe ends, it exits without having run anything;
    killed after it: the record names the child, whether it got as far as exec or not.
    """
    go_read, go_write = os.pipe()
    error_read, error_write = os.pipe()
    pid = _fork_apart(begin_apart) if begin_apart else os.fork()
    if pid == 0:
        os.close(go_write)  # else this child would hold open the very pipe whose end it waits for
        _become(order, handed, go_read, error_write, confine)
    os.close(go_read)
    os.close(error_write)
    try:
        keep(pid, start_ticks(pid) or 0)
        with contextlib.suppress(BrokenPipeError):
            os.write(go_write, b"g")
    except BaseException:
        os.close(go_write)
        os.close(error_read)
        os.waitpid(pid, 0)
        raise
    os.close(go_write)
    with os.fdopen(error_read, "rb") as pipe:
        error = pipe.read()  # ends at exec, which closes the child's side
    if error:
        os.waitpid(pid, 0)
        raise SpawnRefused(error.decode(errors="replace"))
    return pid


def _fork_apart(begin: Callable[[], None]) -> int:
    """0 in the child. Its pid for the parent, whose child it is: the one in the middle has ended by then.

    Raises SpawnRefused.
    """
    read, write = os.pipe()
    middle = os.fork()
    if middle:
        os.close(write)
        os.waitpid(middle, 0)
        with os.fdopen(read) as told:
            text = told.read()
        if not text.isdecimal():
            raise SpawnRefused(f"cannot make namespaces: {text or 'the process that makes them has ended at once'}")
        return int(text)
    os.close(read)
    try:
        begin()
        child = os.fork()
        if child == 0:
            os.close(write)
            return 0
        os.write(write, str(child).encode())
    except BaseException as error:
        os.write(write, (getattr(error, "strerror", None) or str(error)).encode(errors="replace"))
    os._exit(0)


def _become(
    order: SpawnOrder, handed: Sequence[int], go_read: int, error_write: int, confine: Callable[[], None] | None
) -> NoReturn:
    """The child, between fork and exec. Never returns, never runs the parent's clean-up."""
    step = "prepare"
    try:
        signal.set_wakeup_fd(-1)  # it is the parent's loop that would be woken
        os.setsid()
        default_signals()
        log_fd, *sockets = handed
        _wire(log_fd, error_write)
        for fd in sockets:
            os.set_inheritable(fd, True)
        lose_to_the_oom_killer()
        be_bounded(order.bounds.nice, order.bounds.cpu_s)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT_FILES, hard))
        if os.read(go_read, 1) != b"g":
            os._exit(0)
        step = "confine it"
        if confine is not None:
            confine()
        step = f"enter {order.cwd}"
        os.chdir(order.cwd)
        step = f"run {order.argv[0]}"
        os.execvpe(order.argv[0], order.argv, with_sockets(order.env, sockets))  # noqa: S606 (no shell is wanted)
    except BaseException as error:
        os.write(error_write, f"cannot {step}: {getattr(error, 'strerror', None) or error}".encode())
    finally:
        os._exit(127)


def with_sockets(env: dict[str, str], sockets: Sequence[int]) -> dict[str, str]:
    """A kernel's environment, with the descriptors of the sockets that it is born with, if there are any."""
    return env | {SOCKETS: ",".join(map(str, sockets))} if sockets else env


def default_signals() -> None:
    """Default actions and an empty mask, as a process that nobody has touched has them."""
    for signum in _WITH_ACTION:
        with contextlib.suppress(OSError):
            signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _wire(log_fd: int, error_write: int) -> None:
    """Standard streams. Every other descriptor is closed by exec (all of Python's are)."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd, source in ((0, nothing), (1, nothing), (2, log_fd)):
        os.dup2(source, fd)
    os.set_inheritable(error_write, False)


def die_with_parent(parent: int) -> None:
    """Have the kernel of this machine kill this process when `parent`, which has forked it, ends (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it has ended already
        os._exit(0)


def lose_to_the_oom_killer() -> None:
    """Kernels are to be killed before workers, where we may say so."""
    _write("/proc/self/oom_score_adj", _OOM_FIRST)


def be_bounded(nice: int, cpu_s: int) -> None:
    """Workers get the processor before kernels do, and a kernel gets so much of it in all (0: as much as it likes).

    Where sessions share the processor among themselves (autogroup), it is the session's nice value that counts. Each
    kernel is a session, all workers together are one: without more between them a class that starts at once left the
    workers so little that they lost their leases. Whoever ignores SIGXCPU is killed a little later.
    """
    if nice:
        os.nice(nice)
        _write("/proc/self/autogroup", b"%d" % min(19, nice + SESSION_NICE))
    if cpu_s:
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        most = cpu_s + HEED_XCPU_S if hard == resource.RLIM_INFINITY else min(cpu_s + HEED_XCPU_S, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (min(cpu_s, most), most))


def _write(path: str, text: bytes) -> None:
    """Where there is such a file, and we may."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, text)
        finally:
            os.close(fd)


def _signal_alone(pidfd: int, signum: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _stat(pid: int) -> list[bytes] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return text.rpartition(b")")[2].split()


def _all_stats() -> Iterator[tuple[int, list[bytes]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := _stat(int(entry.name))):
            yield int(entry.name), found


async def group_gone(group: int) -> None:
    """Returns once no process of the killed group is left. Raises KernelStuck.

    It asks again and again: no descriptor tells when a group has become empty.
    """
    end = time.monotonic() + KILL_S
    while group_lives(group):
        if time.monotonic() > end:
            raise KernelStuck(f"processes of group {group} are still there {KILL_S:g} s after SIGKILL")
        await asyncio.sleep(GROUP_PAUSE_S)


def wait_status(pid: int, started: int) -> int | None:
    """Waits for a kernel that has ended. One that an earlier nursery started is the supervisor's child, which
    leaves it a zombie for a moment, so that its status can be read here; None when that is past."""
    try:
        return os.waitpid(pid, os.WNOHANG)[1]
    except ChildProcessError:
        return zombie_status(pid, started)
