"""One non-blocking ZMQ socket on the running event loop.

Owns the socket and its place in the loop; hands each message's parts to one callback, synchronously. `zmq.asyncio`
does the same with a future for each message, which costs more than the message (measured here: 60 us against 15 us).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
import zmq

from kernels.errors import PortLost

log = structlog.get_logger(__name__)

# libzmq's descriptor is edge-triggered: it must be drained. A kernel that prints for ever must not keep the loop
# from everybody else meanwhile, so a drain ends after this many messages and goes on at the loop's next turn.
MESSAGES_PER_TURN: Final = 64
BYTES_PER_TURN: Final = 2**20  # or after so many; a message is read whole
# What libzmq may hold here that is not read yet. Its own bound counts messages, so it is lowered (never raised again:
# libzmq 4.3.5 may then forget to read on) when they are large. Beyond it the kernel's end has to keep or to drop them.
# A kernel with a recorder is told what was read, and stays far below.
WAITING_MESSAGES: Final = 20_000
WAITING_BYTES: Final = 32 * 2**20
FEWEST_WAITING: Final = 4
# `drain_all` does not yield. What a kernel sends faster than it is read must not hold the loop for ever.
DRAIN_ALL_MESSAGES: Final = 64 * 1024
# A SUB that may not reconnect (-1) throws away what it has received and not yet handed over when its peer ends:
# a kernel's last words. One that would reconnect keeps it, so it is told to, on a day that does not come.
NEVER_MS: Final = 7 * 24 * 3600 * 1000
# As plain numbers: pyzmq's own are enums, whose `|` and `&` cost as much as the calls that they are for.
NOBLOCK: Final = int(zmq.NOBLOCK)
MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
EVENTS: Final = int(zmq.EVENTS)
POLLIN: Final = int(zmq.POLLIN)
POLLOUT: Final = int(zmq.POLLOUT)
LINGER_MS: Final = 1000  # what was handed to a socket still reaches the kernel when the socket is closed


class Port:
    """A connected DEALER or SUB. `on_message(parts)` is called for every message, on the event loop.

    Raises PortLost when there can be no such socket (too many of them, an address that is too long).
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        kind: int,
        endpoint: str,
        on_message: Callable[[list[bytes]], None],
        *,
        identity: bytes = b"",
        reconnect_ms: int = -1,
    ) -> None:
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._draining = False  # whether a turn is scheduled: a second chain of turns would double the share
        self._failed = False
        self._may_wait = WAITING_MESSAGES
        self._largest = WAITING_BYTES // WAITING_MESSAGES  # a message that is larger lowers the bound
        self._writable: asyncio.Future[None] = self._loop.create_future()
        try:
            # Whatever the context is for: a socket of zmq.asyncio's returns futures.
            self._socket = context.socket(kind, socket_class=zmq.Socket)
        except zmq.ZMQError as error:
            raise PortLost(f"there is no socket for {endpoint}: {error}") from error
        try:
            self._connect(kind, endpoint, identity, reconnect_ms)
        except zmq.ZMQError as error:
            self._socket.close()
            raise PortLost(f"no socket can be connected to {endpoint}: {error}") from error
        self._fd = int(self._socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self.drain)
        self._drain_soon()

    def _connect(self, kind: int, endpoint: str, identity: bytes, reconnect_ms: int) -> None:
        self._socket.linger = LINGER_MS
        self._socket.rcvhwm = WAITING_MESSAGES
        self._socket.sndhwm = 0
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, 0)  # a kernel that is born with its sockets answers when it is up
        # -1: a socket whose identity was taken over must not come back and take it again.
        never = NEVER_MS if kind == zmq.SUB else -1
        self._socket.setsockopt(zmq.RECONNECT_IVL, reconnect_ms if reconnect_ms >= 0 else never)
        if identity:
            self._socket.setsockopt(zmq.IDENTITY, identity)
        if kind == zmq.SUB:
            self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        elif reconnect_ms < 0:
            self._socket.setsockopt(zmq.IMMEDIATE, 1)  # without a peer a send fails, instead of waiting for ever
        self._socket.connect(endpoint)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return bool(self._socket.closed)

    async def connected(self) -> None:
        """Return once the socket has its peer (a DEALER of ours takes no message before); PortLost if it is closed."""
        await asyncio.shield(self._writable)

    def send(self, parts: Sequence[bytes]) -> None:
        """Hand one message to the socket; raise PortLost when there is no peer (any more).

        A DEALER whose identity was taken over is *not* told: libzmq 4.3.5's ROUTER drops its pipe and leaves the
        connection open, so that what is sent is taken here and never read there. Who owns a kernel must hear that
        it has lost it in another way.
        """
        if self._socket.closed:
            raise PortLost("the socket is closed")
        try:
            for part in parts[:-1]:
                self._socket.send(part, MORE)
            self._socket.send(parts[-1], NOBLOCK)
        except zmq.ZMQError as error:
            raise PortLost(f"the kernel's socket took no message: {error}") from error
        # Sending handles pending events inside libzmq and can thereby swallow the edge that announces a message.
        if self._events() & POLLIN:
            self._drain_soon()

    def drain(self) -> None:
        """Deliver what has arrived, up to a turn's share."""
        size = 0
        for _ in range(MESSAGES_PER_TURN):
            if self._socket.closed or not self._anything_new():
                return
            if parts := self._read():
                size += self._measured(parts)
                self._hand_up(parts)
            if size > BYTES_PER_TURN:
                break
        self._drain_soon()

    def drain_all(self) -> None:
        """Deliver all that has arrived by now (used once, before the socket is given up)."""
        for _ in range(DRAIN_ALL_MESSAGES // MESSAGES_PER_TURN):
            if self._socket.closed or not self._events() & POLLIN:
                return
            self.drain()

    def close(self) -> None:
        """Leave the loop and close the socket; harmless when done twice."""
        if not self._socket.closed:
            self._loop.remove_reader(self._fd)
            self._socket.close()
            if not self._writable.done():  # not cancelled: that would cancel whoever waits for it
                self._writable.set_exception(PortLost("the socket was closed before it was connected"))
                self._writable.exception()  # seen, also if nobody waits

    def _anything_new(self) -> bool:
        """Note that there is a peer, when there is. Looking can swallow the edge, as sending can: hence the answer."""
        events = self._events()
        if events & POLLOUT and not self._writable.done():
            self._writable.set_result(None)
        return bool(events & POLLIN)

    def _read(self) -> list[bytes]:
        """The next message; empty when its peer has ended since it was announced.

        A frame that is not copied knows whether more follow. `recv_multipart` asks the socket after each part, which
        costs more than the part.
        """
        try:
            frame = self._socket.recv(NOBLOCK, copy=False)
            parts = [frame.bytes]
            while frame.more:
                frame = self._socket.recv(NOBLOCK, copy=False)
                parts.append(frame.bytes)
        except zmq.Again:
            return []
        return parts

    def _measured(self, parts: list[bytes]) -> int:
        """The size of a message; of large ones libzmq is to hold fewer."""
        size = sum(map(len, parts))
        if size > self._largest:
            self._largest = size
            self._may_wait = max(FEWEST_WAITING, min(self._may_wait, WAITING_BYTES // size))
            self._socket.rcvhwm = self._may_wait
        return size

    def _drain_soon(self) -> None:
        if not self._draining:
            self._draining = True
            self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._draining = False
        self.drain()

    def _hand_up(self, parts: list[bytes]) -> None:
        try:
            self._on_message(parts)
        except Exception:  # a message that cannot be handled must not keep those behind it from being read
            if not self._failed:
                self._failed = True
                log.exception("kernel_message_failed")

    def _events(self) -> int:
        return int(self._socket.get(EVENTS))
