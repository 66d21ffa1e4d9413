"""The bench's lean client: one way to a kernel straight over ZMQ, and one over the server's WebSocket.

Owns sockets and the least that a client must do on them. Both kinds have the same form, so that the same loop drives
both and what the client itself costs is on both sides of a ratio. Blocking, and for loopback: neither reconnects.
"""

from __future__ import annotations

import hmac
import os
import socket
import struct
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import orjson
import zmq

from kernels import framing
from kernels.port import EVENTS, MORE, NOBLOCK, POLLIN

R = TypeVar("R")
Parts = list[bytes]
WELCOME_MS: Final = 1_000
WELCOME_TRIES: Final = 20
RECONNECT_MS: Final = 5  # a kernel that is starting binds when it likes; libzmq's 100 ms would be paid by the floor
DELIMITER: Final = b"<IDS|MSG>"  # jupyter_client.session.DELIM
READY_S, AGAIN_S = 20.0, 0.1
READ_BYTES: Final = 1 << 18


class LinkError(RuntimeError):
    """A kernel or the server did not behave as a client may expect; nothing is measured then."""


class NotNow(LinkError):  # noqa: N818 (named for what it says)
    """The server answered 503: not now, but soon, as while ownership moves."""


class Link(Protocol):
    """A client's way to one kernel."""

    def pollables(self) -> list[Any]:
        """What to wait for with zmq.Poller: ZMQ sockets or descriptors."""

    def send(self, parts: Parts) -> None:
        """Send header, parent_header, metadata, content on the shell channel."""

    def receive(self) -> list[tuple[str, Parts]]:
        """(channel, parts) of all that has arrived; waits for nothing."""

    def close(self) -> None:
        """Close it."""


@dataclass(frozen=True, slots=True)
class RawPlace:
    """A kernel that the bench started, by its connection information."""

    shell: str
    iopub: str
    key: bytes

    def connect(self) -> Link:
        """A new client of it."""
        return RawLink(self)


@dataclass(frozen=True, slots=True)
class ServerPlace:
    """A kernel behind the server, reached through whichever worker takes the connection."""

    port: int
    kernel_id: str
    token: str

    def connect(self) -> WebSocketLink:
        """A new client of it."""
        return when_ready(lambda: WebSocketLink(self))


@dataclass(frozen=True, slots=True)
class WayPlace:
    """Any of `places` (of different owners) to which the way leads straight, or else through another worker.

    Which worker takes a connection cannot be chosen, and an idle server gives nearly all of them to the same one.
    """

    places: tuple[ServerPlace, ...]
    straight: bool

    def connect(self) -> Link:
        """A new client of the first one that fits."""
        for place in self.places:
            link = place.connect()
            if (link.entry == link.owner) == self.straight:
                return link
            link.close()
        raise LinkError("no connection went the way that was wanted")


def when_ready(ask: Callable[[], R]) -> R:
    """What `ask` returns, asked again like a front end as long as the server says 503. Says so: it is in the figure.

    On a machine that is overloaded a worker may lose its lease, and its kernels move.
    """
    deadline = time.monotonic() + READY_S
    while True:
        try:
            return ask()
        except NotNow as error:
            if time.monotonic() > deadline:
                raise
            print(f"(asked again: {error})", file=sys.stderr, flush=True)
            time.sleep(AGAIN_S)


class RawLink:
    """DEALER and SUB, straight to the kernel. Signs and verifies, as every Jupyter client must."""

    def __init__(self, place: RawPlace) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._key = place.key
        self._shell, self._iopub = context.socket(zmq.DEALER), context.socket(zmq.SUB)
        for one in (self._shell, self._iopub):
            one.linger, one.rcvhwm, one.sndhwm = 0, 0, 0
            one.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        self._iopub.subscribe(b"")
        self._iopub.connect(place.iopub)
        self._shell.connect(place.shell)
        self._await_subscription()

    def pollables(self) -> list[Any]:
        return [self._shell, self._iopub]

    def send(self, parts: Parts) -> None:
        for part in (DELIMITER, self._sign(parts), *parts[:-1]):
            self._shell.send(part, MORE)
        self._shell.send(parts[-1], NOBLOCK)

    def receive(self) -> list[tuple[str, Parts]]:
        found: list[tuple[str, Parts]] = []
        for channel, one in (("shell", self._shell), ("iopub", self._iopub)):
            while int(one.get(EVENTS)) & POLLIN:
                found.append((channel, self._verified(_message(one))))
        return found

    def close(self) -> None:
        self._shell.close()
        self._iopub.close()

    def _await_subscription(self) -> None:
        """Return when something has come on iopub: the welcome, or what a request of ours causes.

        A kernel that has not yet noticed that the client before has gone takes the subscription for a known one, and
        welcomes nobody.
        """
        for _ in range(WELCOME_TRIES):
            if self._iopub.poll(WELCOME_MS):
                return
            header = {"msg_id": os.urandom(8).hex(), "msg_type": "kernel_info_request", "session": "bench"}
            self.send([orjson.dumps(header), b"{}", b"{}", b"{}"])
        raise LinkError("the kernel says nothing to a subscriber")

    def _sign(self, parts: Parts) -> bytes:
        return hmac.digest(self._key, b"".join(parts[:4]), "sha256").hex().encode()

    def _verified(self, wire: Parts) -> Parts:
        at = wire.index(DELIMITER)
        parts = wire[at + 2 :]
        if not hmac.compare_digest(self._sign(parts), wire[at + 1]):
            raise LinkError("a message with a wrong signature")
        return parts


def _message(one: zmq.Socket[bytes]) -> Parts:
    """As `recv_multipart`, and as lean as the server's own (see `Port`): the floor must not be what is slow."""
    frame = one.recv(NOBLOCK, copy=False)
    parts = [frame.bytes]
    while frame.more:
        frame = one.recv(NOBLOCK, copy=False)
        parts.append(frame.bytes)
    return parts


class WebSocketLink:
    """The kernel's channels over the server, with the v1 subprotocol."""

    def __init__(self, place: ServerPlace) -> None:
        self._socket = socket.create_connection(("127.0.0.1", place.port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        path = f"/api/kernels/{place.kernel_id}/channels?session_id={os.urandom(8).hex()}"
        self._socket.sendall(_handshake(place.port, path, place.token))
        self._data = bytearray()
        head = self._read_head()
        self.entry, self.owner = head.get("x-kernelring-entry", ""), head.get("x-kernelring-owner", "")

    def pollables(self) -> list[Any]:
        return [self._socket.fileno()]

    def send(self, parts: Parts) -> None:
        self._send(2, framing.pack("shell", parts))

    def receive(self) -> list[tuple[str, Parts]]:
        try:
            new = self._socket.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        if not new:
            raise LinkError("the server closed the WebSocket")
        self._data += new
        found: list[tuple[str, Parts]] = []
        while (message := self._next()) is not None:
            opcode, payload = message
            if opcode == 2:
                found.append(framing.unpack(payload))
            elif opcode == 9:
                self._send(10, payload)
            else:
                raise LinkError(f"the server sent a WebSocket message of kind {opcode}: {payload!r}")
        return found

    def close(self) -> None:
        self._socket.close()

    def _read_head(self) -> dict[str, str]:
        while b"\r\n\r\n" not in self._data:
            new = self._socket.recv(READ_BYTES)
            if not new:
                raise LinkError("the server closed the connection")
            self._data += new
        head, _, rest = bytes(self._data).partition(b"\r\n\r\n")
        self._data = bytearray(rest)
        first, *lines = head.decode().split("\r\n")
        if " 101 " not in first:
            error = NotNow if " 503 " in first else LinkError
            raise error(f"no WebSocket: {first} {bytes(self._data)!r}")
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def _send(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        length = bytes((128 | size,)) if size < 126 else struct.pack("!BH", 128 | 126, size)
        # A mask of zeros leaves the payload as it is: cheap here, and the server takes it off like any other.
        self._socket.sendall(b"".join((bytes((128 | opcode,)), length, b"\0\0\0\0", payload)))

    def _next(self) -> tuple[int, bytes] | None:
        """The next whole message out of what was read (the server neither masks nor splits), else None."""
        data = self._data
        if len(data) < 2:
            return None
        size, start = data[1] & 127, 2
        if size >= 126:
            form = "!H" if size == 126 else "!Q"
            start += struct.calcsize(form)
            if len(data) < start:
                return None
            (size,) = struct.unpack_from(form, data, 2)
        end = start + size
        if len(data) < end:
            return None
        message = data[0] & 15, bytes(memoryview(data)[start:end])
        del data[:end]
        return message


def _handshake(port: int, path: str, token: str) -> bytes:
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        f"Authorization: Bearer {token}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {b64encode(os.urandom(16)).decode()}",
        f"Sec-WebSocket-Protocol: {framing.V1_SUBPROTOCOL}",
    )
    return "\r\n".join((*lines, "", "")).encode()
