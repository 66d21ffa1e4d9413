"""`/api/config/{section}`: what a front end or an extension keeps for its user, as jupyter_server's manager has it.

Each section is a JSON file beside the user's settings, with their bounds. Of two changes to one section at the same
moment the last counts, as in Jupyter.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson
from aiohttp import web
from jupyter_server.config_manager import BaseJSONConfigManager, recursive_update

from server import app_keys
from server.api_errors import api_error
from server.frontend.headers import NOSNIFF
from server.frontend.preferences import CONFIG, Preferences
from server.owned import json_object
from server.request_keys import USER

MAX_NAME: Final = 100

Section = dict[str, Any]


async def get_section(request: web.Request) -> web.Response:
    """`GET`: the section, empty when nothing was kept."""
    return _answer(await asyncio.to_thread(_read, _mine(request), _name(request)))


async def put_section(request: web.Request) -> web.Response:
    """`PUT`: this in its place. 204."""
    await asyncio.to_thread(_write, _mine(request), _name(request), await _sent(request))
    return web.Response(status=204)


async def patch_section(request: web.Request) -> web.Response:
    """`PATCH`: this besides; null removes. Answers with all of it."""
    changes = await _sent(request)

    def changed() -> Section:
        section = _read(_mine(request), _name(request))
        recursive_update(section, changes)
        _write(_mine(request), _name(request), section)
        return section

    try:
        return _answer(await asyncio.to_thread(changed))
    except (AttributeError, TypeError) as error:  # an object where there is a value
        raise api_error(400, "Bad Request", str(error)) from error


def _read(mine: Preferences, name: str) -> Section:
    found: Section = _manager(str(mine.directory(CONFIG))).get(name)
    return found


def _write(mine: Preferences, name: str, section: Section) -> None:
    """Raises ApiError, also when its parts lie too deep in each other."""
    try:
        mine.replace(CONFIG, lambda directory: _manager(directory).set(name, section))
    except RecursionError as error:
        raise api_error(400, "Bad Request", "The section is nested too deep") from error


def _manager(directory: str) -> Any:
    manager: Any = BaseJSONConfigManager  # not typed
    return manager(config_dir=directory)


async def _sent(request: web.Request) -> Section:
    section = await json_object(request)
    if section is None:
        raise api_error(400, "JSON body missing")
    return section


def _mine(request: web.Request) -> Preferences:
    return Preferences(request.app[app_keys.SETTINGS].notebooks, request[USER])


def _name(request: web.Request) -> str:
    name = request.match_info["section"]
    if len(name.encode()) > MAX_NAME:
        raise api_error(400, "The name of the section is too long")
    return name


def _answer(section: Section) -> web.Response:
    return web.Response(body=orjson.dumps(section), content_type="application/json", headers=NOSNIFF)
