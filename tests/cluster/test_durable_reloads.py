"""Code that runs on the server's account while workers are added and replaced as planned: nobody's output is lost."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from local.stack import Stack
from local.student import Student
from sharding.member import Member
from sharding.ring import Ring
from tests.cluster.conftest import NewStack
from tests.cluster.durable_kit import (
    ALL,
    HALF,
    STREAM,
    Follower,
    ended,
    full,
    gated,
    post,
    student_of,
    text_of,
    until,
    url,
)

pytestmark = pytest.mark.timeout(300)


def users_of(stack: Stack) -> list[str]:
    """Three users, of whom a fifth worker gets two."""
    host = (stack.runtime / "host").read_text().strip()
    ring = Ring(1, tuple(Member(slot, str(slot), 1, host, "", 1, 1) for slot in range(5)))
    users = [f"student-{n}" for n in range(100)]
    moving = [user for user in users if ring.owner(user).slot == 4]
    return [*moving[:2], next(user for user in users if user not in moving)]


async def reload(stack: Stack) -> None:
    """HUP; afterwards all workers are others."""
    assert stack.gunicorn is not None
    old, mark = set(stack.worker_pids()), stack.mark()
    stack.gunicorn.send_signal(signal.SIGHUP)
    await asyncio.to_thread(stack.wait_event, "worker_registered", mark, 4)
    await asyncio.to_thread(stack.wait, lambda: not old & set(stack.worker_pids()), "the old workers are gone")


async def more_and_less(stack: Stack) -> None:
    """TTIN, which moves two of the students to the new worker, and TTOU, which ends the oldest one."""
    assert stack.gunicorn is not None
    mark = stack.mark()
    stack.gunicorn.send_signal(signal.SIGTTIN)
    await asyncio.to_thread(stack.wait_event, "executions_resumed", mark, 2)
    stack.gunicorn.send_signal(signal.SIGTTOU)
    await asyncio.to_thread(stack.wait_ready, 4)


class Reader:
    """One student's cell, polled as the page does and followed as a program does, through whatever happens."""

    def __init__(self, student: Student, tmp_path: Path) -> None:
        self.student = student
        self.gate, self.runs = tmp_path / "gate", tmp_path / f"runs-{student.kernel_id}"
        self.location = ""
        self.polled: list[str] = []
        self.follower = Follower()

    async def begin(self) -> None:
        cell = {"cell_id": "c-1", "document_path": "lesson.ipynb"}
        _, told, _ = await post(self.student, gated(self.gate, self.runs), metadata=cell)
        self.location = told["request_url"]
        await until(self.student, self.location, lambda _, told: text_of(told["outputs"]) == HALF)

    async def poll(self) -> Any:
        """To the end. Each answer continues the one before: a page appends."""

        def note(status: int, told: Any) -> bool:
            if "outputs" in told:  # while no owner can be found there are none
                self.polled.append(text_of(told["outputs"]))
            return status not in (202, 300)

        _, told = await until(self.student, self.location, note)
        return told

    async def follow(self) -> None:
        """To the end, coming back as a browser's EventSource does."""
        while self.follower.done is None:
            headers = STREAM | ({"Last-Event-ID": self.follower.last} if self.follower.last else {})
            try:
                async with self.student.http.get(self.location, headers=headers) as answer:
                    if answer.status == 200:
                        await self.follower.follow(answer)
            except aiohttp.ClientError:
                continue

    async def check(self, polling: asyncio.Task[Any], following: asyncio.Task[None]) -> None:
        async with asyncio.timeout(60):
            result = await polling
            await following
        assert (result["status"], text_of(result["outputs"])) == ("ok", ALL)
        assert all(after.startswith(before) for before, after in zip(self.polled, self.polled[1:], strict=False))
        assert (self.follower.text, self.runs.read_text()) == (ALL, "x")


@pytest.mark.parametrize("move", [reload, more_and_less])
async def test_a_cell_in_its_midst_is_polled_and_followed_to_its_end_through_planned_moves(
    new_stack: NewStack, tmp_path: Path, move: Callable[[Stack], Any]
) -> None:
    stack = new_stack()
    async with full(stack), contextlib.AsyncExitStack() as room:
        users = users_of(stack)
        students = [await room.enter_async_context(student_of(stack, user)) for user in users]
        readers = [Reader(student, tmp_path) for student in students]
        await asyncio.gather(*(reader.begin() for reader in readers))
        polling = [asyncio.create_task(reader.poll()) for reader in readers]
        following = [asyncio.create_task(reader.follow()) for reader in readers]
        mark = stack.mark()
        await move(stack)
        assert {event["user"] for event in stack.events("executions_resumed", mark)} >= set(users[:2])
        (tmp_path / "gate").touch()
        await asyncio.gather(*(one.check(p, f) for one, p, f in zip(readers, polling, following, strict=True)))


async def test_a_question_asked_before_a_reload_is_answered_after_it(new_stack: NewStack) -> None:
    stack = new_stack()
    async with full(stack), student_of(stack, "ada") as student:
        _, told, _ = await post(student, "print('so far')\nprint('hello', input('Who?'))")
        await until(student, told["request_url"], lambda status, _: status == 300)
        await reload(stack)
        status, question = await until(student, told["request_url"], lambda status, _: status == 300)
        assert question["input_request"]["prompt"] == "Who?"
        assert (await student.call("POST", url(student, "input"), {"input": "Ada"}))[0] == 201
        result = await ended(student, told["request_url"])
        assert (status, text_of(result["outputs"])) == (300, "so far\nWho? Ada\nhello Ada\n")
