"""Code that runs on the server's account: its kernel's owner may go; it runs once, to the end, and is followed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import uuid
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from local.stack import Stack
from server.owned import OWNER_HEADER
from tests.cluster.clients import SeatedStudent, one_at_each_worker
from tests.cluster.durable_kit import (
    ALL,
    HALF,
    STREAM,
    Follower,
    answer,
    ended,
    gated,
    kill_owner,
    post,
    post_again,
    student_of,
    text_of,
    until,
    url,
)


@pytest.fixture
def stack(rough_stack: Stack) -> Stack:
    return rough_stack


async def test_a_cell_whose_owner_is_killed_in_its_midst_ends_with_every_line_once(
    stack: Stack, tmp_path: Path
) -> None:
    async with student_of(stack, "ada") as student:
        gate, runs = tmp_path / "gate", tmp_path / "runs"
        cell = {"cell_id": "c-1", "document_path": "lesson.ipynb"}
        _, _, first = await post(student, gated(gate, runs), metadata=cell)
        _, _, second = await post(student, "print('the next')", metadata={"cell_id": "c-2"})
        await until(student, first["Location"], lambda _, told: text_of(told["outputs"]) == HALF)
        await kill_owner(stack, student)
        status, so_far = await until(student, first["Location"], lambda _, told: bool(json.loads(told["outputs"])))
        assert (status, text_of(so_far["outputs"])) == (202, HALF)
        await kill_owner(stack, student)
        gate.touch()
        result = await ended(student, first["Location"])
        assert text_of(result["outputs"]) == ALL
        assert (result["status"], result["execution_count"], result["cell_id"]) == ("ok", 1, "c-1")
        assert text_of((await ended(student, second["Location"]))["outputs"]) == "the next\n"
        assert runs.read_text() == "x"


async def test_a_request_on_its_way_to_an_owner_that_is_killed_runs_once(stack: Stack, tmp_path: Path) -> None:
    async with student_of(stack, "ada") as student, AsyncExitStack() as room:
        gate, runs = tmp_path / "gate", tmp_path / "runs"
        gate.touch()
        _, _, headers = await student.call("GET", f"/api/kernels/{student.kernel_id}")
        owner = headers[OWNER_HEADER]
        entry = next(one for one in await one_at_each_worker(stack, "ada", room) if one.entry != owner)
        entry.kernel_id = student.kernel_id
        os.kill(stack.worker_of(owner), signal.SIGSTOP)
        uid = str(uuid.uuid4())
        asking = asyncio.create_task(post_again(entry, gated(gate, runs), uid))
        await asyncio.wait((asking,), timeout=0.2)  # it lies at the owner, or will at the next
        os.kill(stack.worker_of(owner), signal.SIGKILL)
        status, told, _ = await asking
        assert (status, told["request_id"]) == (202, uid)
        result = await ended(student, told["request_url"])
        assert text_of(result["outputs"]) == ALL
        # The client did not hear of it and sends it again; and other code under this name is refused.
        status, again, _ = await post(student, gated(gate, runs), request_id=uid)
        assert (status, again["request_status"]) == (202, "complete")
        assert (await post(student, "1", request_id=uid))[0] == 409
        assert runs.read_text() == "x"


async def test_a_question_can_be_answered_after_its_owner_was_killed(stack: Stack) -> None:
    async with student_of(stack, "ada") as student:
        _, _, headers = await post(student, "print('so far')\nprint('hello', input('Who?'))")
        await until(student, headers["Location"], lambda status, _: status == 300)
        await kill_owner(stack, student)
        status, told, _ = await answer(student, "Ada")
        assert status == 201, told
        result = await ended(student, headers["Location"])
        assert text_of(result["outputs"]) == "so far\nWho? Ada\nhello Ada\n"


async def test_events_go_on_at_the_next_owner_and_for_a_client_that_comes_back(stack: Stack, tmp_path: Path) -> None:
    async with student_of(stack, "ada") as student, AsyncExitStack() as room:
        gate, runs = tmp_path / "gate", tmp_path / "runs"
        _, _, headers = await student.call("GET", f"/api/kernels/{student.kernel_id}")
        entries = await one_at_each_worker(stack, "ada", room)
        entry: SeatedStudent = next(one for one in entries if one.entry != headers[OWNER_HEADER])
        body = {"code": gated(gate, runs)}
        follower = Follower()
        async with entry.http.post(url(student, "execute"), json=body, headers=STREAM) as answer:
            location = answer.headers["Location"]
            await follower.follow(answer, until_text=HALF)
            await kill_owner(stack, student)
            gate.touch()
            await follower.follow(answer)
        assert follower.text == ALL
        assert follower.done
        assert follower.done["status"] == "ok"
        # It comes back with the place at which it was, and with none.
        again = Follower()
        again.text = follower.text
        async with student.http.get(location, headers=STREAM | {"Last-Event-ID": follower.last or ""}) as answer:
            await again.follow(answer)
        assert (again.text, again.done) == (ALL, follower.done)
        anew = Follower()
        async with student.http.get(location, headers=STREAM) as answer:
            await anew.follow(answer)
        assert (anew.text, runs.read_text()) == (ALL, "x")
