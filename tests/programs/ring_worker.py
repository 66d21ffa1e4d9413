"""A worker process for the tests of sharding: on the ring, with an internal site, and ways to go wrong.

Usage: ring_worker.py REDIS_URL HOST ADDRESS SECRET LEASE_S BEAT_S

Prints one JSON object a line: {"event": "joined", "slot": .., "member": ..}, {"event": "ring", "boots": [..]}
and {"event": "request", "path": ..}. Its site answers /echo; /die kills the process once it has read the
request; /stop stops it (SIGSTOP) there; /ws echoes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import structlog
from aiohttp import WSMsgType, web
from redis.asyncio import Redis

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from sharding.hop import HOP
from sharding.member import Candidate
from sharding.membership import Membership
from sharding.peer_site import peer_guard, serve_peers
from sharding.peers import Peers
from sharding.registry import Registry
from sharding.ring import Ring


def say(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


async def echo(request: web.Request) -> web.Response:
    return web.json_response({"user": request[HOP].user, "pid": os.getpid()})


async def strike(request: web.Request) -> web.Response:
    await request.read()
    say("request", path=request.path)
    os.kill(os.getpid(), signal.SIGKILL if request.path == "/die" else signal.SIGSTOP)
    return web.json_response({"woken": True})


async def ws(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
    return socket


def announce(_old: Ring, new: Ring) -> None:
    say("ring", epoch=new.epoch, boots=[member.boot for member in new.members])


async def main(url: str, host: str, address: str, secret: str, lease_s: str, beat_s: str) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for the news
    redis = Redis.from_url(url)
    identity = Candidate(host, address, 1, 4, os.getpid())
    peers = Peers(secret, lambda member: membership.suspect(member))  # noqa: PLW0108  (made later)
    membership = Membership(Registry(redis, host, float(lease_s)), identity, float(beat_s), float(lease_s), peers.probe)
    membership.listen(peers.follow)
    app = web.Application(middlewares=[peer_guard(secret, membership)])
    app.add_routes([web.get("/echo", echo), web.post("/die", strike), web.post("/stop", strike), web.get("/ws", ws)])
    await serve_peers(app, Path(address))
    await membership.start()
    assert membership.me is not None
    say("joined", slot=membership.me.slot, member=membership.me.to_json())
    membership.listen(announce)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
