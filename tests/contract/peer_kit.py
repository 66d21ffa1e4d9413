"""What the tests of forwarding share: handlers that tell what reached them, and peers that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from sharding import wire
from sharding.hop import EPOCH_HEADER, HOP, REQUEST_HEADER, SECRET_HEADER, USER_HEADER
from sharding.member import Member
from sharding.peers import Peers
from tests.contract.crew import (
    HOST,
    SECRET,
)

WAIT_S = 10.0
HOP_HEADERS = {SECRET_HEADER: SECRET, USER_HEADER: "ada", REQUEST_HEADER: "r1", EPOCH_HEADER: "0"}


class Refusals:
    """Whom the peers have reported as refusing."""

    def __init__(self) -> None:
        self.members: list[Member] = []

    async def __call__(self, member: Member) -> None:
        self.members.append(member)


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
