"""A worker's life on the ring, on a real Redis: joining, leaving, being replaced, following."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import structlog
from redis.asyncio import Redis

from sharding.registry import Registry, View
from sharding.ring import Ring
from tests.contract.crew import (
    DEADLINE_S,
    HOST,
    LEASE_S,
    Crew,
    boots,
    events,
)
from tests.redis_server import RedisServer

USERS = [f"student-{number}" for number in range(1000)]


# Joining and leaving


async def test_a_worker_that_starts_is_on_the_ring_and_says_so_once(crew: Crew) -> None:
    worker = crew.worker()
    assert (worker.membership.state, worker.membership.lease_held) == ("joining", False)

    with structlog.testing.capture_logs() as logs:
        await worker.membership.start()

    me = worker.me
    assert worker.membership.state == "joined"
    assert worker.membership.lease_held
    assert worker.membership.ring.members == (me,)
    assert worker.membership.owns("ada")
    assert [(e["slot"], e["boot"], e["epoch"]) for e in logs if e["event"] == "worker_registered"] == [
        (0, me.boot, worker.membership.ring.epoch)
    ]


async def test_all_workers_agree_on_every_owner_and_exactly_one_owns_each(crew: Crew) -> None:
    workers = await crew.started(4)
    assert {worker.me.slot for worker in workers} == {0, 1, 2, 3}
    for user in USERS:
        assert len({worker.membership.owner(user) for worker in workers}) == 1
        assert sum(worker.membership.owns(user) for worker in workers) == 1


async def test_leaving_moves_only_the_users_of_who_left_and_is_told_to_all(crew: Crew) -> None:
    first, *others = await crew.started(4)
    before = {user: others[0].membership.owner(user) for user in USERS}
    gone = first.me

    await first.membership.leave()

    assert first.membership.state == "left"
    assert first.membership.me is None
    assert not any(first.membership.owns(user) for user in USERS)
    for worker in [first, *others]:
        ring = await worker.sees(lambda ring: ring.member(gone.boot) is None, "the ring without it")
        moved = {user for user in USERS if ring.owner(user) != before[user]}
        assert moved == {user for user in USERS if before[user] == gone}


async def test_who_has_left_stays_out_and_follows(crew: Crew) -> None:
    first, second = await crew.started(2)
    await first.membership.leave()
    third = (await crew.started(1))[0]
    await first.sees_boots({second.me.boot, third.me.boot})
    assert first.membership.state == "left"


async def test_a_replacement_takes_the_place_of_who_left(crew: Crew) -> None:
    workers = await crew.started(4)
    before = {user: workers[0].membership.owner(user).name for user in USERS}
    await workers[2].membership.leave()
    replacement = (await crew.started(1))[0]
    assert replacement.me.slot == 2
    assert {user: replacement.membership.owner(user).name for user in USERS} == before


async def test_leaving_is_bounded_and_raises_nothing_while_redis_hangs(crew: Crew, redis_server: RedisServer) -> None:
    worker = (await crew.started(1))[0]
    redis_server.pause()
    begun = asyncio.get_running_loop().time()
    await worker.membership.leave()
    assert asyncio.get_running_loop().time() - begun < 2
    assert worker.membership.state == "left"
    redis_server.resume()


async def test_leaving_is_bounded_and_raises_nothing_when_redis_is_gone(crew: Crew, redis_server: RedisServer) -> None:
    worker = (await crew.started(1))[0]
    await asyncio.to_thread(redis_server.kill)
    begun = asyncio.get_running_loop().time()
    await worker.membership.leave()
    assert asyncio.get_running_loop().time() - begun < 2


async def test_nothing_but_the_epoch_is_left_behind_when_all_have_left(crew: Crew, redis: Redis) -> None:
    workers = await crew.started(4)
    for worker in workers:
        await worker.membership.leave()
        await worker.membership.stop()
    assert await redis.keys("*") == [f"{{kernelring:{HOST}}}:ring".encode()]


# Reload


async def test_a_superseded_worker_stays_out_and_follows(crew: Crew) -> None:
    old = (await crew.started(2))[0]
    old_boots = {worker.me.boot for worker in crew.workers}

    new = [crew.worker(generation=2), crew.worker(generation=2)]
    for worker in new:
        await worker.membership.start()
    # n_slots is 4 here, so the two newcomers fill the free places first; two more take the old ones'.
    new += [crew.worker(generation=2), crew.worker(generation=2)]
    for worker in new[2:]:
        await worker.membership.start()
    new_boots = {worker.me.boot for worker in new}
    for worker in crew.workers:
        await worker.sees_boots(new_boots)

    assert old.membership.superseded
    assert old.membership.state == "left"
    assert old.membership.me is None
    assert any(ring.members and not old_boots & set(boots(ring).values()) for ring in old.rings)

    left = new[0].me.boot
    await new[0].membership.leave()
    await old.sees_boots(new_boots - {left})
    assert old.membership.me is None


async def test_a_reload_changes_no_slot_of_any_user(crew: Crew) -> None:
    old = await crew.started(4)
    before = {user: old[0].membership.owner(user).slot for user in USERS}
    new = [crew.worker(generation=2) for _ in range(4)]
    for worker in new:
        await worker.membership.start()
    await old[0].sees_boots({worker.me.boot for worker in new})
    for ring in old[0].rings[-4:]:
        assert {user: ring.owner(user).slot for user in USERS} == before


async def test_a_superseded_worker_comes_back_when_the_newer_generation_has_gone(crew: Crew) -> None:
    old = (await crew.started(1, n_slots=1))[0]
    new = crew.worker(generation=2, n_slots=1)
    await new.membership.start()
    await old.sees_boots({new.me.boot})
    assert old.membership.superseded

    await new.membership.leave()

    await old.sees(lambda ring: old.membership.me in ring.members, "itself")
    assert old.membership.state == "joined"


# News


async def test_a_missed_publication_is_noticed_at_the_next_beat(crew: Crew) -> None:
    class Deaf(Registry):
        async def watch(self) -> AsyncIterator[int]:
            yield 0
            await asyncio.Event().wait()

    deaf = crew.worker(registry=Deaf(crew.redis(), HOST, LEASE_S))
    await deaf.membership.start()
    other = (await crew.started(1))[0]
    await deaf.sees_boots({deaf.me.boot, other.me.boot})


async def test_many_who_refresh_at_once_share_a_read_that_began_after_they_asked(crew: Crew, redis: Redis) -> None:
    class Counting(Registry):
        reads = 0

        async def view(self) -> View:
            self.reads += 1
            return await super().view()

    registry = Counting(crew.redis(), HOST, LEASE_S)
    worker = crew.worker(registry=registry)
    stranger = crew.candidate()
    place = await registry.join(stranger, "stranger", View())

    rings = await asyncio.gather(*(worker.membership.refresh() for _ in range(50)))

    assert {ring.epoch for ring in rings} == {place.epoch}
    assert registry.reads <= 2
    known = registry.reads
    await worker.membership.refresh(at_least=place.epoch)
    assert registry.reads == known


async def test_a_refresh_that_is_cancelled_leaves_the_others_theirs(crew: Crew) -> None:
    class Held(Registry):
        def __init__(self, redis: Redis) -> None:
            super().__init__(redis, HOST, LEASE_S)
            self.asked, self.release = asyncio.Event(), asyncio.Event()

        async def view(self) -> View:
            self.asked.set()
            await self.release.wait()
            return await super().view()

    registry = Held(crew.redis())
    worker = crew.worker(registry=registry)
    place = await registry.join(crew.candidate(), "stranger", View())
    async with asyncio.timeout(DEADLINE_S):
        first = asyncio.create_task(worker.membership.refresh())
        await registry.asked.wait()
        second = asyncio.create_task(worker.membership.refresh())
        first.cancel()
        registry.release.set()
        assert (await second).epoch == place.epoch


async def test_a_view_read_before_the_own_join_does_not_cost_the_place(crew: Crew) -> None:
    class Slow(Registry):
        """Reads at once, and hands each view over when told to."""

        def __init__(self, redis: Redis) -> None:
            super().__init__(redis, HOST, LEASE_S)
            self.gates = [asyncio.Event(), asyncio.Event()]
            self.read = [asyncio.Event(), asyncio.Event()]
            self.calls = 0

        async def view(self) -> View:
            view, call = await super().view(), self.calls
            self.calls += 1
            if call < 2:
                self.read[call].set()
                await self.gates[call].wait()
            return view

    registry = Slow(crew.redis())
    await registry.join(crew.candidate(), "other", View())
    worker = crew.worker(registry=registry)
    async with asyncio.timeout(DEADLINE_S):
        refreshing = asyncio.create_task(worker.membership.refresh())
        await registry.read[0].wait()  # without this worker
        starting = asyncio.create_task(worker.membership.start())
        await registry.read[1].wait()  # with it: it has joined
        me = worker.me
        registry.gates[0].set()
        await refreshing
        assert worker.membership.me is me
        registry.gates[1].set()
        await starting
    assert worker.me is me
    assert me in worker.membership.ring.members


async def test_waiting_for_a_newer_ring_ends_with_it_or_with_the_time(crew: Crew) -> None:
    worker = (await crew.started(1))[0]
    epoch = worker.membership.ring.epoch
    assert await worker.membership.wait_newer(epoch - 1, 5)
    assert not await worker.membership.wait_newer(epoch, 0.05)
    waiting = asyncio.create_task(worker.membership.wait_newer(epoch, DEADLINE_S))
    await crew.started(1)
    assert await waiting


async def test_a_listener_that_fails_harms_no_other(crew: Crew) -> None:
    worker = crew.worker()
    heard: list[Ring] = []

    def fail(_old: Ring, _new: Ring) -> None:
        raise RuntimeError("listener")

    worker.membership.listen(fail)
    worker.membership.listen(lambda _, new: heard.append(new))
    with structlog.testing.capture_logs() as logs:
        await worker.membership.start()
    assert heard[-1].members == (worker.me,)
    assert "ring_listener_failed" in events(logs, "ring_listener_failed")
