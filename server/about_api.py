"""Small answers about the server and the asking user: `/api`, `/api/status`, `/api/me`."""

from __future__ import annotations

from typing import Final

import orjson
from aiohttp import web

from server import app_keys
from server.api_errors import api_error
from server.request_keys import USER
from server.status import iso

# The release of jupyter_server whose REST and WebSocket API this server speaks; clients compare it.
API_VERSION: Final = "2.21.0"


async def version(request: web.Request) -> web.Response:
    """`GET /api`."""
    del request
    return web.json_response({"version": API_VERSION})


async def status(request: web.Request) -> web.Response:
    """`GET /api/status`: since when, and how many kernels and connections the user has."""
    kernels = [tenant.kernel for tenant in await request.app[app_keys.HOUSE].of(request[USER])]
    started = request.app[app_keys.STATUS].started_at
    model = {
        "started": iso(started),
        "last_activity": iso(max((kernel.last_activity for kernel in kernels), default=started)),
        "connections": sum(kernel.connections for kernel in kernels),
        "kernels": len(kernels),
    }
    return web.Response(body=orjson.dumps(model), content_type="application/json")


async def me(request: web.Request) -> web.Response:
    """`GET /api/me?permissions={…}`: who I am, and which of the permissions asked for I have (all: it is my own)."""
    user = request[USER]
    permissions = _permissions(request.query.get("permissions", ""))
    identity = {
        "username": user,
        "name": user,
        "display_name": user,
        "initials": user[:2].upper(),
        "avatar_url": None,
        "color": None,
    }
    # None of the fields above can be changed here: they come from the login.
    return web.json_response({"identity": identity, "permissions": {**permissions, "updatable_fields": []}})


def _permissions(text: str) -> dict[str, list[str]]:
    """Return the permissions asked about: resource -> actions. Raises a 400 ApiError."""
    try:
        asked = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError as error:
        raise api_error(400, f"permissions must be JSON: {error}") from error
    if not isinstance(asked, dict) or not all(_are_texts(actions) for actions in asked.values()):
        raise api_error(400, 'permissions must be a JSON object of the form {"resource": ["action"]}')
    return asked


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
