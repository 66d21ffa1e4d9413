"""Logging in and out: the cookie, tokens in addresses, redirects, guests."""

import asyncio
import time
from http.cookies import Morsel
from urllib.parse import urljoin, urlsplit

import pytest
from aiohttp import ClientResponse
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from server import session_records
from server.login_limit import MOST, WITHIN_S
from server.login_page import redirect
from server.login_session import LoginCookies, derive_session_key
from server.session_records import Login
from server.tokens import MAX_USER_CHARS
from tests.app.conftest import (
    SECRET,
    Logs,
    Mint,
    Worker,
    bearer,
    is_nobody,
    log_in,
    log_out,
    named,
    own,
    refused,
    sid_of,
    until,
    who,
    with_cookie,
)

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


async def test_a_login_for_no_page_in_particular_leads_to_the_notebooks(worker: Worker, mint: Mint) -> None:
    client = await worker()
    for ask in (
        client.get("/login", params={"token": mint("ada")}, allow_redirects=False),
        client.post("/login", data={"token": mint("ada")}, allow_redirects=False),
    ):
        async with ask as response:
            assert (response.status, response.headers["Location"]) == (302, "/tree")
    async with client.get("/login") as response:
        assert '<a href="/tree">Go on</a>' in await response.text()


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
        ("//evil.example", "/tree"),
        ("/\\evil.example", "/tree"),
        ("/\t/evil.example", "/tree"),
        ("https://evil.example", "/tree"),
        ("javascript:alert(1)", "/tree"),
        ("", "/tree"),
        ("/", "/"),
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


async def test_logins_that_fail_again_and_again_must_wait_and_a_good_token_need_not(
    worker: Worker, mint: Mint, events: Logs
) -> None:
    client = await worker(behind_tls=True)

    async def try_from(address: str, token: str = "x") -> ClientResponse:  # noqa: S107
        # The proxy adds the address that it sees to whatever the client has written.
        return await client.post("/login", json={"token": token}, headers={"X-Forwarded-For": f"10.0.0.9, {address}"})

    statuses = [(await try_from("192.0.2.1")).status for _ in range(MOST + 2)]
    assert statuses == [403] * MOST + [429] * 2
    response = await try_from("192.0.2.1")
    assert 0 < int(response.headers["Retry-After"]) <= WITHIN_S
    assert "have failed" in (await response.json())["reason"]
    async with client.get("/", params={"token": "x"}, headers={"X-Forwarded-For": "192.0.2.1"}) as page:
        assert (page.status, page.content_type) == (429, "text/html")
    assert (await try_from("192.0.2.2")).status == 403
    assert (await try_from("192.0.2.1", mint("ada"))).status == 200
    assert [entry["address"] for entry in events if entry["event"] == "logins_limited"] == ["192.0.2.1"]


async def test_without_a_proxy_nobody_says_for_themselves_where_they_are(worker: Worker) -> None:
    client = await worker()
    for number in range(MOST + 1):
        headers = {"X-Forwarded-For": f"192.0.2.{number}"}
        async with client.post("/login", json={"token": "x"}, headers=headers) as response:
            status = response.status
    assert status == 429


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
