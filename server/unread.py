"""When a client has stopped reading: what lies here for it is freed.

Owns the look at one client's connection: a ping when it is quiet, and the end when it takes nothing. aiohttp's own
heartbeat takes a client that reads slowly (its pong waits behind megabytes) for one that is gone, and one that reads
nothing but goes on sending for one that is well; and the connection that it then closes stays until all is read.
Knows nothing of what is sent.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from contextlib import suppress
from typing import Any, Final, NamedTuple

from aiohttp import WSMessage, web

LOOK_S: Final = 5.0
PATIENCE_S: Final = 30.0  # without a byte taken of what lies here; without a word before a ping, and after it
# What the kernel of this machine takes of what the client's cannot take yet. Left alone it takes some megabytes: for
# a client that reads slowly they are better kept by the owner, once for all clients, where they are coalesced.
UNSENT_BYTES: Final = 128 * 1024
LAST_WORDS_S: Final = 30.0  # for a client to take what was written before its connection was closed
READS_NOTHING: Final = "You have read nothing for 30 s. Connect again to go on from there"


class WatchedSocket(web.WebSocketResponse):
    """A client's WebSocket, made without aiohttp's heartbeat."""

    _heard = _passed = 0
    _listening = False
    _transport: asyncio.Transport | None = None

    async def prepare(self, request: web.BaseRequest) -> Any:
        """As aiohttp's."""
        if transport := request.transport:
            self._transport = transport
            with suppress(OSError, AttributeError):  # closed, or not TCP
                told = transport.get_extra_info("socket")
                told.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        return await super().prepare(request)

    async def receive(self, timeout: float | None = None) -> WSMessage:
        """As aiohttp's, counted."""
        self._listening = True
        try:
            message = await super().receive(timeout)
        finally:
            self._listening = False
        self._heard += 1
        return message

    async def send_bytes(self, data: bytes, compress: int | None = None) -> None:
        """As aiohttp's, counted: returns only when little of what was sent lies here."""
        await super().send_bytes(data, compress)
        self._passed += 1

    async def send_str(self, data: str, compress: int | None = None) -> None:
        """As `send_bytes`."""
        await super().send_str(data, compress)
        self._passed += 1

    async def until_deaf(self, look_s: float = LOOK_S, patience_s: float = PATIENCE_S) -> None:
        """Return when the client has taken nothing for `patience_s`, or has said nothing for twice as long.

        While something lies here it must get less, or more must have been written meanwhile. While nothing does, the
        client must say something: a pong, if there is nothing else. That nobody listens, because what it has said last
        waits for its kernel, is not its fault.
        """
        stuck_s = silent_s = 0.0
        before = self._look()
        while stuck_s < patience_s and silent_s < 2 * patience_s:
            await asyncio.sleep(look_s)
            now = self._look()
            took = now.passed != before.passed or now.unread < before.unread
            stuck_s = 0.0 if took or not now.unread else stuck_s + look_s
            is_heard = now.heard != before.heard or not self._listening
            silent_s = 0.0 if now.unread or is_heard else silent_s + look_s
            if patience_s <= silent_s < patience_s + look_s:
                await self.ping()
            before = now

    def let_go(self, *, at_once: bool = False) -> None:
        """The WebSocket has ended: free what the client does not read, and its connection."""
        transport = self._transport
        if transport is None or not transport.get_write_buffer_size():
            return
        if at_once:
            transport.abort()
        else:
            asyncio.get_running_loop().call_later(LAST_WORDS_S, transport.abort)

    def _look(self) -> _Look:
        return _Look(self._passed, self._heard, unread_bytes(self._transport) if self._transport else 0)


class _Look(NamedTuple):
    passed: int
    heard: int
    unread: int


def unread_bytes(transport: asyncio.Transport) -> int:
    """What was written and not confirmed by the client's machine: in this process, and in the kernel below it."""
    below = 0
    with suppress(OSError, AttributeError, ValueError):  # closed, or a kind of socket that does not tell
        told = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        (below,) = struct.unpack("i", told)
    return transport.get_write_buffer_size() + below
