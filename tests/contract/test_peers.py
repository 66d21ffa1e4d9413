"""Forwarding between workers: real sites on Unix sockets, real peers that refuse, hang and die."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import ClientSession, TCPConnector, UnixConnector, WSMsgType, web

from sharding import wire
from sharding.errors import NotOwner, PeerError, PeerLost, PeerRefused, PeerUnreachable
from sharding.hop import EPOCH_HEADER, HOP, REQUEST_HEADER, SECRET_HEADER, USER_HEADER
from sharding.member import Member
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
    spawned,
)

WAIT_S = 10.0


class Refusals:
    """Whom the peers have reported as refusing."""

    def __init__(self) -> None:
        self.members: list[Member] = []

    async def __call__(self, member: Member) -> None:
        self.members.append(member)


@pytest.fixture
def refusals() -> Refusals:
    return Refusals()


@pytest.fixture
def peers(crew: Crew, refusals: Refusals) -> Peers:
    return crew.peers(refusals)


async def tell(request: web.Request) -> web.Response:
    """What reached the handler."""
    hop = request[HOP]
    seen = {
        "method": request.method,
        "path": request.raw_path,
        "user": hop.user,
        "request_id": hop.request_id,
        "epoch": hop.epoch,
        "type": request.headers.get("Content-Type"),
        "body": (await request.read()).decode(),
        "headers": sorted(name for name in request.headers),
        "connection": id(request.transport),
    }
    return web.json_response(seen, headers={"X-Answer": "yes"})


async def ask(peers: Peers, member: Member, path: str = "/tell", **options: Any) -> wire.PeerReply:
    """GET unless told otherwise, for ada."""
    options = {"method": "GET", "user": "ada", "request_id": "r1", "epoch": 0, "timeout_s": WAIT_S, **options}
    method = options.pop("method")
    return await peers.request(member, method, path, **options)


def member_at(address: Path, pid: int | None = None, pid_started: int = 1) -> Member:
    """A member that the ring might name at this address; by default its process does not run."""
    return Member(0, "boot", 1, HOST, str(address), pid or 2**22 + 1, pid_started)


@asynccontextmanager
async def raw_peer(
    directory: Path, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[Member]:
    """A peer that speaks no HTTP of ours: `serve` has each connection to itself."""
    address = directory / "raw.sock"
    tasks: set[asyncio.Task[Any]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(run, address)
    try:
        yield member_at(address)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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


# Who is let in


async def test_a_wrong_secret_is_refused_before_any_handler(crew: Crew, refusals: Refusals) -> None:
    called = False

    async def handler(_: web.Request) -> web.Response:
        nonlocal called
        called = True
        return web.Response()

    owner = await crew.peer([web.get("/tell", handler)])
    for wrong in ("", "cd" * 32, SECRET[:-1], SECRET + "0"):
        stranger = crew.peers(refusals, secret=wrong)
        with pytest.raises(PeerRefused) as caught:
            await ask(stranger, owner.me)
        assert caught.value.status == 403
        with pytest.raises(PeerRefused) as caught:
            await stranger.websocket(owner.me, "/tell", user="ada", request_id="r", epoch=0)
        assert caught.value.status == 403
    assert not called


HOP_HEADERS = {SECRET_HEADER: SECRET, USER_HEADER: "ada", REQUEST_HEADER: "r1", EPOCH_HEADER: "0"}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 200),
        ({USER_HEADER: None}, 400),
        ({USER_HEADER: ""}, 400),
        ({USER_HEADER: "%ff"}, 400),
        ({USER_HEADER: "a" * 256}, 400),
        ({REQUEST_HEADER: None}, 400),
        ({EPOCH_HEADER: None}, 400),
        ({EPOCH_HEADER: "soon"}, 400),
        ({SECRET_HEADER: None}, 403),
        ({SECRET_HEADER: "ü"}, 403),
    ],
)
async def test_the_guard_takes_only_whole_hops(crew: Crew, change: dict[str, str | None], status: int) -> None:
    owner = await crew.peer([web.get("/tell", tell)])
    headers = {name: value for name, value in {**HOP_HEADERS, **change}.items() if value is not None}
    async with ClientSession(connector=UnixConnector(owner.me.address)) as session:
        async with session.get("http://peer/tell", headers=headers) as response:
            assert response.status == status
        async with session.get("http://peer/peer/ping", headers={SECRET_HEADER: SECRET}) as response:
            assert (await response.json())["boot"] == owner.me.boot


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_uid_is_refused_even_with_the_secret(crew: Crew) -> None:
    owner = await crew.peer([web.get("/tell", tell)])
    crew.directory.chmod(0o755)
    Path(owner.me.address).chmod(0o666)
    head = "".join(f"{name}: {value}\r\n" for name, value in HOP_HEADERS.items())
    request = f"GET /tell HTTP/1.1\r\nHost: peer\r\n{head}\r\n".encode()
    program = f"""
import os, socket
os.setgid(65534); os.setuid(65534)
peer = socket.socket(socket.AF_UNIX)
peer.connect({owner.me.address!r})
peer.sendall({request!r})
print(peer.recv(65536).decode().splitlines()[0])
"""
    command = [sys.executable, "-c", program]
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=WAIT_S)
    assert run.stdout.strip() == "HTTP/1.1 403 Forbidden", run.stderr


async def test_the_socket_is_its_owners_alone_and_goes_with_the_site(crew: Crew) -> None:
    worker = crew.worker()
    app = web.Application(middlewares=[peer_guard(SECRET, worker.membership)])
    address = crew.directory / "w" / "x.sock"
    runner = await serve_peers(app, address)
    assert address.stat().st_mode & 0o777 == 0o600
    assert address.parent.stat().st_mode & 0o777 == 0o700
    await runner.cleanup()
    assert not address.exists()


async def test_a_socket_path_that_is_too_long_is_said(crew: Crew) -> None:
    with pytest.raises(ValueError, match="longer than 107 bytes"):
        await serve_peers(web.Application(), crew.directory / ("x" * 100) / "x.sock")


async def test_identity_headers_mean_nothing_on_a_site_without_the_guard(crew: Crew) -> None:
    async def who(request: web.Request) -> web.Response:
        return web.Response(text=str(HOP in request))

    app = web.Application()
    app.add_routes([web.get("/who", who)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    async with (
        ClientSession(connector=TCPConnector()) as session,
        session.get(f"http://{host}:{port}/who", headers=HOP_HEADERS) as response,
    ):
        assert await response.text() == "False"
    await runner.cleanup()


async def test_the_guard_lets_nobody_in_over_tcp(crew: Crew) -> None:
    worker = (await crew.started(1))[0]
    app = web.Application(middlewares=[peer_guard(SECRET, worker.membership)])
    app.add_routes([web.get("/tell", tell)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    async with (
        ClientSession() as session,
        session.get(f"http://{host}:{port}/tell", headers=HOP_HEADERS) as response,
    ):
        assert response.status == 403
    await runner.cleanup()


# WebSockets


async def ws_echo(request: web.Request) -> web.WebSocketResponse:
    response = web.WebSocketResponse(max_msg_size=0, protocols=("v1.kernel.websocket.jupyter.org",))
    await response.prepare(request)
    await response.send_json({"user": request[HOP].user, "asked": request.headers.get("Sec-WebSocket-Extensions")})
    async for message in response:
        if message.type is WSMsgType.TEXT:
            await response.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await response.send_bytes(message.data)
    return response


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
