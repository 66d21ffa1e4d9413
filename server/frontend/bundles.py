"""The files of the front ends: bundles, federated extensions, icons.

Owns the addresses below `/static/` and `/lab/extensions/` and what may be cached. They are the same for everybody and
need no login. Only files inside the packages' own directories are served.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web

from server.frontend.frontend import FRONTEND, catalogue_of
from server.frontend.headers import ASK_AGAIN, ICON, IMMUTABLE, NOSNIFF

_ICONS: Final = frozenset({".ico", ".png", ".svg"})
_HASHED: Final = re.compile(r"(?:^|[._-])[0-9a-f]{16,64}(?=[._-])")
# Not left to what the machine has in its mime.types: with "nosniff" a script of any other type does not run.
_TYPES: Final[dict[str, str]] = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css"}
_EXTENSION: Final = re.compile(r"(@[^/]+/[^/]+|[^@/][^/]*)/(.+)")


def is_hashed(name: str) -> bool:
    """Whether a file's name holds a hash of what is in it."""
    return _HASHED.search(name) is not None


async def bundle_file(request: web.Request) -> web.StreamResponse:
    """`GET /static/{lab,notebook}/{file}`."""
    catalogue = await catalogue_of(request)
    app = catalogue.lab if request.match_info["app"] == "lab" else catalogue.notebook
    return await _served(request, Path(app.static_dir), request.match_info["file"])


async def extension_file(request: web.Request) -> web.StreamResponse:
    """`GET /lab/extensions/{name}/{file}`; a name may have a scope, `@scope/name`."""
    catalogue = await catalogue_of(request)
    found = _EXTENSION.fullmatch(request.match_info["file"])
    directory = catalogue.extensions.get(found[1]) if found else None
    if found is None or directory is None:
        raise web.HTTPNotFound
    return await _served(request, directory, found[2])


async def icon(request: web.Request) -> web.StreamResponse:
    """`GET /static/{favicons,logo}/{file}`: jupyter_server's own."""
    return await _served(
        request, (await catalogue_of(request)).jupyter_static / request.match_info["folder"], request.match_info["file"]
    )


async def mathjax_file(request: web.Request) -> web.StreamResponse:
    """`GET /static/mathjax/{file}`: for exported notebooks. They are shown in a sandbox, as of an origin of their own,
    which may read fonts only from whoever says so."""
    response = await _served(request, (await catalogue_of(request)).mathjax, request.match_info["file"])
    response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = "*"
    return response


async def app_icon(request: web.Request) -> web.StreamResponse:
    """`GET /static/notebook/favicons/{file}`: the page of consoles has its icon there, and no package has that icon."""
    return await favicon(request)


async def favicon(request: web.Request) -> web.StreamResponse:
    """`GET /favicon.ico`."""
    return await _served(request, (await catalogue_of(request)).jupyter_static / "favicons", "favicon.ico")


async def _served(request: web.Request, directory: Path, name: str) -> web.StreamResponse:
    frontend = request.app[FRONTEND]
    file = await frontend.file(directory, name)
    if file is None:
        raise web.HTTPNotFound
    headers = dict(NOSNIFF)
    if kind := _TYPES.get(file.suffix):
        headers[hdrs.CONTENT_TYPE] = f"{kind}; charset=utf-8"
    if not is_hashed(file.name):
        kept = ICON if file.suffix in _ICONS else ASK_AGAIN
        return web.FileResponse(file, headers=headers | {hdrs.CACHE_CONTROL: kept})
    headers |= {hdrs.CACHE_CONTROL: IMMUTABLE, hdrs.VARY: hdrs.ACCEPT_ENCODING}
    return web.FileResponse(await frontend.press.pressed(file), headers=headers)
