"""A client of code that runs on the server's account: it asks as jupyter-server-nbmodel's page does, or follows events.

`server/execution/api.py` and `following.py` have the contract.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from local.stack import Stack
from local.student import Student
from server.owned import OWNER_HEADER

LINES = 40
TURN_S = 0.05


@asynccontextmanager
async def student_of(stack: Stack, user: str) -> AsyncIterator[Student]:
    """A student with a kernel, who takes it away again."""
    async with Student(stack.url, stack.token(user)) as student:
        await student.start()
        yield student
        assert await student.delete() == 204


@asynccontextmanager
async def full(stack: Stack) -> AsyncIterator[None]:
    """Afterwards all workers are there again: one that is stopped while it starts leaves its socket."""
    yield
    await asyncio.to_thread(stack.wait_ready)


def url(student: Student, rest: str) -> str:
    return f"/api/kernels/{student.kernel_id}/{rest}"


async def post(student: Student, code: str, query: str = "", **fields: Any) -> tuple[int, Any, Mapping[str, str]]:
    return await student.call("POST", url(student, f"execute{query}"), {"code": code, **fields})


async def post_again(student: Student, code: str, uid: str) -> tuple[int, Any, Mapping[str, str]]:
    """As a client that is told to try again in a moment."""
    while True:
        answer = await post(student, code, request_id=uid)
        if answer[0] != 503:
            return answer
        await asyncio.sleep(TURN_S)


async def poll(student: Student, location: str) -> tuple[int, Any]:
    """Ask once, and again when the worker that was asked has ended meanwhile."""
    while True:
        try:
            status, told, _ = await student.call("GET", location)
        except aiohttp.ClientError:
            continue
        if status != 503:
            return status, told


async def until(student: Student, location: str, wanted: Callable[[int, Any], bool]) -> tuple[int, Any]:
    """Ask as the page does until the answer is the wanted one."""
    async with asyncio.timeout(30):
        while True:
            status, told = await poll(student, location)
            if wanted(status, told):
                return status, told
            await asyncio.sleep(TURN_S)


async def ended(student: Student, location: str) -> Any:
    status, told = await until(student, location, lambda status, _: status not in (202, 300))
    assert status == 200, told
    return told


def text_of(outputs: str | list[dict[str, Any]]) -> str:
    found = json.loads(outputs) if isinstance(outputs, str) else outputs
    return "".join(one["text"] for one in found if one["output_type"] == "stream")


def gated(gate: Path, runs: Path) -> str:
    """A cell that prints, waits for a file, and prints the rest. It notes each time that it is run."""
    return (
        "import os, time\n"
        f"with open({str(runs)!r}, 'a') as runs: runs.write('x')\n"
        f"for n in range({LINES // 2}): print(n, flush=True)\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        f"for n in range({LINES // 2}, {LINES}): print(n, flush=True)\n"
        "'the end'"
    )


ALL = "".join(f"{n}\n" for n in range(LINES))
HALF = "".join(f"{n}\n" for n in range(LINES // 2))


async def kill_owner(stack: Stack, student: Student) -> None:
    """`kill -9`, once the kernel's owner is known."""
    _, _, headers = await student.call("GET", f"/api/kernels/{student.kernel_id}")
    os.kill(stack.worker_of(headers[OWNER_HEADER]), signal.SIGKILL)


async def answer(student: Student, value: str) -> tuple[int, Any, Mapping[str, str]]:
    """Answer; again when the connection was to the worker that was killed."""
    while True:
        try:
            return await student.call("POST", url(student, "input"), {"input": value})
        except aiohttp.ClientError:
            continue


# -- events -------------------------------------------------------------------------------------------------------


async def events_in(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str | None, Any]]:
    """(event, id, data) of each."""
    assert answer.content_type == "text/event-stream"
    fields: dict[str, str] = {}
    async for raw in answer.content:
        line = raw.decode().rstrip("\n")
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield fields["event"], fields.get("id"), json.loads(fields["data"])
            fields = {}


class Follower:
    """What a client of the events has shown by now."""

    def __init__(self) -> None:
        self.text = ""
        self.last: str | None = None
        self.done: dict[str, Any] | None = None

    async def follow(self, answer: aiohttp.ClientResponse, until_text: str | None = None) -> None:
        """To the end, or until so much is shown."""
        async for kind, place, data in events_in(answer):
            self.last = place or self.last
            if kind == "clear":
                self.text = ""
            elif kind == "output":
                self.text += data.get("text", "")
            elif kind == "done":
                self.done = data
            if self.text == until_text:
                return


STREAM = {"Accept": "text/event-stream"}
