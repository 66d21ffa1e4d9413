"""How far a client has come, as its pongs say."""

from __future__ import annotations

import asyncio

from server.receipts import Receipts

WITHIN_S = 5.0


class Client:
    """Keeps the pings; `answer` sends the pong of the oldest."""

    def __init__(self) -> None:
        self.pings: asyncio.Queue[bytes] = asyncio.Queue()
        self.receipts = Receipts(self.pings.put, None)

    async def pinged(self) -> bytes:
        return await asyncio.wait_for(self.pings.get(), WITHIN_S)

    async def answer(self) -> object:
        return self.receipts.heard(await self.pinged())


async def test_one_ping_is_under_way_at_a_time_and_asks_for_the_newest() -> None:
    client = Client()
    asking = asyncio.create_task(client.receipts.ask())
    client.receipts.sent((1, 7))
    first = await client.pinged()
    client.receipts.sent((1, 8))
    client.receipts.sent((1, 9))
    assert client.pings.empty()
    assert client.receipts.heard(first) == ((1, 7), [])
    assert await client.answer() == ((1, 9), [])
    asking.cancel()


async def test_a_pong_says_which_replies_came_before_its_ping() -> None:
    client = Client()
    asking = asyncio.create_task(client.receipts.ask())
    client.receipts.sent((1, 7))
    client.receipts.sent_unnumbered("a")
    ping = await client.pinged()
    client.receipts.sent_unnumbered("b")
    assert client.receipts.heard(ping) == ((1, 7), ["a"])
    assert await client.answer() == ((1, 7), ["b"])
    assert [*client.receipts.got_unnumbered] == ["a", "b"]
    asking.cancel()


def test_a_pong_that_says_more_than_was_sent_or_nothing_is_no_news() -> None:
    client = Client()
    assert client.receipts.heard(b"1.7") is None
    client.receipts.begin((1, 5))
    assert [client.receipts.heard(payload) for payload in (b"1.6", b"2.1", b"x", b"", b"1.5")] == [None] * 5


async def test_before_a_close_everything_is_asked_for_and_a_silent_client_not_waited_for() -> None:
    client = Client()
    client.receipts.sent((1, 7))
    client.receipts.sent_unnumbered("a")
    settling = asyncio.create_task(client.receipts.settle(WITHIN_S))
    assert await client.answer() == ((1, 7), ["a"])
    await settling
    client.receipts.sent((1, 8))
    await client.receipts.settle(0.01)
    assert client.receipts.got == (1, 7)
