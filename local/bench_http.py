"""HTTP load, as lean as it can be made here: kept-alive connections with one request in flight on each.

Owns the connections of one client process. It reads of an answer only what says where it ends, so that most of what is
measured is the server's part.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import uvloop

from local.bench_links import LinkError

WARM_REQUESTS: Final = 20
WARM_S: Final = 20.0  # for the warm-up at the most, and after the end for what is still in flight
_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length: "


@dataclass(frozen=True, slots=True)
class Requests:
    """What one client process does: `GET path` for `seconds`, on a connection for each of `tokens`."""

    port: int
    path: str
    tokens: tuple[str, ...]
    seconds: float


class Connection(asyncio.Protocol):
    """Sends its request again as soon as the answer is there, until `stop`."""

    def __init__(self, load: Requests, token: str) -> None:
        self._request = (
            f"GET {load.path} HTTP/1.1\r\nHost: 127.0.0.1:{load.port}\r\nAuthorization: Bearer {token}\r\n\r\n"
        ).encode()
        self._data = b""
        self._left = WARM_REQUESTS
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has no common base with asyncio's
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        at = self._data.find(_END)
        if at < 0:
            return
        if not self._data.startswith(b"HTTP/1.1 200"):
            self._fail(LinkError(f"refused: {self._data[:300]!r}"))
            return
        head = self._data[:at].lower()
        size = head.index(_LENGTH) + len(_LENGTH)
        if len(self._data) < at + len(_END) + int(head[size:].split(b"\r", 1)[0]):
            return
        self._data = b""
        self._answered()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or LinkError("the server closed the connection"))

    def go_on(self) -> None:
        """The warm-up is over: from here on without end."""
        self.done = asyncio.get_running_loop().create_future()
        self._left, self.answered = -1, 0
        self._transport.write(self._request)

    def stop(self) -> None:
        """No request after the one in flight."""
        self._left = 1

    def close(self) -> None:
        """Close it."""
        self._transport.abort()

    def _answered(self) -> None:
        self.answered += 1
        self._left -= 1
        if self._left == 0:
            self.done.set_result(None)
        else:
            self._transport.write(self._request)

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


def fetch(load: Requests, ready: Callable[[], Any]) -> float:
    """Requests per second over all connections. Runs in a client process."""
    return uvloop.run(_fetch(load, ready))


async def _fetch(load: Requests, ready: Callable[[], Any]) -> float:
    loop = asyncio.get_running_loop()
    connections = []
    for token in load.tokens:
        _, connection = await loop.create_connection(partial(Connection, load, token), "127.0.0.1", load.port)
        connections.append(connection)
    try:
        async with asyncio.timeout(WARM_S):
            await asyncio.gather(*(connection.done for connection in connections))
        ready()
        began = time.perf_counter()
        for connection in connections:
            connection.go_on()
        for connection in connections:
            loop.call_later(load.seconds, connection.stop)
        async with asyncio.timeout(load.seconds + WARM_S):
            await asyncio.gather(*(connection.done for connection in connections))
        return sum(connection.answered for connection in connections) / (time.perf_counter() - began)
    finally:
        for connection in connections:
            connection.close()
