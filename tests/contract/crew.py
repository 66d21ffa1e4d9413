"""Workers for the tests of sharding: real memberships and real internal sites, in this process or in others.

`Crew` makes workers in this process and ends them all. `spawned` starts one as a process of its own
(tests/programs/ring_worker.py), for what needs a pid: SIGSTOP, SIGKILL, a hung or a dying peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from redis.asyncio import Redis

from sharding.member import Candidate, Member
from sharding.membership import Membership
from sharding.peer_site import peer_guard, serve_peers
from sharding.peers import Peers
from sharding.registry import Registry
from sharding.ring import Ring

HOST = "5ca1ab1e0123"
SECRET = "ab" * 32
LEASE_S = 0.6
BEAT_S = 0.2
DEADLINE_S = 20.0
PROGRAM = Path(__file__).parent.parent / "programs" / "ring_worker.py"

Probe = Callable[[Member], Awaitable[bool]]


async def eventually(condition: Callable[[], bool], what: str = "", deadline_s: float = DEADLINE_S) -> None:
    """Return once the condition holds; for what announces itself by no event. AssertionError if late."""
    until = asyncio.get_running_loop().time() + deadline_s
    while not condition():
        assert asyncio.get_running_loop().time() < until, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.01)


async def redis_ms(redis: Redis) -> int:
    """Redis' own clock, in ms."""
    seconds, micros = await redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def redis_clock_passes(redis: Redis, ms: int) -> None:
    """Return when Redis' clock is `ms` further than now."""
    until = await redis_ms(redis) + ms
    left = ms
    while left >= 0:  # no event tells that Redis' clock has moved
        await asyncio.sleep(left / 1000)
        left = until - await redis_ms(redis)


async def answers(_: Member) -> bool:
    """A probe that finds everybody well."""
    return True


async def silent(_: Member) -> bool:
    """A probe that finds nobody."""
    return False


@dataclass
class Worker:
    """One worker in this process: its membership, and every ring that it has seen."""

    membership: Membership
    rings: list[Ring] = field(default_factory=list)
    _seen: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.membership.listen(self._note)

    @property
    def me(self) -> Member:
        """This worker as a member; fails when it is none."""
        assert self.membership.me is not None
        return self.membership.me

    def _note(self, old: Ring, new: Ring) -> None:
        assert new.epoch > old.epoch
        self.rings.append(new)

    async def sees(self, condition: Callable[[Ring], bool], what: str = "") -> Ring:
        """The ring, once it is as wanted. Woken by each new ring."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not condition(self.membership.ring):
                    await self.membership.wait_newer(self.membership.ring.epoch, DEADLINE_S)
        except TimeoutError:
            raise AssertionError(f"never saw: {what}; last ring {self.membership.ring}") from None
        return self.membership.ring

    async def sees_boots(self, boots: set[str]) -> Ring:
        """The ring, once it consists of exactly these boots."""
        return await self.sees(lambda ring: {m.boot for m in ring.members} == boots, f"boots {boots}")


class Crew:
    """Makes workers of one host; `async with` ends them, and what they have opened."""

    def __init__(self, url: str, lease_s: float = LEASE_S, beat_s: float = BEAT_S) -> None:
        self.url, self.lease_s, self.beat_s = url, lease_s, beat_s
        self.directory = Path(tempfile.mkdtemp(prefix="kr-crew-"))
        self.workers: list[Worker] = []
        self._closers: list[Callable[[], Awaitable[object]]] = []

    async def __aenter__(self) -> Crew:
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self.workers:
            await worker.membership.stop()
        for close in reversed(self._closers):
            await close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def redis(self) -> Redis:
        """A client of its own, closed at the end."""
        redis = Redis.from_url(self.url, socket_connect_timeout=1)
        self._closers.append(redis.aclose)
        return redis

    def registry(self) -> Registry:
        return Registry(self.redis(), HOST, self.lease_s)

    def candidate(self, generation: int = 1, n_slots: int = 4) -> Candidate:
        """A worker that wants a place: this process, under an address of its own."""
        address = str(self.directory / f"{secrets.token_hex(4)}.sock")
        return Candidate(HOST, address, generation, n_slots, os.getpid())

    def worker(
        self,
        *,
        generation: int = 1,
        n_slots: int = 4,
        probe: Probe = answers,
        registry: Registry | None = None,
    ) -> Worker:
        """A worker that has not started yet."""
        identity = self.candidate(generation, n_slots)
        membership = Membership(registry or self.registry(), identity, self.beat_s, self.lease_s, probe)
        worker = Worker(membership)
        self.workers.append(worker)
        return worker

    async def started(self, count: int, **options: Any) -> list[Worker]:
        """This many workers on the ring, each knowing all."""
        fresh = [self.worker(**options) for _ in range(count)]
        for worker in fresh:
            await worker.membership.start()
        boots = {w.membership.me.boot for w in self.workers if w.membership.me is not None}
        for worker in fresh:
            await worker.sees_boots(boots)
        return fresh

    async def peer(self, routes: list[web.RouteDef], secret: str = SECRET) -> Worker:
        """A worker on the ring that serves these routes to its peers (bodies up to 64 MiB)."""
        worker = self.worker()
        app = web.Application(middlewares=[peer_guard(secret, worker.membership)], client_max_size=64 * 1024 * 1024)
        app.add_routes(routes)
        address = Path(worker.membership._identity.address)
        runner = await serve_peers(app, address, drain_s=0.1)
        self._closers.append(runner.cleanup)
        await worker.membership.start()
        return worker

    def peers(self, on_refused: Callable[[Member], Awaitable[None]], secret: str = SECRET) -> Peers:
        """Connections to peers, closed at the end."""
        peers = Peers(secret, on_refused)
        self._closers.append(peers.close)
        return peers


class Spawned:
    """A worker in a process of its own. It says on stdout what it does, one JSON object a line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.pid = process.pid

    async def said(self, event: str) -> dict[str, Any]:
        """Its next line about this event."""
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            while line := await self.process.stdout.readline():
                news: dict[str, Any] = json.loads(line)
                if news["event"] == event:
                    return news
        raise AssertionError(f"it ended without saying {event}")

    def signal(self, signum: signal.Signals) -> None:
        self.process.send_signal(signum)

    async def ended(self) -> int:
        """Its return code, once it has ended (negative: the signal)."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def spawned(crew: Crew, *options: str) -> AsyncIterator[tuple[Spawned, Member]]:
    """A worker process that has joined the crew's ring, and its member. Killed at the end."""
    address = crew.directory / f"{secrets.token_hex(4)}.sock"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), crew.url, HOST, str(address), SECRET,
        str(crew.lease_s), str(crew.beat_s), *options,
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parent.parent.parent,
    )  # fmt: skip
    worker = Spawned(process)
    try:
        joined = await worker.said("joined")
        yield worker, Member.from_json(int(joined["slot"]), joined["member"])
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def events(logs: list[Any], *names: str) -> list[str]:
    """The logged events of these names, in order."""
    return [entry["event"] for entry in logs if entry["event"] in names]


def boots(ring: Ring) -> dict[int, str]:
    return {member.slot: member.boot for member in ring.members}
