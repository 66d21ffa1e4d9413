"""A spare: a forked child that waits for its orders and then becomes one user's kernel.

Owns the step from a copy of the zygote to a process that is as if it had been exec'd: its own session, streams,
signals, random numbers, environment, directories and search path. All of that comes before any of the user's code.
"""

from __future__ import annotations

import locale
import multiprocessing.process
import os
import random
import signal
import site
import socket
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from kernels import processes, zygote_blas, zygote_kernel, zygote_wire
from kernels.confine.child import Fitting
from kernels.confine.options import Room
from kernels.zygote_wire import WireEnded

_OF_IMPORTS: Final = ("PYDEVD_USE_FRAME_EVAL",)
"""What modules that a kernel imports put into the environment."""

FIRST: Final = 1
"""The number of a kernel in a PID namespace of its own."""

_DONE: Final = {"done": True}


def await_orders(wire: socket.socket, fitting: Fitting | None = None) -> None:
    """Is a spare, then a kernel; returns when the kernel was shut down. Exits when no order comes any more."""
    os.setsid()
    _be_one_of_its_own()
    try:
        if os.getpid() != FIRST:  # else the number is not what the nursery knows it by; see `zygote._fork_apart`
            zygote_wire.send(wire, {"pid": os.getpid()})
        zygote_kernel.limber_up()
        if fitting is not None:
            fitting.prepare()
        order, fds = zygote_wire.receive(wire)
    except WireEnded:
        os._exit(0)
    step = "prepare"
    try:
        _wire_streams(fds[0])
        processes.lose_to_the_oom_killer()
        processes.be_bounded(order.get("nice", 0), order.get("cpu_s", 0))
        step = "confine it"
        if fitting is not None:
            fitting.enter(Room(**order["room"]))
        step = f"enter {order['cwd']}"
        os.chdir(order["cwd"])
        step = "take on its environment"
        _take_on(order["argv"], processes.with_sockets(order["env"], fds[1:]))
    except Exception as error:
        why = getattr(error, "strerror", None) or error
        with suppress(WireEnded):
            zygote_wire.send(wire, {"error": f"cannot {step}: {why}"})
        os._exit(127)
    with suppress(WireEnded):  # the nursery has given this kernel up, or has died: then its record names us: we go on
        zygote_wire.send(wire, _DONE)
    zygote_kernel.be_kernel(sys.argv[1:], partial(_say_bound, wire), partial(zygote_blas.arm, order["env"]))


def _say_bound(wire: socket.socket) -> None:
    with suppress(OSError), wire:
        wire.send(zygote_wire.BOUND)


def _be_one_of_its_own() -> None:
    """What does not depend on the orders."""
    processes.default_signals()
    # SIGINT as ipykernel has it between cells, SIGPIPE and SIGXFSZ as Python has them.
    for signum in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_IGN)
    random.seed()
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()
    process: Any = multiprocessing.process
    process.current_process().authkey = os.urandom(32)  # made at import: else all kernels share one secret
    _unshare_ids()


def _unshare_ids() -> None:
    """uuid1 counts on from what the zygote has used."""
    if found := sys.modules.get("uuid"):
        found._last_timestamp = None  # type: ignore[attr-defined]


def _wire_streams(log_fd: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd, source in ((0, nothing), (1, nothing), (2, log_fd)):
        os.dup2(source, fd)
    os.close(nothing)
    os.close(log_fd)


def _take_on(argv: list[str], env: dict[str, str]) -> None:
    kept = {name: os.environ[name] for name in _OF_IMPORTS if name in os.environ}
    os.environ.clear()
    os.environ.update(kept | env)
    if not any(env.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG")):
        os.environ["LC_CTYPE"] = "C.UTF-8"  # as Python does when it starts (PEP 538)
    sys.orig_argv[:] = argv
    sys.argv[:] = argv[argv.index("-f") - 1 :]  # from the script on
    sys.dont_write_bytecode = bool(env.get("PYTHONDONTWRITEBYTECODE"))
    sys.path[:] = _search_path(env)
    tempfile.tempdir = None
    multiprocessing.process.ORIGINAL_DIR = str(Path.cwd())  # type: ignore[attr-defined]
    time.tzset()
    with suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "")
    if "matplotlib" in sys.modules:
        _dress_matplotlib(env)


def _search_path(env: dict[str, str]) -> list[str]:
    """The zygote's, without its first part, where this package is, with what this environment adds."""
    own = sys.path[1:]
    added = [str(Path(part).absolute()) for part in env.get("PYTHONPATH", "").split(os.pathsep) if part]
    return added + own + _user_site(env)


def _user_site(env: dict[str, str]) -> list[str]:
    """The user's own site-packages, where an interpreter outside of a virtual environment looks too."""
    site.USER_BASE = site.USER_SITE = None
    if sys.prefix != sys.base_prefix or env.get("PYTHONNOUSERSITE"):
        return []
    found = site.getusersitepackages()
    return [found] if Path(found).is_dir() else []


def _dress_matplotlib(env: dict[str, str]) -> None:
    """Forgets the zygote's directories, and reads the user's settings if there are any."""
    matplotlib: Any = sys.modules["matplotlib"]
    for cached in (matplotlib.get_configdir, matplotlib.get_cachedir):
        for name, cell in zip(cached.__code__.co_freevars, cached.__closure__ or (), strict=True):
            if name == "called":
                cell.cell_contents = False
    config = env.get("XDG_CONFIG_HOME") or f"{env.get('HOME', '')}/.config"
    folders = (env.get("MPLCONFIGDIR") or f"{config}/matplotlib", ".")
    if env.get("MATPLOTLIBRC") or any(Path(folder, "matplotlibrc").exists() for folder in folders):
        matplotlib.rc_file(matplotlib.matplotlib_fname())
    if backend := env.get("MPLBACKEND"):
        dict.__setitem__(matplotlib.rcParams, "backend", backend)
