"""Forwarding between workers: requests and WebSockets over real sites on Unix sockets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from sharding import wire
from sharding.errors import NotOwner, PeerRefused
from sharding.hop import EPOCH_HEADER, REQUEST_HEADER, SECRET_HEADER, USER_HEADER
from sharding.peer_site import peer_guard, serve_peers
from sharding.peers import Peers
from sharding.registry import Registry, View
from sharding.ring import Ring
from tests.contract.crew import (
    DEADLINE_S,
    HOST,
    SECRET,
    Crew,
    eventually,
)
from tests.contract.peer_kit import Refusals, ask, member_at, raw_peer, tell, ws_echo

# What arrives


async def test_a_request_reaches_the_owner_with_user_request_id_and_epoch(crew: Crew, peers: Peers) -> None:
    owner = await crew.peer([web.post("/tell/{rest:.*}", tell)])
    epoch = owner.membership.ring.epoch

    reply = await ask(
        peers, owner.me, "/tell/a%2Fb?x=%20y", method="POST", user="zoë/ß %\r\nX: y", request_id="r-7 ü",
        epoch=epoch, body=b'{"name": "python3"}', content_type="application/json",
    )  # fmt: skip

    assert reply.status == 200
    assert reply.headers["x-answer"] == "yes"
    seen = orjson.loads(reply.body)
    assert (seen["method"], seen["path"]) == ("POST", "/tell/a%2Fb?x=%20y")
    assert (seen["user"], seen["request_id"], seen["epoch"]) == ("zoë/ß %\r\nX: y", "r-7 ü", epoch)
    assert (seen["type"], seen["body"]) == ("application/json", '{"name": "python3"}')
    own = ["Content-Length", "Content-Type", "Host", EPOCH_HEADER, REQUEST_HEADER, SECRET_HEADER, USER_HEADER]
    assert seen["headers"] == sorted(own)


@pytest.mark.parametrize("status", [204, 304, 404, 409, 403, 400, 421, 500, 503])
async def test_the_answer_of_a_handler_comes_back_whatever_its_status(crew: Crew, peers: Peers, status: int) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    owner = await crew.peer([web.get("/x", answer)])
    for _ in range(2):
        reply = await ask(peers, owner.me, "/x")
        assert (reply.status, reply.body) == (status, b"")


async def test_large_bodies_pass_both_ways_and_so_do_chunked_and_empty_ones(crew: Crew, peers: Peers) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def chunks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for number in range(2000):
            await response.write(f"line {number}\n".encode())
        return response

    owner = await crew.peer([web.post("/echo", echo), web.get("/chunks", chunks), web.get("/tell", tell)])
    large = os.urandom(10_000_000)
    assert (await ask(peers, owner.me, "/echo", method="POST", body=large)).body == large
    assert (await ask(peers, owner.me, "/echo", method="POST")).body == b""
    lines = (await ask(peers, owner.me, "/chunks")).body.splitlines()
    assert lines == [f"line {number}".encode() for number in range(2000)]
    head = await ask(peers, owner.me, "/tell", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["Content-Length"]) > 0
    assert (await ask(peers, owner.me, "/echo", method="POST", body=b"still")).body == b"still"


async def test_requests_one_after_another_share_a_connection_and_those_at_once_do_not_wait(
    crew: Crew, peers: Peers
) -> None:
    together = asyncio.Barrier(40)

    async def meet(_: web.Request) -> web.Response:
        await together.wait()
        return web.Response()

    owner = await crew.peer([web.get("/tell", tell), web.get("/meet", meet)])
    replies = [await ask(peers, owner.me) for _ in range(5)]
    assert len({orjson.loads(reply.body)["connection"] for reply in replies}) == 1
    assert [r.status for r in await asyncio.gather(*(ask(peers, owner.me, "/meet") for _ in range(40)))] == [200] * 40


async def test_only_so_many_idle_connections_are_kept(crew: Crew, peers: Peers) -> None:
    open_now = 0
    fewer = asyncio.Event()
    together = asyncio.Barrier(50)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        open_now += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            await together.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await reader.read()
        finally:
            open_now -= 1
            if open_now <= wire.IDLE_MAX:
                fewer.set()

    async with raw_peer(crew.directory, serve) as member:
        await asyncio.gather(*(ask(peers, member) for _ in range(50)))
        async with asyncio.timeout(DEADLINE_S):
            await fewer.wait()
        assert open_now == wire.IDLE_MAX


async def test_a_request_that_is_given_up_does_not_spoil_the_next(crew: Crew, peers: Peers) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def late(_: web.Request) -> web.Response:
        asked.set()
        await go.wait()
        return web.Response(text="late")

    owner = await crew.peer([web.get("/late", late), web.get("/tell", tell)])
    task = asyncio.create_task(ask(peers, owner.me, "/late"))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    assert (await ask(peers, owner.me)).headers["X-Answer"] == "yes"


@pytest.mark.parametrize(
    "bad",
    [
        {"path": "/x\r\nX-Evil: 1"},
        {"path": "/x y"},
        {"path": "x"},
        {"path": "/ü"},
        {"path": "/x\n"},
        {"method": "GET /y"},
        {"method": "GET\n"},
        {"content_type": "text/plain\r\nX-Evil: 1"},
        {"content_type": "text/plain\n"},
    ],
)
async def test_nothing_gets_out_of_its_place_in_the_head(crew: Crew, peers: Peers, bad: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="not fit for the head"):
        await ask(peers, member_at(crew.directory / "none.sock"), **{"path": "/x", **bad})


# Who owns


async def test_a_worker_that_does_not_own_the_user_says_so_with_its_epoch(crew: Crew, peers: Peers) -> None:
    workers = [await crew.peer([web.get("/tell", tell)]) for _ in range(2)]
    for worker in workers:
        await worker.sees(lambda ring: len(ring.members) == 2, "both")
    owner = workers[0].membership.owner("ada")
    (other,) = [worker for worker in workers if worker.me != owner]

    assert (await ask(peers, owner)).status == 200
    with pytest.raises(NotOwner) as caught:
        await ask(peers, other.me)
    assert caught.value.epoch == other.membership.ring.epoch
    with pytest.raises(NotOwner):
        await peers.websocket(other.me, "/tell", user="ada", request_id="r", epoch=0)


async def test_a_worker_that_is_behind_the_caller_looks_again_before_it_answers(crew: Crew, peers: Peers) -> None:
    class Deaf(Registry):
        async def watch(self) -> AsyncIterator[int]:
            yield 0
            await asyncio.Event().wait()

    async with Crew(crew.url, beat_s=3600, lease_s=7200) as slow:  # no beat tells it anything
        behind = slow.worker(registry=Deaf(slow.redis(), HOST, 7200))
        app = web.Application(middlewares=[peer_guard(SECRET, behind.membership)])
        app.add_routes([web.get("/tell", tell)])
        runner = await serve_peers(app, Path(behind.membership._identity.address))
        await behind.membership.start()
        registry = slow.registry()
        others = [(await registry.join(slow.candidate(), f"other{n}", View())).slot for n in range(3)]
        assert others == [1, 2, 3]
        view = await registry.view()
        now = Ring(view.epoch, view.members)
        users = [f"student-{number}" for number in range(50)]
        lost = next(user for user in users if now.owner(user).boot != behind.me.boot)
        assert behind.membership.owns(lost)

        assert (await ask(peers, behind.me, user=lost, epoch=1)).status == 200
        with pytest.raises(NotOwner) as caught:
            await ask(peers, behind.me, user=lost, epoch=view.epoch)
        assert caught.value.epoch == view.epoch
        await runner.cleanup()


# WebSockets


async def test_a_websocket_passes_text_and_large_binary_messages_uncompressed(crew: Crew, peers: Peers) -> None:
    owner = await crew.peer([web.get("/ws", ws_echo)])
    async with asyncio.timeout(DEADLINE_S):
        socket = await peers.websocket(owner.me, "/ws", user="ada", request_id="r", epoch=0)
        assert await socket.receive_json() == {"user": "ada", "asked": None}
        await socket.send_str("zoë")
        assert await socket.receive_str() == "zoë"
        large = os.urandom(20_000_000)
        await socket.send_bytes(large)
        assert await socket.receive_bytes() == large
        await socket.close()


async def test_a_plain_answer_to_a_websocket_request_is_passed_on_as_its_status(crew: Crew, peers: Peers) -> None:
    owner = await crew.peer([web.get("/ws", ws_echo)])
    with pytest.raises(PeerRefused) as caught:
        await peers.websocket(owner.me, "/other", user="ada", request_id="r", epoch=0)
    assert caught.value.status == 404


# Letting go


async def test_what_belongs_to_a_member_that_has_left_is_closed(crew: Crew, peers: Peers) -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert await reader.read() == b""
        gone.set()

    async with raw_peer(crew.directory, serve) as member:
        await ask(peers, member)
        peers.follow(Ring(1, (member,)), Ring(2, (member,)))
        assert not gone.is_set()
        peers.follow(Ring(2, (member,)), Ring(3))
        async with asyncio.timeout(DEADLINE_S):
            await gone.wait()


async def test_fifty_openings_and_closings_leave_no_descriptor(crew: Crew, refusals: Refusals) -> None:
    owner = await crew.peer([web.get("/tell", tell), web.get("/ws", ws_echo)])

    async def once() -> None:
        peers = Peers(SECRET, refusals)
        await ask(peers, owner.me)
        socket = await peers.websocket(owner.me, "/ws", user="ada", request_id="r", epoch=0)
        await socket.close()
        peers.follow(Ring(1), Ring(2))
        await peers.close()

    await once()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        await once()
    # The site's own ends close a little later.
    await eventually(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before, "descriptors closed")


async def test_a_probe_says_who_answers(crew: Crew, peers: Peers) -> None:
    owner = await crew.peer([])
    assert await peers.probe(owner.me)
    assert not await peers.probe(member_at(crew.directory / "none.sock"))
    stranger = crew.peers(Refusals(), secret="wrong")
    assert await stranger.probe(owner.me)
