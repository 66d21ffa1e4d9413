"""A notebook's kernel is started as its page is served, and the page's own request finds it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from local.stack import Stack
from local.student import Student

TURN_S = 0.05


def notebook(kernel: str | None) -> dict[str, Any]:
    spec = {"kernelspec": {"name": kernel, "display_name": kernel}} if kernel else {}
    content = {"cells": [], "metadata": spec, "nbformat": 4, "nbformat_minor": 5}
    return {"type": "notebook", "format": "json", "content": content}


async def sessions(student: Student) -> list[Any]:
    return list((await student.call("GET", "/api/sessions"))[1])


async def some_sessions(student: Student) -> list[Any]:
    async with asyncio.timeout(30):
        while True:
            if found := await sessions(student):
                return found
            await asyncio.sleep(TURN_S)


@pytest.mark.parametrize("page", ["/notebooks", "/lab/tree"])
async def test_the_page_of_a_notebook_finds_its_session(stack: Stack, page: str) -> None:
    async with Student(stack.url, stack.token(f"ahead{page.replace('/', '-')}")) as student:
        await student.call("PUT", "/api/contents/lesson.ipynb", notebook("python3"))
        assert await sessions(student) == []
        async with student.http.get(f"{page}/lesson.ipynb") as answer:
            assert answer.status == 200
        found = await some_sessions(student)
        assert [(one["path"], one["name"], one["type"], one["kernel"]["name"]) for one in found] == [
            ("lesson.ipynb", "lesson.ipynb", "notebook", "python3")
        ]
        wanted = {"path": "lesson.ipynb", "name": "", "type": "notebook", "kernel": {"name": "python3"}}
        status, own, _ = await student.call("POST", "/api/sessions", wanted)
        assert (status, own["id"], own["kernel"]["id"]) == (201, found[0]["id"], found[0]["kernel"]["id"])
        await student.call("DELETE", f"/api/sessions/{own['id']}")


async def test_what_names_no_kernel_here_is_left_to_the_page(stack: Stack) -> None:
    async with Student(stack.url, stack.token("ahead-nothing")) as student:
        await student.call("PUT", "/api/contents/none.ipynb", notebook(None))
        await student.call("PUT", "/api/contents/strange.ipynb", notebook("cobol"))
        await student.call("PUT", "/api/contents/chosen.ipynb", notebook("python3"))
        mark = stack.mark()
        for path in ("missing.ipynb", "none.ipynb", "chosen.ipynb?factory=Notebook", "strange.ipynb"):
            async with student.http.get(f"/notebooks/{path}") as answer:
                assert answer.status == 200
        stack.wait(lambda: len(stack.events("not_started_ahead", mark)) == 2, "two that are not started")
        assert await sessions(student) == []
