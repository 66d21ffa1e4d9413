"""Too much and too little: floods, clients that never read, clients that vanish.

What a worker keeps for anybody is bounded, so its memory is; and who floods is told in words.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack
from textwrap import indent
from typing import Any, Final

import orjson
import pytest
import pytest_asyncio

from kernels import framing
from local.stack import Stack
from local.student import Student
from tests.cluster.attack import (
    Place,
    authorization,
    complaints,
    descriptors,
    handshake,
    place_at,
    plug,
    read_head,
    resident_mib,
    undisturbed,
    vanish,
    ws_frame,
)
from tests.cluster.conftest import LEAN, running
from tests.redis_server import RedisServer
from tests.sleeping import SLEEPS

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

FLOOD: Final = 20_000
# What a flood may add to a worker: the bound on what waits for one kernel (64 MiB), the backlog of one (8 MiB), and
# what Python and libzmq need beside it.
GROWTH_MIB: Final = 160
HOLD: Final = f"""
print('busy', flush=True)
try:
{indent(SLEEPS, "    ")}
except KeyboardInterrupt:
    pass
"""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(redis: RedisServer) -> AsyncIterator[Place]:
    with running(redis, settings=LEAN) as stack:
        async with place_at(stack) as found:
            yield found


async def ready(place: Place) -> Student:
    """The attacker, with a kernel that knows nothing of the test before."""
    student = place.attacker
    assert (await student.call("POST", f"/api/kernels/{student.kernel_id}/restart"))[0] == 200
    student.session_id = uuid.uuid4().hex
    await student.open()
    await student.run("x = 1")
    return student


async def busy(student: Student) -> str:
    """Let the kernel run a cell that ends only by an interrupt; returns once it runs."""
    msg_id = await student.ask(HOLD)
    while True:
        one = await student.receive()
        if one.kind == "stream" and one.parent.get("msg_id") == msg_id:
            return msg_id


async def freed(student: Student) -> None:
    """Interrupt it."""
    assert (await student.call("POST", f"/api/kernels/{student.kernel_id}/interrupt"))[0] == 204


def message(student: Student, kind: str, content: Mapping[str, object], msg_id: str = "") -> bytes:
    """A v1 frame with a new msg_id."""
    header = {"msg_id": msg_id or uuid.uuid4().hex, "msg_type": kind, "session": student.session_id}
    return framing.pack("shell", [orjson.dumps(header), b"{}", b"{}", orjson.dumps(content)])


async def flood(student: Student, kind: str, content: Mapping[str, object], count: int = FLOOD) -> None:
    """Send `count` messages as fast as they are taken."""
    for _ in range(count):
        await student.send_raw(message(student, kind, content))


async def memory(place: Place) -> dict[int, float]:
    """MiB of each worker."""
    return {pid: resident_mib(pid) for pid in place.stack.worker_pids()}


def grown(place: Place, before: dict[int, float]) -> float:
    """By how many MiB the worker that has grown most has."""
    return max(resident_mib(pid) - before[pid] for pid in place.stack.worker_pids())


async def settled(student: Student) -> None:
    """The kernel has come to all that it was given, and works. Meanwhile it may say that it is busy."""
    async with asyncio.timeout(60):
        while (outcome := await student.run("print(x)", 60)).text != "1\n":
            assert "busy" in outcome.reply["evalue"], outcome


async def test_a_flood_of_requests_is_answered_in_words_and_bounded(place: Place) -> None:
    student = await ready(place)
    async with undisturbed(place):
        mark, before = place.stack.mark(), await memory(place)
        await busy(student)
        reader = asyncio.create_task(last_reply(student, "the last"))
        await flood(student, "kernel_info_request", {})
        await student.send_raw(message(student, "kernel_info_request", {}, "the last"))
        told = await reader
        assert (told["status"], "busy" in told["evalue"]) == ("error", True)
        assert grown(place, before) < GROWTH_MIB
        (event,) = await place.told(mark, 1)
        assert event["event"] == "kernel_overrun"
        await freed(student)
        await settled(student)


async def last_reply(student: Student, msg_id: str) -> dict[str, Any]:
    """Read up to the reply to `msg_id`."""
    while True:
        one = await student.receive()
        if one.kind == "kernel_info_reply" and one.parent["msg_id"] == msg_id:
            return one.content


async def notice(student: Student, words: str) -> str:
    """Read up to what the server says with these words."""
    async with asyncio.timeout(60):
        while True:
            one = await student.receive()
            text = str(one.content.get("text", ""))
            if one.kind == "stream" and text.startswith("[kernelring]") and words in text:
                return text


async def test_a_flood_of_comm_messages_is_bounded_and_told_of_once(place: Place) -> None:
    student = await ready(place)
    content = {"comm_id": "c", "data": {"value": "x" * 20_000}}  # 400 MB in all
    async with undisturbed(place):
        mark, before = place.stack.mark(), await memory(place)
        await busy(student)
        await flood(student, "comm_msg", content)
        assert grown(place, before) < GROWTH_MIB
        await place.told(mark, 1)
        await freed(student)
        await notice(student, "busy")
        await settled(student)


async def test_a_flood_of_answers_that_nobody_asked_for_is_bounded(place: Place) -> None:
    student = await ready(place)
    async with undisturbed(place):
        before = await memory(place)
        await busy(student)
        header = {"msg_type": "input_reply", "session": student.session_id}
        value = orjson.dumps({"value": "x" * 20_000})
        for number in range(FLOOD):
            head = orjson.dumps(header | {"msg_id": str(number)})
            await student.send_raw(framing.pack("stdin", [head, b"{}", b"{}", value]))
        assert grown(place, before) < GROWTH_MIB
        await freed(student)
        await settled(student)


async def test_a_flood_of_requests_by_a_client_that_reads_nothing_is_bounded(place: Place) -> None:
    student = await ready(place)
    loop = asyncio.get_running_loop()
    async with undisturbed(place):
        await busy(student)
        before = await memory(place)
        with await plug(place) as line:
            await loop.sock_sendall(line, handshake(place, "deaf", protocol=framing.V1_SUBPROTOCOL))
            assert b" 101 " in await read_head(line)
            frames = [message(student, "kernel_info_request", {"text": "x" * 100}) for _ in range(FLOOD)]
            await loop.sock_sendall(line, b"".join(ws_frame(2, frame) for frame in frames))
            assert grown(place, before) < GROWTH_MIB
        await freed(student)
        await student.open()
        await settled(student)


def names(stack: Stack, since: int) -> list[str]:
    """What the complaints are called."""
    return [event["event"] for event in complaints(stack, since)]


async def test_output_that_a_client_does_not_read_is_bounded_and_the_gap_told_of(place: Place) -> None:
    """A client stops reading while its kernel prints 200 MB; a second client of the same kernel reads on."""
    token = authorization(place).removeprefix("Bearer ")
    student = await ready(place)
    async with undisturbed(place), Student(place.stack.url, token) as second:
        second.kernel_id = student.kernel_id
        await second.open()
        before = await memory(place)
        peak = 0.0
        for number in range(40):  # five megabytes are less than the backlog: whoever reads gets them all
            outcome = await second.run(f"for n in range(5):\n    print({number}, n, 'x' * 1_000_000)", 60)
            assert [line.split()[:2] for line in outcome.text.splitlines()] == [[str(number), str(n)] for n in range(5)]
            peak = max(peak, grown(place, before))
        assert peak < GROWTH_MIB
        assert (await second.run("print(x)", 60)).text == "1\n"
        await notice(student, "messages of output are missing here")  # the first one reads again
        await settled(student)


async def test_clients_that_vanish_leave_nothing_behind(place: Place) -> None:
    loop = asyncio.get_running_loop()
    head = f"POST /api/kernels HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization(place)}\r\n"
    shake = handshake(place, "gone", protocol=framing.V1_SUBPROTOCOL)
    whole = shake + ws_frame(2, message(place.attacker, "kernel_info_request", {}))
    begun = {
        "at once": b"",
        "in the first line": b"GET /api/ker",
        "in the headers": head.encode(),
        "in the body": f"{head}Content-Length: 100\r\n\r\n{{".encode(),
        "in a chunk": f"{head}Transfer-Encoding: chunked\r\n\r\n5\r\n{{".encode(),
        "in the handshake": shake[:-2],
        "after the handshake": shake,
        "in the head of a frame": shake + b"\x82\xff",
        "in a frame": whole[:-20],
        "after a frame": whole,
        "in a message": shake + ws_frame(2, b"x", fin=False),
    }
    async with undisturbed(place):
        mark, before = place.stack.mark(), descriptors(place.stack)
        for request in begun.values():
            for answered in (False, True):
                for _ in range(6):
                    line = await plug(place)
                    await loop.sock_sendall(line, request)
                    if answered and request.startswith(shake):
                        assert b" 101 " in await read_head(line)
                    vanish(line)
        settled = lambda: descriptors(place.stack) <= before + 40  # noqa: E731
        await asyncio.to_thread(place.stack.wait, settled, "descriptors as before")
        found = complaints(place.stack, mark)
        assert {event["event"] for event in found} <= {"request_broken_off"}
        assert len({event["request"] for event in found}) == len(found)  # each once


async def test_300_connections_one_after_another_leave_nothing_behind(place: Place) -> None:
    student = await ready(place)
    async with undisturbed(place):
        mark, fds, before = place.stack.mark(), descriptors(place.stack), await memory(place)
        for number in range(300):
            student.session_id = f"cycle-{number}"
            await student.open()
        assert (await student.run("print(x)")).text == "1\n"
        settled = lambda: descriptors(place.stack) <= fds + 40  # noqa: E731
        await asyncio.to_thread(place.stack.wait, settled, "descriptors as before")
        _, model, _ = await student.call("GET", f"/api/kernels/{student.kernel_id}")
        assert model["connections"] == 1
        assert grown(place, before) < 20
        assert names(place.stack, mark) == []


async def test_clients_that_do_not_read_do_not_keep_the_workers_from_stopping(place: Place) -> None:
    """The last of this file: it reloads all workers, while a client of each reads nothing."""
    student = await ready(place)
    with ExitStack() as lines:
        for number in range(8):
            line = lines.enter_context(await plug(place))
            shake = handshake(place, f"deaf-{number}", protocol=framing.V1_SUBPROTOCOL)
            await asyncio.get_running_loop().sock_sendall(line, shake)
            assert b" 101 " in await read_head(line)
        await student.run("for n in range(20):\n    print('x' * 1_000_000)", 60)
        mark = place.stack.mark()
        await reload(place)
    assert set(names(place.stack, mark)) <= {"worker_superseded"}, json.dumps(complaints(place.stack, mark))
    assert len(await asyncio.to_thread(place.stack.wait_event, "worker_drained", mark, 4)) == 4


async def reload(place: Place) -> None:
    """Have gunicorn replace all workers; it must not come to killing one."""
    pids, began = set(place.stack.worker_pids()), time.monotonic()
    assert place.stack.gunicorn is not None
    place.stack.gunicorn.send_signal(signal.SIGHUP)
    replaced = lambda: not pids & set(place.stack.worker_pids())  # noqa: E731
    await asyncio.to_thread(place.stack.wait, replaced, "new workers", 30)
    assert time.monotonic() - began < 18
