"""From an entry worker to a kernel's seat: in this process, or at a peer over its socket.

Owns the form of the internal WebSocket. The entry worker begins with a JSON text, the `Resume`; the owner answers with
a text when the seat is given, which says how far the client is. Texts from the entry worker say later how far it has
come. All else are binary messages: from the entry worker one frame each; towards it a batch each: how
many messages the owner has taken, then frame after frame with its length (uint32, little-endian, all of them). The
close code says why it ended. Knows nothing of the client's own socket.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final, Protocol, Self

import aiohttp
import orjson
from aiohttp import WSMsgType, web

from kernels.errors import KernelGone, KernelMoved, MalformedFrame
from kernels.framing import Message, Number, pack
from kernels.resume import Resume
from kernels.seat import Seat
from sharding.errors import PeerLost

CLOSE_MOVED: Final = 4001
CLOSE_GONE: Final = 4004
MAX_REASON: Final = 120  # a close frame holds 123 bytes of it
_NUMBER: Final = struct.Struct("<I")


Outgoing = tuple[Message, dict[str, Any]]  # a checked message and its header, as JSON


class Link(Protocol):
    """A client's way to its kernel, wherever that is."""

    @property
    def ended(self) -> bool:
        """Whether the owner serves here no more; there may be frames left to read."""

    async def frames(self) -> list[bytes]:
        """The next frames, in order. Raises KernelMoved, KernelGone or PeerLost."""

    async def send(self, message: Message, header: dict[str, Any]) -> None:
        """Hand one checked message on. Raises the same; then the kernel has not been given it."""

    @property
    def number(self) -> Number | None:
        """The last output that the client has got, as the kernel numbers it; None: the kernel does not."""

    async def acknowledge(self, number: Number, unnumbered: list[str]) -> None:
        """The client has got this (`Seat.acknowledge` says what). An ended link ignores it."""

    @property
    def untaken_bytes(self) -> int:
        """How much lies here of what was sent, because the owner has not said that it has taken it."""

    def leftover(self) -> list[Outgoing]:
        """After KernelMoved: the messages that the owner was sent and has certainly not handed to the kernel."""

    async def close(self) -> None:
        """The client has gone."""


class LocalLink:
    """The kernel is owned here."""

    def __init__(self, seat: Seat) -> None:
        self.frames = seat.frames
        self.send = seat.send
        self.untaken_bytes = 0
        self.number = seat.number
        self._seat = seat

    async def acknowledge(self, number: Number, unnumbered: list[str]) -> None:
        """The seat is told."""
        self._seat.acknowledge(number, unnumbered)

    @property
    def ended(self) -> bool:
        """The kernel has gone, or moved."""
        return self._seat.closed

    def leftover(self) -> list[Outgoing]:
        """None: what `send` did not raise for is with the kernel."""
        return []

    async def close(self) -> None:
        """Give the seat up; its place is kept for a while."""
        self._seat.leave()


class PeerLink:
    """The kernel is owned by a peer."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._sent = 0
        self.untaken_bytes = 0
        self.number: Number | None = None
        self._not_taken: deque[Outgoing] = deque()  # the last of what was sent: the owner says how far it has come

    @classmethod
    async def seated(cls, socket: aiohttp.ClientWebSocketResponse, resume: Resume) -> Self:
        """The link over a new connection, once the owner has given the seat. Raises as `frames`.

        Nothing is sent before: what lay unread at an owner that then dies would be of unknown fate.
        """
        link = cls(socket)
        try:
            await socket.send_str(dump_resume(resume))
            answer = await socket.receive()
        except ConnectionError as error:
            raise PeerLost(str(error)) from error
        if answer.type is not WSMsgType.TEXT:
            raise link._ended(answer.extra or "")
        link.number = number_in(orjson.loads(answer.data)["number"])
        return link

    async def acknowledge(self, number: Number, unnumbered: list[str]) -> None:
        """A text to the peer."""
        with suppress(ConnectionError, aiohttp.ClientError):
            await self._socket.send_str(dump_number(number, unnumbered))

    @property
    def ended(self) -> bool:
        """The connection is closed."""
        return self._socket.closed

    async def frames(self) -> list[bytes]:
        """The next batch from the peer. Raises KernelMoved, KernelGone or PeerLost."""
        message = await self._socket.receive()
        if message.type is WSMsgType.BINARY:
            taken, frames = split(message.data)
            self._has_taken(taken)
            return frames
        raise self._ended(message.extra or "")

    async def send(self, message: Message, header: dict[str, Any]) -> None:
        """Write one frame. Raises PeerLost when the connection had ended before."""
        if self._socket.closed:
            raise PeerLost("the connection to the owner has ended")
        self._sent += 1
        self._not_taken.append((message, header))
        self.untaken_bytes += size_of(message)
        try:
            await self._socket.send_bytes(pack(message.channel, message.parts))
        except (ConnectionError, aiohttp.ClientError) as error:
            self._sent -= 1
            self.untaken_bytes -= size_of(self._not_taken.pop()[0])
            raise PeerLost(str(error)) from error

    def leftover(self) -> list[Outgoing]:
        """What the owner had not taken when it said that the kernel moves; nothing is known when it just died."""
        return list(self._not_taken) if self._socket.close_code == CLOSE_MOVED else []

    async def close(self) -> None:
        """Close the connection to the peer."""
        await self._socket.close()

    def _has_taken(self, taken: int) -> None:
        while self._sent - len(self._not_taken) < taken:
            self.untaken_bytes -= size_of(self._not_taken.popleft()[0])

    def _ended(self, why: str) -> Exception:
        code = self._socket.close_code
        if code == CLOSE_MOVED:
            taken, _, why = why.partition(" ")
            self._has_taken(int(taken))
            return KernelMoved(why)
        if code == CLOSE_GONE:
            return KernelGone(why)
        return PeerLost(f"the connection to the owner ended ({code})")


def size_of(message: Message) -> int:
    """Bytes of its parts."""
    return sum(map(len, message.parts))


def join(taken: int, frames: Iterable[bytes]) -> bytes:
    """One batch: how many of the entry worker's messages the owner has taken so far, and frames."""
    pieces = [_NUMBER.pack(taken)]
    for frame in frames:
        pieces += (_NUMBER.pack(len(frame)), frame)
    return b"".join(pieces)


def split(batch: bytes) -> tuple[int, list[bytes]]:
    """The parts of a batch, which comes from a peer and is therefore whole."""
    (taken,) = _NUMBER.unpack_from(batch)
    frames, at = [], _NUMBER.size
    while at < len(batch):
        (size,) = _NUMBER.unpack_from(batch, at)
        at += _NUMBER.size
        frames.append(batch[at : at + size])
        at += size
    return taken, frames


def moved(taken: int, why: str) -> bytes:
    """The reason in the close frame of a link whose kernel moves: how many messages were taken, and why."""
    return f"{taken} {why}".encode()[:MAX_REASON]


def dump_number(number: Number | None, unnumbered: Sequence[str] = ()) -> str:
    """What the owner says when the seat is given, and the entry worker when its client has got so much."""
    return orjson.dumps({"number": number, "unnumbered": unnumbered}).decode()


def number_in(value: Any) -> Number | None:
    """A number that has come as JSON."""
    return None if value is None else (int(value[0]), int(value[1]))


def dump_resume(resume: Resume) -> str:
    """The first message of an internal WebSocket."""
    return orjson.dumps(asdict(resume)).decode()


async def receive_resume(socket: web.WebSocketResponse) -> Resume:
    """Read it. Raises MalformedFrame; ConnectionError when the peer has gone before (its client has, for instance)."""
    first = await socket.receive()
    if first.type is not WSMsgType.TEXT:
        raise ConnectionResetError("the peer has gone")
    try:
        fields = orjson.loads(first.data)
        pending = [(channel, header) for channel, header in fields.pop("pending")]
        number, got = number_in(fields.pop("number")), number_in(fields.pop("got"))
        return Resume(**fields, pending=pending, number=number, got=got)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise MalformedFrame("an internal connection did not begin with where to resume") from error
