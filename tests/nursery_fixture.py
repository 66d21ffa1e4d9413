"""A real nursery under its real supervisor, in a runtime directory of its own, for one test.

`nursery(runtime)` starts one and, at the end, stops it and looks for what was left behind. All waiting is for
something to become true before a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from kernels import nursery_call
from kernels.__main__ import main as kernels_command
from kernels.confine.options import Options
from kernels.nursery_client import Event, NurseryClient
from kernels.records import SpawnOrder
from kernels.supervisor import ensure_nursery, supervisor_runs
from kernels.warmth import Warmth

PROGRAMS = Path(__file__).parent / "programs"
WITHIN_S = 15.0
PAUSE_S = 0.01

E = TypeVar("E")
T = TypeVar("T")


class Place:
    """One runtime directory and the processes that serve it."""

    def __init__(self, runtime: Path) -> None:
        self.runtime = runtime

    @property
    def socket(self) -> Path:
        return self.runtime / "nursery.sock"

    @property
    def folder(self) -> Path:
        return self.runtime / "k"

    @property
    def log(self) -> str:
        return (self.runtime / "nursery.log").read_text()

    def nursery_pid(self) -> int:
        return int(nursery_call.ask(self.runtime, "status", 5)["pid"])

    def supervisor_pid(self) -> int:
        return int((self.runtime / "nursery.lock").read_text())

    def kill_nursery(self) -> int:
        pid = self.nursery_pid()
        os.kill(pid, signal.SIGKILL)
        return pid

    def order(self, *argv: str, user: str = "ann", incarnation: int = 1, kernel_id: str = "") -> SpawnOrder:
        """An order with its directory, as the provisioner prepares it, for a program that is no kernel."""
        kernel_id = kernel_id or str(uuid.uuid4())
        directory = self.folder / kernel_id
        directory.mkdir(mode=0o700, exist_ok=True)
        (directory / "connection.json").write_text("{}")
        env = {"PATH": os.environ["PATH"]}
        return SpawnOrder(kernel_id, user, "program", incarnation, directory, argv or ("sleep", "600"), env, Path("/"))

    def program(self, name: str) -> SpawnOrder:
        """An order for one of `tests/programs`."""
        kernel_id = str(uuid.uuid4())
        connection = self.folder / kernel_id / "connection.json"
        program = PROGRAMS / name / "program.py"
        return self.order(sys.executable, str(program), str(connection), kernel_id=kernel_id)


class Ear:
    """Takes a client's events and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    async def hear(self, kind: type[E], when: Callable[[E], bool] = lambda _: True) -> E:
        """The first event of a kind for which `when` holds."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                self._news.clear()
                for event in self.events:
                    if isinstance(event, kind) and when(event):
                        return event
                await self._news.wait()


@contextmanager
def nursery(
    runtime: Path, grace_s: float = 120.0, warmth: Warmth | None = None, confine: Options | None = None
) -> Iterator[Place]:
    """A nursery, and afterwards the proof that nothing of it is left."""
    ensure_nursery(runtime, grace_s, WITHIN_S, warmth, confine)
    place = Place(runtime)
    try:
        yield place
        assert zombies(place) == []
    finally:
        assert kernels_command(["stop", "--runtime", str(runtime)]) == 0
    nothing_left(place)


@contextmanager
def own_nursery(warmth: Warmth | None = None) -> Iterator[Place]:
    """A nursery in a runtime directory of its own, for all tests of a file; each leaves it as `emptied` does."""
    with tempfile.TemporaryDirectory(prefix="kr-") as made, nursery(Path(made) / "r", warmth=warmth) as found:
        yield found


async def emptied(place: Place) -> None:
    """Ends what a test has left there, and sees that nothing of it stays."""
    async with client(place) as nurse:
        folders = {path.name for path in place.folder.iterdir()}
        for kernel_id in folders | {record.kernel_id for record in await nurse.kernels()}:
            await nurse.end(kernel_id, "the test is over")
    assert [*place.folder.iterdir()] == []


def nothing_left(place: Place) -> None:
    """No process, no socket, no kernel's directory, and no traceback in the log."""
    assert "Traceback" not in place.log, place.log[place.log.index("Traceback") - 500 :][:4000]
    assert not supervisor_runs(place.runtime)
    assert sorted(path.name for path in place.runtime.iterdir()) == ["k", "nursery.lock", "nursery.log"]
    assert list(place.folder.iterdir()) == []
    assert processes_naming(str(place.runtime)) == []


@asynccontextmanager
async def client(place: Place, ear: Ear | None = None, who: str = "worker") -> AsyncIterator[NurseryClient]:
    """A client that is connected."""
    made = NurseryClient(place.socket, who, ear or Ear())
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def until(what: Callable[[], T], within_s: float = WITHIN_S) -> T:
    """Waits until `what()` is true (OSError counts as not yet) and returns it."""
    end = time.monotonic() + within_s
    while True:
        with contextlib.suppress(OSError):
            if found := what():
                return found
        assert time.monotonic() < end, "it did not become true in time"
        await asyncio.sleep(PAUSE_S)


def state_of(pid: int) -> str:
    """The letter of /proc for a process' state; empty when there is none."""
    return _state_and_parent(pid)[0]


def parent_of(pid: int) -> int:
    """The parent's pid; 0 when there is no such process."""
    return _state_and_parent(pid)[1]


def zombies(place: Place) -> list[int]:
    """Children of nursery or supervisor that have ended and stay so for half a second."""
    guardians = {place.nursery_pid(), place.supervisor_pid()} if place.socket.exists() else set()
    end = time.monotonic() + 0.5
    while True:
        found = [pid for pid in _pids() if state_of(pid) == "Z" and parent_of(pid) in guardians]
        if not found or time.monotonic() > end:
            return found
        time.sleep(PAUSE_S)


def processes_naming(text: str) -> list[str]:
    """Command lines that contain `text`, but for this process' own."""
    found = []
    for pid in _pids():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if text in line and pid != os.getpid():
            found.append(f"{pid} {line}")
    return found


def descriptors(pid: int) -> list[str]:
    """What a process has open, each as /proc shows it."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile, as is the one that reads the list
            found.append(str(link.readlink()))
    return sorted(found)


def kernel_env() -> dict[str, str]:
    """A complete environment for a real Python kernel: this test run's own folders, and a PATH."""
    names = (
        "PATH",
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTER_RUNTIME_DIR",
        "IPYTHONDIR",
        "MPLCONFIGDIR",
    )
    return {name: os.environ[name] for name in names} | {"HOME": os.environ["IPYTHONDIR"]}


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:  # ESRCH too: it has gone between opening and reading
        return "", 0
    return state, int(parent)


def started(*command: str) -> subprocess.Popen[bytes]:
    """A process in a session of its own. Whoever started it ends it."""
    return subprocess.Popen(command, start_new_session=True)
