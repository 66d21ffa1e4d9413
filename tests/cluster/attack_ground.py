"""What the attacks of one student on another share: ada, whose cell runs all the time, and mallory, who attacks.

Each installation has uids of its own, so that a bomb of mallory's counts against nobody else's processes. Everything
that is aimed at is told by the installation: its processes, directories, sockets and ports.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kernels.records import KernelRecord
from local.stack import Stack
from local.student import Student
from tests.cluster.confined import record, student, told

LIVES_S: Final = 120.0  # for the next line of ada's, on a machine that others use too
DIARY: Final = "Dear diary: 7d1f0c"  # in ada's file, in her kernel's memory and in what it prints
HERS: Final = f"""
import json, socket
with open("diary.txt", "w") as file:
    file.write({DIARY!r})
with open("diary.ipynb", "w") as file:
    cell = dict(cell_type="markdown", id="a", metadata=dict(), source={DIARY!r})
    json.dump(dict(cells=[cell], metadata=dict(), nbformat=4, nbformat_minor=5), file)
try:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("\\0{{abstract}}")
    listening.listen()
except PermissionError:
    pass  # a level at which nobody has one
"""
LONG_CELL: Final = f"""
import os, time
said = {DIARY!r}
n = 0
while n < 20_000 and not os.path.exists("enough"):
    print(n, said, flush=True)
    n += 1
    time.sleep(0.05)  # so that it lasts as long as the attacks, and leaves them the processor
"""


@dataclass
class Ground:
    """Ada at work, mallory with a kernel, and the processes that both depend on."""

    stack: Stack
    ada: Student
    mallory: Student
    kernel: KernelRecord
    cell: str  # the msg_id of ada's
    printed: list[str] = field(default_factory=list)
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    def home(self, user: str) -> Path:
        return self.stack.directory / "notebooks" / user

    @property
    def abstract(self) -> str:
        """The name of a socket at which ada's kernel listens."""
        return f"kr-{self.ada.kernel_id}"

    def pids(self) -> dict[str, Any]:
        """Of all that mallory must not end, or slow down."""
        nursery = self.stack.nursery()
        assert self.stack.gunicorn
        alive = {"arbiter": self.stack.gunicorn.pid, "workers": self.stack.worker_pids(), "nursery": nursery["pid"]}
        kernel = record(self.stack, self.ada).pid
        return alive | {"kernel": kernel, "priority": os.getpriority(os.PRIO_PROCESS, kernel)}

    async def follow(self) -> str:
        """Ada's client. Returns how her cell has ended."""
        ended, idle = "", False
        while not (ended and idle):
            said = await self.ada.receive(LIVES_S)
            if said.parent.get("msg_id") != self.cell:
                continue
            if said.kind == "stream":
                self.printed.append(said.content["text"])
                self.grown.set()
            ended = said.content["status"] if said.kind == "execute_reply" else ended
            idle = idle or said.content.get("execution_state") == "idle"
        return ended

    async def goes_on(self) -> None:
        """Returns when ada has seen two more pieces of what her cell prints: one of them was printed since."""
        async with asyncio.timeout(LIVES_S):
            for _ in range(2):
                self.grown.clear()
                await self.grown.wait()

    @asynccontextmanager
    async def unharmed(self) -> AsyncIterator[None]:
        """After the block ada's cell goes on, and every process is the one that it was."""
        before = self.pids()
        yield
        await self.goes_on()
        assert self.pids() == before


@asynccontextmanager
async def attacked(stack: Stack) -> AsyncIterator[Ground]:
    """Ada's long cell runs from the first attack to the last, and is whole: every line once, in order."""
    async with student(stack, "ada") as ada, student(stack, "mallory") as mallory:
        await told(ada, HERS.format(abstract=f"kr-{ada.kernel_id}"))
        ground = Ground(stack, ada, mallory, record(stack, ada), await ada.ask(LONG_CELL))
        at_work = asyncio.create_task(ground.follow())
        try:
            await ground.goes_on()
            yield ground
            (ground.home("ada") / "enough").touch()
            assert await at_work == "ok"
        finally:
            at_work.cancel()
        lines = "".join(ground.printed).splitlines()
        assert lines == [f"{n} {DIARY}" for n in range(len(lines))]
        assert await told(ada, "print(n, said, open('diary.txt').read())") == f"{len(lines)} {DIARY} {DIARY}"
    assert [event for event in stack.events() if event["level"] in ("error", "critical")] == []
