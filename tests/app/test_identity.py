"""Who is asking: tokens in all their places, pages, WebSockets, other sites' pages."""

import asyncio
import logging
from collections.abc import Callable
from io import BytesIO

import pytest
from aiohttp import WSServerHandshakeError

from tests.app.conftest import Client, Logs, Mint, Worker, bearer, log_in, named, own, refused, until, who

Place = Callable[[str], dict[str, dict[str, str]]]

PLACES: dict[str, Place] = {
    "bearer": lambda token: {"headers": {"Authorization": f"Bearer {token}"}},
    "token": lambda token: {"headers": {"Authorization": f"token {token}"}},
    "lower case": lambda token: {"headers": {"Authorization": f"bearer  {token}"}},
    "query": lambda token: {"params": {"token": token}},
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
async def test_a_token_names_the_user_wherever_it_stands(worker: Worker, mint: Mint, place: Place) -> None:
    assert await who(await worker(), **place(mint("ada"))) == "ada"


async def test_the_header_decides_before_the_address(worker: Worker, mint: Mint) -> None:
    options = {"headers": bearer(mint("ada")), "params": {"token": mint("bob")}}
    assert await who(await worker(), **options) == "ada"


async def test_a_token_decides_before_the_cookie(worker: Worker, mint: Mint) -> None:
    client = await worker()
    await log_in(client, mint("ada"))
    assert await who(client, headers=bearer(mint("bob"))) == "bob"
    async with client.get("/api/me", headers=bearer(mint("bob", exp=1))) as response:
        assert await refused(response) == "The token has expired."


async def test_the_api_refuses_whoever_is_nobody_as_jupyter_does(worker: Worker, events: Logs) -> None:
    client = await worker()
    async with client.get("/api/me", headers={"X-Kernelring-User": "ada", "Authorization": "Basic YTpi"}) as it:
        assert await refused(it) == "Log in, or send a token."
        assert (await it.json())["message"] == "Forbidden"
    (entry,) = named(events, "request_refused")
    assert (entry["log_level"], entry["status"], entry["path"]) == ("warning", 403, "/api/me")


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize(
    ("garbage", "word"),
    [
        ("x", "valid"),
        ("a.b.c", "valid"),
        ("e30.e30.e30", "algorithm"),
        ("🦊", "characters"),
        ("é" * 50, "char"),
    ],
)
async def test_garbage_for_a_token_is_refused_in_one_sentence_and_one_line(
    worker: Worker, events: Logs, place: Place, garbage: str, word: str
) -> None:
    client = await worker()
    async with client.get("/api/me", **place(garbage)) as response:  # type: ignore[arg-type]
        assert word in await refused(response)
    assert [entry["event"] for entry in events] == ["request_refused"]


@pytest.mark.parametrize(
    ("claims", "sentence"),
    [
        ({"exp": 1}, "The token has expired."),
        ({"exp": None}, "The token has no 'exp' claim."),
        ({"user": None}, "The token has no 'sub' claim: it does not say who it is for."),
        ({"secret": "another secret of thirty-two bytes."}, "The token's signature is wrong."),
    ],
)
async def test_a_bad_token_is_refused_with_the_reason_everywhere(
    worker: Worker, mint: Mint, claims: dict[str, object], sentence: str
) -> None:
    client, token = await worker(), mint(**claims)
    async with client.get("/api/me", headers=bearer(token)) as response:
        assert await refused(response) == sentence
    async with client.post("/login", json={"token": token}) as response:
        assert await refused(response) == sentence
    for answer in (client.get("/", params={"token": token}), client.get("/tree", headers=bearer(token))):
        async with answer as response:
            text = await response.text()
            assert (response.status, response.content_type) == (403, "text/html")
            assert sentence.replace("'", "&#x27;") in text
            assert token not in text
    with pytest.raises(WSServerHandshakeError) as handshake:
        await client.ws_connect("/api/channels", params={"token": token})
    assert handshake.value.status == 403


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
async def test_a_token_of_64_kib_does_no_harm(worker: Worker, place: Place, caplog: pytest.LogCaptureFixture) -> None:
    client = await worker()
    async with client.get("/api/me", **place("x" * 65536)) as response:  # type: ignore[arg-type]
        assert response.status in (400, 414, 431)
    async with client.post("/login", json={"token": "x" * 65536}) as response:
        assert "too long" in await refused(response)
    assert await who_is_healthy(client)


async def who_is_healthy(client: Client) -> bool:
    async with client.get("/healthz") as response:
        return response.status == 200


async def test_public_addresses_need_no_user(worker: Worker) -> None:
    client = await worker()
    for path in ("/healthz", "/login", "/login?", "/static/app.js"):
        async with client.get(path) as response:
            assert response.status == 200, path


@pytest.mark.parametrize("path", ["/static/../api/me", "/static/%2e%2e/api/me", "/login/../api/me", "/api//me"])
async def test_no_spelling_of_a_path_gets_past_the_door(worker: Worker, path: str) -> None:
    client = await worker()
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    assert answer.split()[1] in ("302", "403", "404")
    assert "user" not in answer.partition("\r\n\r\n")[2]


@pytest.mark.parametrize("path", ["/", "/tree?", "/login?", "/tree?token=", "/?token=x"])
async def test_what_vs_code_asks_first_ends_at_the_login_page(worker: Worker, path: str) -> None:
    client = await worker()
    async with client.get(path) as response:
        assert response.status in (200, 403)
        assert "<h1>Log in</h1>" in await response.text()
        assert "_xsrf" in {cookie.key for cookie in client.session.cookie_jar}


async def test_a_page_leads_to_the_login_and_back(worker: Worker, mint: Mint) -> None:
    client = await worker()
    async with client.get("/tree", params={"a": "1&2"}, allow_redirects=False) as response:
        assert response.status == 302
        login = response.headers["Location"]
    async with client.post(login, data={"token": mint("ada")}, allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (302, "/tree?a=1%262")


# WebSockets.


async def test_a_websocket_knows_its_user_by_token_and_by_cookie(worker: Worker, mint: Mint) -> None:
    client = await worker()
    socket = await client.ws_connect("/api/channels", params={"token": mint("bob")})
    assert await socket.receive_str() == "bob"
    assert "kernelring" not in {cookie.key for cookie in client.session.cookie_jar}
    await log_in(client, mint("ada"))
    for headers in ({}, own(client)):
        socket = await client.ws_connect("/api/channels", headers=headers)
        assert await socket.receive_str() == "ada"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1.evil.example"]
)
async def test_a_foreign_page_cannot_open_a_websocket_by_cookie(worker: Worker, mint: Mint, origin: str) -> None:
    client = await worker()
    await log_in(client, mint("ada"))
    with pytest.raises(WSServerHandshakeError) as handshake:
        await client.ws_connect("/api/channels", headers={"Origin": origin})
    assert handshake.value.status == 403
    socket = await client.ws_connect("/api/channels", headers={"Origin": origin} | bearer(mint("bob")))
    assert await socket.receive_str() == "bob"


# Requests that change something.


async def test_a_cookie_alone_changes_nothing(worker: Worker, mint: Mint) -> None:
    client = await worker()
    await log_in(client, mint("ada"))
    assert await who(client) == "ada"
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        async with client.request(method, "/api/me") as response:
            assert "X-XSRFToken" in await refused(response)
        async with client.request(method, "/api/me", headers=own(client)) as response:
            assert response.status == 200
        async with client.request(method, "/api/me", headers={"Sec-Fetch-Site": "same-origin"}) as response:
            assert response.status == 200
        async with client.request(method, "/api/me", headers=bearer(mint("bob"))) as response:
            assert response.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1"},  # another port is another origin
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Mode": "same-origin"},  # says nothing about where from
        {"Referer": "http://127.0.0.1/"},
    ],
)
async def test_another_sites_page_changes_nothing(worker: Worker, mint: Mint, headers: dict[str, str]) -> None:
    client = await worker()
    await log_in(client, mint("ada"))
    async with client.post("/api/me", headers=headers) as response:
        await refused(response)
    async with client.post("/logout", headers=headers) as response:
        await refused(response)
    assert await who(client) == "ada"


async def test_repeating_the_xsrf_cookie_in_the_header_is_proof(worker: Worker, mint: Mint) -> None:
    client = await worker()
    await log_in(client, mint("ada"))
    async with client.get("/") as response:
        xsrf = response.cookies["_xsrf"]
        assert not xsrf["httponly"]
        assert xsrf["samesite"] == "Lax"
    async with client.post("/api/me", headers={"X-XSRFToken": xsrf.value}) as response:
        assert response.status == 200
    for wrong in ("", "x", xsrf.value + "x", "é"):
        async with client.post("/api/me", headers={"X-XSRFToken": wrong}) as response:
            await refused(response)
    headers = {"X-XSRFToken": xsrf.value, "Origin": "https://evil.example"}
    async with client.post("/api/me", headers=headers) as response:
        await refused(response)


async def test_an_empty_xsrf_cookie_proves_nothing(worker: Worker, mint: Mint) -> None:
    client = await worker()
    await log_in(client, mint("ada"))
    client.session.cookie_jar.update_cookies({"_xsrf": ""}, client.make_url("/"))
    async with client.post("/api/me", headers={"X-XSRFToken": ""}) as response:
        await refused(response)


async def test_behind_tls_a_plain_page_of_the_same_host_is_foreign(worker: Worker, mint: Mint) -> None:
    client = await worker(behind_tls=True)
    async with client.post("/login", json={"token": mint("ada")}) as response:
        cookie = {"Cookie": f"kernelring={response.cookies['kernelring'].value}"}
    async with client.post("/api/me", headers=cookie | own(client)) as response:
        await refused(response)
    secure = {"Origin": own(client)["Origin"].replace("http:", "https:")}
    async with client.post("/api/me", headers=cookie | secure) as response:
        assert response.status == 200


# Errors.


@pytest.mark.parametrize("path", ["/api/broken", "/api/lost"])
async def test_an_unexpected_error_tells_the_client_nothing_but_its_number(
    worker: Worker, mint: Mint, events: Logs, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    client = await worker()
    async with client.get(path, headers=bearer(mint("ada"))) as response:
        assert response.status == 500
        document = await response.json()
    (entry,) = named(events, "request_failed")
    assert document == {"message": "Internal error", "reason": entry["request"]}
    assert (entry["user"], entry["log_level"], entry["exc_info"]) == ("ada", "error", True)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_plain_http_errors_of_the_api_take_jupyters_form(worker: Worker, mint: Mint, events: Logs) -> None:
    client, headers = await worker(), bearer(mint("ada"))
    async with client.get("/api/nothing", headers=headers) as response:
        assert response.status == 404
        assert await response.json() == {"message": "Not Found", "reason": None}
    async with client.get("/api/echo", headers=headers) as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
        assert (await response.json())["message"] == "Method Not Allowed"
    async with client.post("/api/echo", headers=headers, data=BytesIO(b"x" * (2 << 20))) as response:
        assert "body size" in await refused(response, 413)
    assert [entry["status"] for entry in named(events, "request_refused")] == [404, 405, 413]
    assert all(entry["user"] == "ada" and entry["request"] for entry in events)


async def test_a_path_cannot_forge_a_log_line(worker: Worker, events: Logs) -> None:
    client = await worker()
    async with client.get("/api/x%0Aevent=logged_in%20user=eve") as response:
        await refused(response)
    assert "\n" not in events[0]["path"]


async def test_an_error_in_an_open_websocket_hangs_up_and_is_logged_once(
    worker: Worker, mint: Mint, events: Logs, caplog: pytest.LogCaptureFixture
) -> None:
    client = await worker()
    socket = await client.ws_connect("/api/channels", headers=bearer(mint("ada")))
    assert await socket.receive_str() == "ada"
    await socket.send_str("break")
    async with asyncio.timeout(5):
        message = await socket.receive()
    assert message.data in (None, 1006)
    assert len(named(events, "request_failed")) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_client_that_vanishes_in_its_body_is_one_warning(worker: Worker, mint: Mint, events: Logs) -> None:
    client, token = await worker(), mint("ada")
    _, writer = await asyncio.open_connection(client.host, client.port)
    head = f"POST /api/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 100\r\n\r\nx"
    writer.write(head.encode())
    writer.close()
    await writer.wait_closed()
    await until(lambda: events)
    assert [(entry["event"], entry["log_level"]) for entry in events] == [("request_broken_off", "warning")]
    assert await who_is_healthy(client)
