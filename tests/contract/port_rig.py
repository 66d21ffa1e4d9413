"""A port's other end, and what its tests wait for."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pytest
import uvloop
import zmq
import zmq.asyncio

from kernels.errors import PortLost
from kernels.port import Port

FLOOD = 20_000
WITHIN_S = 10.0
SILENCE_MS = 200
OWNER = b"owner"

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]


class Run(Protocol):
    def __call__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None: ...


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine function on a loop of either kind; what the loop's handlers raise fails the test."""

    def on_loop(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        failures: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.get_loop().set_exception_handler(lambda loop, context: failures.append(context))
            runner.run(work())
        assert failures == []

    return on_loop


@pytest.fixture
def endpoint() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="kr-") as folder:
        yield f"ipc://{folder}/s"


@pytest.fixture
def context() -> Iterator[Context]:
    """The worker's context."""
    with zmq.Context() as made:
        yield made
        made.destroy(linger=0)


class Kernel:
    """The kernel's end: a ROUTER or XPUB, used with blocking calls, as ipykernel sets them."""

    def __init__(self, kind: int, endpoint: str) -> None:
        self.context: Context = zmq.Context()
        self.socket = self.context.socket(kind)
        self.socket.sndhwm = self.socket.rcvhwm = 0
        self.socket.rcvtimeo = int(WITHIN_S * 1000)
        if kind == zmq.ROUTER:
            self.socket.router_handover = True
        self.socket.bind(endpoint)

    def hears(self, count: int) -> list[bytes]:
        return [self.socket.recv_multipart()[-1] for _ in range(count)]

    def floods(self, *head: bytes, count: int = FLOOD) -> list[bytes]:
        bodies = [b"%d" % number for number in range(count)]
        for body in bodies:
            self.socket.send_multipart([*head, body])
        return bodies


@pytest.fixture
def router(endpoint: str) -> Iterator[Kernel]:
    kernel = Kernel(zmq.ROUTER, endpoint)
    yield kernel
    kernel.context.destroy(linger=0)


@pytest.fixture
def publisher(endpoint: str) -> Iterator[Kernel]:
    kernel = Kernel(zmq.XPUB, endpoint)
    yield kernel
    kernel.context.destroy(linger=0)


class Inbox:
    """Keeps the last part of each message, and says when there are enough."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self._wanted = 0
        self._there = asyncio.Event()

    def __call__(self, parts: list[bytes]) -> None:
        self.bodies.append(parts[-1])
        if self._wanted and len(self.bodies) >= self._wanted:
            self._there.set()

    async def holds(self, count: int) -> list[bytes]:
        self._wanted = count
        self._there.clear()
        if len(self.bodies) < count:
            async with asyncio.timeout(WITHIN_S):
                await self._there.wait()
        return self.bodies


def refuses(port: Port) -> bool:
    try:
        port.send([b"request"])
    except PortLost:
        return True
    return False


async def owner_of(context: Context, endpoint: str, inbox: Callable[[list[bytes]], None]) -> Port:
    port = Port(context, zmq.DEALER, endpoint, inbox, identity=OWNER)
    async with asyncio.timeout(WITHIN_S):
        await port.connected()
    return port


def look_until_there(port: Port) -> None:
    """Return once a message lies in the port's socket. The loop does not read it: looking has swallowed the edge."""
    deadline = time.monotonic() + WITHIN_S
    while not port._events() & zmq.POLLIN:
        assert time.monotonic() < deadline


def in_the_socket(port: Port) -> None:
    """Return once a message lies in the port's socket; the loop reads it at its next turn."""
    look_until_there(port)
    port._drain_soon()


@contextmanager
def until_disconnected(port: Port) -> Iterator[None]:
    """What is done inside ends the peer; afterwards the port's side has noticed."""
    with port._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
        yield
        assert monitor.poll(int(WITHIN_S * 1000))
        port._socket.disable_monitor()


async def eventually(holds: Callable[[], bool]) -> None:
    """For what nothing announces: it happens on a thread of libzmq's."""
    async with asyncio.timeout(WITHIN_S):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
