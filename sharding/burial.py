"""What happens to a member whose lease has run out: it is probed, evicted, and its hung process ended.

It decides nothing from this worker's clock: Redis says whose lease has run out, and lets a worker evict only
when its own lease was unbroken for a full length. A member whose process still answers is left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import structlog

from sharding import process
from sharding.ending import end
from sharding.errors import RegistryUnavailable
from sharding.member import Member
from sharding.registry import Registry
from sharding.ring import Ring

log = structlog.get_logger(__name__)


class Burial:
    """At most one case per boot at a time, each in its own task, so that a slow probe delays no beat."""

    def __init__(self, registry: Registry, probe: Callable[[Member], Awaitable[bool]]) -> None:
        self._registry = registry
        self._probe = probe
        self._cases: dict[str, asyncio.Task[None]] = {}

    def consider(self, ring: Ring, me: Member, expired: Iterable[str], done: Callable[[], Awaitable[object]]) -> None:
        """Look into each of these boots. `done` is awaited after an eviction."""
        for boot in expired:
            member = ring.member(boot)
            if member is not None and boot not in self._cases:
                task = asyncio.create_task(self._case(member, me, done))
                self._cases[boot] = task
                task.add_done_callback(partial(self._closed, boot))

    def _closed(self, boot: str, _: asyncio.Task[None]) -> None:
        del self._cases[boot]

    async def stop(self) -> None:
        """Drop all cases."""
        await end(list(self._cases.values()))

    async def _case(self, member: Member, me: Member, done: Callable[[], Awaitable[object]]) -> None:
        if await self._probe(member):
            return
        try:
            outcome = await self._registry.evict(member, "expired", me)
        except RegistryUnavailable:
            return  # the next beat that gets through brings it up again
        # Of several members that found it silent, only the one whose call evicted it ends the process.
        if outcome == "evicted":
            await self._end(member, me)
            await done()

    async def _end(self, member: Member, me: Member) -> None:
        """End the hung process, so that those who wait on its sockets come back through another."""
        here = member.host == me.host and member.pid != me.pid
        ended = here and await asyncio.to_thread(process.kill, member.pid, member.pid_started)
        log.warning("member_evicted", slot=member.slot, boot=member.boot, reason="lease ran out", killed=ended)
