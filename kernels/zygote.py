"""The zygote: a process that has imported what a Python kernel needs, and forks kernels from itself.

Exec'd by the nursery (`kernels.nursery_zygote`) with an environment that names little more than a
PATH. Owns the loop that forks, and nothing else: what is imported is `kernels.zygote_preload`'s matter, what a
forked child does is `kernels.zygote_birth`'s. It is single-threaded and has no ZMQ context and no event loop, now
and ever: only so is what it forks whole. It holds no secret, and it never runs a user's code.

A kernel's parent is the nursery. The zygote forks twice and the process in the middle ends at once, so the kernel
is an orphan, and orphans go to the nursery, which is a subreaper.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

from kernels import processes, zygote_birth, zygote_blas, zygote_memory, zygote_preload, zygote_thrift, zygote_wire
from kernels.confine import apart
from kernels.confine.child import Fitting
from kernels.confine.options import NAMESPACES, Walls
from kernels.zygote_wire import WireEnded

_KEPT: list[object] = []


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 once the nursery has gone or has closed the wire."""
    parser = argparse.ArgumentParser(prog="zygote")
    parser.add_argument("--wire", type=int, required=True)
    parser.add_argument("--files", type=int, required=True, help="soft limit of descriptors for kernels")
    parser.add_argument("--runtime", type=Path, required=True)
    parser.add_argument("--preload", default="", help="modules to import, separated by commas")
    parser.add_argument("--walls", help="what kernels are put behind, as JSON")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    # Also while importing, when nobody looks at the wire. It is not inherited: kernels live on.
    processes.die_with_parent(os.getppid())
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (given.files, hard))
    walls = None if given.walls is None else Walls.from_text(given.walls)
    wire = socket.socket(fileno=given.wire)
    os.set_inheritable(given.wire, False)
    names = [name for name in given.preload.split(",") if name]
    told = zygote_preload.preload(names, given.runtime)
    zygote_blas.watch({name.partition(".")[0] for name in names})
    zygote_thrift.spare_the_pages()
    freeze()
    try:
        zygote_wire.send(wire, {"event": "ready", "took_s": round(time.monotonic() - began, 2), **told})
        while True:
            _, fds = zygote_wire.receive(wire)
            fork_spares(wire, fds, walls)
    except WireEnded:
        return 0


def freeze() -> None:
    """Keeps the collector off what has been imported: a child's first full collection would copy all of it."""
    gc.collect()
    _KEPT.extend(zygote_memory.fill_gaps())
    gc.freeze()


def threads() -> int:
    """How many threads this process has, also those that no Python code has started."""
    return len(list(Path("/proc/self/task").iterdir()))


def fork_spares(wire: socket.socket, fds: list[int], walls: Walls | None = None) -> None:
    """Forks for each descriptor a child that waits for its orders on it. One process in the middle does for all."""
    if threads() != 1:
        # What another thread held at the fork (a lock, half of malloc) would be broken in every child.
        sys.exit("the zygote has more than one thread and forks no more")
    middle = os.fork()
    if middle == 0:
        wire.close()
        for fd in fds:
            if walls and walls.level == NAMESPACES:
                _fork_apart(fd, fds, walls)
            elif os.fork() == 0:
                _be_spare(fd, fds, walls)
        os._exit(0)
    for fd in fds:
        os.close(fd)
    os.waitpid(middle, 0)


def _fork_apart(fd: int, fds: list[int], walls: Walls) -> None:
    """Each in namespaces of its own, so a process more for each. There its number is 1: this one tells the other."""
    if os.fork():
        return
    try:
        apart.begin()
        spare = os.fork()
    except OSError as error:
        os.write(2, f"no namespaces for a kernel: {error}\n".encode())
        os._exit(1)
    if spare == 0:
        _be_spare(fd, fds, walls)
    zygote_wire.send(socket.socket(fileno=fd), {"pid": spare})
    os._exit(0)


def _be_spare(fd: int, fds: list[int], walls: Walls | None) -> NoReturn:
    """A kernel to its end; then the interpreter ends in good order, as an exec'd one does."""
    for other in fds:
        if other != fd:
            os.close(other)  # else that spare would never see its wire end
    zygote_birth.await_orders(socket.socket(fileno=fd), Fitting(walls) if walls else None)
    raise SystemExit(0)
