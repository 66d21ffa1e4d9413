"""JupyterLab's own API below `/lab/api`: settings, workspaces, translations, themes, licences, listings.

The work is done by jupyterlab_server's functions, in threads; here is what they are asked and how their answers and
refusals look. What is a user's own lies where `preferences.py` says.
"""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Callable
from typing import Any, Final, TypeVar

import orjson
from aiohttp import hdrs, web

from server import app_keys
from server.api_errors import api_error
from server.bodies import read_body
from server.frontend.frontend import FRONTEND, catalogue_of
from server.frontend.headers import ASK_AGAIN, NOSNIFF
from server.frontend.preferences import WORKSPACES, Preferences
from server.owned import json_object
from server.request_keys import USER

T = TypeVar("T")

MAX_NAME: Final = 512
NO_STORE: Final = NOSNIFF | {hdrs.CACHE_CONTROL: "no-store"}
LISTINGS: Final = "@jupyterlab/extensionmanager-extension/listings.json"
_REPORTS: Final = ("json", "csv", "markdown")


# -- settings ---------------------------------------------------------------------------------------------------------


async def list_settings(request: web.Request) -> web.Response:
    """`GET /lab/api/settings`; with `ids_only=true` only which plugins have settings."""
    settings = await request.app[FRONTEND].settings()
    if request.query.get("ids_only") == "true":
        return _json(settings.ids_only)
    return _json(await _refusing(settings.all, _mine(request)))


async def get_settings(request: web.Request) -> web.Response:
    """`GET /lab/api/settings/{id}`."""
    settings, plugin = await request.app[FRONTEND].settings(), request.match_info["id"]
    if not settings.knows(plugin):
        raise api_error(404, f"Schema not found: {plugin[:MAX_NAME]}")
    return _json(await _refusing(settings.one, _mine(request), plugin))


async def put_settings(request: web.Request) -> web.Response:
    """`PUT /lab/api/settings/{id}` with `{"raw": "…"}`."""
    settings, plugin = await request.app[FRONTEND].settings(), request.match_info["id"]
    if not settings.knows(plugin):
        raise api_error(404, f"Schema not found: {plugin[:MAX_NAME]}")
    raw = (await json_object(request) or {}).get("raw")
    if not isinstance(raw, str):
        raise api_error(400, "Invalid format for JSON payload. Must be in the form {'raw': ...}")
    await _refusing(settings.save, _mine(request), plugin, raw)
    return web.Response(status=204)


# -- workspaces -------------------------------------------------------------------------------------------------------


async def list_workspaces(request: web.Request) -> web.Response:
    """`GET /lab/api/workspaces`."""
    found = await _refusing(lambda mine: _manager(mine).list_workspaces(), _mine(request))
    ids = [each["metadata"]["id"] for each in found]
    return _json(orjson.dumps({"workspaces": {"ids": ids, "values": found}}))


async def get_workspace(request: web.Request) -> web.Response:
    """`GET /lab/api/workspaces/{name}`: an empty one when there is none of that name."""
    name = _space(request)
    return _json(orjson.dumps(await _refusing(lambda mine: _manager(mine).load(name), _mine(request))))


async def put_workspace(request: web.Request) -> web.Response:
    """`PUT /lab/api/workspaces/{name}`."""
    name, mine = _space(request), _mine(request)
    raw = (await read_body(request)).decode("utf-8", "replace").strip()
    await json_object(request)  # refuses what is no JSON object
    await _refusing(mine.replace, WORKSPACES, lambda directory: _save_workspace(directory, name, raw))
    return web.Response(status=204)


async def delete_workspace(request: web.Request) -> web.Response:
    """`DELETE /lab/api/workspaces/{name}`."""
    name = _space(request)
    try:
        await _refusing(lambda mine: _manager(mine).delete(name), _mine(request))
    except FileNotFoundError as error:
        raise api_error(404, str(error)) from error
    return web.Response(status=204)


# -- languages, themes, licences, listings ----------------------------------------------------------------------------


async def list_translations(request: web.Request) -> web.Response:
    """`GET /lab/api/translations`: the languages that can be chosen."""
    from jupyterlab_server.translation_utils import get_language_packs  # with the catalogue, in a thread

    settings = await request.app[FRONTEND].settings()

    def listed(mine: Preferences) -> tuple[dict[str, Any], str]:
        return get_language_packs(display_locale=settings.locale(mine))

    data, message = await _refusing(listed, _mine(request))
    return _json(orjson.dumps({"data": data, "message": message}))


async def get_translation(request: web.Request) -> web.Response:
    """`GET /lab/api/translations/{locale}`: the texts of a language, and why when there are none."""
    from jupyterlab_server import translation_utils as texts  # with the catalogue, in a thread

    await catalogue_of(request)
    asked = request.match_info["locale"][:MAX_NAME]
    locale = texts.SYS_LOCALE if asked == "default" else asked
    data, message = await asyncio.to_thread(texts.get_language_pack, locale)
    if not data and not message:
        why = "installed" if texts.is_valid_locale(locale) else "valid"
        message = f"Language pack '{locale}' not {why}!"
    return _json(orjson.dumps({"data": data, "message": message}))


async def theme_file(request: web.Request) -> web.StreamResponse:
    """`GET /lab/api/themes/{file}`; addresses in style sheets are made to lead back here."""
    catalogue, name = await catalogue_of(request), request.match_info["file"]
    for directory in catalogue.theme_dirs:
        file = await request.app[FRONTEND].file(directory, name)
        if file is not None:
            break
    else:
        raise web.HTTPNotFound
    headers = NOSNIFF | {hdrs.CACHE_CONTROL: ASK_AGAIN}
    if file.suffix != ".css":
        return web.FileResponse(file, headers=headers)
    css = await asyncio.to_thread(catalogue.theme_css, file, name)
    response = web.Response(body=css, content_type="text/css", charset="utf-8", headers=headers)
    response.enable_compression()
    return response


async def licenses(request: web.Request) -> web.Response:
    """`GET /lab/api/licenses`: of all that the browser is given."""
    catalogue, asked = await catalogue_of(request), request.query
    kind = asked.get("format", "json")
    if kind not in _REPORTS:
        raise api_error(400, f"Unsupported report format {kind[:MAX_NAME]}.")
    full_text = asked.get("full_text", "true").lower() not in ("false", "0")
    report, mime = await asyncio.to_thread(catalogue.license_report, kind, asked.get("bundles", ""), full_text)
    response = web.Response(text=report, content_type=mime, headers=NO_STORE)
    if asked.get("download", "0").lower() in ("true", "1"):
        name = f"jupyterlab-licenses{mimetypes.guess_extension(mime) or '.txt'}"
        response.headers[hdrs.CONTENT_DISPOSITION] = f'attachment; filename="{name}"'
    response.enable_compression()
    return response


async def listings(request: web.Request) -> web.Response:
    """`GET /lab/api/listings/{file}`: which extensions may be installed here. The extension manager is switched off."""
    if request.match_info["file"] != LISTINGS:
        raise api_error(400, "Bad Request")
    names = ("blocked_extensions_uris", "allowed_extensions_uris", "blocked_extensions", "allowed_extensions")
    return _json(orjson.dumps({name: [] for name in names}))


async def switched_off(request: web.Request) -> web.Response:
    """`GET /lab/api/…`: the managers of extensions and plugins, builds, news, updates. They ask other hosts, or change
    the server for everybody."""
    del request
    raise api_error(404, "Not Found", "This part of JupyterLab is switched off.")


async def _refusing(work: Callable[..., T], *arguments: Any) -> T:
    """What `work(*arguments)` returns, from a thread; what it refuses is said in Jupyter's form."""
    from jsonschema import ValidationError  # with the catalogue, in a thread
    from tornado.web import HTTPError  # jupyterlab_server's functions raise it

    try:
        return await asyncio.to_thread(work, *arguments)
    except HTTPError as error:
        raise api_error(error.status_code, str(error.log_message or "Internal error")) from error
    except ValidationError as error:
        raise api_error(400, f"Failed validating input: {error.message[:MAX_NAME]}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise api_error(400, "Bad Request", str(error)[:MAX_NAME]) from error


def _mine(request: web.Request) -> Preferences:
    return Preferences(request.app[app_keys.SETTINGS].notebooks, request[USER])


def _space(request: web.Request) -> str:
    name = request.match_info["name"]
    if len(name) > MAX_NAME:
        raise api_error(400, "The name of the workspace is too long")
    return name


def _manager(mine: Preferences) -> Any:
    return _manager_of(str(mine.directory(WORKSPACES)))


def _manager_of(directory: str) -> Any:
    from jupyterlab_server.workspaces_handler import WorkspacesManager  # with the catalogue, in a thread

    return WorkspacesManager(directory)


def _save_workspace(directory: str, name: str, raw: str) -> None:
    _manager_of(directory).save(name, raw)


def _json(body: bytes) -> web.Response:
    response = web.Response(body=body, content_type="application/json", headers=NO_STORE)
    response.enable_compression()
    return response
