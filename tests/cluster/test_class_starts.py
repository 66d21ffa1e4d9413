"""A class that starts at once: everybody is served, in order of arrival, and reads which number they are meanwhile."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Final

import pytest

from local.stack import Stack
from local.student import Said, Student
from tests.cluster.conftest import LEAN, NewStack

CLASS: Final = 350
WITHIN_S: Final = 240.0
LONG_S: Final = 10.0
"""Who is connected and stands in the line for so long has read about it: their place is told every other second."""

NUMBER: Final = re.compile(r"\[kernelring\] The machine is busy starting other kernels; yours is number (\d+)\.\n")
JOINED: Final = re.compile(r"event='kernel_waits' kernel='([^']+)'")
CALLED: Final = re.compile(r"timestamp='([^']+)' .*event='kernel_waited' kernel='([^']+)'")


class Pupil:
    """One of the class: what the server answered, and what was read until the first cell had run."""

    def __init__(self, student: Student) -> None:
        self.student = student
        self.status = 0
        self.result = ""
        self.numbers: list[int] = []
        self.connected = datetime.max.replace(tzinfo=UTC)

    async def start(self) -> None:
        """Ask for a kernel, once."""
        self.status, model, _ = await self.student.call("POST", "/api/kernels", {}, within_s=WITHIN_S)
        self.student.kernel_id = model["id"] if self.status == 201 else ""

    async def first_cell(self) -> None:
        """Connect, run a cell, and read until its result."""
        await self.student.open()
        self.connected = datetime.now(UTC)
        asked = await self.student.ask("1+1")
        while not self.result:
            said = await self.student.receive(WITHIN_S)
            self._read(said)
            if said.kind == "execute_result" and said.parent.get("msg_id") == asked:
                self.result = said.content["data"]["text/plain"]

    def _read(self, said: Said) -> None:
        if said.kind == "stream" and (found := NUMBER.fullmatch(said.content["text"])):
            self.numbers.append(int(found[1]))


@pytest.mark.timeout(int(2 * WITHIN_S))
async def test_a_class_that_starts_at_once_is_served_in_order(new_stack: NewStack) -> None:
    stack = new_stack(workers=4, settings=LEAN)
    async with AsyncExitStack() as room:
        pupils = [
            Pupil(await room.enter_async_context(Student(stack.url, stack.token(f"pupil{number}"))))
            for number in range(CLASS)
        ]
        began = time.monotonic()
        await asyncio.gather(*(pupil.start() for pupil in pupils))
        answered_s = time.monotonic() - began
        assert {pupil.status for pupil in pupils} == {201}
        await asyncio.gather(*(pupil.first_cell() for pupil in pupils))
        print(
            f"{CLASS} kernels: answered in {answered_s:.1f} s, all had run a cell in {time.monotonic() - began:.1f} s"
        )
        assert {pupil.result for pupil in pupils} == {"2"}
        check_the_line(stack, pupils)
    assert stack.nursery()["kernels"] == CLASS


def check_the_line(stack: Stack, pupils: list[Pupil]) -> None:
    """Nobody was passed, and whoever waited long has read which number they were, and that it became smaller."""
    log = (stack.runtime / "nursery.log").read_text()
    called = {kernel_id: datetime.fromisoformat(moment) for moment, kernel_id in CALLED.findall(log)}
    joined = JOINED.findall(log)
    assert len(joined) > CLASS // 2
    assert joined == list(called)
    print(f"{len(joined)} waited; {sum(bool(pupil.numbers) for pupil in pupils)} read which number they were")
    for pupil in pupils:
        assert pupil.numbers == sorted(pupil.numbers, reverse=True)
        until = called.get(pupil.student.kernel_id, pupil.connected)
        assert pupil.numbers or (until - pupil.connected).total_seconds() < LONG_S
    assert any(pupil.numbers for pupil in pupils)
