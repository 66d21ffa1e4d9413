"""A worker's ring when things go wrong: a member dies or hangs, Redis stalls, dies or comes back empty."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from typing import Any

import structlog
from redis.asyncio import Redis

from sharding import process
from sharding.member import Member
from sharding.registry import Registry, View
from tests.contract.crew import (
    DEADLINE_S,
    HOST,
    LEASE_S,
    Crew,
    Worker,
    boots,
    events,
    eventually,
    redis_clock_passes,
    silent,
    spawned,
)
from tests.redis_server import RedisServer


async def leases_unbroken(crew: Crew, redis: Redis, workers: list[Worker], times: float) -> None:
    """Return when each of these has held its lease unbroken for so many lengths of it."""
    key = f"{{kernelring:{HOST}}}:leases"
    needed_ms = int(crew.lease_s * 1000 * times)
    async with asyncio.timeout(DEADLINE_S):
        held: list[int] = []
        while len(held) < len(workers) or min(held) < needed_ms:
            await redis_clock_passes(redis, 50)
            leases = [await redis.hget(key, worker.me.boot) for worker in workers]
            terms = [lease.split() for lease in leases if lease is not None]
            held = [int(expires) - int(crew.lease_s * 1000) - int(since) for expires, since in terms]


# Death


async def test_a_suspect_is_evicted_at_once(crew: Crew) -> None:
    first, second = await crew.started(2)
    await second.membership.stop()
    dead = second.me

    await first.membership.suspect(dead)

    assert boots(first.membership.ring) == {first.me.slot: first.me.boot}


async def test_a_suspect_whose_slot_holds_another_boot_is_left_alone(crew: Crew) -> None:
    first, second = await crew.started(2)
    me = second.me
    former = Member(me.slot, "formerly", me.generation, me.host, me.address, me.pid, me.pid_started)
    epoch = first.membership.ring.epoch

    await first.membership.suspect(former)

    assert first.membership.ring.epoch == epoch
    assert second.membership.me is me


async def test_many_suspicions_of_one_member_are_one_call(crew: Crew) -> None:
    class Counting(Registry):
        evictions = 0

        async def evict(self, *args: Any) -> Any:
            self.evictions += 1
            return await super().evict(*args)

    registry = Counting(crew.redis(), HOST, LEASE_S)
    first = crew.worker(registry=registry)
    await first.membership.start()
    second = (await crew.started(1))[0]
    await first.sees_boots({first.me.boot, second.me.boot})
    dead = second.me
    await second.membership.stop()
    await asyncio.gather(*(first.membership.suspect(dead) for _ in range(20)))
    assert registry.evictions == 1
    assert first.membership.ring.members == (first.me,)


async def test_an_evicted_worker_tells_its_listeners_and_joins_anew_at_the_same_address(crew: Crew) -> None:
    first, second = await crew.started(2)
    old = second.me

    await first.membership.suspect(old)
    await second.sees(
        lambda ring: second.membership.me not in (None, old) and second.membership.me in ring.members,
        "itself again",
    )

    assert any(ring.member(old.boot) is None for ring in second.rings)
    assert second.me.boot != old.boot
    assert (second.me.address, second.me.pid) == (old.address, old.pid)
    await first.sees_boots({first.me.boot, second.me.boot})


async def test_a_hung_worker_is_evicted_after_its_lease_and_ended(crew: Crew) -> None:
    peers = crew.peers(on_refused=lambda _: asyncio.sleep(0))
    watcher = (await crew.started(1, probe=peers.probe))[0]
    async with spawned(crew) as (worker, member):
        await watcher.sees_boots({watcher.me.boot, member.boot})
        worker.signal(signal.SIGSTOP)
        with structlog.testing.capture_logs() as logs:
            await watcher.sees_boots({watcher.me.boot})
            assert await worker.ended() == -signal.SIGKILL
            await eventually(lambda: "member_evicted" in events(logs, "member_evicted"))
        evicted = next(entry for entry in logs if entry["event"] == "member_evicted")
        assert (evicted["boot"], evicted["killed"]) == (member.boot, True)


async def test_a_worker_whose_lease_ran_out_but_who_answers_is_left_alone(crew: Crew, redis: Redis) -> None:
    probed = asyncio.Event()

    async def note(member: Member) -> bool:
        if member.boot == "quiet":
            probed.set()
        return True

    watcher = (await crew.started(1, probe=note))[0]
    await crew.registry().join(crew.candidate(), "quiet", View())
    async with asyncio.timeout(DEADLINE_S):
        await probed.wait()
    probed.clear()
    async with asyncio.timeout(DEADLINE_S):  # and again: it was not evicted
        await probed.wait()
    assert "quiet" in boots(watcher.membership.ring).values()


async def test_a_silent_worker_is_evicted_but_this_very_process_is_not_ended(crew: Crew) -> None:
    watcher = (await crew.started(1, probe=silent))[0]
    await crew.registry().join(crew.candidate(), "quiet", View())
    await watcher.sees_boots({watcher.me.boot, "quiet"})
    await watcher.sees_boots({watcher.me.boot})


def test_only_the_very_process_is_ended() -> None:
    child = subprocess.Popen(["/bin/sleep", "60"])
    try:
        started = process.started_ticks(child.pid)
        assert started is not None
        assert process.runs(child.pid, started)
        assert not process.kill(child.pid, started + 1)
        assert child.poll() is None
        assert process.kill(child.pid, started)
        assert child.wait(5) == -signal.SIGKILL
        assert not process.runs(child.pid, started)
        assert not process.kill(child.pid, started)
    finally:
        child.kill()
        child.wait()


# Redis lost


async def test_flushall_with_four_members_shrinks_nobodys_ring_and_moves_nobody(crew: Crew, redis: Redis) -> None:
    workers = await crew.started(4)
    before, epoch = boots(workers[0].membership.ring), workers[0].membership.ring.epoch
    for worker in workers:
        await worker.sees(lambda ring: ring.epoch >= epoch, "the full ring")
        worker.rings.clear()

    for _ in range(3):
        await redis.flushall()
        last = max(worker.membership.ring.epoch for worker in workers)
        for worker in workers:
            await worker.sees(lambda ring, last=last: ring.epoch > last, "a newer ring")  # type: ignore[misc]

    for worker in workers:
        assert all(boots(ring) == before for ring in worker.rings)
        assert worker.membership.state == "joined"


async def test_redis_killed_for_longer_than_a_lease_and_back_empty_evicts_nobody(
    crew: Crew, redis: Redis, redis_server: RedisServer
) -> None:
    workers = await crew.started(4, probe=silent)
    before = boots(workers[0].membership.ring)
    with structlog.testing.capture_logs() as logs:
        await asyncio.to_thread(redis_server.kill)
        for worker in workers:
            await eventually(lambda w=worker: w.membership.state == "detached", "detached")  # type: ignore[misc]
            await eventually(lambda w=worker: not w.membership.lease_held, "lease over")  # type: ignore[misc]
            assert boots(worker.membership.ring) == before
            assert worker.membership.owner("ada")
        await asyncio.to_thread(redis_server.start)
        for worker in workers:
            await eventually(lambda w=worker: w.membership.state == "joined", "joined")  # type: ignore[misc]
        await leases_unbroken(crew, redis, workers, times=2)
    for worker in workers:
        assert all(boots(ring) == before for ring in worker.rings[-1:])
        assert boots(worker.membership.ring) == before
    assert events(logs, "registry_away") == ["registry_away"] * 4
    assert events(logs, "registry_back") == ["registry_back"] * 4
    assert not events(logs, "member_evicted", "worker_evicted", "membership_turn_failed")


async def test_a_stall_of_redis_longer_than_a_lease_evicts_nobody(redis_server: RedisServer) -> None:
    async with Crew(redis_server.url, lease_s=1.2) as crew:
        redis = crew.redis()
        workers = await crew.started(4, probe=silent)
        before = boots(workers[0].membership.ring)
        await leases_unbroken(crew, redis, workers, times=1)  # each may evict now
        with structlog.testing.capture_logs() as logs:
            redis_server.pause()
            for worker in workers:
                await eventually(lambda w=worker: not w.membership.lease_held, "lease over")  # type: ignore[misc]
            redis_server.resume()
            for worker in workers:
                await eventually(lambda w=worker: w.membership.state == "joined", "joined")  # type: ignore[misc]
            await leases_unbroken(crew, redis, workers, times=2)
        for worker in workers:
            assert boots(worker.membership.ring) == before
        assert not events(logs, "member_evicted", "worker_evicted")


async def test_redis_absent_at_boot_is_said_in_one_line_and_joined_when_it_appears() -> None:
    with RedisServer() as server:
        server.kill()
        async with Crew(server.url) as crew:
            worker = crew.worker()
            with structlog.testing.capture_logs() as logs:
                starting = asyncio.create_task(worker.membership.start())
                await eventually(lambda: worker.membership.state == "detached", "detached")
                async with asyncio.timeout(DEADLINE_S):
                    await starting  # it has tried for a while, and goes on by itself
                assert worker.membership.me is None
                assert not worker.membership.owns("ada")
                assert events(logs, "registry_away", "registry_back") == ["registry_away"]
                await asyncio.to_thread(server.start)
                await worker.sees(lambda ring: worker.membership.me in ring.members, "itself")
                await eventually(lambda: worker.membership.state == "joined", "joined")
            assert events(logs, "registry_away", "registry_back") == ["registry_away", "registry_back"]
            away = next(entry for entry in logs if entry["event"] == "registry_away")
            assert str(server.port) in away["reason"]


async def test_a_redis_with_an_older_state_than_was_seen_is_believed_again(crew: Crew, redis: Redis) -> None:
    """As when it comes back from a snapshot: its epoch is behind what the workers know."""
    workers = await crew.started(2)
    seen = workers[0].membership.ring.epoch
    await redis.hset(f"{{kernelring:{HOST}}}:ring", "epoch", str(seen - 5000))
    for worker in workers:
        await worker.sees(lambda ring: ring.epoch > seen, "an epoch above the one that was seen")
        assert len(worker.membership.ring.members) == 2


async def test_a_redis_with_an_older_state_in_which_i_am_not_lets_me_join_anew(crew: Crew, redis: Redis) -> None:
    worker = (await crew.started(1))[0]
    old, seen = worker.me, worker.membership.ring.epoch
    await redis_clock_passes(redis, int(LEASE_S * 1000))
    await redis.hset(f"{{kernelring:{HOST}}}:ring", "epoch", str(seen - 5000))
    await redis.delete(f"{{kernelring:{HOST}}}:members")
    await worker.sees(lambda ring: worker.membership.me in ring.members and ring.member(old.boot) is None, "a new life")
    assert worker.me.address == old.address
