"""A worker that serves the front ends and nothing else: the real routes, on a real directory, with users by header."""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from server import app_keys
from server.api_errors import json_errors
from server.contents.contents import Contents, Places
from server.frontend import ahead, events, nbconvert
from server.frontend.frontend import FRONTEND, Frontend, front_ends, read_catalogue, read_settings
from server.frontend.routes import ROUTES
from server.request_keys import USER
from server.settings import Settings
from server.workdir import user_directory

if TYPE_CHECKING:
    from server.frontend.catalogue import Catalogue
    from server.frontend.settings import LabSettings

# Once in a process: it is the same for every worker, and takes a second.
_catalogue = functools.cache(read_catalogue)


@functools.cache
def _settings_once(catalogue: Catalogue) -> LabSettings:
    with tempfile.TemporaryDirectory() as place:
        return read_settings(catalogue, Path(place) / "settings")


def _settings_of(catalogue: Catalogue, _shelf: Path) -> LabSettings:
    return _settings_once(catalogue)


@dataclass
class Pages:
    """What a test has."""

    root: Path
    app: web.Application
    client: TestClient[web.Request, web.Application]

    def home(self, user: str = "ada") -> Path:
        """The user's folder."""
        return user_directory(self.root / "notebooks", user)

    async def ask(self, path: str, method: str = "GET", *, user: str = "ada", **more: Any) -> ClientResponse:
        """Ask for an address as it stands there; the body has been read."""
        headers = {"X-User": user} | more.pop("headers", {})
        url = URL(path, encoded=True)
        async with self.client.request(method, url, headers=headers, allow_redirects=False, **more) as response:
            await response.read()
            return response


@web.middleware
async def _somebody(request: web.Request, handler: Any) -> web.StreamResponse:
    request[USER] = request.headers.get("X-User", "ada")
    response: web.StreamResponse = await handler(request)
    return response


@asynccontextmanager
async def pages_in(root: Path, **settings: Any) -> AsyncIterator[Pages]:
    """A worker on `root`, with these settings."""
    app = web.Application(middlewares=[json_errors, _somebody], client_max_size=4 * 2**20)
    epochs = itertools.count(1)
    app[app_keys.SETTINGS] = Settings(notebooks=root / "notebooks", **settings)
    places = Places(root / "notebooks", root / "c")
    app[app_keys.CONTENTS] = contents = Contents(
        places, lambda: next(epochs), lambda user: (user_directory(places.notebooks, user), None)
    )
    app[FRONTEND] = Frontend(root / "notebooks", root / "static", _catalogue, _settings_of)
    app[events.EVENTS], app[nbconvert.EXPORTS] = {}, nbconvert.Exports()
    app[ahead.STARTING] = set()
    app.router.add_routes([web.route(method, path, handler) for method, path, handler in ROUTES])
    app.cleanup_ctx.extend([front_ends, ahead.starts_ahead])
    async with TestClient(TestServer(app)) as client:
        try:
            yield Pages(root, app, client)
        finally:
            await contents.close()
