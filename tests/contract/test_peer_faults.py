"""Peers that refuse, hang, die or answer rubbish: which error says so, and what it costs."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import pytest
from aiohttp import WSMsgType, web

from sharding.errors import PeerError, PeerLost, PeerUnreachable
from sharding.peers import Peers
from tests.contract.crew import (
    DEADLINE_S,
    Crew,
    spawned,
)
from tests.contract.peer_kit import WAIT_S, Refusals, ask, member_at, raw_peer, tell

# No connection, or a broken one


async def test_no_socket_file_means_unreachable_and_is_no_proof_of_death(
    crew: Crew, peers: Peers, refusals: Refusals
) -> None:
    living = crew.candidate().member("boot")
    with pytest.raises(PeerUnreachable):
        await ask(peers, living)
    with pytest.raises(PeerUnreachable):
        await peers.websocket(living, "/ws", user="ada", request_id="r", epoch=0)
    assert refusals.members == []


async def test_no_socket_file_and_no_process_is_proof_of_death(crew: Crew, peers: Peers, refusals: Refusals) -> None:
    gone = member_at(crew.directory / "none.sock")
    with pytest.raises(PeerUnreachable):
        await ask(peers, gone)
    assert refusals.members == [gone]


async def test_a_refused_connection_means_unreachable_and_is_reported_first(
    crew: Crew, peers: Peers, refusals: Refusals
) -> None:
    dead = crew.candidate().member("boot")
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(dead.address)
    with pytest.raises(PeerUnreachable):
        await ask(peers, dead)
    assert refusals.members == [dead]
    with pytest.raises(PeerUnreachable):
        await peers.websocket(dead, "/ws", user="ada", request_id="r", epoch=0)
    assert refusals.members == [dead, dead]


async def test_after_a_refusal_the_ring_has_a_new_owner_already(crew: Crew) -> None:
    first, second = [await crew.peer([web.get("/tell", tell)]) for _ in range(2)]
    await first.sees(lambda ring: len(ring.members) == 2, "both")
    await second.membership.stop()
    dead = second.me
    Path(dead.address).unlink()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(dead.address)
    peers = crew.peers(first.membership.suspect)
    with pytest.raises(PeerUnreachable):
        await ask(peers, dead)
    assert first.membership.ring.members == (first.me,)


async def test_a_peer_killed_after_it_has_read_the_request_is_lost(
    crew: Crew, peers: Peers, refusals: Refusals
) -> None:
    async with spawned(crew) as (worker, member):
        assert (await ask(peers, member, "/echo")).status == 200
        with pytest.raises(PeerLost):
            await ask(peers, member, "/die", method="POST", body=b"{}")
        assert (await worker.said("request"))["path"] == "/die"
        assert await worker.ended() == -signal.SIGKILL
        assert refusals.members == []
        with pytest.raises(PeerUnreachable):
            await ask(peers, member, "/echo")
        assert refusals.members == [member]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"what is this\r\n\r\n",
        b"\x00" * 100,
    ],
)
async def test_an_answer_that_is_cut_off_or_unreadable_means_lost(crew: Crew, peers: Peers, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with raw_peer(crew.directory, serve) as member:
        with pytest.raises(PeerLost):
            await ask(peers, member)


async def test_an_answer_that_ends_with_its_connection_is_whole(crew: Crew, peers: Peers) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end")

    async with raw_peer(crew.directory, serve) as member:
        for _ in range(2):
            assert (await ask(peers, member)).body == b"until the end"


async def test_an_idle_connection_that_the_peer_has_closed_is_not_used_again(crew: Crew, peers: Peers) -> None:
    connections: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        close = asyncio.Event()
        connections.append(close)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await close.wait()
        writer.close()
        await writer.wait_closed()
        closed.set()

    closed = asyncio.Event()
    async with raw_peer(crew.directory, serve) as member:
        await ask(peers, member)
        connections[0].set()
        await closed.wait()
        await asyncio.sleep(0)  # its end of the connection hears of it in the next turn of the loop
        try:
            assert (await ask(peers, member)).status == 200
        except PeerUnreachable:  # it was used in the very moment; certainly unseen by the peer
            assert (await ask(peers, member)).status == 200
        assert len(connections) == 2


# A hung peer


async def test_a_hung_peer_costs_no_more_than_the_deadline(
    crew: Crew, peers: Peers, refusals: Refusals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharding.peers.HEARTBEAT_S", 2.0)
    async with spawned(crew) as (worker, member):
        assert await peers.probe(member)
        socket = await peers.websocket(member, "/ws", user="ada", request_id="r", epoch=0)
        worker.signal(signal.SIGSTOP)
        now = asyncio.get_running_loop().time
        begun = now()

        with pytest.raises(PeerLost):
            await ask(peers, member, "/echo", timeout_s=0.5)
        assert now() - begun < 3
        assert not await peers.probe(member)
        with pytest.raises(PeerLost):
            await peers.websocket(member, "/ws", user="ada", request_id="r", epoch=0, timeout_s=0.5)
        async with asyncio.timeout(WAIT_S):
            message = await socket.receive()
        assert message.type in (WSMsgType.ERROR, WSMsgType.CLOSED, WSMsgType.CLOSE)
        assert socket.close_code != 1000
        assert refusals.members == []


async def test_a_request_under_way_when_the_peer_hangs_ends_when_the_hung_process_is_ended(
    crew: Crew, peers: Peers
) -> None:
    watcher = (await crew.started(1, probe=peers.probe))[0]
    async with spawned(crew) as (worker, member):
        ring = await watcher.sees_boots({watcher.me.boot, member.boot})
        user = next(user for user in map(str, range(1000)) if ring.owner(user).boot == member.boot)
        with pytest.raises(PeerLost):
            await ask(peers, member, "/stop", method="POST", user=user, timeout_s=DEADLINE_S)
        assert await worker.ended() == -signal.SIGKILL
        await watcher.sees_boots({watcher.me.boot})


async def test_a_full_backlog_is_unreachable_and_no_proof_of_death(
    crew: Crew, peers: Peers, refusals: Refusals
) -> None:
    address = crew.directory / "full.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen(0)
        waiting = []
        while True:
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            waiting.append(client)
            try:
                client.connect(str(address))
            except BlockingIOError:
                break
        with pytest.raises(PeerError):
            await ask(peers, member_at(address), timeout_s=0.5)
        assert refusals.members == []
        for client in waiting:
            client.close()
