"""Jupyter Server's sessions API, as the owner serves it.

A session ties a path (a notebook, a console) to a kernel. It is kept as a note with the kernel's record in the
nursery, so it outlives workers and Redis, and ends with its kernel. Formats and status codes are jupyter_server's
(`services/sessions/handlers.py`, 2.21).
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

from aiohttp import web

from kernels.errors import BadRequest
from kernels.house import House
from kernels.tenant import Tenant
from server import app_keys, kernels_api
from server.api_errors import api_error
from server.owned import json_object, object_field, text_field
from server.request_keys import USER

SESSION_ID: Final = r"{session_id:\w+-\w+-\w+-\w+-\w+}"
NOTE: Final = "sessions"

# Two tabs that open one notebook at once must end up in one session: one change at a time for each user.
_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


class Found(NamedTuple):
    """A session and the kernel that it belongs to."""

    session: dict[str, str]
    tenant: Tenant


def _lock(user: str) -> asyncio.Lock:
    return _locks.setdefault(user, asyncio.Lock())


def session_model(found: Found) -> dict[str, Any]:
    """A session as clients see it; notebooks carry their path twice, for clients of the old form."""
    session = found.session
    model: dict[str, Any] = {**session, "kernel": kernels_api.kernel_model(found.tenant)}
    if session["type"] == "notebook":
        model["notebook"] = {"path": session["path"], "name": session["name"]}
    return model


async def list_sessions(request: web.Request) -> web.Response:
    """`GET /api/sessions`."""
    return web.json_response([session_model(found) for found in await _all(request)])


async def create_session(request: web.Request) -> web.Response:
    """`POST /api/sessions`: 201 with a new session, or with the existing one of that path."""
    model = _modern(await _body(request))
    for field in ("path", "type"):
        if text_field(model, field) is None:
            raise api_error(400, f"Missing field in JSON data: {field}")
    async with _lock(request[USER]):
        for found in await _all(request):
            if found.session["path"] == model["path"]:
                return _created(found)
        return _created(await _open(request, model))


async def get_session(request: web.Request) -> web.Response:
    """`GET /api/sessions/{session_id}`."""
    return web.json_response(session_model(await _one(request)))


async def patch_session(request: web.Request) -> web.Response:
    """`PATCH /api/sessions/{session_id}`: rename, or move to another kernel (the old one ends)."""
    model = _modern(await _body(request))
    async with _lock(request[USER]):
        found = await _one(request)
        changed = {**found.session}
        for field in ("path", "name", "type"):
            changed[field] = text_field(model, field, changed[field]) or ""
        target = await _target(request, object_field(model, "kernel"), found)
        house = request.app[app_keys.HOUSE]
        others = [session for session in _notes(found.tenant) if session["id"] != changed["id"]]
        if target is found.tenant:
            await _keep(house, target, [*others, changed])
        else:
            await _keep(house, target, [*_notes(target), changed])
            await house.end(found.tenant, "its session moved to another kernel")
        return web.json_response(session_model(Found(changed, target)))


async def delete_session(request: web.Request) -> web.Response:
    """`DELETE /api/sessions/{session_id}`: 204; the kernel ends with it."""
    async with _lock(request[USER]):
        found = await _one(request)
        await request.app[app_keys.HOUSE].end(found.tenant, "its session was deleted")
    return web.Response(status=204)


# -- inside -------------------------------------------------------------------------------------------------------


async def _body(request: web.Request) -> dict[str, Any]:
    model = await json_object(request)
    if model is None:
        raise api_error(400, "No JSON data provided")
    return model


def _modern(model: dict[str, Any]) -> dict[str, Any]:
    """The old form names the path in `notebook`."""
    notebook = object_field(model, "notebook")
    path = notebook.get("path") or notebook.get("name")
    return {**model, "type": "notebook", "path": path} if path else model


def _notes(tenant: Tenant) -> list[dict[str, str]]:
    sessions: list[dict[str, str]] = tenant.record.notes.get(NOTE, [])
    return sessions


async def _keep(house: House, tenant: Tenant, sessions: list[dict[str, str]]) -> None:
    try:
        await house.note(tenant, {**tenant.record.notes, NOTE: sessions})
    except BadRequest as error:
        raise api_error(400, "This kernel has more sessions, or longer names, than can be kept", str(error)) from error


async def _all(request: web.Request) -> list[Found]:
    tenants = await request.app[app_keys.HOUSE].of(request[USER])
    return [Found(session, tenant) for tenant in tenants for session in _notes(tenant)]


async def _one(request: web.Request) -> Found:
    session_id = request.match_info["session_id"]
    for found in await _all(request):
        if found.session["id"] == session_id:
            return found
    raise api_error(404, f"Session not found: session_id='{session_id}'")


def _created(found: Found) -> web.Response:
    location = f"/api/sessions/{found.session['id']}"
    return web.json_response(session_model(found), status=201, headers={"Location": location})


async def _open(request: web.Request, model: dict[str, Any]) -> Found:
    kernel = object_field(model, "kernel")
    path = text_field(model, "path") or ""
    session = {
        "id": str(uuid.uuid4()),
        "path": path,
        "name": text_field(model, "name", "") or "",
        "type": text_field(model, "type") or "",
    }
    kernel_id = text_field(kernel, "id")
    if kernel_id:
        house = request.app[app_keys.HOUSE]
        tenant = await house.get(request[USER], kernel_id)
        await _keep(house, tenant, [*_notes(tenant), session])
    else:
        name = text_field(kernel, "name")
        tenant = await kernels_api.start(request, name=name, path=path, notes={NOTE: [session]})
    return Found(session, tenant)


async def _target(request: web.Request, kernel: dict[str, Any], found: Found) -> Tenant:
    """The kernel that a PATCH names: by id, by kernelspec (a new one is started), or the one that it has."""
    kernel_id, name = text_field(kernel, "id"), text_field(kernel, "name")
    if kernel_id == found.tenant.record.kernel_id or not (kernel_id or name):
        return found.tenant
    if kernel_id:
        for tenant in await request.app[app_keys.HOUSE].of(request[USER]):
            if tenant.record.kernel_id == kernel_id:
                return tenant
        raise api_error(400, f"No such kernel: {kernel_id}")
    return await kernels_api.start(request, name=name, path=found.session["path"], takes_place=True)
