"""What a port on real ZMQ sockets delivers: all of it, and no more in one turn than leaves room for others."""

import asyncio
import time
from itertools import pairwise

import pytest
import zmq

from kernels.port import MESSAGES_PER_TURN, Port
from tests.contract import port_rig
from tests.contract.port_rig import (
    FLOOD,
    OWNER,
    WITHIN_S,
    Context,
    Inbox,
    Kernel,
    Run,
    in_the_socket,
    look_until_there,
    owner_of,
    until_disconnected,
)

run = port_rig.run
endpoint = port_rig.endpoint
context = port_rig.context
router = port_rig.router
publisher = port_rig.publisher


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
    run: Run, context: Context, endpoint: str, publisher: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.port.DRAIN_ALL_MESSAGES", 10 * MESSAGES_PER_TURN)

    async def work() -> None:
        inbox = Inbox()

        def more(parts: list[bytes]) -> None:
            inbox(parts)
            if len(inbox.bodies) < 20 * MESSAGES_PER_TURN:
                publisher.socket.send(b"x")
                look_until_there(port)

        port = Port(context, zmq.SUB, endpoint, more)
        publisher.hears(1)
        publisher.socket.send(b"x")
        look_until_there(port)
        port.drain_all()
        assert len(inbox.bodies) == 10 * MESSAGES_PER_TURN
        port.close()

    run(work)


def test_a_message_that_arrives_while_another_is_sent_is_read_at_once(
    run: Run, context: Context, endpoint: str, router: Kernel
) -> None:
    """Sending swallows the edge as looking does, and then nothing would wake the port until the next message."""

    async def work() -> None:
        inbox = Inbox()
        port = await owner_of(context, endpoint, inbox)
        port.send([b"hello"])
        router.hears(1)
        router.socket.send_multipart([OWNER, b"reply"])
        look_until_there(port)
        port.send([b"more"])
        assert await inbox.holds(1) == [b"reply"]
        port.close()

    run(work)


# -- nobody is starved


async def shares_of_turns(inbox: Inbox) -> list[int]:
    """How many messages are delivered between two turns of somebody else's callback, until the flood has passed."""
    loop, seen, over = asyncio.get_running_loop(), [0], asyncio.Event()

    def turn() -> None:
        seen.append(len(inbox.bodies))
        if seen[-1] < FLOOD:
            loop.call_soon(turn)
        else:
            over.set()

    loop.call_soon(turn)
    async with asyncio.timeout(WITHIN_S):
        await over.wait()
    return [after - before for before, after in pairwise(seen)]


# A turn may come from the descriptor and one from the turn before: two shares, however long the flood lasts.
FAIR = 2 * MESSAGES_PER_TURN


def test_a_flood_leaves_each_turn_of_the_loop_to_others_too(
    run: Run, context: Context, endpoint: str, publisher: Kernel
) -> None:
    async def work() -> None:
        inbox = Inbox()
        timer: list[int] = []
        port = Port(context, zmq.SUB, endpoint, inbox)
        publisher.hears(1)
        publisher.floods()
        in_the_socket(port)
        asyncio.get_running_loop().call_later(0, lambda: timer.append(len(inbox.bodies)))
        assert max(await shares_of_turns(inbox)) <= FAIR
        assert timer
        assert timer[0] <= 2 * FAIR
        port.close()

    run(work)


def test_a_flood_that_is_answered_leaves_each_turn_to_others_too(
    run: Run, context: Context, endpoint: str, router: Kernel
) -> None:
    """Sending looks for messages as well: many sends in one turn must not make many turns of the next."""

    async def work() -> None:
        inbox = Inbox()

        def answer(parts: list[bytes]) -> None:
            inbox(parts)
            port.send([b"answer"])

        port = await owner_of(context, endpoint, answer)
        port.send([b"hello"])
        router.hears(1)
        router.floods(OWNER)
        in_the_socket(port)
        assert max(await shares_of_turns(inbox)) <= FAIR
        port.close()

    run(work)
