"""What the application's tests share: a Redis of their own, and workers that differ only in their memory.

A worker here is the smallest application that has identities: the middlewares, the login, a page and an API
that say who is asking. Two workers on one Redis with one key are what a class sees behind one address.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeAlias

import jwt
import pytest
import structlog
from aiohttp import ClientResponse, CookieJar, DummyCookieJar, web
from aiohttp.test_utils import TestClient, TestServer
from pytest_aiohttp.plugin import AiohttpClient
from redis.asyncio import Redis

from server.cross_origin import setup_cross_origin
from server.identity import USER, setup_identity
from server.login_session import derive_session_key
from server.tokens import TokenVerifier
from tests.redis_server import RedisServer

SECRET = "a secret of at least thirty-two bytes"

Client: TypeAlias = TestClient[web.Request, Any]
Worker: TypeAlias = Callable[..., Awaitable[Client]]
Mint: TypeAlias = Callable[..., str]
Logs: TypeAlias = list[Any]


def pytest_configure(config: pytest.Config) -> None:
    # aiohttp-session keeps its own two values in the request by name, which aiohttp warns of.
    config.addinivalue_line("filterwarnings", "ignore::aiohttp.web_exceptions.NotAppKeyWarning:aiohttp_session")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """A client of an empty Redis that runs, whatever the test before has done to it."""
    redis_server.start()
    client = Redis.from_url(redis_server.url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def events() -> Iterator[Logs]:
    """The events logged during the test."""
    with structlog.testing.capture_logs() as captured:
        yield captured


@pytest.fixture
def mint(events: Logs, caplog: pytest.LogCaptureFixture) -> Iterator[Mint]:
    """Makes tokens, and fails the test when one of them turns up in a log line."""
    caplog.set_level("DEBUG")
    minted: list[str] = []

    def token(user: str | None = "ada", *, secret: str = SECRET, **claims: Any) -> str:
        whole = {"sub": user, "exp": int(time.time()) + 3600} | claims
        kept = {name: value for name, value in whole.items() if value is not None}
        minted.append(jwt.encode(kept, secret, algorithm="HS256"))
        return minted[-1]

    yield token
    logged = repr(events) + "".join(record.getMessage() for record in caplog.get_records("call"))
    for made in minted:
        assert made.rpartition(".")[2] not in logged, "a token's signature is in the log"


@pytest.fixture
def worker(aiohttp_client: AiohttpClient, redis: Redis) -> Worker:
    """Starts a worker; options as of setup_identity. Each has its own memory, and its own browser.

    With `browser=False` its client keeps no cookies: a test sends those that it means. `allow_origin`: pages that may
    call its API from elsewhere.
    """

    async def start(*, browser: bool = True, allow_origin: Sequence[str] = (), **options: Any) -> Client:
        app = web.Application()
        setup_cross_origin(app, allow_origin)
        settings: dict[str, Any] = {
            "verifier": TokenVerifier(secret=SECRET),
            "redis": redis,
            "session_key": derive_session_key(SECRET),
            "hours": 12,
            "guests": False,
            "behind_tls": False,
        }
        setup_identity(app, **(settings | options))
        _add_routes(app)
        jar = CookieJar(unsafe=True) if browser else DummyCookieJar()
        return await aiohttp_client(_Server(app), cookie_jar=jar)

    return start


class _Server(TestServer):
    """A server as under gunicorn: no access log, and a handler goes on when its client has gone."""

    async def _make_runner(self, **_: object) -> web.AppRunner:
        return web.AppRunner(self.app, access_log=None)


def _add_routes(app: web.Application) -> None:
    app.router.add_get("/healthz", _health)
    app.router.add_get("/", _page)
    app.router.add_get("/tree", _page)
    app.router.add_route("*", "/files/{path:.+}", _page)
    app.router.add_get("/static/{name}", _health)
    app.router.add_route("*", "/api/me", _me)
    app.router.add_post("/api/echo", _echo)
    app.router.add_get("/api/broken", _broken)
    app.router.add_get("/api/lost", _lost)
    app.router.add_get("/api/channels", _channels)


async def _health(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _page(request: web.Request) -> web.Response:
    return web.Response(text=f"<p>{request[USER]}</p>", content_type="text/html")


async def _me(request: web.Request) -> web.Response:
    return web.json_response({"user": request[USER]})


async def _echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def _broken(_: web.Request) -> web.Response:
    raise RuntimeError("the secret of the house")


async def _lost(_: web.Request) -> web.Response:
    raise ConnectionRefusedError("the secret of the house")


async def _channels(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_str(request[USER])
    async for message in socket:
        if message.data == "break":
            raise RuntimeError("the secret of the house")
    return socket


async def log_in(client: Client, token: str) -> str:
    """Log the browser of this client in; the cookie's text."""
    async with client.post("/login", json={"token": token}) as response:
        assert response.status == 200, await response.text()
        return response.cookies["kernelring"].value


def own(client: Client) -> dict[str, str]:
    """The Origin of the worker's own pages."""
    return {"Origin": str(client.make_url("/")).rstrip("/")}


async def who(client: Client, **options: Any) -> str:
    """Who the API says is asking."""
    async with client.get("/api/me", **options) as response:
        assert response.status == 200, await response.text()
        return str((await response.json())["user"])


async def refused(response: ClientResponse, status: int = 403) -> str:
    """The reason of a refusal in Jupyter's form."""
    assert response.status == status, await response.text()
    assert response.content_type == "application/json"
    document = await response.json()
    assert document["message"]
    return str(document["reason"])


async def until(condition: Callable[[], object], deadline_s: float = 5.0) -> None:
    """Return as soon as the condition holds; TimeoutError at the deadline."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 (for what shows in a log or a memory, and signals nobody)
            await asyncio.sleep(0.01)


def named(events: Logs, event: str) -> Logs:
    return [entry for entry in events if entry["event"] == event]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


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
