"""Bad input to the nursery: one error to whoever sent it, one line in the log, nobody else harmed."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import orjson
import pytest

from kernels.nursery_client import KernelExited
from kernels.nursery_wire import LINE_BYTES
from tests.nursery_fixture import Ear, Place, client, descriptors, emptied, own_nursery, until

Lines = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(scope="module")
def shared() -> Iterator[Place]:
    with own_nursery() as found:
        yield found


@pytest.fixture
async def place(shared: Place) -> AsyncIterator[Place]:
    yield shared
    await emptied(shared)


async def lines(place: Place) -> Lines:
    return await asyncio.open_unix_connection(place.socket)


async def answer_to(place: Place, sent: bytes, *, then_end: bool = False) -> bytes:
    """All that the nursery sends back until it closes the connection."""
    reader, writer = await lines(place)
    try:
        writer.write(sent)
        if then_end:
            writer.write_eof()
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("sent", "then_end", "said"),
    [
        (b"this is no JSON\n", False, "not a line of JSON"),
        (b"[1, 2]\n", False, "not a JSON object"),
        (b"\xff\xfe\n", False, "not a line of JSON"),
        (b'{"id": 1, "op": "sta', True, "ended within a line"),
        (b"x" * (LINE_BYTES + 1), False, "more than 16777216 bytes"),
    ],
    ids=["no-json", "no-object", "no-text", "half", "oversized"],
)
async def test_a_bad_line_costs_its_sender_the_connection_and_nobody_else(
    place: Place, sent: bytes, *, then_end: bool, said: str
) -> None:
    ear, mark = Ear(), len(place.log)
    async with client(place, ear) as other:
        found = orjson.loads(await answer_to(place, sent, then_end=then_end))
        assert found["error"]["kind"] == "bad_request"
        assert said in found["error"]["message"]
        assert (await other.status())["workers"] == ["worker"]
        assert ear.events == []
    assert place.log[mark:].count("nursery_bad_line") == 1


@pytest.mark.parametrize(
    "request_",
    [
        {"op": "dance"},
        {"op": None},
        {},
        {"op": "spawn"},
        {"op": "spawn", "order": 7},
        {"op": "get", "kernel_id": "../nursery.lock"},
        {"op": "end", "kernel_id": "..", "reason": "x"},
        {"op": "signal", "kernel_id": "x", "signum": "9"},
        {"op": "claim", "kernel_id": "x", "epoch": -1, "boot": ""},
        {"op": "note", "kernel_id": "0" * 8 + "-0000-0000-0000-" + "0" * 12, "notes": []},
        {"op": "hello", "who": 5},
        {"op": "list", "user": {}},
    ],
    ids=str,
)
async def test_a_bad_request_is_answered_and_the_connection_goes_on(place: Place, request_: dict[str, object]) -> None:
    mark = len(place.log)
    reader, writer = await lines(place)
    try:
        writer.write(orjson.dumps(request_ | {"id": 5}) + b'\n{"id": 6, "op": "status"}\n')
        async with asyncio.timeout(5):
            answers = [orjson.loads(await reader.readline()) for _ in range(2)]
        assert answers[0]["id"] == 5
        assert answers[0]["error"]["kind"] == "bad_request"
        assert answers[1]["id"] == 6
        assert answers[1]["reply"]["pid"]
    finally:
        writer.close()
    assert place.log[mark:].count("nursery_bad_request") == 1


async def test_visitors_that_vanish_harm_nobody(place: Place) -> None:
    pid = place.nursery_pid()
    async with client(place) as other:
        await other.status()
        before = await until(lambda: len(descriptors(pid)))
        for sent in (b"", b'{"id": 1, "op": "hello", "who": "x"}\n' * 50, b'{"id": 1'):
            link = socket.socket(socket.AF_UNIX)
            link.connect(str(place.socket))
            link.sendall(sent)
            # RST instead of FIN: the answers have nowhere to go.
            link.shutdown(socket.SHUT_RD)
            link.close()
        await until(lambda: len(descriptors(pid)) <= before)
        assert (await other.status())["workers"] == ["worker"]


async def test_a_visitor_that_reads_nothing_keeps_nobody_waiting(place: Place) -> None:
    _, writer = await lines(place)
    try:
        writer.write(b'{"id": 1, "op": "hello", "who": "sleeper"}\n')
        writer.write(b'{"id": 2, "op": "status"}\n' * 50_000)  # its answers fill every buffer on the way
        async with client(place) as other, asyncio.timeout(10):
            order = place.order()
            await other.spawn(order)
            await other.end(order.kernel_id, "done")
    finally:
        writer.transport.abort()


async def test_a_kernel_cannot_lead_the_log_elsewhere(place: Place) -> None:
    """A kernel owns its directory for now: what it puts in the log's place must not be followed."""
    ear = Ear()
    victim = place.runtime / "victim"
    victim.write_text("precious" * 200_000)
    order = place.order("sh", "-c", f"rm $0/log; ln -s {victim} $0/log; touch $0/up; exec sleep 600")
    order = replace(order, argv=(*order.argv, str(order.directory)))
    async with client(place, ear) as nurse:
        await nurse.spawn(order)
        await until((order.directory / "up").exists)
        await nurse.signal(order.kernel_id, signal.SIGKILL)
        await ear.hear(KernelExited)
        await nurse.spawn(replace(order, argv=("sh", "-c", "echo mine >&2"), incarnation=2))
        await ear.hear(KernelExited, lambda event: event.record.incarnation == 2)
        assert (order.directory / "log").read_text() == "mine\n"
        await nurse.end(order.kernel_id, "done")
    assert victim.stat().st_size == 8 * 200_000
    victim.unlink()
