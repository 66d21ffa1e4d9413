"""Clients that read slowly or not at all, and kernels that print more than anybody reads.

Nothing is lost within the bounds, what is cut is told of and counted, and neither workers nor others come to harm.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, Final

import orjson
import pytest
import pytest_asyncio

from kernels import framing
from local.student import Student, cell
from tests.cluster.attack import Place, handshake, place_at, read_head, resident_mib, undisturbed, ws_frame
from tests.cluster.conftest import LEAN, running
from tests.redis_server import RedisServer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

GROWTH_MIB: Final = 100  # that one kernel may cost its worker: the backlog is 8, the window 4, the rest is Python's
KERNEL_MIB: Final = 250
PRINTS: Final = "import sys\nfor n in range({count}):\n    sys.stdout.write(f'{{n}}\\n'); sys.stdout.flush()"
WIDE: Final = PRINTS.replace("{{n}}", "{{n}} {{1:03000}}")
MANY: Final = 5_000
ENDLESS: Final = "n = 0\nwhile True:\n    print(n, 'x' * 1_000_000, flush=True); n += 1"
PING, CLOSE = 9, 8


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(redis: RedisServer) -> AsyncIterator[Place]:
    with running(redis, settings=LEAN) as stack:
        async with place_at(stack) as found:
            yield found


class Line:
    """A client that reads when it is told to, and answers pings only then."""

    def __init__(self, student: Student, wire: socket.socket) -> None:
        self.student = student
        self._wire = wire
        self._heard = b""

    @classmethod
    async def opened(cls, place: Place, session_id: str) -> Line:
        """Connected to the attacker's kernel; little of what it does not read fits between it and the server."""
        loop = asyncio.get_running_loop()
        wire = socket.socket()
        wire.setblocking(False)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        await loop.sock_connect(wire, ("127.0.0.1", place.stack.port))
        await loop.sock_sendall(wire, handshake(place, session_id, protocol=framing.V1_SUBPROTOCOL))
        assert b" 101 " in await read_head(wire)
        return cls(place.attacker, wire)

    async def ask(self, code: str) -> str:
        """Send a cell; returns its msg_id."""
        msg_id, frame = self.student.message("execute_request", cell(code))
        await asyncio.get_running_loop().sock_sendall(self._wire, ws_frame(2, frame))
        return msg_id

    async def frames(self, at_once: int = 2**20, pause_s: float = 0.0) -> AsyncIterator[tuple[str, list[Any]]]:
        """(channel, parts as JSON) of each message, until the connection ends."""
        loop = asyncio.get_running_loop()
        while piece := await loop.sock_recv(self._wire, at_once):
            self._heard += piece
            while frame := self._take():
                opcode, payload = frame
                if opcode == PING:
                    await loop.sock_sendall(self._wire, ws_frame(10, payload))
                elif opcode == CLOSE:
                    return
                else:
                    channel, parts = framing.unpack(payload)
                    yield channel, [orjson.loads(part) for part in parts[:4]]
            await asyncio.sleep(pause_s)

    def _take(self) -> tuple[int, bytes] | None:
        """One WebSocket frame (RFC 6455, 5.2) of what was heard, if it is whole."""
        heard = self._heard
        if len(heard) < 2:
            return None
        size, at = heard[1], 2
        if size >= 126:
            at = 4 if size == 126 else 10
            size = int.from_bytes(heard[2:at], "big")
        if len(heard) < at + size:
            return None
        self._heard = heard[at + size :]
        return heard[0] & 15, heard[at : at + size]

    def close(self) -> None:
        """Hang up."""
        self._wire.close()


async def told(line: Line, msg_id: str, **pace: Any) -> list[Any]:
    """Content of each stream message, up to the cell's reply and idle."""
    streams, left = [], {"reply", "idle"}
    async for _, (header, parent, _, content) in line.frames(**pace):
        if header["msg_type"] == "stream":
            streams.append(content)
        if parent.get("msg_id") == msg_id:
            left -= {content.get("execution_state"), header["msg_type"].removeprefix("execute_")}
        if not left:
            return streams
    raise AssertionError("the connection has ended")


async def ready(place: Place) -> Student:
    """The attacker, with a kernel in which nothing runs."""
    student = place.attacker
    assert (await student.call("POST", f"/api/kernels/{student.kernel_id}/restart"))[0] == 200
    return student


async def ended(place: Place, msg_id: str, other: Student) -> None:
    """Wait, as another client of the same kernel, until a cell has ended."""
    while True:
        one = await other.receive(60)
        if one.kind == "status" and one.parent.get("msg_id") == msg_id and one.content["execution_state"] == "idle":
            return


def lines_of(streams: list[Any]) -> list[str]:
    """What the cell printed."""
    own = [stream for stream in streams if not stream["text"].startswith("[kernelring]")]
    return "".join(stream["text"] for stream in own).splitlines()


async def test_a_client_that_reads_late_gets_all_lines_in_order_and_in_fewer_messages(place: Place) -> None:
    student = await ready(place)
    line = await Line.opened(place, "late")
    async with undisturbed(place):
        await student.open()
        msg_id = await line.ask(PRINTS.format(count=9_000))
        await ended(place, msg_id, student)
        streams = await told(line, msg_id)
        line.close()
    assert lines_of(streams) == [str(n) for n in range(9_000)]
    assert len(streams) < 8_500


async def test_a_client_that_reads_slowly_is_kept_and_gets_all_lines_in_order(place: Place) -> None:
    student = await ready(place)
    line = await Line.opened(place, "slow")
    async with undisturbed(place):
        await student.open()
        msg_id = await line.ask(PRINTS.format(count=6_000))
        streams = await told(line, msg_id, at_once=20_000, pause_s=0.02)
        line.close()
    assert lines_of(streams) == [str(n) for n in range(6_000)]


async def test_past_the_bound_a_client_is_told_once_and_rightly_how_much_is_missing(place: Place) -> None:
    student = await ready(place)
    line = await Line.opened(place, "beyond")
    async with undisturbed(place):
        await student.open()
        # As few as are more than is kept: a client that reads nothing for PATIENCE_S is let go.
        msg_id = await line.ask(WIDE.format(count=MANY))
        await ended(place, msg_id, student)
        streams = await told(line, msg_id)
        line.close()
    notices = [stream["text"] for stream in streams if stream["text"].startswith("[kernelring]")]
    assert len(notices) == 1, notices
    assert "write to a file" in notices[0]
    lines = [int(line.split()[0]) for line in lines_of(streams)]
    assert lines == sorted(set(lines))
    assert (missing := re.match(r"\[kernelring\] (\d+) messages", notices[0]))
    assert int(missing[1]) == MANY - len(lines) > 0


async def test_a_client_that_reads_nothing_is_let_go_and_can_come_back(place: Place) -> None:
    """Meanwhile its kernel prints 1 MB lines for ever, which costs neither worker nor neighbours."""
    student = await ready(place)
    await student.open()
    kernel_pid = int((await student.run("import os; print(os.getpid())")).text)
    line = await Line.opened(place, student.session_id)
    async with undisturbed(place):
        mark = place.stack.mark()
        before = {pid: resident_mib(pid) for pid in place.stack.worker_pids()}
        msg_id = await line.ask(ENDLESS)
        let_go = asyncio.create_task(
            asyncio.to_thread(place.stack.wait_event, "client_reads_nothing", mark, within_s=75)
        )
        peak, kernel = 0.0, 0.0
        while not let_go.done():
            await asyncio.wait((let_go,), timeout=0.2)
            peak = max(peak, *(resident_mib(pid) - size for pid, size in before.items()))
            kernel = max(kernel, resident_mib(kernel_pid))
        await let_go
        assert (await student.call("POST", f"/api/kernels/{student.kernel_id}/interrupt"))[0] == 204
        await student.open()
        assert (await student.outcome(msg_id, 60)).reply["ename"] == "KeyboardInterrupt"
        assert (await student.run("print('here')", 60)).text == "here\n"
        with suppress(ConnectionError):  # after what had arrived the connection ends; by a reset, most likely
            async with asyncio.timeout(20):
                async for _ in line.frames():
                    pass
        line.close()
    assert peak < GROWTH_MIB
    assert kernel < KERNEL_MIB


ENDLESS_WAYS: Final = {
    "short lines": "n = 0\nwhile True:\n    print(n); n += 1",
    "long lines that are not flushed": "while True:\n    print('x' * 1_000_000)",
    "displays": "while True:\n    display({'text/plain': 'x' * 1_000_000}, raw=True)",
    "a program": "import os\nos.system('yes')",
    "a forked child": (
        "import os, sys\nif not os.fork():\n    while True:\n        print('x' * 100_000, flush=True)\nos.wait()"
    ),
}


@pytest.mark.parametrize("way", ENDLESS_WAYS)
async def test_an_endless_printer_harms_neither_its_worker_nor_itself(place: Place, way: str) -> None:
    student = await ready(place)
    await student.open()
    kernel_pid = int((await student.run("import os; print(os.getpid())")).text)
    async with undisturbed(place):
        before = {pid: resident_mib(pid) for pid in place.stack.worker_pids()}
        msg_id = await student.ask(ENDLESS_WAYS[way])
        peak, kernel = 0.0, 0.0
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                while True:
                    await student.receive()
                    peak = max(peak, *(resident_mib(pid) - size for pid, size in before.items()))
                    kernel = max(kernel, resident_mib(kernel_pid))
        assert (await student.call("POST", f"/api/kernels/{student.kernel_id}/interrupt"))[0] == 204
        outcome = await student.outcome(msg_id, 60)
        assert outcome.reply["status"] in ("error", "ok"), json.dumps(outcome.reply)
        assert (await student.run("print('here')", 60)).text == "here\n"
    assert peak < GROWTH_MIB
    assert kernel < KERNEL_MIB
