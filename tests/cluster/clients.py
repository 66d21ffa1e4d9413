"""Two more ways to be a student: over a chosen worker, and in the framing of clients that offer no subprotocol."""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import AsyncExitStack
from typing import Any, Self

import aiohttp
import orjson
from jupyter_server.services.kernels.connection.base import deserialize_binary_message, serialize_binary_message

from kernels import framing
from local.stack import Stack
from local.student import ANSWER_S, Said, SocketClosed, Student
from server.owned import ENTRY_HEADER

# Untyped there.
pack_binary: Any = serialize_binary_message
unpack_binary: Any = deserialize_binary_message
CROWD = 24  # connections at once: the more there are, the more workers take some


class LegacyStudent(Student):
    """Speaks JSON text, and where there are buffers binary, which jupyter_server's own code packs."""

    async def open(self) -> None:
        await self.close()
        path = f"/api/kernels/{self.kernel_id}/channels?session_id={self.session_id}"
        self._socket = await self.http.ws_connect(path, max_msg_size=0, compress=0)
        assert self._socket.protocol is None

    async def send_raw(self, frame: bytes | str) -> None:
        """Send a frame of ours in the legacy form."""
        assert isinstance(frame, bytes)
        channel, parts = framing.unpack(frame)
        head, parent, metadata, content = (orjson.loads(part) for part in parts[:4])
        await self.send_legacy(channel, head, parent, metadata, content, parts[4:])

    async def send_legacy(
        self, channel: str, header: Any, parent: Any, metadata: Any, content: Any, buffers: list[bytes]
    ) -> None:
        """Send one message as Lab 3 and widgets do."""
        assert self._socket is not None
        message = {"header": header, "parent_header": parent, "metadata": metadata, "content": content}
        message |= {"channel": channel, "buffers": buffers}
        if buffers:
            await self._socket.send_bytes(pack_binary(message))
        else:
            await self._socket.send_str(json.dumps(message))

    async def receive(self, within_s: float = ANSWER_S) -> Said:
        message, _ = await self.receive_legacy(within_s)
        return Said(message["channel"], message["header"], message["parent_header"], message["content"])

    async def receive_legacy(self, within_s: float = ANSWER_S) -> tuple[dict[str, Any], list[bytes]]:
        """The next message as it came, and its buffers."""
        assert self._socket is not None
        received = await self._socket.receive(within_s)
        if received.type is aiohttp.WSMsgType.TEXT:
            message = json.loads(received.data)
            assert message["msg_id"] == message["header"]["msg_id"]
            assert message["msg_type"] == message["header"]["msg_type"]
            assert message["buffers"] == []
            return message, []
        if received.type is aiohttp.WSMsgType.BINARY:
            message = unpack_binary(received.data)
            return message, message["buffers"]
        raise SocketClosed(self._socket.close_code)


class SeatedStudent(Student):
    """Everything goes over one TCP connection, so to one worker: `entry` is its slot name.

    The WebSocket takes that very connection over; from then on there is no REST.
    """

    entry = ""

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=1)
        self.http = aiohttp.ClientSession(self.url, headers=self._headers, connector=connector)
        self.entry = (await self.call("GET", "/api/kernels"))[2][ENTRY_HEADER]
        return self


def header(session: str, kind: str) -> dict[str, str]:
    """The header of a new message."""
    return {
        "msg_id": uuid.uuid4().hex,
        "msg_type": kind,
        "username": "student",
        "session": session,
        "date": "2026-01-01T00:00:00.000000Z",
        "version": "5.4",
    }


async def one_at_each_worker(
    stack: Stack, user: str, room: AsyncExitStack, within_s: float = 30.0
) -> list[SeatedStudent]:
    """Connect `user` again and again until every worker has taken a connection; return one student at each, by slot."""
    found: dict[str, SeatedStudent] = {}
    async with asyncio.timeout(within_s):
        while len(found) < stack.workers:
            crowd = [SeatedStudent(stack.url, stack.token(user)) for _ in range(CROWD)]
            await asyncio.gather(*(each.__aenter__() for each in crowd))
            for each in crowd:
                if found.setdefault(each.entry, each) is each:
                    room.push_async_exit(each)
                else:
                    await each.__aexit__(None, None, None)
    return [found[entry] for entry in sorted(found)]
