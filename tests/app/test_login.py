"""Logging in and out: the cookie, what outlives Redis and what does not, guests, redirects."""

import asyncio
import time
from http.cookies import Morsel
from urllib.parse import urljoin, urlsplit

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from server import session_records
from server.login_page import redirect
from server.login_session import LoginCookies, derive_session_key
from server.session_records import Login
from server.tokens import MAX_USER_CHARS
from tests.app.conftest import (
    SECRET,
    Client,
    Logs,
    Mint,
    Worker,
    bearer,
    log_in,
    named,
    own,
    refused,
    until,
    who,
)
from tests.redis_server import RedisServer


def with_cookie(cookie: str) -> dict[str, str]:
    return {"Cookie": f"kernelring={cookie}"}


async def log_out(client: Client, cookie: str | None = None) -> None:
    headers = own(client) | (with_cookie(cookie) if cookie else {})
    async with client.post("/logout", headers=headers) as response:
        assert response.status == 204


def sid_of(cookie: str) -> str:
    claims = jwt.decode(cookie, options={"verify_signature": False})
    return str(claims["sid"])


async def is_nobody(client: Client, cookie: str) -> bool:
    async with client.get("/api/me", headers=with_cookie(cookie)) as response:
        return response.status == 403


async def login_status(client: Client, token: str) -> int:
    async with client.post("/login", json={"token": token}) as response:
        return response.status


# The cookie.


@pytest.mark.parametrize("behind_tls", [False, True])
async def test_the_cookie_has_every_flag_that_it_needs(worker: Worker, mint: Mint, behind_tls: bool) -> None:
    client = await worker(behind_tls=behind_tls, hours=2)
    async with client.post("/login", json={"token": mint("ada")}) as response:
        assert await response.json() == {"user": "ada"}
        cookie: Morsel[str] = response.cookies["kernelring"]
    assert cookie["httponly"] is True
    assert (cookie["samesite"], cookie["path"], cookie["max-age"]) == ("Lax", "/", "7200")
    assert bool(cookie["secure"]) is behind_tls
    assert cookie["domain"] == ""


async def test_a_login_leaves_one_key_that_ends_with_the_cookie(worker: Worker, mint: Mint, redis: Redis) -> None:
    client = await worker(hours=2)
    cookie = await log_in(client, mint("ada"))
    key = f"{{kernelring}}:session:{sid_of(cookie)}".encode()
    assert await redis.keys() == [key]
    assert 7100 < await redis.ttl(key) <= 7200
    await log_out(client)
    tombstone = f"{{kernelring}}:logout:{sid_of(cookie)}".encode()
    assert await redis.keys() == [tombstone]
    assert 7100 < await redis.ttl(tombstone) <= 7200


async def test_the_longest_of_ids_fits_into_the_cookie(worker: Worker, mint: Mint) -> None:
    user = "🦊" * MAX_USER_CHARS
    client = await worker()
    assert len(await log_in(client, mint(user))) < 4000
    assert await who(client) == user


@pytest.mark.parametrize("garbage", ["", "x", "a.b.c", "x" * 5000, "e30.e30.e30", '"', "é"])
async def test_a_cookie_that_is_none_of_ours_is_nobodys(worker: Worker, events: Logs, garbage: str) -> None:
    client = await worker()
    assert await is_nobody(client, garbage)
    assert [entry["event"] for entry in events] == ["request_refused"]


async def test_neither_a_token_is_a_cookie_nor_a_cookie_a_token(worker: Worker, mint: Mint) -> None:
    client = await worker()
    assert await is_nobody(client, mint("ada", sid="x", iat=1))
    async with client.get("/api/me", headers=bearer(await log_in(client, mint("ada")))) as response:
        await refused(response)


async def test_a_cookie_with_another_key_or_past_its_end_is_nobodys(worker: Worker) -> None:
    client, now = await worker(), int(time.time())
    forged = LoginCookies(derive_session_key("x" * 32)).sign(Login("s", "ada", False, now, now + 60))
    expired = LoginCookies(derive_session_key(SECRET)).sign(Login("s", "ada", False, now - 60, now - 1))
    assert await is_nobody(client, forged)
    assert await is_nobody(client, expired)


async def test_every_login_has_a_new_id_and_ends_the_one_before(worker: Worker, mint: Mint, redis: Redis) -> None:
    client = await worker()
    planted = await log_in(client, mint("mallory"))
    cookie = await log_in(client, mint("ada"))  # the browser sends the planted cookie along
    assert sid_of(cookie) != sid_of(planted)
    assert await who(client) == "ada"
    client.session.cookie_jar.clear()
    for each in (client, await worker()):
        assert await is_nobody(each, planted)
    assert await redis.exists(f"{{kernelring}}:session:{sid_of(planted)}") == 0


# Logging out.


async def test_after_a_logout_the_cookie_is_worth_nothing_anywhere(worker: Worker, mint: Mint) -> None:
    client, other = await worker(), await worker()
    cookie = await log_in(client, mint("ada"))
    async with client.post("/logout", headers=own(client)) as response:
        assert response.status == 204
        assert response.cookies["kernelring"]["max-age"] == "0"
    assert await is_nobody(client, cookie)
    assert await is_nobody(other, cookie)
    await log_out(client)  # twice is no error


async def test_a_logout_is_seen_by_a_worker_that_has_just_checked(
    worker: Worker, mint: Mint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_records, "CHECKED_FOR_S", 0.1)
    client, other = await worker(), await worker()
    cookie = await log_in(client, mint("ada"))
    assert await who(other, headers=with_cookie(cookie)) == "ada"
    await log_out(client)
    async with asyncio.timeout(5):
        while not await is_nobody(other, cookie):  # each answer is the event
            pass


async def test_a_checked_session_asks_redis_nothing(worker: Worker, mint: Mint, redis: Redis) -> None:
    client = await worker()
    await log_in(client, mint("ada"))
    before = (await redis.info("stats"))["total_commands_processed"]
    for _ in range(20):
        assert await who(client) == "ada"
    assert (await redis.info("stats"))["total_commands_processed"] - before <= 1  # our own INFO


async def test_a_browsers_logout_leads_to_the_login_page(worker: Worker, mint: Mint) -> None:
    client = await worker()
    await log_in(client, mint("ada"))
    async with client.get("/login") as response:
        assert "<strong>ada</strong>" in await response.text()
    headers = own(client) | {"Accept": "text/html"}
    async with client.post("/logout", headers=headers, allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (302, "/login")
    async with client.get("/login") as response:
        assert "ada" not in await response.text()


# Redis is soft state.


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
    assert time.monotonic() - began < 3
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
    worker: Worker, redis: Redis, events: Logs
) -> None:
    client, now = await worker(browser=False), int(time.time())
    cookies = LoginCookies(derive_session_key(SECRET))
    students = [Login(f"sid-{n}", f"student-{n}", False, now, now + 600) for n in range(300)]
    answers = await asyncio.gather(*(who(client, headers=with_cookie(cookies.sign(student))) for student in students))
    assert answers == [student.user for student in students]
    assert await redis.dbsize() == 300
    assert not named(events, "login_sessions_without_redis")


async def test_a_hung_redis_delays_a_class_once_and_together(worker: Worker, redis_server: RedisServer) -> None:
    client, now = await worker(browser=False), int(time.time())
    cookies = LoginCookies(derive_session_key(SECRET))
    await asyncio.to_thread(redis_server.pause)
    async with asyncio.timeout(3):  # one wait of 0.5 s and 200 requests; one after the other would be 100 s
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


# `?token=`.


async def test_a_token_in_a_pages_address_becomes_the_cookie(worker: Worker, mint: Mint) -> None:
    client = await worker()
    params = [("a", "1"), ("token", mint("ada")), ("b", "x y"), ("token", "again")]
    async with client.get("/tree", params=params, allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (302, "/tree?a=1&b=x+y")
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Cache-Control"] == "no-store"
        assert "kernelring" in response.cookies
    assert await who(client) == "ada"


async def test_the_login_address_takes_a_token_too(worker: Worker, mint: Mint) -> None:
    client = await worker()
    params = {"token": mint("ada"), "next": "/tree"}
    async with client.get("/login", params=params, allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (302, "/tree")
    assert await who(client) == "ada"


async def test_a_head_request_logs_nobody_in(worker: Worker, mint: Mint) -> None:
    client = await worker()
    async with client.head("/", params={"token": mint("ada")}) as response:
        assert response.status == 200
        assert "kernelring" not in response.cookies


@pytest.mark.parametrize("path", ["//evil.example/x", "///evil.example", "/\\evil.example", "/%5cevil.example"])
async def test_the_redirect_without_the_token_stays_here(worker: Worker, mint: Mint, path: str) -> None:
    client = await worker()
    reader, writer = await asyncio.open_connection(client.host, client.port)
    head = f"GET {path}?token={mint('ada')} HTTP/1.1\r\nHost: x.example\r\nConnection: close\r\n\r\n"
    writer.write(head.encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    location = next(line.split(": ")[1] for line in answer.split("\r\n") if line.startswith("Location"))
    assert urlsplit(urljoin("http://x.example/", location)).hostname == "x.example"


NEXT = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="/\\.:@#?%\t\r\n evilxn0", max_size=20).map(lambda text: "/" + text),
)


@given(NEXT)
def test_no_next_whatever_leads_elsewhere(address: str) -> None:
    location = redirect(address).headers["Location"]
    assert location.isascii()
    assert location.isprintable()
    assert location.startswith("/")
    assert not location.startswith(("//", "/\\"))
    assert urlsplit(urljoin("http://x.example/login", location)).netloc == "x.example"


@pytest.mark.parametrize(
    ("address", "goal"),
    [
        ("/tree?a=1&b=%2F", "/tree?a=1&b=%2F"),
        ("/lab/tree/a%20b.ipynb", "/lab/tree/a%20b.ipynb"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("https://evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("", "/"),
    ],
)
async def test_a_login_goes_on_where_the_page_wanted(worker: Worker, mint: Mint, address: str, goal: str) -> None:
    client = await worker()
    async with client.post(
        "/login", params={"next": address}, data={"token": mint("ada")}, allow_redirects=False
    ) as response:
        assert (response.status, response.headers["Location"]) == (302, goal)


# POST /login.


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"{}", "application/json", 400),
        (b'{"token": 7}', "application/json", 400),
        (b'{"token": ""}', "application/json", 400),
        (b'{"token": "x"}', "application/json; charset=bogus", 403),
        (b"[" * 100_000, "application/json", 400),
        (b"", "application/x-www-form-urlencoded", 400),
        (b"token=\xff", "application/x-www-form-urlencoded; charset=bogus", 400),
        (b"a=1&" * 100, "application/x-www-form-urlencoded", 400),
        (b"--x", "multipart/form-data; boundary=x", 415),
        (b"token", "text/plain", 415),
    ],
)
async def test_a_login_that_cannot_be_read_is_refused_in_one_line(
    worker: Worker, events: Logs, body: bytes, kind: str, status: int
) -> None:
    client = await worker()
    async with client.post("/login", data=body, headers={"Content-Type": kind}) as response:
        await refused(response, status)
    assert [(entry["event"], entry["log_level"]) for entry in events] == [("request_refused", "warning")]


async def test_jupyters_own_field_name_is_understood(worker: Worker, mint: Mint) -> None:
    client = await worker()
    async with client.post("/login?", data={"password": mint("ada")}, allow_redirects=False) as response:
        assert response.status == 302
    assert await who(client) == "ada"


async def test_another_sites_page_cannot_log_a_browser_in(worker: Worker, mint: Mint) -> None:
    client = await worker()
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        async with client.post("/login", data={"token": mint("mallory")}, headers=headers) as response:
            await refused(response)


async def test_the_login_page_runs_nothing_and_may_not_be_framed(worker: Worker) -> None:
    client = await worker()
    async with client.get("/login", params={"next": '/"><script>alert(1)</script>'}) as response:
        text = await response.text()
        policy = response.headers["Content-Security-Policy"]
    assert policy == ("default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'")
    assert "<script" not in text
    assert '<label for="token">' in text


# Guests.


def guest(mint: Mint) -> str:
    return mint(None, kernelring_guest=True)


async def test_each_browser_becomes_its_own_guest(worker: Worker, mint: Mint) -> None:
    token, names = guest(mint), set()
    for client in (await worker(guests=True), await worker(guests=True)):
        async with client.get("/", params={"token": token}) as response:
            assert response.status == 200
            assert "token" not in str(response.url)
        name = await who(client)
        assert name.startswith("guest-")
        assert len(name) == len("guest-") + 8
        async with client.get("/", params={"token": token}) as response:
            assert response.status == 200
        assert await who(client) == name  # the address opened again: the same guest
        names.add(name)
    assert len(names) == 2


async def test_a_guest_address_changes_nobody_who_is_logged_in(worker: Worker, mint: Mint) -> None:
    client = await worker(guests=True)
    await log_in(client, mint("ada"))
    async with client.get("/", params={"token": guest(mint)}) as response:
        assert response.status == 200
    assert await who(client) == "ada"


async def test_a_guest_token_is_no_pass_to_the_api(worker: Worker, mint: Mint) -> None:
    client = await worker(guests=True)
    for options in ({"headers": bearer(guest(mint))}, {"params": {"token": guest(mint)}}):
        async with client.get("/api/me", **options) as response:  # type: ignore[arg-type]
            assert "python -m server.token --user NAME" in await refused(response)


async def test_where_guests_are_off_none_comes_in_and_none_stays(worker: Worker, mint: Mint) -> None:
    client, closed = await worker(guests=True), await worker(guests=False)
    async with client.get("/", params={"token": guest(mint)}, allow_redirects=False) as response:
        cookie = response.cookies["kernelring"].value
    assert (await who(client, headers=with_cookie(cookie))).startswith("guest-")
    assert await is_nobody(closed, cookie)
    async with closed.get("/", params={"token": guest(mint)}) as response:
        assert response.status == 403
        assert "takes no guests" in await response.text()
    async with closed.post("/login", json={"token": guest(mint)}) as response:
        assert "takes no guests" in await refused(response)
    async with closed.get("/api/me", headers=bearer(guest(mint))) as response:
        assert "takes no guests" in await refused(response)


async def test_the_log_says_who_came_and_went(worker: Worker, mint: Mint, events: Logs) -> None:
    client = await worker()
    await log_in(client, mint("ada"))
    await log_out(client)
    await until(lambda: named(events, "logged_out"))
    assert [(entry["event"], entry["user"]) for entry in events] == [
        ("logged_in", "ada"),
        ("logged_out", "ada"),
    ]
