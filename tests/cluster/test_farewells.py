"""Why a kernel ended is told to whoever comes after it: in words to the first client, in the 404 to who asks for it."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import AsyncIterator

import pytest

from kernels.lifecycle import FRESH
from kernels.nursery_client import NurseryClient
from kernels.nursery_wire import socket_path
from local.stack import Stack
from local.student import Student
from tests.cluster.conftest import LEAN, NewStack

pytestmark = pytest.mark.timeout(240)

WHY = "Your kernel ended: it was idle for 1 h."
KILLED = f"[kernelring] The kernel ended: killed by signal 9 (SIGKILL). {FRESH}\n"


@pytest.fixture
async def ada(stack: Stack) -> AsyncIterator[Student]:
    async with Student(stack.url, stack.token(f"ada-{uuid.uuid4().hex}")) as student:
        await student.start()
        yield student
        await student.delete()


async def reason(student: Student, kernel_id: str) -> str | None:
    status, body, _ = await student.call("GET", f"/api/kernels/{kernel_id}")
    assert (status, body["message"]) == (404, f"Kernel does not exist: {kernel_id}")
    why: str | None = body["reason"]
    return why


async def bid_farewell(stack: Stack, user: str, kernel_id: str, words: str) -> None:
    """As the owner that ends a kernel for a reason of its own does."""
    async with NurseryClientOf(stack) as nursery:
        await nursery.bid_farewell(user, kernel_id, words)


class NurseryClientOf:
    """A visitor of the installation's nursery."""

    def __init__(self, stack: Stack) -> None:
        self._client = NurseryClient(socket_path(stack.runtime), "test", lambda _: None)

    async def __aenter__(self) -> NurseryClient:
        await self._client.start()
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()


async def words_for(student: Student) -> list[str]:
    """What a new client of the kernel is told by the server, before its first cell has run."""
    student.session_id = uuid.uuid4().hex
    await student.open()
    asked = await student.ask("2")
    said: list[str] = []
    while True:
        one = await student.receive(60)
        if one.kind == "stream" and one.header["username"] == "kernelring" and not one.parent:
            said.append(one.content["text"])
        if one.kind == "execute_reply" and one.parent["msg_id"] == asked:
            return said


async def test_a_kernel_that_its_user_has_ended_is_no_news(stack: Stack, ada: Student) -> None:
    ended = ada.kernel_id
    assert await ada.delete() == 204
    assert await reason(ada, ended) == ""
    assert await reason(ada, str(uuid.uuid4())) is None
    async with Student(stack.url, stack.token("ben")) as ben:
        assert await reason(ben, ended) is None
    await ada.start()


async def test_the_sentence_with_which_a_kernel_was_ended_is_the_reason_of_its_404(stack: Stack, ada: Student) -> None:
    ended = ada.kernel_id
    user = (await ada.call("GET", "/api/me"))[1]["identity"]["username"]
    assert await ada.delete() == 204
    await bid_farewell(stack, user, ended, WHY)
    assert await reason(ada, ended) == WHY
    await ada.start()


async def test_the_first_page_is_told_why_the_process_before_ended(stack: Stack, ada: Student) -> None:
    await ada.open()
    pid = int((await ada.run("import os; print(os.getpid())", 60)).text)
    await ada.close()
    mark = stack.mark()
    os.kill(pid, signal.SIGKILL)
    stack.wait_event("kernel_attached", mark)
    for _ in range(2):  # a page may have more than one connection
        assert await words_for(ada) == [KILLED]


async def test_what_runs_by_rest_meanwhile_counts_as_nobody_who_was_told(stack: Stack, ada: Student) -> None:
    """The server has a seat of its own then, which hears and acknowledges what the new process says."""
    run = f"/api/kernels/{ada.kernel_id}/execute?wait=60"
    await ada.call("POST", run, {"code": "1"})
    await ada.open()
    pid = int((await ada.run("import os; print(os.getpid())", 60)).text)
    await ada.close()
    mark = stack.mark()
    os.kill(pid, signal.SIGKILL)
    stack.wait_event("kernel_attached", mark)
    for _ in range(2):  # what the first has put out is acknowledged by the time that the second is done
        await ada.call("POST", run, {"code": "import time; time.sleep(1)"})
    assert await words_for(ada) == [KILLED]


def kill_owner(stack: Stack) -> None:
    """Of the only kernel; returns when it has another. (Who takes the place of a killed worker takes it back.)"""
    stack.wait_ready(members=2)
    mark, owner = stack.mark(), stack.events("kernel_attached")[-1]["pid"]
    os.kill(owner, signal.SIGKILL)
    stack.wait_event("kernel_attached", mark)


async def test_it_is_told_too_when_the_owner_was_replaced_meanwhile(new_stack: NewStack) -> None:
    stack = new_stack(workers=2, settings=LEAN)
    async with Student(stack.url, stack.token("ada")) as ada:
        await ada.start()
        await ada.open()
        pid = int((await ada.run("import os; print(os.getpid())", 60)).text)
        await ada.close()
        mark = stack.mark()
        os.kill(pid, signal.SIGKILL)
        stack.wait_event("kernel_attached", mark)
        kill_owner(stack)
        assert await words_for(ada) == [KILLED]
        kill_owner(stack)
        assert await words_for(ada) == []  # this process has been heard
        stack.wait_ready(members=2)  # whoever replaces a killed worker removes its socket


async def test_whoever_comes_to_a_dead_kernel_is_told_that_it_is(stack: Stack, ada: Student) -> None:
    await ada.open()
    for _ in range(6):
        await ada.ask("import os; os._exit(3)")
        state = ""
        while state not in ("restarting", "dead"):
            one = await ada.receive(60)
            state = one.content.get("execution_state", "") if one.kind == "status" else ""
    assert state == "dead"
    for _ in range(2):
        (told,) = await words_for(ada)
        assert "exited with code 3" in told
        assert "Start a new one" in told
    assert json.dumps(stack.events()).count("task_failed") == 0
