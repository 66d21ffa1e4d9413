"""Instructors see and end their students' kernels, operators everybody's; for all others there is nothing to see."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, NamedTuple

import aiohttp
import jwt
import pytest
from yarl import URL

from local.stack import Stack
from local.student import SocketClosed, Student
from sharding.hop import BEHALF_HEADER, EPOCH_HEADER, REQUEST_HEADER, USER_HEADER

pytestmark = pytest.mark.timeout(240)

NOT_THERE = (404, {"message": "Not Found", "reason": None})


class Class(NamedTuple):
    """Students with a kernel each, in the hands of whichever workers."""

    stack: Stack
    students: list[Student]
    names: list[str]

    def token(self, **claims: Any) -> str:
        return jwt.encode({"sub": "eve", "exp": int(time.time()) + 600} | claims, self.stack.secret, algorithm="HS256")

    def login(self, **claims: Any) -> Student:
        return Student(self.stack.url, self.token(**claims))


@pytest.fixture
async def room(stack: Stack) -> AsyncIterator[Class]:
    names = [f"{name}-{uuid.uuid4().hex}" for name in ("ada", "ben ", "cy/", "dé")]
    students = [Student(stack.url, stack.token(name)) for name in names]
    for one in students:
        await one.__aenter__()
        await one.start()
    yield Class(stack, students, names)
    for one in students:
        await one.delete()
        await one.__aexit__(None, None, None)


def kernels_of(name: str) -> str:
    return f"/api/users/{name.replace('/', '%2F')}/kernels"


async def answer(one: Student, method: str, path: str) -> tuple[int, Any]:
    async with one.http.request(method, URL(path, encoded=True) if "%" in path else path) as found:
        return found.status, await found.json() if found.content_type == "application/json" else None


async def words_until_closed(one: Student) -> list[str]:
    words = []
    with suppress(SocketClosed):
        while said := await one.receive():
            words += [said.content["text"]] if said.kind == "stream" else []
    return words


async def test_an_instructor_sees_and_ends_the_kernels_of_the_students_named(room: Class) -> None:
    ada, *others = room.students
    mine = room.names[:2]
    async with room.login(role="instructor", students=mine) as eve:
        listed = [{"name": name, "kernels": 1} for name in sorted(mine)]
        assert await answer(eve, "GET", "/api/users") == (200, listed)
        for one, name in zip(room.students[:2], mine, strict=True):
            status, (model,) = await answer(eve, "GET", kernels_of(name))
            assert (status, model["id"]) == (200, one.kernel_id)
        for one, name in zip(room.students[2:], room.names[2:], strict=True):
            assert await answer(eve, "GET", kernels_of(name)) == NOT_THERE
            assert await answer(eve, "DELETE", f"{kernels_of(name)}/{one.kernel_id}") == NOT_THERE
        # A kernel of one of hers is not found through another of hers.
        assert (await answer(eve, "DELETE", f"{kernels_of(mine[1])}/{ada.kernel_id}"))[0] == 404
        await ada.open()
        mark = room.stack.mark()
        assert await answer(eve, "DELETE", f"{kernels_of(mine[0])}/{ada.kernel_id}") == (204, None)
    assert "ended by your instructor" in (await words_until_closed(ada))[-1]
    status, body = await answer(ada, "GET", f"/api/kernels/{ada.kernel_id}")
    assert (status, body["reason"]) == (404, "Your kernel was ended by your instructor.")
    (event,) = room.stack.wait_event("kernel_ended_by", mark)
    assert (event["by"], event["role"], event["user"]) == ("eve", "instructor", mine[0])
    assert event["kernel"] == ada.kernel_id
    for other in others:
        assert (await answer(other, "GET", f"/api/kernels/{other.kernel_id}"))[0] == 200


async def test_an_operator_sees_and_ends_all(room: Class) -> None:
    async with room.login(role="operator") as eve:
        listed = {user["name"]: user["kernels"] for user in (await answer(eve, "GET", "/api/users"))[1]}
        assert {name: listed[name] for name in room.names} == dict.fromkeys(room.names, 1)
        for one, name in zip(room.students, room.names, strict=True):
            assert await answer(eve, "DELETE", f"{kernels_of(name)}/{one.kernel_id}") == (204, None)
            assert await answer(eve, "GET", kernels_of(name)) == (200, [])
            reason = (await answer(one, "GET", f"/api/kernels/{one.kernel_id}"))[1]["reason"]
            assert reason == "Your kernel was ended by an operator of this server."


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"role": "student", "students": ["*"]},
        {"role": "admin"},
        {"role": ["operator"]},
        {"role": {"operator": True}},
        {"role": "instructor"},
        {"role": "instructor", "students": "all"},
    ],
)
async def test_for_everybody_else_there_is_nothing(room: Class, claims: dict[str, Any]) -> None:
    ada, name = room.students[0], room.names[0]
    async with room.login(**claims) as eve:
        for method, path in (("GET", kernels_of(name)), ("DELETE", f"{kernels_of(name)}/{ada.kernel_id}")):
            assert await answer(eve, method, path) == NOT_THERE
        users = await answer(eve, "GET", "/api/users")
        assert users == ((200, []) if claims.get("role") == "instructor" else NOT_THERE)
    assert (await answer(ada, "GET", f"/api/kernels/{ada.kernel_id}"))[0] == 200


async def test_headers_of_the_hop_make_nobody_anybody(room: Class) -> None:
    ada, name = room.students[0], room.names[0]
    forged = {USER_HEADER: name, BEHALF_HEADER: "operator eve", REQUEST_HEADER: "r", EPOCH_HEADER: "1"}
    async with room.login() as eve:
        for method, path in (
            ("GET", "/api/users"),
            ("GET", kernels_of(name)),
            ("DELETE", f"{kernels_of(name)}/{ada.kernel_id}"),
            ("DELETE", f"/api/kernels/{ada.kernel_id}"),
        ):
            for _ in range(4):  # whichever worker it comes to
                async with eve.http.request(method, path, headers=forged) as refused:
                    assert refused.status == 404


async def test_names_that_no_user_has_are_not_there(room: Class) -> None:
    async with room.login(role="operator") as eve:
        for name in ("x" * 300, "%0A", "%20x"):
            assert await answer(eve, "GET", f"/api/users/{name}/kernels") == NOT_THERE
        assert await answer(eve, "GET", "/api/users/nobody/kernels") == (200, [])


async def test_a_browser_keeps_the_role_of_the_token_that_it_was_logged_in_with(room: Class) -> None:
    students = [*room.names[:1], *[f"student-{n}-{'x' * 30}" for n in range(120)]]  # too many for a cookie
    connector, cookies = aiohttp.TCPConnector(force_close=True), aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(room.stack.url, connector=connector, cookie_jar=cookies) as browser:
        token = room.token(role="instructor", students=students)
        async with browser.post("/login", json={"token": token}) as logged_in:
            assert logged_in.status == 200
        for _ in range(4):  # whichever worker it comes to
            for name, status in zip(room.names[:2], (200, 404), strict=True):
                async with browser.get(kernels_of(name)) as found:
                    assert found.status == status
