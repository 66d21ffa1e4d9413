"""A port on real ZMQ sockets: nothing is lost, nobody is starved, nothing is left behind, and what a takeover does."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import pytest
import uvloop
import zmq
import zmq.asyncio

from kernels.errors import PortLost
from kernels.port import DRAIN_ALL_MESSAGES, MESSAGES_PER_TURN, Port

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


def in_the_socket(port: Port) -> None:
    """Return once a message lies in the port's socket, without letting the loop read it."""
    deadline = time.monotonic() + WITHIN_S
    while not port._events() & zmq.POLLIN:
        assert time.monotonic() < deadline


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


# -- nothing is lost


def test_a_flood_of_output_arrives_whole_and_in_order(
    run: Run, context: Context, endpoint: str, publisher: Kernel
) -> None:
    async def work() -> None:
        inbox = Inbox()
        port = Port(context, zmq.SUB, endpoint, inbox)
        assert publisher.hears(1) == [b"\x01"]
        assert publisher.floods() == await inbox.holds(FLOOD)
        port.close()

    run(work)


def test_requests_and_replies_that_cross_each_other_all_arrive(
    run: Run, context: Context, endpoint: str, router: Kernel
) -> None:
    """Each message is answered from within the callback: sending there must not hide what has arrived meanwhile."""

    async def work() -> None:
        inbox = Inbox()

        def answer(parts: list[bytes]) -> None:
            inbox(parts)
            port.send(parts)

        port = await owner_of(context, endpoint, answer)
        port.send([b"hello"])
        router.hears(1)
        sent = router.floods(OWNER)
        assert await inbox.holds(FLOOD) == sent
        assert router.hears(FLOOD) == sent
        port.close()

    run(work)


def test_one_message_at_a_time_never_waits_for_the_next(
    run: Run, context: Context, endpoint: str, publisher: Kernel
) -> None:
    """The last message before a silence is the one that an overlooked edge would leave in the socket."""

    async def work() -> None:
        inbox = Inbox()
        port = Port(context, zmq.SUB, endpoint, inbox)
        publisher.hears(1)
        for number in range(1, 2000):
            publisher.socket.send(b"x")
            assert len(await inbox.holds(number)) == number
        port.close()

    run(work)


def test_the_last_words_of_a_kernel_are_heard_after_its_end(
    run: Run, context: Context, endpoint: str, publisher: Kernel
) -> None:
    """The worker is busy while the kernel prints and ends; all of it is in the socket by then."""

    async def work() -> None:
        inbox = Inbox()
        port = Port(context, zmq.SUB, endpoint, inbox)
        publisher.hears(1)
        with until_disconnected(port):
            sent = publisher.floods()
            publisher.socket.close(linger=10_000)
        port.drain_all()
        assert await inbox.holds(FLOOD) == sent
        port.close()

    run(work)


def test_a_message_that_cannot_be_handled_keeps_none_behind_it(
    run: Run, context: Context, endpoint: str, publisher: Kernel
) -> None:
    async def work() -> None:
        inbox = Inbox()

        def stumble(parts: list[bytes]) -> None:
            inbox(parts)
            if parts[-1] in (b"3", b"1000"):
                raise ValueError("not what was expected")

        port = Port(context, zmq.SUB, endpoint, stumble)
        publisher.hears(1)
        assert publisher.floods(count=2000) == await inbox.holds(2000)
        port.close()

    run(work)


def test_draining_all_delivers_what_lies_there_without_a_turn_of_the_loop(
    run: Run, context: Context, endpoint: str, router: Kernel
) -> None:
    async def work() -> None:
        inbox = Inbox()
        port = await owner_of(context, endpoint, inbox)
        port.send([b"hello"])
        router.hears(1)
        sent = router.floods(OWNER)
        deadline = time.monotonic() + WITHIN_S
        while len(inbox.bodies) < FLOOD and time.monotonic() < deadline:
            port.drain_all()
        assert inbox.bodies == sent
        port.close()

    run(work)


def test_draining_all_ends_although_the_kernel_does_not(
    run: Run, context: Context, endpoint: str, publisher: Kernel
) -> None:
    async def work() -> None:
        count = 0

        def more(parts: list[bytes]) -> None:
            nonlocal count
            count += 1
            publisher.socket.send(b"x")

        port = Port(context, zmq.SUB, endpoint, more)
        publisher.hears(1)
        for _ in range(1000):  # so many are always on the way that the socket never looks empty
            publisher.socket.send(b"x")
        in_the_socket(port)
        port.drain_all()
        assert count <= DRAIN_ALL_MESSAGES
        port.close()

    run(work)


# -- nobody is starved


def test_a_flood_leaves_each_turn_of_the_loop_to_others_too(
    run: Run, context: Context, endpoint: str, publisher: Kernel
) -> None:
    """Counted, not timed: how many messages are delivered between two turns of somebody else's callback."""

    async def work() -> None:
        inbox, loop = Inbox(), asyncio.get_running_loop()
        seen = [0]
        timer: list[int] = []

        def turn() -> None:
            seen.append(len(inbox.bodies))
            if seen[-1] < FLOOD:
                loop.call_soon(turn)

        port = Port(context, zmq.SUB, endpoint, inbox)
        publisher.hears(1)
        publisher.floods()
        in_the_socket(port)
        loop.call_soon(turn)
        loop.call_later(0, lambda: timer.append(len(inbox.bodies)))
        await inbox.holds(FLOOD)
        await eventually(lambda: seen[-1] == FLOOD)
        shares = [after - before for before, after in pairwise(seen)]
        # A turn may come from the descriptor and one from the turn before: two shares, however long the flood lasts.
        assert max(shares) <= 2 * MESSAGES_PER_TURN
        assert timer
        assert timer[0] <= 4 * MESSAGES_PER_TURN
        port.close()

    run(work)


# -- takeover


def test_after_a_takeover_replies_go_to_the_successor(
    run: Run, context: Context, endpoint: str, router: Kernel
) -> None:
    async def work() -> None:
        before, after = Inbox(), Inbox()
        first = await owner_of(context, endpoint, before)
        first.send([b"request"])
        assert router.hears(1) == [b"request"]
        second = await owner_of(context, endpoint, after)
        second.send([b"mine"])
        assert router.hears(1) == [b"mine"]
        router.socket.send_multipart([OWNER, b"reply"])
        assert await after.holds(1) == [b"reply"]
        assert before.bodies == []
        first.close()
        second.close()

    run(work)


def test_what_a_superseded_port_sends_never_reaches_the_kernel_and_steals_nothing_back(
    run: Run, context: Context, endpoint: str, router: Kernel
) -> None:
    """libzmq does not tell it: its messages may be taken, and go nowhere. (Were it told, it would raise PortLost.)"""

    async def work() -> None:
        before, after = Inbox(), Inbox()
        first = await owner_of(context, endpoint, before)
        first.send([b"request"])
        router.hears(1)
        second = await owner_of(context, endpoint, after)
        second.send([b"mine"])
        router.hears(1)
        for _ in range(3):
            try:
                first.send([b"stale"])
            except PortLost:
                break
        assert not router.socket.poll(SILENCE_MS), "the kernel hears nothing from the superseded port"
        first.close()
        second.send([b"still mine"])
        assert router.hears(1) == [b"still mine"]
        assert not router.socket.poll(SILENCE_MS)
        router.socket.send_multipart([OWNER, b"reply"])
        assert await after.holds(1) == [b"reply"]
        second.close()

    run(work)


def test_replies_that_a_superseded_port_has_not_read_yet_are_not_lost(
    run: Run, context: Context, endpoint: str, router: Kernel
) -> None:
    async def work() -> None:
        before = Inbox()
        first = await owner_of(context, endpoint, before)
        first.send([b"request"])
        router.hears(1)
        sent = router.floods(OWNER, count=100)
        in_the_socket(first)
        await eventually(lambda: len(before.bodies) > 0 or bool(first._events() & zmq.POLLIN))
        second = await owner_of(context, endpoint, Inbox())
        second.send([b"mine"])
        router.hears(1)
        first.drain_all()
        assert await before.holds(100) == sent
        first.close()
        second.close()

    run(work)


# -- a port without a peer


def test_a_port_whose_kernel_has_ended_takes_no_message(
    run: Run, context: Context, endpoint: str, router: Kernel
) -> None:
    async def work() -> None:
        port = await owner_of(context, endpoint, Inbox())
        with until_disconnected(port):
            router.socket.close(linger=0)
        await eventually(lambda: refuses(port))  # the event comes a moment before the socket has lost its pipe
        port.close()

    run(work)


def test_a_port_that_finds_no_kernel_takes_no_message_and_does_not_connect_later(
    run: Run, context: Context, endpoint: str
) -> None:
    async def work() -> None:
        port = Port(context, zmq.DEALER, endpoint, Inbox(), identity=OWNER)
        with pytest.raises(PortLost):
            port.send([b"request"])
        kernel = Kernel(zmq.ROUTER, endpoint)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SILENCE_MS / 1000):
                await port.connected()
        port.close()
        kernel.context.destroy(linger=0)

    run(work)


def test_a_scout_waits_for_a_kernel_that_is_not_there_yet(run: Run, context: Context, endpoint: str) -> None:
    async def work() -> None:
        port = Port(context, zmq.DEALER, endpoint, Inbox(), reconnect_ms=5)
        port.send([b"are you there"])
        kernel = Kernel(zmq.ROUTER, endpoint)
        assert kernel.hears(1) == [b"are you there"]
        port.close()
        kernel.context.destroy(linger=0)

    run(work)


def test_what_was_sent_before_a_close_still_arrives(run: Run, context: Context, endpoint: str, router: Kernel) -> None:
    async def work() -> None:
        port = await owner_of(context, endpoint, Inbox())
        for number in range(1000):
            port.send([b"%d" % number])
        port.close()
        assert router.hears(1000) == [b"%d" % number for number in range(1000)]

    run(work)


def test_whoever_waits_for_a_port_that_is_closed_is_told_and_not_cancelled(
    run: Run, context: Context, endpoint: str
) -> None:
    async def work() -> None:
        port = Port(context, zmq.DEALER, endpoint, Inbox(), identity=OWNER)
        waiting = asyncio.create_task(port.connected())
        await asyncio.sleep(0)
        port.close()
        port.close()
        with pytest.raises(PortLost):
            await waiting
        with pytest.raises(PortLost):
            port.send([b"late"])
        assert port.closed

    run(work)


def test_a_callback_may_close_its_port(run: Run, context: Context, endpoint: str, publisher: Kernel) -> None:
    async def work() -> None:
        inbox = Inbox()

        def once(parts: list[bytes]) -> None:
            inbox(parts)
            port.close()

        port = Port(context, zmq.SUB, endpoint, once)
        publisher.hears(1)
        publisher.floods(count=500)
        assert await inbox.holds(1) == [b"0"]
        await asyncio.sleep(0)
        assert inbox.bodies == [b"0"]

    run(work)


def test_an_address_that_no_socket_can_have_is_an_error_of_ours(run: Run, context: Context) -> None:
    async def work() -> None:
        with pytest.raises(PortLost):
            Port(context, zmq.DEALER, f"ipc:///tmp/{'x' * 200}", Inbox())

    run(work)


def test_more_sockets_than_there_may_be_is_an_error_of_ours(run: Run, context: Context, endpoint: str) -> None:
    context.set(zmq.MAX_SOCKETS, 3)

    async def work() -> None:
        ports: list[Port] = []
        with pytest.raises(PortLost):
            ports.extend(Port(context, zmq.SUB, endpoint, Inbox()) for _ in range(50))
        for port in ports:
            port.close()

    run(work)


def test_a_context_made_for_asyncio_serves_as_well(run: Run, endpoint: str, publisher: Kernel) -> None:
    async def work() -> None:
        with zmq.asyncio.Context() as context:
            inbox = Inbox()
            port = Port(context, zmq.SUB, endpoint, inbox)
            publisher.hears(1)
            publisher.socket.send(b"x")
            assert await inbox.holds(1) == [b"x"]
            port.close()

    run(work)


# -- nothing is left behind


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_two_hundred_rounds_leave_no_descriptor(run: Run, context: Context, endpoint: str, router: Kernel) -> None:
    async def work() -> None:
        (await owner_of(context, endpoint, Inbox())).close()  # what the context opens once
        before = await settled()
        for _ in range(200):
            port = await owner_of(context, endpoint, Inbox())
            other = Port(context, zmq.SUB, endpoint, Inbox())
            port.send([b"hello"])
            router.hears(1)
            port.close()
            other.close()
        await eventually(lambda: open_descriptors() <= before)

    run(work)


async def settled() -> int:
    """The number of open descriptors once it has stopped changing: libzmq closes on a thread of its own."""
    counts: list[int] = []

    def unchanged() -> bool:
        counts.append(open_descriptors())
        return len(counts) > 20 and len(set(counts[-20:])) == 1

    await eventually(unchanged)
    return counts[-1]


def test_the_path_of_a_socket_is_the_kernels_and_closing_a_port_leaves_it(
    run: Run, context: Context, endpoint: str, router: Kernel
) -> None:
    async def work() -> None:
        (await owner_of(context, endpoint, Inbox())).close()
        assert Path(endpoint.removeprefix("ipc://")).is_socket()
        (await owner_of(context, endpoint, Inbox())).close()

    run(work)
