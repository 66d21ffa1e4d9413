"""The registry and Redis itself: emptied, hung, gone, behind TLS; and which keys are left behind."""

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
from sharding.registry import Registry, View
from tests.contract.crew import DEADLINE_S, HOST, LEASE_S, redis_clock_passes
from tests.contract.registry_kit import candidate, join, slots
from tests.redis_server import RedisServer

KEYS = keys_of(HOST)


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
