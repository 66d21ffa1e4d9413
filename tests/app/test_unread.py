"""Which clients are let go because they read nothing, and which are not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

from server.unread import WatchedSocket, unread_bytes

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
LOOK_S, PATIENCE_S = 0.05, 0.5
PONG = b"\x8a\x80\0\0\0\0"


class Meeting:
    """A WebSocket at the server's side, and the client's wire. `deaf` is set when the client is taken for deaf."""

    def __init__(self) -> None:
        self.deaf = asyncio.Event()
        self.met = asyncio.Event()
        self.left = asyncio.Event()
        self.room = asyncio.Event()
        self.wire = socket.socket()
        self.transport: asyncio.Transport | None = None

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """What the entry worker does, in short."""
        ws = WatchedSocket(autoping=False, timeout=0.1)
        await ws.prepare(request)
        self.transport = request.transport
        self.met.set()
        tasks = [asyncio.create_task(work) for work in (self._send(ws), self._hear(ws), self._watch(ws))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            ws.let_go(at_once=True)
            self.left.set()
        return ws

    size = 0

    async def _send(self, ws: WatchedSocket) -> None:
        while self.size:
            await ws.send_bytes(bytes(self.size))
        await asyncio.get_running_loop().create_future()

    async def _hear(self, ws: WatchedSocket) -> None:
        while (kind := (await ws.receive()).type) not in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING):
            if kind is WSMsgType.BINARY:  # which waits for its kernel
                await self.room.wait()

    async def _watch(self, ws: WatchedSocket) -> None:
        await ws.until_deaf(LOOK_S, PATIENCE_S)
        self.deaf.set()

    async def reads_for(self, seconds: float, at_once: int) -> None:
        """Read a little every now and then."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            await loop.sock_recv(self.wire, at_once)
            await asyncio.sleep(LOOK_S / 4)


@asynccontextmanager
async def meeting(size: int) -> AsyncIterator[Meeting]:
    """A client that has just connected; it is sent messages of `size` without end (0: none)."""
    found = Meeting()
    found.size = size
    app = web.Application()
    app.router.add_get("/", found.serve)
    loop = asyncio.get_running_loop()
    async with TestServer(app) as server:
        with found.wire as wire:
            wire.setblocking(False)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**15)
            await loop.sock_connect(wire, ("127.0.0.1", server.port))
            await loop.sock_sendall(wire, HANDSHAKE)
            await found.met.wait()
            yield found
        await asyncio.wait_for(found.left.wait(), 5)


@pytest.mark.parametrize("size", [1000, 5_000_000])
async def test_a_client_that_reads_nothing_is_deaf_and_what_lay_here_for_it_is_freed(size: int) -> None:
    async with meeting(size) as found:
        await asyncio.wait_for(found.left.wait(), 10)
        assert found.deaf.is_set()
        assert found.transport
        assert unread_bytes(found.transport) == 0


async def test_a_client_that_goes_on_sending_and_reads_nothing_is_deaf() -> None:
    async with meeting(1000) as found:
        async with asyncio.timeout(10):
            while not found.deaf.is_set():
                await asyncio.get_running_loop().sock_sendall(found.wire, PONG)
                await asyncio.sleep(LOOK_S)


@pytest.mark.parametrize("size", [1000, 50_000_000])
async def test_a_client_that_reads_slowly_is_not_deaf_however_long_a_message_takes(size: int) -> None:
    async with meeting(size) as found:
        await found.reads_for(4 * PATIENCE_S, at_once=30_000)
        assert not found.deaf.is_set()


async def test_a_client_that_answers_pings_may_be_quiet() -> None:
    async with meeting(0) as found:
        loop = asyncio.get_running_loop()
        heard = b""
        async with asyncio.timeout(10):
            while heard.count(b"\x89\0") < 3:
                heard += await loop.sock_recv(found.wire, 1000)
                if heard.endswith(b"\x89\0"):
                    await loop.sock_sendall(found.wire, PONG)
        assert not found.deaf.is_set()


async def test_a_client_that_answers_no_ping_is_let_go() -> None:
    async with meeting(0) as found:
        await asyncio.wait_for(found.deaf.wait(), 10)


async def test_a_client_whose_message_waits_for_its_kernel_is_not_taken_for_deaf_until_somebody_listens_again() -> None:
    async with meeting(0) as found:
        await asyncio.get_running_loop().sock_sendall(found.wire, b"\x82\x81\0\0\0\0x")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(found.deaf.wait(), 6 * PATIENCE_S)
        found.room.set()
        await asyncio.wait_for(found.deaf.wait(), 10)
