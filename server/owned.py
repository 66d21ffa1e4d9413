"""Requests about a user's kernels: made once, served at the owner.

Owns the way of an HTTP request from the entry worker to the owner and back. The handlers themselves are the same
whether a browser or a peer asks: they read `request[USER]` and `request[REQUEST_ID]`, which the identity middleware
sets for clients and the hop for peers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from aiohttp import web

from kernels.errors import UnknownKernel
from server import app_keys
from server.api_errors import api_error
from server.request_keys import REQUEST_ID, USER
from sharding.member import Member

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ENTRY_HEADER: Final = "X-Kernelring-Entry"
OWNER_HEADER: Final = "X-Kernelring-Owner"
MAX_TEXT: Final = 4096  # as a path on Linux
PASSED_BACK: Final = ("Content-Type", "Location", "Retry-After")


def owned(handler: Handler) -> Handler:
    """Return the entry worker's handler: `handler` here when this worker owns the user, else at the owner."""

    async def at_owner(request: web.Request) -> web.StreamResponse:
        body = await request.read() if request.can_read_body else None
        membership = request.app[app_keys.MEMBERSHIP]

        async def here() -> web.StreamResponse:
            response = await local(request, handler)
            response.headers[OWNER_HEADER] = membership.owner(request[USER]).name
            return response

        async def there(owner: Member, epoch: int) -> web.StreamResponse:
            reply = await request.app[app_keys.PEERS].request(
                owner,
                request.method,
                request.path_qs,
                user=request[USER],
                request_id=request[REQUEST_ID],
                epoch=epoch,
                body=body,
                content_type=request.content_type if body else None,
            )
            headers = {name: reply.headers[name] for name in PASSED_BACK if name in reply.headers}
            headers[OWNER_HEADER] = owner.name
            return web.Response(status=reply.status, body=reply.body, headers=headers)

        response = await request.app[app_keys.OWNERSHIP].at_owner(request[USER], here, there)
        me = membership.me
        response.headers[ENTRY_HEADER] = me.name if me else "none"
        return response

    return at_owner


async def local(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Run an owner's handler, with the errors that all of them share in Jupyter's form."""
    try:
        return await handler(request)
    except UnknownKernel as error:
        raise api_error(404, f"Kernel does not exist: {error}") from error


async def json_object(request: web.Request) -> dict[str, Any] | None:
    """Return the body as a JSON object, None when there is none. Raises a 400 ApiError."""
    text = await request.read()
    if not text.strip():
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise api_error(400, f"Invalid JSON in body of request: {error}") from error
    if not isinstance(value, dict):
        raise api_error(400, "The body of the request must be a JSON object")
    return value


def text_field(model: dict[str, Any], name: str, default: str | None = None) -> str | None:
    """Return a field that is a string when present. Raises a 400 ApiError."""
    value = model.get(name)
    if value is None:
        return default
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise api_error(400, f"{name} must be a string of at most {MAX_TEXT} characters")
    return value


def object_field(model: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a field that is a JSON object when present, else an empty one. Raises a 400 ApiError."""
    value = model.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise api_error(400, f"{name} must be a JSON object")
    return value
