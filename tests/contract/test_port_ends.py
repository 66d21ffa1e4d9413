"""How a port begins and ends: taken over, without a kernel, closed; nothing is left behind."""

import asyncio
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from kernels.errors import PortLost
from kernels.port import Port
from tests.contract import port_rig
from tests.contract.port_rig import (
    OWNER,
    SILENCE_MS,
    Context,
    Inbox,
    Kernel,
    Run,
    eventually,
    in_the_socket,
    owner_of,
    refuses,
    until_disconnected,
)

run = port_rig.run
endpoint = port_rig.endpoint
context = port_rig.context
router = port_rig.router
publisher = port_rig.publisher


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


def test_a_port_that_finds_no_kernel_takes_no_message_and_is_not_connected(
    run: Run, context: Context, endpoint: str
) -> None:
    async def work() -> None:
        port = Port(context, zmq.DEALER, endpoint, Inbox(), identity=OWNER)
        with pytest.raises(PortLost):
            port.send([b"request"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SILENCE_MS / 1000):
                await port.connected()
        port.close()

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
        sent = [b"%d" % number + bytes(256 * 1024) for number in range(100)]  # more than fits between the two
        for body in sent:
            port.send([body])
        port.close()
        assert router.hears(100) == sent

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
