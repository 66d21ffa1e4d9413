"""The scripts, on a real Redis: places, leases, evictions, epochs, and what is left behind."""

from __future__ import annotations

import asyncio
import os

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from sharding.errors import RegistryUnavailable
from sharding.keys import KEYS_LIFETIME_S, keys_of
from sharding.member import Candidate, Member
from sharding.registry import Registry, View
from sharding.ring import Ring
from tests.contract.crew import DEADLINE_S, HOST, LEASE_S, redis_clock_passes, redis_ms
from tests.redis_server import RedisServer

KEYS = keys_of(HOST)
USERS = [f"student-{number}" for number in range(2000)]


@pytest.fixture
def registry(redis: Redis) -> Registry:
    return Registry(redis, HOST, LEASE_S)


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


# Redis emptied


async def test_the_first_one_back_after_flushall_brings_everybody_back(registry: Registry, redis: Redis) -> None:
    members = [await join(registry, name) for name in "abcd"]
    known = await registry.view()
    await redis.flushall()

    assert (await registry.beat(members[2], known)).status == "emptied"
    place = await registry.join(candidate("c"), "c", known)

    assert (place.how, place.slot) == ("again", 2)
    assert place.epoch > known.epoch
    assert await slots(registry) == {0: "a", 1: "b", 2: "c", 3: "d"}
    assert (await registry.beat(members[0], known)).status == "held"
    assert (await registry.join(candidate("d"), "d", known)).epoch == place.epoch


async def test_a_newcomer_that_is_faster_than_those_who_come_back_does_not_evict_them(
    registry: Registry, redis: Redis
) -> None:
    members = [await join(registry, name) for name in "abcd"]
    known = await registry.view()
    await redis.flushall()

    assert (await join(registry, "new")).slot == 0
    assert (await registry.beat(members[1], known)).status == "emptied"
    assert (await registry.join(candidate("b"), "b", known)).slot == 1
    assert await slots(registry) == {0: "new", 1: "b", 2: "c", 3: "d"}
    assert (await registry.beat(members[0], known)).status == "emptied"
    assert (await registry.join(candidate("a"), "a", known)).slot == 4


async def test_a_seed_is_not_taken_when_its_process_is_back_already(registry: Registry, redis: Redis) -> None:
    for name in "ab":
        await join(registry, name)
    known = await registry.view()
    await redis.flushall()

    await registry.join(candidate("b"), "second life of b", View())
    await registry.join(candidate("a"), "a", known)
    boots = sorted(m.boot for m in (await registry.view()).members)
    assert boots == ["a", "second life of b"]


async def test_who_comes_back_a_lease_after_the_others_brings_no_old_members(registry: Registry, redis: Redis) -> None:
    for name in "ab":
        await join(registry, name)
    known = await registry.view()
    b = known.members[1]
    await redis.flushall()
    await join(registry, "c")
    await redis_clock_passes(redis, int(LEASE_S * 1000))

    assert (await registry.beat(b, known)).status == "evicted"
    place = await registry.join(candidate("late"), "late", known)
    assert (place.how, place.slot) == ("joined", 1)
    assert await slots(registry) == {0: "c", 1: "late"}


# Keys


async def test_when_all_have_left_only_the_epoch_stays_for_a_while(registry: Registry, redis: Redis) -> None:
    members = [await join(registry, name) for name in "abcd"]
    await registry.beat(members[0], await registry.view())
    for member in members:
        assert await registry.leave(member) == "evicted"

    assert await redis.keys("*") == [KEYS.ring.encode()]
    assert 0 < await redis.ttl(KEYS.ring) <= KEYS_LIFETIME_S


async def test_every_key_has_a_lifetime_and_they_share_a_slot_of_a_cluster(registry: Registry, redis: Redis) -> None:
    await join(registry, "a")

    found = await redis.keys("*")

    assert sorted(found) == sorted(key.encode() for key in KEYS.stored)
    for key in found:
        assert 0 < await redis.ttl(key) <= KEYS_LIFETIME_S
    assert len({key_slot(key.encode()) for key in (*KEYS.stored, KEYS.changes)}) == 1


async def test_hosts_on_one_redis_do_not_see_each_other(registry: Registry, redis: Redis) -> None:
    await join(registry, "a")
    other = Registry(redis, "0123456789ab", LEASE_S)
    assert (await other.view()).epoch == 0
    assert (await join(other, "b")).slot == 0
    assert await slots(registry) == {0: "a"}


@pytest.mark.parametrize("rubbish", [b"", b"{", b"[]", b"7", b'{"boot": "x"}', b"\xff\xfe"])
async def test_rubbish_in_a_slot_counts_as_a_free_slot(registry: Registry, redis: Redis, rubbish: bytes) -> None:
    await join(registry, "a")
    await redis.hset(KEYS.members, "1", rubbish.decode("latin-1"))
    assert await slots(registry) == {0: "a"}
    assert (await join(registry, "b")).slot == 1
    assert await slots(registry) == {0: "a", 1: "b"}


@pytest.mark.parametrize("host", ["", "a}b", "a b", "{"])
def test_a_host_id_that_could_break_the_hash_tag_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="host id"):
        keys_of(host)


async def test_the_scripts_run_in_cluster_mode() -> None:
    options = ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"]
    with RedisServer(options=options) as server:
        async with Redis.from_url(server.url) as redis:
            cluster = redis.execute_command
            await cluster("CLUSTER", "ADDSLOTS", key_slot(KEYS.ring.encode()))  # type: ignore[no-untyped-call]
            async with asyncio.timeout(DEADLINE_S):
                state = b""
                while b"cluster_state:ok" not in state:  # it says so a little later
                    state = await cluster("CLUSTER", "INFO")  # type: ignore[no-untyped-call]
                    await asyncio.sleep(0.02)
            registry = Registry(redis, HOST, LEASE_S)
            a, b = await join(registry, "a"), await join(registry, "b")
            assert (await registry.beat(a, await registry.view())).status == "held"
            await registry.leave(b)
            assert await registry.evict_pid(os.getpid()) == 1


# Redis away


async def test_a_redis_that_hangs_is_unavailable_after_the_bound(redis: Redis, redis_server: RedisServer) -> None:
    registry = Registry(redis, HOST, LEASE_S, call_s=0.3)
    await registry.view()
    redis_server.pause()
    begun = asyncio.get_running_loop().time()
    with pytest.raises(RegistryUnavailable, match=r"within 0\.3 s"):
        await registry.view()
    assert asyncio.get_running_loop().time() - begun < 2
    redis_server.resume()
    assert (await registry.view()).epoch == 0


async def test_a_redis_that_is_gone_is_unavailable_and_found_again(
    registry: Registry, redis_server: RedisServer
) -> None:
    await join(registry, "a")
    await asyncio.to_thread(redis_server.kill)
    with pytest.raises(RegistryUnavailable):
        await registry.view()
    await asyncio.to_thread(redis_server.start)
    assert await slots(registry) == {}


async def test_watching_ends_when_redis_goes(redis_server: RedisServer) -> None:
    async with Redis.from_url(redis_server.url, retry=Retry(NoBackoff(), 0)) as redis:
        changes = Registry(redis, HOST, LEASE_S).watch()
        assert await anext(changes) == 0
        await asyncio.to_thread(redis_server.kill)
        with pytest.raises(RegistryUnavailable):
            async with asyncio.timeout(DEADLINE_S):
                await anext(changes)


async def test_tls_and_a_password_work_and_a_wrong_password_is_said_without_telling_it() -> None:
    with RedisServer(password="open-sesame", tls=True) as server:
        assert server.url.startswith("rediss://")
        async with Redis.from_url(server.url) as redis:
            registry = Registry(redis, HOST, LEASE_S)
            assert (await join(registry, "a")).slot == 0
        async with Redis.from_url(server.url.replace("open-sesame", "close-sesame")) as redis:
            with pytest.raises(RegistryUnavailable) as caught:
                await Registry(redis, HOST, LEASE_S).view()
        assert "sesame" not in str(caught.value)


async def test_a_certificate_that_nobody_vouches_for_is_refused() -> None:
    with RedisServer(tls=True) as server:
        unvouched = server.url.partition("?")[0]
        async with Redis.from_url(unvouched, retry=Retry(NoBackoff(), 0)) as redis:
            with pytest.raises(RegistryUnavailable, match="certificate"):
                await Registry(redis, HOST, LEASE_S).view()
