"""Jupyter Server's contents API, as the owner serves it.

Formats and status codes are jupyter_server's (`services/contents/handlers.py`, 2.21), read from its source; errors are
JSON throughout.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Final
from urllib.parse import quote

import orjson
from aiohttp import web
from jupyter_client.jsonutil import json_default

from server import app_keys
from server.api_errors import api_error, request_id
from server.contents.contents import Contents
from server.contents.files import Model
from server.owned import Handler, json_object, text_field
from server.request_keys import USER

ROOT: Final = "/api/contents"
PATH: Final = r"{path:(?:/.*)?}"
CHECKPOINT: Final = r"{checkpoint:[\w-]+}"
TYPES: Final = ("directory", "file", "notebook")


async def get(request: web.Request) -> web.Response:
    """`GET`: a file, a notebook, or what is in a folder; `type`, `format`, `content` and `hash` in the query."""
    form = request.query.get("format")
    if form not in (None, "text", "base64"):
        raise api_error(400, f"Format {form!r} is invalid")
    model = await _contents(request).get(
        request[USER],
        _path(request),
        content=_flag(request, "content", "1"),
        type=_kind(request.query.get("type")),
        format=form,
        require_hash=_flag(request, "hash", "0"),
    )
    return _answer(model)


async def post(request: web.Request) -> web.Response:
    """`POST`: something new in a folder: a copy (`copy_from`), or empty (`type`, `ext`). 201."""
    model = await json_object(request) or {}
    once = request_id(request)
    source = text_field(model, "copy_from")
    if source:
        made = await _contents(request).copy(request[USER], source, _path(request), request=once)
    else:
        kind, ext = _kind(text_field(model, "type")) or "", text_field(model, "ext") or ""
        made = await _contents(request).new(request[USER], _path(request), kind, ext, request=once)
    return _answer(made, 201, location=True)


async def put(request: web.Request) -> web.Response:
    """`PUT`: save; 201 for a new file. Without a body, something new and empty in this folder, as in jupyter_server.

    Ours: with `replaces` in the query, the hash of a version, 412 if the file is not that one (any more).
    """
    model, once = await json_object(request), request_id(request)
    if not model:
        return _answer(await _contents(request).new(request[USER], _path(request), request=once), 201, location=True)
    if model.get("copy_from"):
        raise api_error(400, "Cannot copy with PUT, only POST")
    text_field(model, "path")
    if kind := text_field(model, "type"):
        model["type"] = _kind(kind)
    replaces = request.query.get("replaces")
    saved = await _contents(request).save(request[USER], _path(request), model, request=once, replaces=replaces)
    return _answer(saved.model, 201 if saved.is_new else 200, location=True)


async def patch(request: web.Request) -> web.Response:
    """`PATCH` with `{path}`: rename."""
    model = await json_object(request)
    if model is None:
        raise api_error(400, "JSON body missing")
    to = text_field(model, "path") or _path(request)
    moved = await _contents(request).rename(request[USER], _path(request), to, request=request_id(request))
    return _answer(moved, location=True)


async def delete(request: web.Request) -> web.Response:
    """`DELETE`: 204."""
    await _contents(request).delete(request[USER], _path(request), request=request_id(request))
    return web.Response(status=204)


async def list_checkpoints(request: web.Request) -> web.Response:
    """`GET …/checkpoints`."""
    found = await _contents(request).checkpoints(request[USER], _path(request))
    return web.Response(body=packed(found), content_type="application/json")


async def create_checkpoint(request: web.Request) -> web.Response:
    """`POST …/checkpoints`: 201."""
    model = await _contents(request).create_checkpoint(request[USER], _path(request))
    location = f"{_location(_path(request))}/checkpoints/{model['id']}"
    return web.Response(body=packed(model), status=201, content_type="application/json", headers={"Location": location})


async def restore_checkpoint(request: web.Request) -> web.Response:
    """`POST …/checkpoints/{id}`: 204."""
    await _contents(request).restore_checkpoint(request[USER], _path(request), request.match_info["checkpoint"])
    return web.Response(status=204)


async def delete_checkpoint(request: web.Request) -> web.Response:
    """`DELETE …/checkpoints/{id}`: 204."""
    await _contents(request).delete_checkpoint(request[USER], _path(request), request.match_info["checkpoint"])
    return web.Response(status=204)


async def trust(request: web.Request) -> web.Response:
    """`POST …/trust`: 201."""
    await _contents(request).trust(request[USER], _path(request))
    return web.Response(status=201)


OWNED: Final[list[tuple[str, str, Handler]]] = [
    ("GET", f"{ROOT}{PATH}/checkpoints", list_checkpoints),
    ("POST", f"{ROOT}{PATH}/checkpoints", create_checkpoint),
    ("POST", f"{ROOT}{PATH}/checkpoints/{CHECKPOINT}", restore_checkpoint),
    ("DELETE", f"{ROOT}{PATH}/checkpoints/{CHECKPOINT}", delete_checkpoint),
    ("POST", f"{ROOT}{PATH}/trust", trust),
    ("GET", f"{ROOT}{PATH}", get),
    ("POST", f"{ROOT}{PATH}", post),
    ("PUT", f"{ROOT}{PATH}", put),
    ("PATCH", f"{ROOT}{PATH}", patch),
    ("DELETE", f"{ROOT}{PATH}", delete),
]


# -- inside -----------------------------------------------------------------------------------------------------------


def _contents(request: web.Request) -> Contents:
    return request.app[app_keys.CONTENTS]


def _path(request: web.Request) -> str:
    return request.match_info["path"].strip("/")


def _flag(request: web.Request, name: str, default: str) -> bool:
    value = request.query.get(name, default)
    if value not in ("0", "1"):
        raise api_error(400, f"{name.capitalize()} argument {value!r} is invalid. It must be '0' or '1'.")
    return value == "1"


def _kind(given: str | None) -> str | None:
    """The type asked for; one that jupyter_server does not know is a file."""
    return given if given in (None, "", *TYPES) else "file"


def _location(path: str) -> str:
    return f"{ROOT}/{quote(path)}"


def _answer(model: Model, status: int = 200, *, location: bool = False) -> web.Response:
    headers = {"Last-Modified": format_datetime(model["last_modified"].astimezone(UTC), usegmt=True)}
    if location:
        headers["Location"] = _location(model["path"])
    return web.Response(body=packed(model), status=status, content_type="application/json", headers=headers)


def packed(value: object) -> bytes:
    """JSON as jupyter_server writes it: times in ISO with all their digits."""
    try:
        return orjson.dumps(value, default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME)
    except orjson.JSONEncodeError:  # half of a surrogate pair, or deeper than orjson goes
        return json.dumps(value, default=json_default).encode()


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    raise TypeError(f"not JSON: {type(value)}")
