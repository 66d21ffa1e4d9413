"""Kernels that wait for room on the machine: not refused, told in words, served in turn, and for a bounded time."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest

from kernels import nursery_call
from kernels.records import KernelRecord
from local.stack import Stack
from local.student import Said, Student
from tests.cluster.conftest import LEAN, NewStack, all_again, running
from tests.redis_server import RedisServer

WORDS: Final = "[kernelring] The machine is busy starting other kernels; yours is number {}.\n"


@pytest.fixture(scope="module")
def one_kernel() -> Iterator[Stack]:
    with (
        RedisServer() as server,
        running(server, workers=2, settings=LEAN | {"KERNELRING_HOST_KERNELS": "1"}) as shared,
    ):
        yield shared


@pytest.fixture
def crowded(one_kernel: Stack) -> Iterator[Stack]:
    """Two workers, which may be killed, on a machine that has room for one kernel: nobody's, before and after."""
    yield one_kernel
    all_again(one_kernel)
    assert one_kernel.nursery()["kernels"] == 0


async def heard(student: Student, text: str, within_s: float = 30.0) -> Said:
    """The server's own words, when they come."""
    async with asyncio.timeout(within_s):
        while True:
            one = await student.receive(within_s)
            if one.kind == "stream" and text in one.content["text"]:
                assert one.parent == {}
                return one


async def state(student: Student) -> str:
    found: str = (await student.call("GET", f"/api/kernels/{student.kernel_id}"))[1]["execution_state"]
    return found


def records(stack: Stack) -> dict[str, KernelRecord]:
    found: list[Any] = nursery_call.ask(stack.runtime, "list", 10)["records"]
    return {one["kernel_id"]: KernelRecord.from_json(one) for one in found}


async def test_a_start_waits_visibly_and_is_served_when_there_is_room(crowded: Stack) -> None:
    async with AsyncExitStack() as room:
        names = ["ann", "bob", "carl", "dora"]
        ann, bob, carl, dora = [
            await room.enter_async_context(Student(crowded.url, crowded.token(name))) for name in names
        ]
        for student in (ann, bob, carl, dora):
            await student.start()
        await ann.open()
        assert (await ann.run("print(1)")).text == "1\n"
        for number, student in enumerate((bob, carl, dora), 1):
            assert await state(student) == "starting"
            await student.open()
            await heard(student, WORDS.format(number))
            if number == 1:  # sent while it waits; run once it has started, over the same connection
                asked = await student.ask("print(6 * 7)")
        assert (await carl.call("POST", f"/api/kernels/{carl.kernel_id}/restart"))[0] == 200
        assert (await carl.call("POST", f"/api/kernels/{carl.kernel_id}/interrupt"))[0] == 204
        began = time.monotonic()
        assert await carl.delete() == 204
        assert time.monotonic() - began < 2
        assert carl.kernel_id not in records(crowded)
        await heard(dora, WORDS.format(2))
        assert await ann.delete() == 204
        await heard(bob, "Your kernel has started.")
        assert (await bob.outcome(asked)).text == "42\n"
        # The owner is killed while the last one waits; the next owner goes on waiting with it.
        owner = (await dora.call("GET", "/api/kernels"))[2]["X-Kernelring-Owner"]
        os.kill(crowded.worker_of(owner), signal.SIGKILL)
        all_again(crowded)
        assert await state(dora) == "starting"
        await dora.open()
        await heard(dora, WORDS.format(1))
        assert await bob.delete() == 204
        assert (await dora.run("print(7)")).text == "7\n"
        assert await state(dora) == "idle"
        assert await dora.delete() == 204


async def test_who_waits_too_long_is_told_why_and_may_start_again(new_stack: NewStack) -> None:
    settings = LEAN | {"KERNELRING_FREE_MEMORY_MIB": "1048576", "KERNELRING_START_WAIT_S": "3"}
    stack = new_stack(workers=2, settings=settings)
    async with Student(stack.url, stack.token("ann")) as ann:
        await ann.start()
        await ann.open()
        await heard(ann, WORDS.format(1))
        await heard(ann, "[kernelring] This machine had no room for another kernel in 3 s. It is not started again")
        assert await state(ann) == "dead"
        assert "The kernel has ended" in (await ann.run("1")).reply["evalue"]
        assert (await ann.call("POST", f"/api/kernels/{ann.kernel_id}/restart"))[0] == 200
        assert records(stack)[ann.kernel_id].state == "waiting"
        await heard(ann, WORDS.format(1))
        await heard(ann, "had no room for another kernel in 3 s. It is not started again")
        assert await state(ann) == "dead"
        assert await ann.delete() == 204


async def test_a_cell_that_was_sent_to_a_kernel_that_waits_runs_though_its_owner_is_killed(crowded: Stack) -> None:
    async with Student(crowded.url, crowded.token("ann")) as ann, Student(crowded.url, crowded.token("bob")) as bob:
        await ann.start()
        await bob.start()
        for _ in range(60):
            await bob.open()
            if bob.entry != bob.owner:
                break
        await heard(bob, WORDS.format(1))
        asked = await bob.ask("print(6 * 7)")
        os.kill(crowded.worker_of(bob.owner), signal.SIGKILL)
        all_again(crowded)
        assert await ann.delete() == 204
        assert (await bob.outcome(asked)).text == "42\n"
        assert await bob.delete() == 204


async def test_a_restart_keeps_its_place_and_a_new_nursery_says_what_it_cannot_start(crowded: Stack) -> None:
    async with Student(crowded.url, crowded.token("ann")) as ann, Student(crowded.url, crowded.token("bob")) as bob:
        for student in (ann, bob):
            await student.start()
            await student.open()
        await heard(bob, WORDS.format(1))
        assert (await ann.call("POST", f"/api/kernels/{ann.kernel_id}/restart"))[0] == 200
        assert (await ann.run("print(1)")).text == "1\n"
        assert records(crowded)[bob.kernel_id].state == "waiting"
        os.kill(int(crowded.nursery()["pid"]), signal.SIGKILL)
        await heard(bob, "This kernel was not started: what starts kernels here was itself started anew.")
        assert (await ann.run("print(2)")).text == "2\n"
        assert await ann.delete() == 204
        assert (await bob.call("POST", f"/api/kernels/{bob.kernel_id}/restart"))[0] == 200
        assert (await bob.run("print(3)")).text == "3\n"
        assert await bob.delete() == 204


async def test_many_at_once_all_start(stack: Stack) -> None:
    """More than may be on their way at once: nobody is refused, each answers."""
    async with AsyncExitStack() as room:
        class_of = [
            await room.enter_async_context(Student(stack.url, stack.token(f"pupil{number}"))) for number in range(24)
        ]
        await asyncio.gather(*(student.start() for student in class_of))
        await asyncio.gather(*(student.open() for student in class_of))
        outcomes = await asyncio.gather(*(student.run("print(1)", 90) for student in class_of))
        assert [outcome.text for outcome in outcomes] == ["1\n"] * len(class_of)
        await asyncio.gather(*(student.delete() for student in class_of))
