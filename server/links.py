"""From an entry worker to a kernel's seat: in this process, or at a peer over its socket.

Owns the form of the internal WebSocket: first a JSON text with the `Resume`, then binary messages. From the entry worker each is one frame;
towards it each is a batch, frame after frame with a uint32 (little-endian) length before it. The close code says why
it ended. Knows nothing of the client's own socket.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final, Protocol

import aiohttp
import orjson
from aiohttp import WSMsgType, web

from kernels.attached import Resume
from kernels.errors import KernelGone, KernelMoved, MalformedFrame
from kernels.framing import Message, pack
from kernels.seat import Seat
from sharding.errors import PeerLost

CLOSE_MOVED: Final = 4001
CLOSE_GONE: Final = 4004


class Link(Protocol):
    """A client's way to its kernel, wherever that is."""

    async def frames(self) -> list[bytes]:
        """The next frames, in order. Raises KernelMoved, KernelGone or PeerLost."""

    async def send(self, message: Message, header: dict[str, Any]) -> None:
        """Hand one checked message on. Raises the same; then the kernel has not been given it."""

    async def close(self) -> None:
        """The client has gone."""


class LocalLink:
    """The kernel is owned here."""

    def __init__(self, seat: Seat) -> None:
        self.frames = seat.frames
        self.send = seat.send
        self._seat = seat

    async def close(self) -> None:
        """Give the seat up; its place is kept for a while."""
        self._seat.leave()


class PeerLink:
    """The kernel is owned by a peer."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def frames(self) -> list[bytes]:
        """The next batch from the peer. Raises KernelMoved, KernelGone or PeerLost."""
        message = await self._socket.receive()
        if message.type is WSMsgType.BINARY:
            return split(message.data)
        code, why = self._socket.close_code, message.extra or ""
        if code == CLOSE_MOVED:
            raise KernelMoved(why)
        if code == CLOSE_GONE:
            raise KernelGone(why)
        raise PeerLost(f"the connection to the owner ended ({code})")

    async def send(self, message: Message, header: dict[str, Any]) -> None:
        """Write one frame. Raises PeerLost when the connection had ended before."""
        del header
        try:
            await self._socket.send_bytes(pack(message.channel, message.parts))
        except (ConnectionError, aiohttp.ClientError) as error:
            raise PeerLost(str(error)) from error

    async def close(self) -> None:
        """Close the connection to the peer."""
        await self._socket.close()


def join(frames: Iterable[bytes]) -> bytes:
    """One batch out of frames."""
    pieces: list[bytes] = []
    for frame in frames:
        pieces += (struct.pack("<I", len(frame)), frame)
    return b"".join(pieces)


def split(batch: bytes) -> list[bytes]:
    """The frames of a batch, which comes from a peer and is therefore whole."""
    frames, at = [], 0
    while at < len(batch):
        (size,) = struct.unpack_from("<I", batch, at)
        frames.append(batch[at + 4 : at + 4 + size])
        at += 4 + size
    return frames


def dump_resume(resume: Resume) -> str:
    """The first message of an internal WebSocket."""
    return orjson.dumps(asdict(resume)).decode()


async def receive_resume(socket: web.WebSocketResponse) -> Resume:
    """Read it. Raises MalformedFrame."""
    first = await socket.receive()
    try:
        fields = orjson.loads(first.data)
        pending = [(channel, header) for channel, header in fields.pop("pending")]
        return Resume(**fields, pending=pending)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise MalformedFrame("an internal connection did not begin with where to resume") from error
