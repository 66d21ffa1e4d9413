"""Owner and entry worker die in mid-cell: every line comes once, in order, and each cell runs once.

The student is a stock client: it keeps its WebSocket while the entry worker lives, and connects again with the same
session_id when that has died.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from local.stack import Stack
from local.student import Said, SocketClosed, Student
from tests.cluster.conftest import all_again

pytestmark = pytest.mark.timeout(240)

LINES = 100
CELL = """
import time
ran = globals().get("ran", 0) + 1
for line in range({lines}):
    print(line, flush=True)
    time.sleep({pause})
ran
"""
PAUSE_S = 1.0


class Notebook:
    """One student, and all that came for each message, however often the connection was lost."""

    def __init__(self, stack: Stack, student: Student) -> None:
        self.stack = stack
        self.student = student
        self.came: list[tuple[float, Said]] = []

    async def begin(self) -> None:
        """A kernel that has answered, served by two workers."""
        await self.student.start()
        for _ in range(60):
            await self.student.open()
            if self.student.entry != self.student.owner:
                break
        await self.student.run("1", 60)

    async def end_kernel(self) -> None:
        """Once all workers are there again."""
        await asyncio.to_thread(all_again, self.stack)
        assert await self.student.delete() == 204

    def pid(self, slot: str) -> int:
        """The worker in a slot."""
        return self.stack.worker_of(slot)

    def holder(self) -> int:
        """The worker that has attached the kernel last."""
        attached = self.stack.events("kernel_attached")
        return int([event["pid"] for event in attached if event["kernel"] == self.student.kernel_id][-1])

    async def until(self, wanted: Any, within_s: float = 30.0) -> Said:
        """Receive until a message is wanted; reconnect as often as needed."""
        async with asyncio.timeout(within_s):
            while True:
                try:
                    one = await self.student.receive()
                except SocketClosed:
                    await self.reconnect()
                    continue
                self.came.append((time.monotonic(), one))
                if wanted(one):
                    return one

    async def reconnect(self) -> None:
        """As a front end does."""
        while True:
            try:
                return await self.student.open()
            except (aiohttp.ClientError, OSError):
                await asyncio.sleep(0.05)

    async def answers(self) -> None:
        """Ask until the connection answers, as front ends do: what a killed worker had not read no server knows of."""
        while not await self._answers():
            await self.reconnect()

    async def _answers(self) -> bool:
        try:
            asked = await self.student.send("kernel_info_request", {})
            while (one := await self.student.receive()).parent.get("msg_id") != asked or one.channel == "iopub":
                self.came.append((time.monotonic(), one))
        except SocketClosed:
            return False
        return True

    async def line(self, cell: str, number: int) -> None:
        """Wait for a line of a cell, which may come in two messages: print writes its end by itself."""
        await self.until(lambda _: str(number) in self.text(cell).split("\n")[:-1])

    async def end(self, cell: str) -> Said:
        """Wait for the reply and the idle status; return the reply."""
        await self.until(lambda one: self._has(cell, "execute_reply") and self._is_idle(cell))
        (reply,) = [one for one in self.of(cell) if one.kind == "execute_reply"]
        return reply

    def _has(self, cell: str, kind: str) -> bool:
        return any(one.kind == kind for one in self.of(cell))

    def _is_idle(self, cell: str) -> bool:
        return any(one.content.get("execution_state") == "idle" for one in self.of(cell) if one.kind == "status")

    def of(self, cell: str) -> list[Said]:
        """What came about a cell."""
        return [one for _, one in self.came if one.parent.get("msg_id") == cell]

    def text(self, cell: str) -> str:
        """What it printed."""
        return "".join(one.content["text"] for one in self.of(cell) if is_stream(one, cell))

    def repeated(self) -> list[str]:
        """Messages that came twice."""
        ids = [one.header["msg_id"] for _, one in self.came]
        return [msg_id for msg_id in set(ids) if ids.count(msg_id) > 1]

    def forget_repeats(self) -> None:
        """As a client that looks at msg_ids."""
        first = {one.header["msg_id"]: at for at, one in reversed(self.came)}
        self.came = [(at, one) for at, one in self.came if first[one.header["msg_id"]] == at]

    def longest_pause(self, cell: str) -> float:
        """Between two messages of a cell."""
        times = [at for at, one in self.came if one.parent.get("msg_id") == cell]
        return max(b - a for a, b in pairwise(times))

    async def ran_once(self) -> None:
        """The cell has run exactly once, in this kernel."""
        cell = await self.student.ask("print(ran)")
        await self.end(cell)
        assert self.text(cell) == "1\n"


NewNotebook = Callable[..., Awaitable[Notebook]]


def is_stream(one: Said, cell: str) -> bool:
    """Output of a cell on stdout."""
    return one.kind == "stream" and one.parent.get("msg_id") == cell and one.content["name"] == "stdout"


def lines(count: int) -> str:
    """All lines."""
    return "".join(f"{line}\n" for line in range(count))


@pytest.fixture
async def new_notebook(rough_stack: Stack) -> AsyncIterator[NewNotebook]:
    """Notebooks of students who have never been here, whose kernels are taken away again."""
    async with AsyncExitStack() as room:

        async def new(**options: bool) -> Notebook:
            student = Student(rough_stack.url, rough_stack.token(f"ann-{uuid.uuid4().hex}"), **options)
            found = Notebook(rough_stack, await room.enter_async_context(student))
            await found.begin()
            room.push_async_callback(found.end_kernel)
            return found

        yield new


@pytest.fixture
async def notebook(new_notebook: NewNotebook) -> Notebook:
    return await new_notebook()


async def test_owner_killed_in_mid_cell(notebook: Notebook) -> None:
    assert notebook.student.entry != notebook.student.owner
    cell = await notebook.student.ask(CELL.format(lines=LINES, pause=0.02))
    await notebook.line(cell, 30)
    os.kill(notebook.pid(notebook.student.owner), signal.SIGKILL)
    reply = await notebook.end(cell)
    assert reply.content["status"] == "ok"
    assert notebook.text(cell) == lines(LINES)
    assert notebook.repeated() == []
    assert notebook.longest_pause(cell) < PAUSE_S
    await notebook.ran_once()


async def test_reply_of_a_cell_that_ends_while_nobody_owns_it(notebook: Notebook) -> None:
    cell = await notebook.student.ask(CELL.format(lines=3, pause=0.01))
    await notebook.line(cell, 0)
    os.kill(notebook.pid(notebook.student.owner), signal.SIGKILL)
    behind = await notebook.student.ask("print('behind', ran)")
    await notebook.end(cell)
    await notebook.end(behind)
    assert notebook.text(cell) == lines(3)
    assert notebook.text(behind) == "behind 1\n"
    assert notebook.repeated() == []


async def test_entry_killed_in_mid_cell(notebook: Notebook) -> None:
    cell = await notebook.student.ask(CELL.format(lines=LINES, pause=0.03))
    await notebook.line(cell, 60)
    os.kill(notebook.pid(notebook.student.entry), signal.SIGKILL)
    await notebook.end(cell)
    assert len(notebook.repeated()) < 60  # what came after the last acknowledgement
    notebook.forget_repeats()
    assert notebook.text(cell) == lines(LINES)
    await notebook.ran_once()


async def test_entry_and_owner_killed_at_once_in_mid_cell(notebook: Notebook) -> None:
    cell = await notebook.student.ask(CELL.format(lines=LINES, pause=0.03))
    await notebook.line(cell, 90)
    for slot in (notebook.student.entry, notebook.student.owner):
        os.kill(notebook.pid(slot), signal.SIGKILL)
    await notebook.end(cell)
    notebook.forget_repeats()
    assert notebook.text(cell) == lines(LINES)
    await notebook.ran_once()


async def test_a_client_that_says_its_last_number_gets_nothing_twice(new_notebook: NewNotebook) -> None:
    notebook = await new_notebook(numbered=True)
    cell = await notebook.student.ask(CELL.format(lines=LINES, pause=0.02))
    await notebook.line(cell, 30)
    for slot in {notebook.student.entry, notebook.student.owner}:
        os.kill(notebook.pid(slot), signal.SIGKILL)
    await notebook.end(cell)
    assert notebook.text(cell) == lines(LINES)
    assert [one.kind for one in notebook.of(cell) if one.header["msg_id"] in notebook.repeated()] == []


async def test_owner_that_hangs_and_wakes(notebook: Notebook) -> None:
    cell = await notebook.student.ask(CELL.format(lines=LINES, pause=0.05))
    await notebook.line(cell, 10)
    hung = notebook.pid(notebook.student.owner)
    os.kill(hung, signal.SIGSTOP)
    await notebook.line(cell, 60)
    with suppress(ProcessLookupError):  # it was killed when its lease ran out
        os.kill(hung, signal.SIGCONT)
    await notebook.end(cell)
    assert notebook.text(cell) == lines(LINES)
    assert notebook.repeated() == []
    await notebook.ran_once()


async def test_input_that_waits_is_answered_after_the_owners_end(notebook: Notebook) -> None:
    student = notebook.student
    content = {"code": "name = input('who? ')\nprint(name)", "silent": False, "allow_stdin": True}
    cell = await student.send("execute_request", content)
    question = await notebook.until(lambda one: one.kind == "input_request")
    os.kill(notebook.pid(student.owner), signal.SIGKILL)
    _, answer = student.message("input_reply", {"value": "ann"}, "stdin", question.header)
    await student.send_raw(answer)
    await notebook.end(cell)
    assert notebook.text(cell) == "ann\n"


async def test_a_gap_is_told_once_when_the_recorder_overflows(notebook: Notebook) -> None:
    code = """
import time
time.sleep(.5)
for _ in range(40):
    print('x' * 1_000_000, flush=True)
print('last')"""
    cell = await notebook.student.ask(code)
    await notebook.until(lambda one: one.kind == "execute_input")
    owner = notebook.pid(notebook.student.owner)
    os.kill(owner, signal.SIGSTOP)  # it reads nothing, and is then replaced
    await notebook.end(cell)
    notices = [
        one.content["text"] for _, one in notebook.came if one.kind == "stream" and one.content["name"] == "stderr"
    ]
    assert len([text for text in notices if "missing here" in text]) == 1, notices
    assert notebook.text(cell).endswith("last\n")


async def test_fifty_kills_in_a_row_lose_nothing(notebook: Notebook) -> None:
    student = notebook.student
    for kill in range(50):
        await notebook.answers()
        cell = await student.ask(CELL.format(lines=40, pause=0.01))
        await notebook.line(cell, kill % 30)
        owner = notebook.holder()
        victim = owner if kill % 2 else notebook.pid(student.entry)
        os.kill(victim, signal.SIGKILL)
        await notebook.end(cell)
        notebook.forget_repeats()
        assert notebook.text(cell) == lines(40), kill
        notebook.stack.wait_ready(members=4)
    cell = await student.ask("print(ran)")
    await notebook.end(cell)
    assert notebook.text(cell) == "50\n"
