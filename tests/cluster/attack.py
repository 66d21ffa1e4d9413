"""What the tests of bad input share: an attacker, neighbours who must not notice, and the log's complaints.

An attack runs inside `undisturbed`: meanwhile other users' students run cells without a pause, one of them at the same
worker, and every cell must be answered rightly and soon. Afterwards the workers are the same processes.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import orjson

from local.stack import Event, Stack
from local.student import Student
from server.owned import OWNER_HEADER

PATIENCE_S: Final = 10.0  # for one cell of a neighbour, on a machine that others use too
PACE: Final = "import time; time.sleep(0.05); print({number})"  # a cell that leaves the processors to the attack
ABORT: Final = struct.pack("ii", 1, 0)  # SO_LINGER: the connection ends with RST
KEPT_FDS: Final = 64  # connections between workers that are kept for the next request


class Answer(NamedTuple):
    """An HTTP answer, as JSON where it is JSON."""

    status: int
    body: Any
    headers: Mapping[str, str]


@dataclass
class Place:
    """One installation under attack: the attacker, with a kernel, and neighbours at the same and at another worker."""

    stack: Stack
    attacker: Student
    neighbours: list[Student]
    owner: str  # the slot name of the attacker's owner

    @property
    def owner_pid(self) -> int:
        """The worker that has the attacker's kernels."""
        return self.stack.worker_of(self.owner)

    async def ask(self, method: str, path: str, data: Any = None, **options: Any) -> Answer:
        """One request of the attacker's, over a new connection."""
        async with asyncio.timeout(30), self.attacker.http.request(method, path, data=data, **options) as answer:
            raw = await answer.read()
            body = orjson.loads(raw) if answer.content_type == "application/json" and raw else raw
            return Answer(answer.status, body, answer.headers)

    async def told(self, since: int, count: int, within_s: float = 10.0) -> list[Event]:
        """Wait for `count` complaints in the log after `since`; there must be no more of them."""
        found = await asyncio.to_thread(self._wait_told, since, count, within_s)
        assert len(found) == count, found
        return found

    def _wait_told(self, since: int, count: int, within_s: float) -> list[Event]:
        def enough() -> bool:
            return len(complaints(self.stack, since)) >= count

        self.stack.wait(enough, f"{count} complaints, not {complaints(self.stack, since)}", within_s)
        return complaints(self.stack, since)


@asynccontextmanager
async def place_at(stack: Stack) -> AsyncIterator[Place]:
    """An attacker with a kernel and two neighbours with theirs. In the end no descriptor may be left of it all."""
    async with AsyncExitStack() as room:
        attacker = await _settled(room, stack, f"mallory-{uuid.uuid4().hex[:6]}")
        owner = await owner_of(attacker)
        beside = await _user_of(room, stack, owner, same=True)
        elsewhere = await _user_of(room, stack, owner, same=False)
        before = descriptors(stack)
        yield Place(stack, attacker, [beside, elsewhere], owner)
        await attacker.close()
        gone = lambda: descriptors(stack) <= before + KEPT_FDS  # noqa: E731
        await asyncio.to_thread(stack.wait, gone, f"at most {before + KEPT_FDS} descriptors, not {descriptors(stack)}")
        for student in (attacker, beside, elsewhere):
            await clear(student)


async def owner_of(student: Student) -> str:
    """The slot name of the worker that owns the student's kernels."""
    return (await student.call("GET", "/api/kernels"))[2][OWNER_HEADER]


async def clear(student: Student) -> None:
    """Delete every kernel that the student has."""
    for kernel in (await student.call("GET", "/api/kernels"))[1]:
        await student.call("DELETE", f"/api/kernels/{kernel['id']}")


async def _settled(room: AsyncExitStack, stack: Stack, user: str) -> Student:
    student = await room.enter_async_context(Student(stack.url, stack.token(user)))
    await student.start()
    await student.open()
    await student.run("x = 1")
    return student


async def _user_of(room: AsyncExitStack, stack: Stack, owner: str, *, same: bool) -> Student:
    while True:
        user = f"neighbour-{uuid.uuid4().hex[:6]}"
        async with Student(stack.url, stack.token(user)) as candidate:
            if (await owner_of(candidate) == owner) is same:
                return await _settled(room, stack, user)


@asynccontextmanager
async def undisturbed(place: Place) -> AsyncIterator[None]:
    """While the block runs, the neighbours work; at its end they and the workers are as well as before."""
    pids = place.stack.worker_pids()
    over = asyncio.Event()
    at_work = [asyncio.create_task(_work(student, over)) for student in place.neighbours]
    try:
        yield
    finally:
        over.set()
        slowest = await asyncio.gather(*at_work)
    assert max(slowest) < PATIENCE_S
    assert place.stack.worker_pids() == pids


async def _work(student: Student, over: asyncio.Event) -> float:
    """Run cells, and check each, until it is `over`; returns how many seconds the slowest took."""
    await student.open()
    number, slowest = 0, 0.0
    while number == 0 or not over.is_set():
        number += 1
        began = time.monotonic()
        outcome = await student.run(PACE.format(number=number), store_history=False)
        slowest = max(slowest, time.monotonic() - began)
        assert (outcome.text, outcome.notices) == (f"{number}\n", []), outcome
    return slowest


# -- looking ----------------------------------------------------------------------------------------------------------


def complaints(stack: Stack, since: int) -> list[Event]:
    """What was logged above `info`."""
    return [event for event in stack.events(since=since) if event["level"] not in ("debug", "info")]


def is_jupyters(body: Any) -> bool:
    """Whether an error has Jupyter's own form: a sentence, and perhaps a reason."""
    if not isinstance(body, dict) or set(body) != {"message", "reason"}:
        return False
    return isinstance(body["message"], str) and bool(body["message"]) and isinstance(body["reason"], str | None)


def descriptors(stack: Stack) -> int:
    """How many files and sockets the workers have open."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in stack.worker_pids())  # noqa: PTH208


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


# -- raw connections --------------------------------------------------------------------------------------------------


def handshake(place: Place, session_id: str = "raw", *, kernel_id: str = "", protocol: str = "") -> bytes:
    """The head of a request for the channels WebSocket."""
    kernel = kernel_id or place.attacker.kernel_id
    fields = [
        f"GET /api/kernels/{kernel}/channels?session_id={session_id} HTTP/1.1",
        f"Host: 127.0.0.1:{place.stack.port}",
        f"Authorization: {authorization(place)}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    fields += [f"Sec-WebSocket-Protocol: {protocol}"] if protocol else []
    return "\r\n".join([*fields, "", ""]).encode()


def authorization(place: Place) -> str:
    """The attacker's own."""
    return str(place.attacker.http.headers["Authorization"])


async def plug(place: Place) -> socket.socket:
    """A TCP connection to one of the workers."""
    line = socket.socket()
    line.setblocking(False)
    await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", place.stack.port))
    return line


async def say(place: Place, request: bytes, within_s: float = 15.0) -> bytes:
    """Send bytes over a connection of their own; return all that comes back until the server closes it."""
    loop = asyncio.get_running_loop()
    with await plug(place) as line:
        async with asyncio.timeout(within_s):
            heard = b""
            try:
                await loop.sock_sendall(line, request)
                while piece := await loop.sock_recv(line, 65536):
                    heard += piece
            except ConnectionError:  # it was closed before all was sent
                pass
            return heard


async def read_head(line: socket.socket, within_s: float = 15.0) -> bytes:
    """The head of an answer."""
    heard = b""
    async with asyncio.timeout(within_s):
        while b"\r\n\r\n" not in heard:
            piece = await asyncio.get_running_loop().sock_recv(line, 65536)
            if not piece:
                break
            heard += piece
    return heard


def vanish(line: socket.socket) -> None:
    """End a connection with RST, as a machine that was switched off and on again does."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    line.close()


def ws_frame(opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    """One WebSocket frame as a client sends it (RFC 6455, 5.2), or wrongly."""
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    size = len(payload)
    mask = 0x80 if masked else 0
    if size < 126:
        head = bytes([first, mask | size])
    elif size < 65536:
        head = bytes([first, mask | 126]) + struct.pack(">H", size)
    else:
        head = bytes([first, mask | 127]) + struct.pack(">Q", size)
    key = b"\0\0\0\0"  # leaves the payload as it is
    return head + (key if masked else b"") + payload


def close_of(socket_: aiohttp.ClientWebSocketResponse, message: aiohttp.WSMessage) -> tuple[int | None, str]:
    """Code and sentence of a close."""
    if message.type is aiohttp.WSMsgType.CLOSE:
        return message.data, message.extra or ""
    return socket_.close_code, str(message.extra or "")
