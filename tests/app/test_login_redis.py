"""Logins and Redis, which is soft state: flushed, killed, hung, crowded, back again."""

import asyncio
import time

import pytest
from redis.asyncio import Redis

from server import session_records
from server.login_session import LoginCookies, derive_session_key
from server.session_records import Login
from tests.app.conftest import (
    SECRET,
    Logs,
    Mint,
    Worker,
    bearer,
    is_nobody,
    log_in,
    log_out,
    login_status,
    named,
    refused,
    sid_of,
    who,
    with_cookie,
)
from tests.redis_server import RedisServer


async def test_a_flushed_redis_logs_nobody_out_and_is_filled_again(
    worker: Worker, mint: Mint, redis: Redis, events: Logs
) -> None:
    client, other = await worker(), await worker()
    cookie = await log_in(client, mint("ada"))
    await redis.flushall()
    assert await who(client) == "ada"
    assert await who(other, headers=with_cookie(cookie)) == "ada"
    assert await redis.exists(f"{{kernelring}}:session:{sid_of(cookie)}") == 1
    assert len(named(events, "login_session_restored")) == 1


async def test_a_flushed_redis_gets_the_logouts_back(worker: Worker, mint: Mint, redis: Redis) -> None:
    client, other = await worker(), await worker()
    gone = await log_in(client, mint("bob"))
    await log_out(client)
    kept = await log_in(other, mint("ada"))
    await redis.flushall()
    assert await who(client, headers=with_cookie(kept)) == "ada"  # here the loss is noticed
    assert await redis.exists(f"{{kernelring}}:logout:{sid_of(gone)}") == 1
    assert await is_nobody(await worker(), gone)


@pytest.mark.parametrize("how", ["killed", "hung"])
async def test_without_redis_logins_stay_and_new_ones_wait(
    worker: Worker, mint: Mint, redis_server: RedisServer, events: Logs, how: str
) -> None:
    client, other = await worker(), await worker()
    cookie = await log_in(client, mint("ada"))
    await asyncio.to_thread(redis_server.kill if how == "killed" else redis_server.pause)
    began = time.monotonic()
    for _ in range(20):
        assert await who(client) == "ada"
        assert await who(other, headers=with_cookie(cookie)) == "ada"
    assert time.monotonic() - began < 10  # 40 waits would be 40 s
    assert await who(other, headers=bearer(mint("bob"))) == "bob"
    async with other.post("/login", json={"token": mint("bob")}) as response:
        assert "New logins wait" in await refused(response, 503)
        assert int(response.headers["Retry-After"]) > 0
        assert "kernelring" not in response.cookies
    for answer in (
        other.post("/login", data={"token": mint("bob")}),
        other.get("/", params={"token": mint("bob")}, allow_redirects=False),
    ):
        async with answer as response:
            assert (response.status, response.content_type) == (503, "text/html")
            assert "New logins wait" in await response.text()
            assert "Retry-After" in response.headers
    assert len(named(events, "login_sessions_without_redis")) == 1

    await asyncio.to_thread(redis_server.start if how == "killed" else redis_server.resume)
    async with asyncio.timeout(5):
        while await login_status(other, mint("bob")) == 503:  # each answer is the event
            pass
    assert len(named(events, "login_sessions_with_redis_again")) == 1
    assert await who(client) == "ada"
    assert await who(await worker(), headers=with_cookie(cookie)) == "ada"


async def test_a_class_that_comes_back_together_does_not_exhaust_redis_connections(
    worker: Worker, redis: Redis, redis_server: RedisServer, events: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_records, "REDIS_TIMEOUT_S", 60.0)  # about connections, not about this machine's speed
    few = Redis.from_url(redis_server.url, max_connections=session_records.AT_ONCE)
    client, now = await worker(browser=False, redis=few), int(time.time())
    cookies = LoginCookies(derive_session_key(SECRET))
    students = [Login(f"sid-{n}", f"student-{n}", False, now, now + 600) for n in range(300)]
    answers = await asyncio.gather(*(who(client, headers=with_cookie(cookies.sign(student))) for student in students))
    assert answers == [student.user for student in students]
    assert await redis.dbsize() == 300
    assert not named(events, "login_sessions_without_redis")
    await few.aclose()


async def test_a_hung_redis_delays_a_class_once_and_together(worker: Worker, redis_server: RedisServer) -> None:
    client, now = await worker(browser=False), int(time.time())
    cookies = LoginCookies(derive_session_key(SECRET))
    await asyncio.to_thread(redis_server.pause)
    async with asyncio.timeout(10):  # one wait of 1 s and 200 requests; one after the other would be 200 s
        await asyncio.gather(
            *(
                who(client, headers=with_cookie(cookies.sign(Login(f"{n}", "ada", False, now, now + 600))))
                for n in range(200)
            )
        )
    await asyncio.to_thread(redis_server.resume)


async def test_a_refused_login_changes_nothing(worker: Worker, mint: Mint, redis_server: RedisServer) -> None:
    client = await worker()
    await log_in(client, mint("ada"))
    await asyncio.to_thread(redis_server.kill)
    async with client.post("/login", json={"token": mint("bob")}) as response:
        await refused(response, 503)
    assert await who(client) == "ada"


@pytest.mark.parametrize("how", ["killed", "hung"])
async def test_a_logout_without_redis_holds_and_is_written_when_redis_is_back(
    worker: Worker,
    mint: Mint,
    redis: Redis,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    monkeypatch.setattr(session_records, "PAUSE_S", 0.0)
    monkeypatch.setattr(session_records, "CHECKED_FOR_S", 0.0)
    client = await worker(browser=False)
    stays, gone = await log_in(client, mint("ada")), await log_in(client, mint("bob"))
    await asyncio.to_thread(redis_server.kill if how == "killed" else redis_server.pause)
    await log_out(client, gone)
    assert await is_nobody(client, gone)
    assert await who(client, headers=with_cookie(stays)) == "ada"
    await asyncio.to_thread(redis_server.start if how == "killed" else redis_server.resume)
    assert await who(client, headers=with_cookie(stays)) == "ada"  # asks Redis, and pays what is owed
    assert await redis.exists(f"{{kernelring}}:logout:{sid_of(gone)}") == 1
    assert await is_nobody(await worker(), gone)
