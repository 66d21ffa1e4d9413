"""Requests about a user's kernels: made once, served at the owner.

Owns the way of an HTTP request from the entry worker to the owner and back. The handlers themselves are the same
whether a browser or a peer asks: they read `request[USER]`, which the identity middleware sets for clients and the hop
for peers, and `request_id(request)`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from aiohttp import web

from kernels.errors import UnknownKernel
from server import app_keys
from server.api_errors import api_error, request_id
from server.bodies import read_body
from server.request_keys import ACTOR, USER
from sharding.member import Member
from sharding.membership import Membership

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ENTRY_HEADER: Final = "X-Kernelring-Entry"
OWNER_HEADER: Final = "X-Kernelring-Owner"
MAX_TEXT: Final = 4096  # as a path on Linux
JSON: Final = "application/json"  # what a body is taken for, whatever the client calls it
PASSED_BACK: Final = ("Content-Type", "Location", "Last-Modified", "Retry-After")


def owned(handler: Handler) -> Handler:
    """Return the entry worker's handler: `handler` here when this worker owns the user, else at the owner."""

    async def at_owner(request: web.Request) -> web.StreamResponse:
        body = await read_body(request) if request.can_read_body else None
        membership = request.app[app_keys.MEMBERSHIP]

        async def here() -> web.StreamResponse:
            return await _signed(local(request, handler), OWNER_HEADER, membership)

        async def there(owner: Member, epoch: int) -> web.StreamResponse:
            reply = await request.app[app_keys.PEERS].request(
                owner,
                request.method,
                request.path_qs,
                user=request[USER],
                request_id=request_id(request),
                epoch=epoch,
                body=body,
                content_type=JSON if body else None,
                behalf=request.get(ACTOR, ""),
            )
            headers = {name: reply.headers[name] for name in PASSED_BACK if name in reply.headers}
            headers[OWNER_HEADER] = owner.name
            return web.Response(status=reply.status, body=reply.body, headers=headers)

        answer = request.app[app_keys.OWNERSHIP].at_owner(request[USER], here, there)
        return await _signed(answer, ENTRY_HEADER, membership)

    return at_owner


async def _signed(answer: Awaitable[web.StreamResponse], header: str, membership: Membership) -> web.StreamResponse:
    """Return the answer with this worker's slot in `header`; a refusal, which is raised, is signed too."""

    def sign(response: web.StreamResponse) -> web.StreamResponse:
        response.headers[header] = membership.me.name if membership.me else "none"
        return response

    try:
        return sign(await answer)
    except web.HTTPError as refusal:
        sign(refusal)
        raise


async def local(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Run an owner's handler, with the errors that all of them share in Jupyter's form.

    The `reason` of the 404 for a kernel that was there is the sentence why it ended, "" if its user ended it.
    """
    try:
        return await handler(request)
    except UnknownKernel as error:
        # The error's text is the id from here, and a sentence from the nursery.
        kernel_id = request.match_info.get("kernel_id", str(error))
        why = await request.app[app_keys.HOUSE].farewell(request[USER], kernel_id)
        raise api_error(404, f"Kernel does not exist: {kernel_id}", why) from error


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
