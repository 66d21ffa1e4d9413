"""An owner that gives a peer's client a seat at a kernel: what the peer sees while the kernel starts."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from kernels.errors import KernelGone
from kernels.resume import Resume
from server import app_keys
from server.links import dump_resume
from server.peer_channels import peer_channels
from server.request_keys import USER

HEARTBEAT_S = 0.1
SLOW_S = 1.0  # many heartbeats
PATH = "/api/kernels/0123abcd-0123-4567-89ab-0123456789ab/channels"


class Starting:
    """A kernel that takes its time; it is gone when it has started."""

    def __init__(self) -> None:
        self.given_up = asyncio.Event()

    async def take_seat(self, resume: Resume) -> Any:
        try:
            await asyncio.sleep(SLOW_S)
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        raise KernelGone("it was deleted")


async def peer_of(kernel: Starting) -> TestClient[web.Request, web.Application]:
    async def get(user: str, kernel_id: str) -> Any:
        return SimpleNamespace(kernel=kernel)

    @web.middleware
    async def known(request: web.Request, handler: Any) -> web.StreamResponse:
        request[USER] = "ann"
        answer: web.StreamResponse = await handler(request)
        return answer

    app = web.Application(middlewares=[known])
    app[app_keys.HOUSE] = cast("Any", SimpleNamespace(get=get))
    app.router.add_get("/api/kernels/{kernel_id}/channels", peer_channels)
    return TestClient(TestServer(app))


@pytest.fixture
def resume() -> str:
    return dump_resume(Resume("client"))


async def test_an_owner_answers_pings_while_a_kernel_takes_long_to_start(resume: str) -> None:
    async with await peer_of(Starting()) as client, client.ws_connect(PATH, heartbeat=HEARTBEAT_S) as socket:
        await socket.send_str(resume)
        assert (await socket.receive(5)).extra == "it was deleted"


async def test_an_owner_waits_no_more_for_a_peer_that_has_gone(resume: str) -> None:
    kernel = Starting()
    async with await peer_of(kernel) as client, client.ws_connect(PATH) as socket:
        await socket.send_str(resume)
        await socket.close()
        async with asyncio.timeout(SLOW_S):
            await kernel.given_up.wait()
