"""A worker that serves one class's files and nothing else: the real routes, on a real directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from server import app_keys, workdir
from server.api_errors import json_errors
from server.contents.contents import Contents, Places
from server.contents.routes import OWNED
from server.request_keys import REQUEST_ID, USER

Model = dict[str, Any]


@dataclass
class Answer:
    """A whole answer; `said` is its message."""

    status: int
    model: Any
    headers: Any

    @property
    def said(self) -> str:
        return str(self.model["message"])


@dataclass
class Desk:
    """What a test has: `call` asks as `user`."""

    root: Path
    contents: Contents
    client: TestClient[web.Request, web.Application]
    user: str = "ada"
    epoch: list[int] = field(default_factory=lambda: [1])

    @property
    def home(self) -> Path:
        return workdir.user_directory(self.root / "notebooks", self.user)

    @property
    def state(self) -> Path:
        """What is kept about the user outside their folder."""
        return self.contents._state(self.user)

    async def call(self, method: str, path: str = "", body: object = None, **more: str) -> Answer:
        """As `raw`, for a path that is percent-encoded here."""
        return await self.raw(method, f"/{quote(path)}" if path else "", body, **more)

    async def raw(
        self, method: str, tail: str, body: object = None, *, user: str | None = None, request: str = "", **query: str
    ) -> Answer:
        """Ask for an address. `request`: the id that the hop would carry."""
        head = {"X-User": user or self.user, "X-Id": request}
        url = URL(f"/api/contents{tail}", encoded=True)
        url = url.extend_query(query) if query else url
        data = None if body is None else BytesIO(body if isinstance(body, bytes) else orjson.dumps(body))
        async with self.client.request(method, url, data=data, headers=head) as response:
            text = await response.read()
            return Answer(response.status, orjson.loads(text) if text else None, response.headers)


@web.middleware
async def _somebody(request: web.Request, handler: Any) -> web.StreamResponse:
    request[USER] = request.headers["X-User"]
    if request.headers["X-Id"]:
        request[REQUEST_ID] = request.headers["X-Id"]
    response: web.StreamResponse = await handler(request)
    return response


@asynccontextmanager
async def desk_in(root: Path, *, welcome: bool = False, **places: Any) -> AsyncIterator[Desk]:
    """A worker on `root`. Without `welcome`, users are no new ones."""
    epoch = [1]
    contents = Contents(Places(root / "notebooks", root / "c", **places), lambda: epoch[0])
    if not welcome:
        for user in ("ada", "bob"):
            state = contents._state(user)
            state.mkdir(parents=True, exist_ok=True)
            (state / "welcomed").touch()
    app = web.Application(middlewares=[json_errors, _somebody], client_max_size=32 * 2**20)
    app[app_keys.CONTENTS] = contents
    app.router.add_routes([web.route(method, path, handler) for method, path, handler in OWNED])
    async with TestClient(TestServer(app)) as client:
        try:
            yield Desk(root, contents, client, epoch=epoch)
        finally:
            await contents.close()


def notebook(*sources: str, **more: Any) -> Model:
    """The model of a notebook to save."""
    cells: list[Model] = [
        {"cell_type": "code", "execution_count": None, "id": f"c{n}", "metadata": {}, "outputs": [], "source": source}
        for n, source in enumerate(sources)
    ]
    content = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return {"type": "notebook", "format": "json", "content": content | more}


def text(content: str) -> Model:
    """The model of a text file to save."""
    return {"type": "file", "format": "text", "content": content}
