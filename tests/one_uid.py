"""What tests of kernels with the server's own uid share: a nursery that confines at one level, and students."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zmq
from jupyter_client.asynchronous.client import AsyncKernelClient

from kernels import nursery_call
from kernels.confine import host
from kernels.confine.options import Options
from kernels.kernel_manager import NurseryKernelManager, kernel_context
from kernels.nursery_client import NurseryClient
from kernels.records import KernelRecord
from kernels.warmth import Warmth
from tests.cluster.confined import _TRY, status
from tests.kernel_fixture import said, talking
from tests.nursery_fixture import Place, client, kernel_env, nursery, until

LIBC = """
import ctypes, os, signal, socket, sys
_libc = ctypes.CDLL(None, use_errno=True)
def libc(name, *arguments):
    result = getattr(_libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def connect(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(path)
    return "connected"
def run(*command):
    import subprocess
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(done.stderr)
    return done.stdout
"""


LANDLOCK, NAMESPACES = "landlock", "namespaces"


@dataclass
class Pupil:
    """A user with a kernel."""

    manager: NurseryKernelManager
    talk: AsyncKernelClient

    @property
    def record(self) -> KernelRecord:
        """Of the kernel."""
        found = self.manager.provisioner
        assert found is not None
        record: KernelRecord = found.record  # type: ignore[attr-defined]
        return record

    async def told(self, code: str) -> str:
        """What a cell printed."""
        return await said(self.talk, code)

    async def attempts(self, tries: dict[str, str]) -> dict[str, str]:
        """What came of each expression: the error, or GOT and what it gave."""
        table = ", ".join(f"{name!r}: _tried(lambda: {code})" for name, code in tries.items())
        found: dict[str, str] = json.loads(await self.told(f"{LIBC}\n{_TRY}\nprint(_json.dumps({{{table}}}))"))
        return found


@dataclass
class Ground:
    """A nursery that confines at a level, and where it is."""

    place: Place
    nurse: NurseryClient
    options: Options
    context: zmq.Context[Any]

    def records(self) -> list[dict[str, Any]]:
        """What the nursery knows of its kernels."""
        found: list[dict[str, Any]] = nursery_call.ask(self.place.runtime, "list", 10)["records"]
        return found

    def home(self, user: str) -> Path:
        """Made when it is missing."""
        found = self.options.notebooks / user
        found.mkdir(mode=0o700, parents=True, exist_ok=True)
        return found

    async def starts(self, user: str) -> NurseryKernelManager:
        """A kernel of that user."""
        home = self.home(user)
        env = kernel_env()
        return await NurseryKernelManager.start(
            kernel_name="python3", user=user, nursery=self.nurse, zmq_context=self.context, cwd=home, env=env
        )

    @asynccontextmanager
    async def pupil(self, user: str) -> AsyncIterator[Pupil]:
        """A user with a kernel that has answered; ended afterwards."""
        manager = await self.starts(user)
        try:
            async with talking(manager) as talk:
                yield Pupil(manager, talk)
        finally:
            await self.nurse.end(manager.kernel_id, "over")


@contextmanager
def confining_place(level: str, *, warm: bool, **options: Any) -> Iterator[tuple[Place, Options]]:
    """A nursery that confines at a level. Skips where this machine cannot."""
    with tempfile.TemporaryDirectory(prefix="kc-") as made:
        given = Options(Path(made) / "n", level=level, **options)
        report, _ = host.probe(given, Path(made) / "r")
        if report.level != level:
            pytest.skip(f"kernels cannot be confined so here: {report.missing}")
        warmth = Warmth((), 2) if warm else None
        with nursery(Path(made) / "r", warmth=warmth, confine=given) as place:
            yield place, given


@asynccontextmanager
async def ground(level: str, *, warm: bool = True, **options: Any) -> AsyncIterator[Ground]:
    """With a client of the nursery's."""
    context = kernel_context()
    with confining_place(level, warm=warm, **options) as (place, given):
        if warm:
            await until(lambda: nursery_call.ask(place.runtime, "status", 5)["zygote"]["ready"], 60)
        async with client(place) as nurse:
            yield Ground(place, nurse, given, context)
    context.destroy(linger=0)


def only(school: Ground, level: str) -> None:
    """Skips at any other level."""
    if school.options.level != level:
        pytest.skip(f"is a matter of {level}")


def outer(kernel: int, inner: int) -> int:
    """The number that a process of a kernel has for us."""
    if len(status(kernel)["NSpid"].split()) == 1:
        return inner
    return next(pid for pid in descendants(kernel) if status(pid)["NSpid"].split()[-1] == str(inner))


def descendants(pid: int) -> list[int]:
    """All that it has started."""
    below = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [*below, *(each for child in below for each in descendants(child))]
