"""Pages of other origins: the list and a token let them call the API, and nothing else does; a cookie never counts."""

import pytest
from aiohttp import ClientResponse, WSServerHandshakeError

from server.login_session import derive_session_key
from server.page_tokens import FILES_COOKIE, PageTokens
from tests.app.conftest import (
    SECRET,
    Client,
    Logs,
    Mint,
    Worker,
    bearer,
    is_nobody,
    log_in,
    login_status,
    own,
    who,
    with_cookie,
)

LESSON = "https://lesson.example"
OTHER = "https://other.example:8443"
ALLOWED = (LESSON, OTHER)
ASK = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
# Each begins with, ends with or otherwise resembles one that is allowed.
LOOKALIKES = [
    "https://lesson.example.evil.example",
    "https://evil.example/https://lesson.example",
    "https://evil-lesson.example",
    "https://lessonXexample",
    "https://lesson.example:443",
    "https://lesson.example/",
    "https://LESSON.example",
    "http://lesson.example",
    "https://sub.lesson.example",
    "https://other.example",
    "https://other.example:84430",
    f"{LESSON} {OTHER}",
    f"{LESSON},{OTHER}",
    "null",
    "*",
    "",
]


def granted(response: ClientResponse) -> list[str]:
    """Every header with which a browser could let a foreign page read the answer."""
    return sorted(name for name in response.headers if name.lower().startswith("access-control-"))


def is_open_to(response: ClientResponse, origin: str) -> bool:
    """What a browser looks for; and the page is never told that it may send cookies."""
    headers = response.headers
    assert "Access-Control-Allow-Credentials" not in headers
    assert "Origin" in headers.getall("Vary")
    return headers.getall("Access-Control-Allow-Origin", []) == [origin]


async def cookie_of(client: Client, token: str) -> dict[str, str]:
    return with_cookie(await log_in(client, token))


@pytest.mark.parametrize("origin", ALLOWED)
async def test_a_preflight_from_an_allowed_origin_needs_no_token(worker: Worker, events: Logs, origin: str) -> None:
    client = await worker(allow_origin=ALLOWED)
    for path in ("/api", "/api/me", "/api/kernels/x/channels", "/api/contents/a%20b.ipynb"):
        async with client.options(path, headers=ASK | {"Origin": origin}) as response:
            assert (response.status, await response.read()) == (204, b"")
            assert is_open_to(response, origin)
            assert response.headers["Access-Control-Allow-Headers"] == "authorization, content-type, x-xsrftoken"
            assert set(response.headers["Access-Control-Allow-Methods"].split(", ")) >= {"GET", "PATCH", "DELETE"}
            assert int(response.headers["Access-Control-Max-Age"]) > 0
    assert not events


@pytest.mark.parametrize("origin", LOOKALIKES)
async def test_an_origin_that_only_resembles_an_allowed_one_hears_nothing(
    worker: Worker, mint: Mint, origin: str
) -> None:
    client, token = await worker(allow_origin=ALLOWED), mint("ada")
    async with client.options("/api/me", headers=ASK | {"Origin": origin}) as response:
        assert response.status == 403
        assert granted(response) == []
    for method in ("GET", "POST"):
        async with client.request(method, "/api/me", headers=bearer(token) | {"Origin": origin}) as response:
            assert response.status == 200  # as for any program; the browser keeps the answer from the page
            assert granted(response) == []


@pytest.mark.parametrize("token_in", ["Bearer", "token", "query"])
async def test_a_token_from_an_allowed_origin_reads_and_changes(worker: Worker, mint: Mint, token_in: str) -> None:
    client, token = await worker(allow_origin=ALLOWED), mint("ada")
    headers = {"Origin": LESSON} | ({} if token_in == "query" else {"Authorization": f"{token_in} {token}"})
    params = {"token": token} if token_in == "query" else {}
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        async with client.request(method, "/api/me", headers=headers, params=params) as response:
            assert response.status == 200
            assert is_open_to(response, LESSON)
            assert "Location" in response.headers["Access-Control-Expose-Headers"].split(", ")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/nothing", 404),
        ("GET", "/api/echo", 405),
        ("GET", "/api/broken", 500),
        ("OPTIONS", "/api/echo", 405),
    ],
)
async def test_errors_can_be_read_too(worker: Worker, mint: Mint, method: str, path: str, status: int) -> None:
    client = await worker(allow_origin=ALLOWED)
    async with client.request(method, path, headers=bearer(mint("ada")) | {"Origin": LESSON}) as response:
        assert response.status == status
        assert is_open_to(response, LESSON)
        assert (await response.json())["message"]


async def test_a_page_with_a_bad_token_reads_why_it_is_refused(worker: Worker, mint: Mint) -> None:
    client = await worker(allow_origin=ALLOWED)
    async with client.get("/api/me", headers=bearer(mint("ada", exp=1)) | {"Origin": LESSON}) as response:
        assert (response.status, (await response.json())["reason"]) == (403, "The token has expired.")
        assert is_open_to(response, LESSON)


@pytest.mark.parametrize("origin", [LESSON, "https://evil.example"])
async def test_a_cookie_never_counts_for_another_origin(worker: Worker, mint: Mint, origin: str) -> None:
    client = await worker(allow_origin=ALLOWED)
    cookie = await cookie_of(client, mint("ada"))
    async with client.get("/api/me", headers=cookie | {"Origin": origin}) as response:
        assert granted(response) == []  # the browser keeps the answer from the page
    for headers in ({}, {"Authorization": "Basic YTpi"}, {"Authorization": "token "}):
        async with client.post("/api/me", headers=cookie | headers | {"Origin": origin}) as response:
            assert response.status == 403
            assert granted(response) == []
    xsrf = {"Cookie": f"{cookie['Cookie']}; _xsrf=abc", "X-XSRFToken": "abc", "Origin": origin}
    async with client.post("/api/me", headers=xsrf) as response:
        assert response.status == 403
    async with client.post("/logout", headers=cookie | {"Origin": origin}) as response:
        assert response.status == 403
        assert granted(response) == []


async def test_beside_a_cookie_the_token_says_who_it_is(worker: Worker, mint: Mint) -> None:
    client = await worker(allow_origin=ALLOWED)
    await log_in(client, mint("ada"))
    assert await who(client, headers=bearer(mint("bob")) | {"Origin": LESSON}) == "bob"
    async with client.post("/api/me", headers=bearer("x") | {"Origin": LESSON}) as response:
        assert response.status == 403


async def test_only_the_api_is_open(worker: Worker, mint: Mint) -> None:
    client, token = await worker(allow_origin=ALLOWED), mint("ada")
    for path in ("/tree", "/login", "/healthz", "/static/app.js", "/apiary"):
        async with client.options(path, headers=ASK | {"Origin": LESSON}, allow_redirects=False) as response:
            assert granted(response) == []
        async with client.get(path, headers=bearer(token) | {"Origin": LESSON}) as response:
            assert granted(response) == []
    async with client.post("/login", json={"token": token}, headers={"Origin": LESSON}) as response:
        assert (response.status, granted(response)) == (403, [])


async def test_two_origins_in_one_request_are_none(worker: Worker, mint: Mint) -> None:
    client = await worker(allow_origin=ALLOWED)
    headers = [("Origin", LESSON), ("Origin", OTHER), *bearer(mint("ada")).items()]
    async with client.get("/api/me", headers=headers) as response:
        assert granted(response) == []


async def test_an_answer_tells_caches_that_it_depends_on_the_origin(worker: Worker, mint: Mint) -> None:
    client, token = await worker(allow_origin=ALLOWED), mint("ada")
    for headers in ({}, {"Origin": "https://evil.example"}, {"Origin": LESSON}):
        async with client.get("/api/me", headers=bearer(token) | headers) as response:
            assert "Origin" in response.headers.getall("Vary")


async def test_without_the_setting_nothing_is_said(worker: Worker, mint: Mint) -> None:
    client = await worker()
    async with client.options("/api/me", headers=ASK | {"Origin": LESSON}) as response:
        assert (response.status, granted(response)) == (403, [])
    async with client.get("/api/me", headers=bearer(mint("ada")) | {"Origin": LESSON}) as response:
        assert response.status == 200
        assert granted(response) == []
        assert "Vary" not in response.headers


@pytest.mark.parametrize("origin", [LESSON, "https://evil.example", "null"])
async def test_a_websocket_is_decided_by_its_token_and_never_opened_by_a_cookie(
    worker: Worker, mint: Mint, origin: str
) -> None:
    """With a token the origin says nothing: no page has one that was not given to it."""
    client = await worker(allow_origin=ALLOWED)
    cookie = await cookie_of(client, mint("ada"))
    socket = await client.ws_connect("/api/channels", params={"token": mint("bob")}, headers={"Origin": origin})
    assert await socket.receive_str() == "bob"
    for params in ({}, {"token": mint("bob", exp=1)}):
        with pytest.raises(WSServerHandshakeError) as handshake:
            await client.ws_connect("/api/channels", params=params, headers=cookie | {"Origin": origin})
        assert handshake.value.status == 403


async def test_a_page_token_is_good_for_the_api_and_logs_nobody_in(worker: Worker, mint: Mint) -> None:
    client = await worker(allow_origin=ALLOWED)
    page = PageTokens(derive_session_key(SECRET), 12).make("ada")
    assert await who(client, headers=bearer(page)) == "ada"
    socket = await client.ws_connect("/api/channels", params={"token": page})
    assert await socket.receive_str() == "ada"
    assert await login_status(client, page) == 403
    async with client.get("/tree", params={"token": page}) as response:
        assert response.status == 403
    assert await is_nobody(client, "")


async def test_the_cookie_of_a_frames_page_reads_files_and_nothing_else(worker: Worker, mint: Mint) -> None:
    client = await worker()
    cookie = {"Cookie": f"{FILES_COOKIE}={PageTokens(derive_session_key(SECRET), 12).make('ada')}"}
    async with client.get("/files/dot.svg", headers=cookie) as response:
        assert (response.status, await response.text()) == (200, "<p>ada</p>")
    for method, path in (("GET", "/api/me"), ("GET", "/tree"), ("PUT", "/files/dot.svg"), ("POST", "/api/echo")):
        async with client.request(method, path, headers=cookie | own(client), allow_redirects=False) as response:
            assert response.status in (302, 403), path
    for wrong in ("x", mint("ada"), "page.x", ""):
        headers = {"Cookie": f"{FILES_COOKIE}={wrong}"}
        async with client.get("/files/dot.svg", headers=headers, allow_redirects=False) as response:
            assert response.status == 302
