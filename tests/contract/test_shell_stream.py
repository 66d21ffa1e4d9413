"""The stream at the shell socket: all that comes and goes, in order, however it falls together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from tornado.ioloop import IOLoop

from kernels.inside.stream import Stream

WITHIN_S = 20.0


@pytest.fixture
def sockets() -> Iterator[tuple[Any, Any]]:
    """A ROUTER and a DEALER whose identity is `d`."""
    context: zmq.Context[Any] = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.IDENTITY, b"d")
    for one in (router, dealer):
        one.linger = 0
        one.set_hwm(0)
    router.bind("inproc://shell")
    dealer.connect("inproc://shell")
    yield router, dealer
    context.destroy(linger=0)


async def test_requests_that_come_while_replies_are_sent_are_all_answered_in_order(sockets: tuple[Any, Any]) -> None:
    router, dealer = sockets
    stream = Stream(router, IOLoop.current())
    came: list[bytes] = []
    done = asyncio.Event()

    def answer(parts: list[zmq.Frame]) -> None:
        came.append(parts[1].bytes)
        stream.send_multipart([b"d", parts[1].bytes])
        if len(came) % 3:
            stream.flush(zmq.POLLOUT)
        if len(came) == 3000:
            done.set()

    stream.on_recv(answer, copy=False)
    sent = [b"%d" % number for number in range(3000)]
    for number, one in enumerate(sent):
        dealer.send(one)
        if not number % 7:
            await asyncio.sleep(0)
    async with asyncio.timeout(WITHIN_S):
        await done.wait()
    stream.flush(zmq.POLLOUT)
    assert not stream.sending()
    assert came == sent
    assert [dealer.recv() for _ in sent] == sent


async def test_flush_reads_what_has_come_by_now(sockets: tuple[Any, Any]) -> None:
    router, dealer = sockets
    stream = Stream(router, IOLoop.current())
    dealer.send_multipart([b"a", b"b"])
    dealer.send(b"c")
    assert stream.flush(zmq.POLLIN) == 0, "nobody takes it yet"
    came: list[list[bytes]] = []
    stream.on_recv(came.append)
    assert stream.flush(zmq.POLLIN) == 2
    assert came == [[b"d", b"a", b"b"], [b"d", b"c"]]


async def test_a_message_that_cannot_be_handled_keeps_none_from_being_read(sockets: tuple[Any, Any]) -> None:
    router, dealer = sockets
    stream = Stream(router, IOLoop.current())
    came: list[bytes] = []
    done = asyncio.Event()

    def take(parts: list[bytes]) -> None:
        came.append(parts[1])
        if len(came) == 2:
            done.set()
        raise ValueError(parts[1])

    stream.on_recv(take)
    for one in (b"first", b"second"):
        dealer.send(one)
    async with asyncio.timeout(WITHIN_S):
        await done.wait()
    assert came == [b"first", b"second"]
