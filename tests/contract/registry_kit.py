"""Short words for the tests of the registry: join, look, beat."""

from __future__ import annotations

import asyncio
import os

from sharding.member import Candidate, Member
from sharding.registry import Registry, View
from tests.contract.crew import DEADLINE_S, HOST, LEASE_S


def candidate(name: str, generation: int = 1, n_slots: int = 4) -> Candidate:
    return Candidate(HOST, f"/run/w/{name}.sock", generation, n_slots, os.getpid())


async def join(registry: Registry, name: str, *, generation: int = 1, n_slots: int = 4) -> Member:
    """Join under the boot id `name`, knowing nothing."""
    place = await registry.join(candidate(name, generation, n_slots), name, View())
    assert place.how == "joined"
    return candidate(name, generation, n_slots).member(name, place.slot)


async def slots(registry: Registry) -> dict[int, str]:
    return {member.slot: member.boot for member in (await registry.view()).members}


async def beat_until_expired(registry: Registry, me: Member, boot: str) -> None:
    """Go on beating until Redis lets `me` evict `boot`."""
    view = await registry.view()
    async with asyncio.timeout(DEADLINE_S):
        expired: tuple[str, ...] = ()
        while boot not in expired:
            expired = (await registry.beat(me, view)).expired
            await asyncio.sleep(LEASE_S / 10)
