"""One non-blocking ZMQ socket on the running event loop.

Owns the socket and its place in the loop; hands each message's parts to one callback, synchronously. `zmq.asyncio`
does the same with a future for each message, which costs more than the message (measured here: 60 us against 15 us).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import zmq

from kernels.errors import PortLost

# libzmq's descriptor is edge-triggered: it must be drained. A kernel that prints for ever must not keep the loop
# from everybody else meanwhile, so a drain ends after this many messages and goes on at the loop's next turn.
MESSAGES_PER_TURN: Final = 64
LINGER_MS: Final = 1000  # what was handed to a socket still reaches the kernel when the socket is closed


class Port:
    """A connected DEALER or SUB. `on_message(parts)` is called for every message, on the event loop."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        kind: int,
        endpoint: str,
        on_message: Callable[[list[bytes]], None],
        *,
        identity: bytes = b"",
        reconnect_ms: int = -1,
    ) -> None:
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._socket = context.socket(kind)
        self._socket.linger = LINGER_MS
        self._socket.rcvhwm = 0  # a high-water mark loses output silently; the backlog is what bounds memory
        self._socket.sndhwm = 0
        # -1: a socket whose identity was taken over must not come back and take it again.
        self._socket.setsockopt(zmq.RECONNECT_IVL, reconnect_ms)
        if identity:
            self._socket.setsockopt(zmq.IDENTITY, identity)
        if kind == zmq.SUB:
            self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        elif reconnect_ms < 0:
            self._socket.setsockopt(zmq.IMMEDIATE, 1)  # without a peer a send fails, instead of waiting for ever
        self._socket.connect(endpoint)
        self._writable: asyncio.Future[None] = self._loop.create_future()
        self._fd = int(self._socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self.drain)
        self._loop.call_soon(self.drain)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return bool(self._socket.closed)

    async def connected(self) -> None:
        """Return once the socket has its peer (a DEALER of ours takes no message before)."""
        await asyncio.shield(self._writable)

    def send(self, parts: Sequence[bytes]) -> None:
        """Hand one message to the socket; raise PortLost when there is no peer (any more)."""
        if self._socket.closed:
            raise PortLost("the socket is closed")
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            raise PortLost(f"the kernel's socket took no message: {error}") from error
        # Sending handles pending events inside libzmq and can thereby swallow the edge that announces a message.
        if self._events() & zmq.POLLIN:
            self._loop.call_soon(self.drain)

    def drain(self) -> None:
        """Deliver what has arrived, up to a turn's share."""
        for _ in range(MESSAGES_PER_TURN):
            if self._socket.closed:
                return
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                if not self._writable.done() and self._events() & zmq.POLLOUT:
                    self._writable.set_result(None)
                return
            self._on_message(parts)
        self._loop.call_soon(self.drain)

    def drain_all(self) -> None:
        """Deliver all that has arrived by now (used once, before the socket is given up)."""
        while not self._socket.closed and self._events() & zmq.POLLIN:
            self.drain()

    def close(self) -> None:
        """Leave the loop and close the socket; harmless when done twice."""
        if not self._socket.closed:
            self._loop.remove_reader(self._fd)
            self._socket.close()
            self._writable.cancel()

    def _events(self) -> int:
        return int(self._socket.getsockopt(zmq.EVENTS))
