"""Files of a real installation: the same through any worker, for kernels too, and whole when their owner is killed."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, suppress
from typing import Any, Final

import aiohttp
import pytest

from local.stack import Stack
from local.student import Student
from server import workdir
from server.owned import OWNER_HEADER
from tests.cluster.clients import one_at_each_worker

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),  # this client's, about itself
]

ROUNDS: Final = 4
SIZE: Final = 2_000_000


def text(content: str) -> dict[str, str]:
    return {"type": "file", "format": "text", "content": content}


async def test_any_worker_serves_the_same_files_and_kernels_start_among_them(stack: Stack) -> None:
    async with AsyncExitStack() as room:
        seated = await one_at_each_worker(stack, "ruth", room)
        owners = set()
        for n, student in enumerate(seated):
            path = f"/api/contents/week%201/{n}%20%C3%A9%26%25.txt"
            if n == 0:
                assert (await student.call("PUT", "/api/contents/week%201", {"type": "directory"}))[0] == 201
            status, model, headers = await student.call("PUT", path, text(f"from {n}"))
            assert (status, model["path"]) == (201, f"week 1/{n} é&%.txt")
            assert headers["Location"] == path
            assert headers["Last-Modified"].endswith("GMT")
            owners.add(headers[OWNER_HEADER])
        assert len(owners) == 1
        for student in seated:
            _, model, _ = await student.call("GET", "/api/contents/week%201")
            assert [each["name"] for each in model["content"]] == [f"{n} é&%.txt" for n in range(len(seated))]
            _, model, _ = await student.call("GET", "/api/contents/week%201/0%20%C3%A9%26%25.txt?hash=1")
            assert (model["content"], len(model["hash"])) == ("from 0", 64)
            for path in ("../x", "..%2fx", "%00", ".hidden", "a%5cb"):
                status, said, _ = await student.call("GET", f"/api/contents/{path.replace('..', '%2e%2e')}")
                assert (status, set(said)) == (404, {"message", "reason"}), path
    async with Student(stack.url, stack.token("ruth")) as ruth:
        await ruth.call("PUT", "/api/contents/table.csv", text("a,b\n1,2\n"))
        await ruth.start()
        await ruth.open()
        assert (await ruth.run("print(open('table.csv').read())", 60)).text == "a,b\n1,2\n\n"
        await ruth.run("open('result.txt', 'w').write('42')")
        assert (await ruth.call("GET", "/api/contents/result.txt"))[1]["content"] == "42"
        await ruth.delete()


async def test_a_large_notebook_goes_through_any_worker(stack: Stack) -> None:
    source = "x" * (20 * 2**20)
    cell = {"cell_type": "raw", "id": "a", "metadata": {}, "source": source}
    content = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    async with AsyncExitStack() as room:
        for student in await one_at_each_worker(stack, "rosa", room):
            body = {"type": "notebook", "format": "json", "content": content}
            assert (await student.call("PUT", "/api/contents/large.ipynb", body, within_s=60))[0] in (200, 201)
            _, model, _ = await student.call("GET", "/api/contents/large.ipynb", within_s=60)
            assert model["content"]["cells"][0]["source"] == source


async def save(student: Student, path: str, body: Any) -> int | None:
    """The status of a save; None when the connection went away with its worker."""
    with suppress(aiohttp.ClientError):
        return (await student.call("PUT", path, body, within_s=30))[0]
    return None


async def test_an_owner_killed_in_mid_save_leaves_the_old_file_or_the_new(rough_stack: Stack) -> None:
    home = workdir.user_directory(rough_stack.directory / "notebooks", "amy")
    async with AsyncExitStack() as room:
        student = await room.enter_async_context(Student(rough_stack.url, rough_stack.token("amy")))
        status, _, headers = await student.call("PUT", "/api/contents/a.txt", text("0" * SIZE))
        assert status == 201
        for n in range(1, ROUNDS + 1):
            owner = rough_stack.worker_of(headers[OWNER_HEADER])
            mark = rough_stack.mark()
            saving = asyncio.create_task(save(student, "/api/contents/a.txt", text(str(n) * SIZE)))
            await asyncio.sleep(0.004 * n)  # somewhere in it: the moment is what varies
            os.kill(owner, signal.SIGKILL)
            status_or_none = await saving
            content = (home / "a.txt").read_text()
            assert content in {str(n - 1) * SIZE, str(n) * SIZE}, n
            if status_or_none == 200:
                assert content == str(n) * SIZE
            await asyncio.to_thread(rough_stack.wait_event, "worker_registered", mark)
            await asyncio.to_thread(rough_stack.wait_ready)
            status, _, headers = await student.call("PUT", "/api/contents/a.txt", text(str(n) * SIZE), within_s=30)
            assert status == 200
            listed = (await student.call("GET", "/api/contents"))[1]["content"]
            assert [each["name"] for each in listed if each["type"] == "file"] == ["a.txt"]
    assert sorted(each.name for each in home.iterdir() if not each.name.endswith(".ipynb")) == ["a.txt"]


async def test_what_was_in_flight_when_its_owner_died_is_made_once(rough_stack: Stack) -> None:
    async with AsyncExitStack() as room:
        seated = await one_at_each_worker(rough_stack, "bea", room)
        _, _, headers = await seated[0].call("GET", "/api/contents")
        apart = [student for student in seated if student.entry != headers[OWNER_HEADER]]
        asked = [
            asyncio.create_task(student.call("POST", "/api/contents", {"type": "file"}, within_s=30))
            for student in apart
        ]
        await asyncio.sleep(0.01)
        mark = rough_stack.mark()
        os.kill(rough_stack.worker_of(headers[OWNER_HEADER]), signal.SIGKILL)
        answers = await asyncio.gather(*asked)
        await asyncio.to_thread(rough_stack.wait_event, "worker_registered", mark)
        assert [status for status, _, _ in answers] == [201] * len(apart)
        made = sorted(model["path"] for _, model, _ in answers)
        listed = (await apart[0].call("GET", "/api/contents"))[1]["content"]
        assert sorted(each["path"] for each in listed if each["type"] == "file") == made
        assert len(set(made)) == len(apart)
