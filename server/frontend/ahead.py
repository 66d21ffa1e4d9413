"""A notebook's kernel starts while its page is on its way to the browser.

A page takes a second to load its scripts and then asks for a session of its notebook, with a kernel of the name that is
in the file. Owns the same request, sent as the page is: a page that asks finds the session there and need not wait.
Nothing depends on it: what it cannot read or start, the page itself asks for, and tells its user of.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import PurePosixPath
from typing import Any, Final

import orjson
import structlog
from aiohttp import web

from server import app_keys
from server.api_errors import ApiError
from server.request_keys import USER
from sharding.errors import PeerError
from sharding.member import Member
from sharding.wire import PeerReply

log = structlog.get_logger(__name__)

MAX_BYTES: Final = 4 * 2**20  # a larger notebook takes longer to read than its kernel to start

STARTING: web.AppKey[set[asyncio.Task[None]]] = web.AppKey("starting_ahead", set)


def start_ahead(request: web.Request, path: str) -> None:
    """Begin to start the kernel of the notebook at `path`. An address that says more than that is left to the page."""
    if request.query_string or not path.endswith(".ipynb"):
        return
    starting = request.app[STARTING]
    task = asyncio.create_task(_start(request.app, request[USER], path), name="start_ahead")
    starting.add(task)
    task.add_done_callback(starting.discard)


async def starts_ahead(app: web.Application) -> AsyncIterator[None]:
    """End what has been begun when the worker stops."""
    yield
    for task in app[STARTING]:
        task.cancel()
    await asyncio.gather(*app[STARTING], return_exceptions=True)


async def _start(app: web.Application, user: str, path: str) -> None:
    try:
        name = await _kernel_name(app, user, path)
        if name is None:
            return
        reply = await _post_session(app, user, path, name)
        if reply.status != 201:
            log.info("not_started_ahead", user=user, path=path, status=reply.status)
    except (ApiError, PeerError) as error:
        log.info("not_started_ahead", user=user, path=path, why=str(error))


async def _kernel_name(app: web.Application, user: str, path: str) -> str | None:
    """The kernel that the notebook names; None when it names none."""
    opened = await app[app_keys.CONTENTS].open_file(user, path)
    try:
        if opened.stat.st_size > MAX_BYTES:
            return None
        text = await asyncio.to_thread(os.read, opened.fd, MAX_BYTES)
    finally:
        os.close(opened.fd)
    return _named_in(text)


def _named_in(text: bytes) -> str | None:
    try:
        found: Any = orjson.loads(text)["metadata"]["kernelspec"]["name"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) and found else None


async def _post_session(app: web.Application, user: str, path: str, kernel: str) -> PeerReply:
    """`POST /api/sessions` at the owner, as the page will: one session for each path, whoever is first."""
    model = {"path": path, "name": PurePosixPath(path).name, "type": "notebook", "kernel": {"name": kernel}}
    body, membership, request_id = orjson.dumps(model), app[app_keys.MEMBERSHIP], str(uuid.uuid4())

    async def there(owner: Member, epoch: int) -> PeerReply:
        return await app[app_keys.PEERS].request(
            owner,
            "POST",
            "/api/sessions",
            user=user,
            request_id=request_id,
            epoch=epoch,
            body=body,
            content_type="application/json",
        )

    async def here() -> PeerReply:
        assert membership.me is not None  # it owns the user
        return await there(membership.me, membership.ring.epoch)

    return await app[app_keys.OWNERSHIP].at_owner(user, here, there)
