"""Who is let in at a worker's internal site, and what the site leaves behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import ClientSession, TCPConnector, UnixConnector, web

from sharding.errors import PeerRefused
from sharding.hop import EPOCH_HEADER, HOP, REQUEST_HEADER, SECRET_HEADER, USER_HEADER
from sharding.peer_site import peer_guard, serve_peers
from tests.contract.crew import (
    SECRET,
    Crew,
)
from tests.contract.peer_kit import HOP_HEADERS, WAIT_S, Refusals, ask, tell


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
