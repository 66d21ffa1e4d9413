"""The kernels of others, for instructors and operators: which there are, and ending one.

`GET /api/users`, `GET /api/users/{user}/kernels`, `DELETE /api/users/{user}/kernels/{kernel_id}`. Owns the check, made
by the worker that the client has reached and before anything is looked up: whoever may not gets the 404 of an address
that does not exist, so that nothing is told of who is there. From then on the request is for `request[USER]`, whose
owner serves it like any other, and `request[ACTOR]` says on whose behalf.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import structlog
from aiohttp import web

from kernels.errors import NurseryUnavailable
from server import app_keys, kernels_api
from server.api_errors import request_id
from server.owned import Handler, owned
from server.ownership import unavailable
from server.request_keys import ACTOR, STANDING, USER
from server.roles import NOBODY_SPECIAL, OPERATOR, STUDENT
from server.tokens import check_user

log = structlog.get_logger(__name__)

OF_USER: Final = "/api/users/{user}/kernels"
FAREWELLS: Final = {OPERATOR: "Your kernel was ended by an operator of this server."}
FAREWELL: Final = "Your kernel was ended by your instructor."


async def list_users(request: web.Request) -> web.Response:
    """`GET /api/users`: those that one may see and that have kernels, with how many. Any worker answers."""
    standing = request.get(STANDING, NOBODY_SPECIAL)
    if standing.role == STUDENT:
        raise web.HTTPNotFound
    try:
        records = await request.app[app_keys.NURSERY].kernels()
    except NurseryUnavailable as error:
        raise unavailable(error) from error
    counted = Counter(record.user for record in records if standing.may_see(record.user))
    log.info("users_listed", by=request[USER], role=standing.role, users=len(counted), request=request_id(request))
    return web.json_response([{"name": user, "kernels": counted[user]} for user in sorted(counted)])


async def end_kernel(request: web.Request) -> web.Response:
    """`DELETE /api/users/{user}/kernels/{kernel_id}`, at the owner: 204 once nothing of the kernel is left."""
    house, actor = request.app[app_keys.HOUSE], request[ACTOR]
    tenant = await house.get(request[USER], request.match_info["kernel_id"])
    role, _, by = actor.partition(" ")
    log.info("kernel_ended_by", by=by, role=role, user=request[USER], kernel=tenant.record.kernel_id)
    await house.end(tenant, f"ended by {by}, {role}", FAREWELLS.get(role, FAREWELL))
    return web.Response(status=204)


def for_others(handler: Handler) -> Handler:
    """Return the entry worker's handler, which lets `handler` serve the user in the address, if that may be."""
    at_owner = owned(handler)

    async def entry(request: web.Request) -> web.StreamResponse:
        standing, by, user = request.get(STANDING, NOBODY_SPECIAL), request[USER], request.match_info["user"]
        if not standing.may_see(user) or not _is_user(user):
            raise web.HTTPNotFound
        asked = request_id(request)
        log.info("acts_for_another", by=by, role=standing.role, user=user, method=request.method, request=asked)
        request[USER], request[ACTOR] = user, f"{standing.role} {by}"
        return await at_owner(request)

    return entry


def for_peers(handler: Handler) -> Handler:
    """Return the owner's handler for what a peer has let in: never without on whose behalf."""

    async def owner(request: web.Request) -> web.StreamResponse:
        if not request.get(ACTOR):
            raise web.HTTPNotFound
        return await handler(request)

    return owner


def _is_user(text: str) -> bool:
    try:
        return bool(check_user(text))
    except ValueError:
        return False


OTHERS: Final[list[tuple[str, str, Handler]]] = [
    ("GET", OF_USER, kernels_api.list_kernels),
    ("DELETE", f"{OF_USER}/{kernels_api.KERNEL_ID}", end_kernel),
]
