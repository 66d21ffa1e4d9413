"""The nursery's side of warm forks: one zygote, and a few spares that it has forked and that wait for orders.

Owns both processes' lives: starts a zygote, starts it again when it has died or when what is installed has changed,
keeps spares ready, gives a spare its orders. It knows no records. A kernel that has its orders is the nursery's
own child, like one that was exec'd, and nothing here touches it again.

Whenever no spare can be had, `launch` says so and the kernel is exec'd: slower, and the same otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from kernels import processes, zygote_wire
from kernels.confine.options import Room, Walls
from kernels.errors import SpawnRefused
from kernels.records import SpawnOrder
from kernels.warmth import MOST_SPARES, Warmth
from kernels.zygote_wire import WireEnded

REFILL_S: Final = 0.2
"""A spare that was used is replaced this much later, so as not to take the processor from the kernel's first cell."""

ANSWER_S: Final = 5.0
"""How long a spare may take to answer. Our figure: one that lives needs milliseconds."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
LOOK_S: Final = 2.0
_COLD: Final = ("PYTHON", "LD_", "MALLOC_", "GLIBC_", "ARROW_", "JE_ARROW_")
_WARM: Final = frozenset({"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE", "PYTHONUNBUFFERED"})

_ROOT: Final = str(Path(__file__).resolve().parent.parent)
_ZYGOTE: Final = f"import sys; sys.path[0] = {_ROOT!r}; from kernels.zygote import main; sys.exit(main())"
"""Neither a working directory nor a PYTHONPATH gets into the search path, which kernels inherit; this package goes
out of it again in each child."""

log = structlog.get_logger(__name__)


class NoSpare(Exception):  # noqa: N818 (named for what it says)
    """None can be had now; the text says why."""


@dataclass(slots=True)
class Spare:
    """`pid` is 0 until it has said it."""

    wire: socket.socket
    pid: int = 0

    def ready(self) -> int:
        """Its pid, once it is there. Raises WireEnded."""
        if not self.pid:
            self.pid = int(zygote_wire.receive(self.wire)[0]["pid"])
        return self.pid


class Nest:
    """All warm forks of one nursery. Runs in the nursery's loop; `launch` blocks it for some milliseconds."""

    def __init__(self, runtime: Path, warmth: Warmth, walls: Walls | None = None) -> None:
        self._runtime = runtime
        self._walls = walls
        self._warmth = warmth
        self._zygote = 0
        self._wire: socket.socket | None = None
        self._ready = False
        self._spares: list[Spare] = []
        self._installed: dict[str, int] = {}
        self._pause_s = FIRST_PAUSE_S
        self._again: asyncio.TimerHandle | None = None
        self._refill: asyncio.TimerHandle | None = None
        self._cold_said = False
        self._facts: dict[str, Any] = {}

    @property
    def _wanted(self) -> int:
        return min(self._warmth.spares, MOST_SPARES)

    def status(self) -> dict[str, Any]:
        """For people: the zygote's pid (0: none), whether it forks, the spares' pids, what it has imported."""
        spares = [spare.pid for spare in self._spares]
        return {"pid": self._zygote, "ready": self._ready, "spares": spares, **self._facts}

    def start(self) -> None:
        """Starts a zygote, in the place of the one that there is. It is of use some seconds later."""
        if self._again is not None:
            self._again.cancel()
        self._drop()
        here, there = socket.socketpair()
        self._installed = installed()
        command = [sys.executable, "-c", _ZYGOTE, "--wire", str(there.fileno())]
        command += ["--files", str(processes.SOFT_FILES), "--runtime", str(self._runtime)]
        command += ["--preload", ",".join(self._warmth.preload)]
        if self._walls is not None:
            command += ["--walls", self._walls.to_text()]
        try:
            child = subprocess.Popen(
                command,
                env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
                cwd="/",
                stdin=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                start_new_session=True,
            )
        except OSError as error:
            here.close()
            self._retry(f"it cannot be started: {error}")
            return
        finally:
            there.close()
        child.returncode = 0  # the nursery waits for all of its children
        self._zygote, self._wire = child.pid, here
        here.settimeout(ANSWER_S)
        asyncio.get_running_loop().add_reader(here, self._hear)

    def look(self) -> None:
        """Starts anew when packages were installed or removed. To be called every LOOK_S or so."""
        if self._wire is not None and installed() != self._installed:
            log.info("zygote_outdated")
            self.start()

    def close(self) -> None:
        """Ends zygote and spares, and returns once they are gone, with what they have left."""
        for handle in (self._again, self._refill):
            if handle is not None:
                handle.cancel()
        self._drop()
        shutil.rmtree(self._runtime / "zygote", ignore_errors=True)

    def launch(
        self, order: SpawnOrder, room: Room | None, handed: tuple[int, ...], keep: Callable[[int, int], None]
    ) -> socket.socket:
        """Has a spare carry out the order in a room, `handed` and `keep` as in `processes.launch`. Where it says BOUND,
        or ends.

        Raises NoSpare before anything has come of it, SpawnRefused when the order cannot be carried out.
        Killed before `keep`: the spare's wire ends, and it ends. Killed after it: the record names it.
        """
        if not forkable(order.env):
            raise NoSpare("its environment has what is read only when an interpreter starts")
        spare = self._take()
        with contextlib.ExitStack() as closing:
            closing.callback(spare.wire.close)
            keep(spare.pid, processes.start_ticks(spare.pid) or 0)
            try:
                about: dict[str, Any] = {
                    "argv": order.argv,
                    "env": order.env,
                    "cwd": str(order.cwd),
                    "room": room and asdict(room),
                }
                about |= {"nice": order.bounds.nice, "cpu_s": order.bounds.cpu_s}
                zygote_wire.send(spare.wire, about, *handed)
                answer = zygote_wire.receive(spare.wire)[0]
            except WireEnded as error:
                _kill(spare.pid)
                raise NoSpare(f"the spare has not answered: {error}") from error
            self._refill_soon()
            self._cold_said = False
            if "error" in answer:
                raise SpawnRefused(str(answer["error"]))
            closing.pop_all()
        spare.wire.setblocking(False)
        return spare.wire

    def why_cold(self, why: str) -> None:
        """Logs that a kernel is exec'd instead; once, until one has been forked again."""
        if not self._cold_said:
            log.info("kernel_starts_cold", why=why)
        self._cold_said = True

    def _take(self) -> Spare:
        """A spare that is there and answers, forked now if none waits."""
        for _ in range(len(self._spares) + 1):
            if not self._spares:
                self._fork(max(1, self._wanted))
            spare = self._spares.pop(0)
            try:
                spare.ready()
            except WireEnded:
                spare.wire.close()
            else:
                return spare
        raise NoSpare("the zygote's children end at once")

    def _fork(self, count: int) -> None:
        """Has the zygote fork some spares: together, because each time costs as much as one of them."""
        if self._wire is None or not self._ready:
            raise NoSpare("the zygote is not ready")
        pairs = [socket.socketpair() for _ in range(count)]
        try:
            zygote_wire.send(self._wire, {"op": "fork"}, *(there.fileno() for _, there in pairs))
        except WireEnded as error:
            for here, _ in pairs:
                here.close()
            raise NoSpare(f"the zygote does not answer: {error}") from error
        finally:
            for _, there in pairs:
                there.close()
        for here, _ in pairs:
            here.settimeout(ANSWER_S)
            self._spares.append(Spare(here))

    def _refill_soon(self) -> None:
        if self._refill is not None:
            self._refill.cancel()
        self._refill = asyncio.get_running_loop().call_later(REFILL_S, self._fill)

    def _fill(self) -> None:
        """Together, for what a fork costs (see `_fork`): not before half of them are missing."""
        missing = self._wanted - len(self._spares)
        if missing > 0 and missing * 2 >= self._wanted:
            with contextlib.suppress(NoSpare):
                self._fork(missing)

    def _hear(self) -> None:
        """The zygote is ready, or it has ended."""
        assert self._wire is not None
        try:
            told = zygote_wire.receive(self._wire)[0]
        except WireEnded as error:
            self._drop()
            self._retry(str(error))
            return
        self._ready, self._pause_s = True, FIRST_PAUSE_S
        self._facts = {name: told[name] for name in told if name != "event"}
        log.info("zygote_ready", pid=self._zygote, **self._facts)
        self._fill()

    def _retry(self, why: str) -> None:
        log.warning("zygote_ended", why=why, again_s=self._pause_s)
        self._again = asyncio.get_running_loop().call_later(self._pause_s, self.start)
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    def _drop(self) -> None:
        """Ends the zygote and the spares that wait."""
        spares, self._spares = self._spares, []
        for spare in spares:
            with contextlib.suppress(WireEnded), contextlib.closing(spare.wire):
                _kill(spare.ready())
        if self._wire is not None:
            asyncio.get_running_loop().remove_reader(self._wire)
            self._wire.close()
            _kill(self._zygote)
        self._wire, self._zygote, self._ready = None, 0, False


def forkable(env: dict[str, str]) -> bool:
    """Whether a forked interpreter can take on all of this environment."""
    return not any(name.startswith(_COLD) and name not in _WARM for name in env)


def installed() -> dict[str, int]:
    """What changes when a package is installed or removed: the times of the folders on the search path."""
    found = {}
    for part in sys.path:
        with contextlib.suppress(OSError):
            if part.endswith("-packages"):
                found[part] = Path(part).stat().st_mtime_ns
    return found


def _kill(pid: int) -> None:
    """Ends a child that may be gone already, and waits for it."""
    with contextlib.suppress(OSError):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + ANSWER_S
        while not os.waitpid(pid, os.WNOHANG)[0] and time.monotonic() < end:
            time.sleep(0.001)
