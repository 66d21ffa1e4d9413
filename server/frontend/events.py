"""Jupyter Server's events: one WebSocket for each page, on which the server may tell its user something.

Owns the sockets of this worker and their bound. A page of another worker hears nothing of what is published here.
Nothing that a client sends is taken.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import orjson
import structlog
from aiohttp import WSCloseCode, web

from server.api_errors import api_error
from server.owned import json_object
from server.request_keys import USER

log = structlog.get_logger(__name__)

PER_USER: Final = 32  # in each worker: a page has one
HEARTBEAT_S: Final = 30.0
CLOSE_S: Final = 1.0
SENT_S: Final = 5.0  # a page that takes nothing for so long misses an event
MAX_BYTES: Final = 1024
GOODBYE: Final = b"This worker is being replaced"

EVENTS: web.AppKey[dict[str, set[web.WebSocketResponse]]] = web.AppKey("events")


async def subscribe(request: web.Request) -> web.WebSocketResponse:
    """`GET /api/events/subscribe`: stays open until the page or this worker goes."""
    user, sockets = request[USER], request.app[EVENTS]
    mine = sockets.setdefault(user, set())
    if len(mine) >= PER_USER:
        raise api_error(429, "Too Many Requests", f"{PER_USER} pages listen for events already.")
    socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, timeout=CLOSE_S, max_msg_size=MAX_BYTES)
    mine.add(socket)
    try:
        await socket.prepare(request)
        async for _ in socket:
            pass
    finally:
        mine.discard(socket)
        if not mine and sockets.get(user) is mine:
            del sockets[user]
    return socket


async def emit(request: web.Request) -> web.Response:
    """`POST /api/events`: no schema is registered, so every event is refused as Jupyter refuses an unknown one."""
    event = await json_object(request)
    if event is None:
        raise api_error(400, "No JSON data provided")
    for name in ("schema_id", "version", "data"):
        if name not in event:
            raise api_error(400, f"Missing `{name}` in the JSON request body.")
    raise api_error(400, f"The schema, {str(event['schema_id'])[:MAX_BYTES]}, is not registered.")


async def publish(app: web.Application, user: str, schema_id: str, data: dict[str, Any]) -> None:
    """Tell the user's pages that are connected to this worker."""
    text = orjson.dumps({"schema_id": schema_id, **data}).decode()
    sockets = [socket for socket in app[EVENTS].get(user, ()) if socket.prepared and not socket.closed]
    await asyncio.gather(*(_tell(socket, text) for socket in sockets))


async def _tell(socket: web.WebSocketResponse, text: str) -> None:
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(SENT_S):
            await socket.send_str(text)


async def close_events(app: web.Application) -> None:
    """Send the pages away, with a code on which they come back, to another worker."""
    sockets = [socket for mine in app[EVENTS].values() for socket in mine]
    closing = (socket.close(code=WSCloseCode.SERVICE_RESTART, message=GOODBYE) for socket in sockets)
    await asyncio.gather(*closing, return_exceptions=True)
