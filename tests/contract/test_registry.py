"""The scripts, on a real Redis: places, leases, evictions and epochs."""

from __future__ import annotations

import asyncio
import os

from redis.asyncio import Redis

from sharding.member import Member
from sharding.registry import Registry, View
from sharding.ring import Ring
from tests.contract.crew import DEADLINE_S, HOST, LEASE_S, redis_clock_passes, redis_ms
from tests.contract.registry_kit import beat_until_expired, candidate, join, slots

USERS = [f"student-{number}" for number in range(2000)]


# Places


async def test_each_joins_in_the_lowest_free_slot(registry: Registry) -> None:
    members = [await join(registry, name) for name in "abcd"]
    assert [m.slot for m in members] == [0, 1, 2, 3]

    await registry.leave(members[1])
    await registry.leave(members[2])

    assert (await join(registry, "e")).slot == 1
    assert (await join(registry, "f")).slot == 2


async def test_one_more_than_wanted_gets_a_slot_beyond(registry: Registry) -> None:
    assert [(await join(registry, name, n_slots=2)).slot for name in "abcd"] == [0, 1, 2, 3]


async def test_joining_again_under_the_same_boot_changes_nothing(registry: Registry) -> None:
    await join(registry, "a")
    member = await join(registry, "b")
    before = await registry.view()

    place = await registry.join(candidate("b"), "b", before)

    assert (place.how, place.slot, place.epoch) == ("again", member.slot, before.epoch)
    assert await registry.view() == before


async def test_a_reload_gives_each_new_worker_an_old_ones_slot_so_that_no_key_changes_its_slot(
    registry: Registry,
) -> None:
    for name in "abcd":
        await join(registry, name)
    before = await registry.view()
    ring = Ring(before.epoch, before.members)
    owners = {user: ring.owner(user).slot for user in USERS}

    for count, name in enumerate("wxyz", start=1):
        await join(registry, name, generation=2)
        view = await registry.view()
        ring = Ring(view.epoch, view.members)
        assert {user: ring.owner(user).slot for user in USERS} == owners
        assert sum(m.generation == 2 for m in view.members) == count

    assert await slots(registry) == {0: "w", 1: "x", 2: "y", 3: "z"}


async def test_a_free_slot_comes_before_an_older_generations(registry: Registry) -> None:
    await join(registry, "a")
    b = await join(registry, "b")
    await join(registry, "c")
    await registry.leave(b)

    assert (await join(registry, "w", generation=2, n_slots=3)).slot == 1
    assert (await join(registry, "x", generation=2, n_slots=3)).slot == 0


async def test_the_older_generation_gets_no_place_beside_a_living_newer_one(registry: Registry) -> None:
    await join(registry, "new", generation=2)
    place = await registry.join(candidate("old", generation=1), "old", View())
    assert (place.how, place.slot) == ("superseded", -1)
    assert await slots(registry) == {0: "new"}


async def test_a_newer_generation_whose_leases_have_run_out_keeps_nobody_out(registry: Registry, redis: Redis) -> None:
    await join(registry, "new", generation=2)
    await redis_clock_passes(redis, int(LEASE_S * 1000))
    assert (await join(registry, "old", generation=1)).slot == 1


async def test_generations_that_differ_by_a_nanosecond_are_told_apart(registry: Registry) -> None:
    now = 1_795_527_093_347_123_456
    await join(registry, "a", generation=now, n_slots=1)
    assert (await join(registry, "b", generation=now + 1, n_slots=1)).slot == 0
    assert await slots(registry) == {0: "b"}


async def test_a_former_life_of_the_same_process_goes_when_it_joins_anew(registry: Registry) -> None:
    await registry.join(candidate("a"), "first", View())
    await join(registry, "b")
    place = await registry.join(candidate("a"), "second", View())
    assert place.slot == 0
    assert await slots(registry) == {0: "second", 1: "b"}


# Beats and evictions


async def test_a_beat_says_whether_the_slot_is_still_mine(registry: Registry, redis: Redis) -> None:
    a = await join(registry, "a")
    view = await registry.view()
    assert (await registry.beat(a, view)).status == "held"

    # Not only after Redis was emptied a moment ago: then it would be asked to come back.
    await redis_clock_passes(redis, int(LEASE_S * 1000))
    await registry.evict(a, "dead")
    assert (await registry.beat(a, view)).status == "evicted"


async def test_an_eviction_compares_the_boot(registry: Registry) -> None:
    a = await join(registry, "a")
    await registry.leave(a)
    b = await join(registry, "b")
    assert b.slot == a.slot

    assert await registry.evict(a, "dead") == "gone"
    assert await slots(registry) == {0: "b"}
    assert await registry.evict(b, "dead") == "evicted"
    assert await registry.evict(b, "dead") == "gone"


async def test_a_lease_that_runs_out_is_reported_to_one_who_held_its_own_and_may_then_be_evicted(
    registry: Registry,
) -> None:
    a, b = await join(registry, "a"), await join(registry, "b")

    await beat_until_expired(registry, a, "b")

    assert await registry.evict(b, "expired", a) == "evicted"
    assert await slots(registry) == {0: "a"}


async def test_nobody_is_evicted_as_expired_while_its_lease_runs(registry: Registry) -> None:
    a, b = await join(registry, "a"), await join(registry, "b")
    await beat_until_expired(registry, a, "b")
    await registry.beat(b, await registry.view())
    assert await registry.evict(b, "expired", a) == "alive"


async def test_who_did_not_hold_its_own_lease_for_a_full_one_evicts_nobody(registry: Registry, redis: Redis) -> None:
    a, b = await join(registry, "a"), await join(registry, "b")
    view = await registry.view()
    # As after a stall of Redis: every lease has run out, and one worker is the first back.
    await redis_clock_passes(redis, int(LEASE_S * 1000))
    back_ms = await redis_ms(redis)

    assert await registry.evict(b, "expired", a) == "unfit"
    assert (await registry.beat(a, view)).expired == ()
    assert await registry.evict(b, "expired", a) == "unfit"

    await beat_until_expired(registry, a, "b")
    assert await redis_ms(redis) - back_ms >= LEASE_S * 1000


async def test_a_dead_pid_takes_its_members_off(registry: Registry) -> None:
    await join(registry, "a")
    other = Member(1, "b", 1, HOST, "/run/w/b.sock", os.getpid() + 1, 5)
    assert await registry.evict_pid(other.pid) == 0
    assert await registry.evict_pid(os.getpid()) == 1
    assert await slots(registry) == {}


# Epochs


async def test_every_change_raises_the_epoch_and_publishes_it(registry: Registry) -> None:
    heard: list[int] = []
    listening = asyncio.Event()

    async def listen() -> None:
        async for epoch in registry.watch():
            listening.set()
            if epoch:
                heard.append(epoch)
            if len(heard) == 3:
                return

    listener = asyncio.create_task(listen())
    async with asyncio.timeout(DEADLINE_S):
        await listening.wait()
        epochs = []
        a = await join(registry, "a")
        epochs.append((await registry.view()).epoch)
        b = await join(registry, "b")
        epochs.append((await registry.view()).epoch)
        await registry.evict(b, "dead")
        epochs.append((await registry.view()).epoch)
        await listener

    assert heard == epochs == sorted(set(epochs))
    assert (await registry.beat(a, await registry.view())).epoch == epochs[-1]


async def test_epochs_grow_across_flushall(registry: Registry, redis: Redis) -> None:
    last = 0
    for name in "abcd":
        await join(registry, name)
        epoch = (await registry.view()).epoch
        assert epoch > last
        last = epoch
        await redis_clock_passes(redis, 5)  # newcomers know no epoch: it is the clock that makes it grow
        await redis.flushall()


async def test_no_epoch_is_ever_lower_than_what_a_caller_has_seen(registry: Registry) -> None:
    a = await join(registry, "a")
    far = View(epoch=9_000_000_000_000, born=(await registry.view()).born)

    assert (await registry.beat(a, far)).epoch == far.epoch + 1
    assert (await registry.join(candidate("b"), "b", View(epoch=far.epoch + 5))).epoch == far.epoch + 6
