"""A lean HTTP/1.1 client for one peer: kept-alive connections over its Unix socket, one exchange at a time.

It owns the connections and their bytes, and knows nothing of members, users or rings. It never sends
anything twice. Measured under uvloop, the caller's CPU per small request: 34 us here, 77 us with aiohttp's
client, 13 us for the bare socket. The parser is aiohttp's own, the one in C.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpResponseParser

from sharding.errors import PeerError, PeerLost, PeerUnreachable

IDLE_MAX = 16
"""Idle connections kept per peer. More may be in use at once; what comes back beyond this is closed."""
IDLE_S = 60.0
"""An idle connection older than this is not used again. The peer's own limit (peer_site) is far longer."""
TICK_S = 0.1
"""How exact deadlines are."""
BODY_MAX = 1 << 30
"""The parser's limit per body. Below it, it never pauses, so a body is there when its end is."""


@dataclass(frozen=True, slots=True)
class PeerReply:
    """A whole answer. `headers` is case-insensitive and holds what the peer sent, hop-by-hop headers too."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Wire(BaseProtocol):
    """One connection. After an exchange, `reusable` says whether it may serve another."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._reply: asyncio.Future[PeerReply] | None = None
        self._message: Any = None  # aiohttp's RawResponseMessage, which is no type to mypy
        self._payload: StreamReader | None = None
        self.idle_since = 0.0
        self.reusable = True

    def send(self, head: bytes, body: bytes | None, with_body: bool) -> asyncio.Future[PeerReply]:
        """Send a request; the future is its answer, PeerLost or PeerUnreachable."""
        assert self.transport is not None
        self._reply = reply = self._loop.create_future()
        self._message = self._payload = None
        if self._parser is None or not with_body:
            self._parser = self._new_parser(with_body)
        self.transport.write(head if body is None else head + body)
        return reply

    def _new_parser(self, with_body: bool) -> HttpResponseParser:
        self.reusable = with_body  # the parser of a HEAD serves nothing else
        return HttpResponseParser(
            self,
            self._loop,
            BODY_MAX,
            response_with_body=with_body,
            read_until_eof=True,
            auto_decompress=False,
        )

    def abort(self, error: PeerError | None = None) -> None:
        """Give up: nobody waits any more, or `error` for whoever does."""
        self.reusable = False
        if self.transport is not None:
            self.transport.abort()
        if error is not None:
            self._fail(error)

    def data_received(self, data: bytes) -> None:
        if self._reply is None:
            if data:  # nobody has asked for anything
                self.abort()
            return
        assert self._parser is not None
        try:
            messages, _, tail = self._parser.feed_data(data)
        except Exception as error:  # the parser's own, of several trees
            self.abort(PeerLost(f"the peer's answer cannot be read: {error}"))
            return
        for message, payload in messages:
            if message.code >= 200:
                self._message, self._payload = message, payload
        if tail:
            self.reusable = False
        self._finish()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.reusable = False
        if self._reply is None:
            return
        code = exc.errno if isinstance(exc, OSError) else None
        # EPIPE: the peer had closed before the last of our bytes. ENOTCONN: it never accepted (asyncio takes
        # a full backlog for a connection). Either way it has no complete request.
        if self._message is None and code in (errno.EPIPE, errno.ENOTCONN):
            self._fail(PeerUnreachable(f"the peer has closed the connection: {exc}"))
            return
        try:
            assert self._parser is not None
            self._parser.feed_eof()
        except Exception as error:
            self._fail(PeerLost(f"the peer's answer is cut off: {error}"))
        else:
            self._finish()
            self._fail(PeerLost("the peer closed the connection without an answer"))

    def _finish(self) -> None:
        message, payload, reply = self._message, self._payload, self._reply
        if message is None or payload is None or not payload.is_eof():
            return
        self._reply = None
        self.reusable = self.reusable and not message.should_close
        if reply is not None and not reply.done():
            reply.set_result(PeerReply(message.code, message.headers, payload.read_nowait()))

    def _fail(self, error: PeerError) -> None:
        reply, self._reply = self._reply, None
        if reply is not None and not reply.done():
            reply.set_exception(error)


class Wires:
    """The connections to one address."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._idle: list[Wire] = []
        self._busy: dict[Wire, float] = {}
        self._clock: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._closed = False

    async def exchange(self, head: bytes, body: bytes | None, with_body: bool, timeout_s: float) -> PeerReply:
        """Send one request and return its answer. Raises PeerLost, PeerUnreachable, or OSError from
        connecting (nothing was sent)."""
        wire = self._take() or await self._connect()
        self._busy[wire] = self._loop.time() + timeout_s
        if self._clock is None:
            self._clock = self._loop.call_later(TICK_S, self._tick)
        try:
            answer = await wire.send(head, body, with_body)
        except BaseException:
            wire.abort()
            raise
        finally:
            del self._busy[wire]
        self._give_back(wire)
        return answer

    def close(self) -> None:
        """Close the idle connections, and those in use as they come back."""
        self._closed = True
        if self._clock is not None:
            self._clock.cancel()
        while self._idle:
            self._idle.pop().abort()

    def _tick(self) -> None:
        """Give up what is late. One timer for all costs a tenth less per request than one for each."""
        now = self._loop.time()
        for wire in [wire for wire, deadline in self._busy.items() if deadline < now]:
            wire.abort(PeerLost("the peer did not answer in time"))
        self._clock = self._loop.call_later(TICK_S, self._tick) if self._busy else None

    def _take(self) -> Wire | None:
        while self._idle:
            wire = self._idle.pop()
            if wire.reusable and self._loop.time() - wire.idle_since < IDLE_S:
                return wire
            wire.abort()
        return None

    def _give_back(self, wire: Wire) -> None:
        if not wire.reusable or self._closed or len(self._idle) >= IDLE_MAX:
            wire.abort()
            return
        wire.idle_since = self._loop.time()
        self._idle.append(wire)

    async def _connect(self) -> Wire:
        _, wire = await self._loop.create_unix_connection(lambda: Wire(self._loop), self._address)
        return wire
