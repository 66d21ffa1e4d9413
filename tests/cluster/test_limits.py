"""How many kernels a user may have: exact, whoever starts them, at once and after a takeover."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from local.student import Student
from tests.cluster.conftest import LEAN, NewStack

MOST = 3
SENTENCE = "You have 3 kernels, the limit. Shut one down first (Running tab)."


async def start(student: Student, number: int) -> tuple[int, Any]:
    """A kernel, or every other time a session with one."""
    if number % 2:
        return (await student.call("POST", "/api/kernels", {}))[:2]
    session = {"path": f"{number}.ipynb", "type": "notebook", "name": "", "kernel": {"name": "python3"}}
    return (await student.call("POST", "/api/sessions", session))[:2]


async def test_a_user_gets_as_many_kernels_as_allowed_and_then_a_sentence(new_stack: NewStack) -> None:
    stack = new_stack(workers=4, settings=LEAN | {"KERNELRING_USER_KERNELS": str(MOST)})
    async with Student(stack.url, stack.token("ann")) as ann, Student(stack.url, stack.token("bob")) as bob:
        answers = await asyncio.gather(*(start(ann, number) for number in range(12)))
        assert sorted(status for status, _ in answers) == [201] * MOST + [429] * (12 - MOST)
        assert {model["message"] for status, model in answers if status == 429} == {SENTENCE}
        assert (await start(bob, 1))[0] == 201
        running = (await ann.call("GET", "/api/kernels"))[1]
        assert len(running) == MOST
        assert len(list((stack.runtime / "k").iterdir())) == MOST + 1  # nothing is left of those that were refused
        await ann.call("DELETE", f"/api/kernels/{running[0]['id']}")
        answers = await asyncio.gather(*(start(ann, number) for number in range(20, 26)))
        assert sorted(status for status, _ in answers) == [201] + [429] * 5
        # The next owner counts what it has adopted.
        owner = (await ann.call("GET", "/api/kernels"))[2]["X-Kernelring-Owner"]
        os.kill(stack.worker_of(owner), signal.SIGKILL)
        stack.wait(lambda: len((stack.readyz() or {"members": []})["members"]) == 4, "the ring of four again")
        assert len((await ann.call("GET", "/api/kernels"))[1]) == MOST
        assert await start(ann, 31) == (429, {"message": SENTENCE, "reason": None})


async def test_who_has_as_many_as_allowed_can_still_change_the_kernel_of_a_notebook(new_stack: NewStack) -> None:
    stack = new_stack(workers=2, settings=LEAN | {"KERNELRING_USER_KERNELS": "1"})
    async with Student(stack.url, stack.token("ann")) as ann:
        session = (await start(ann, 2))[1]
        for _ in range(2):
            path = f"/api/sessions/{session['id']}"
            status, changed, _ = await ann.call("PATCH", path, {"kernel": {"id": None, "name": "python3"}})
            assert status == 200
            assert changed["kernel"]["id"] != session["kernel"]["id"]
            session = changed
            assert [one["id"] for one in (await ann.call("GET", "/api/kernels"))[1]] == [session["kernel"]["id"]]
        assert (await start(ann, 1))[0] == 429
