"""The small answers that pages ask for: style sheets of the operator's, what is switched off, the API's description.

Each is what a jupyter_server says that has no terminals and no language servers.
"""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web

from server.api_errors import api_error
from server.frontend.frontend import catalogue_of
from server.frontend.headers import ASK_AGAIN, NOSNIFF
from server.login_page import redirect

_LSP: Final = {"version": 2, "sessions": {}, "specs": {}}  # jupyter_lsp's answer where no language server is


async def custom_css(request: web.Request) -> web.Response:
    """`GET /custom/custom.css`: the operator's, or an empty one."""
    catalogue = await catalogue_of(request)
    headers = NOSNIFF | {hdrs.CACHE_CONTROL: ASK_AGAIN}
    return web.Response(text=catalogue.custom_css, content_type="text/css", headers=headers)


async def api_spec(request: web.Request) -> web.StreamResponse:
    """`GET /api/spec.yaml`: jupyter_server's description of its API."""
    catalogue = await catalogue_of(request)
    headers = NOSNIFF | {hdrs.CACHE_CONTROL: ASK_AGAIN, hdrs.CONTENT_TYPE: "text/x-yaml"}
    return web.FileResponse(catalogue.api_spec, headers=headers)


async def language_servers(request: web.Request) -> web.Response:
    """`GET /lsp/status`: none are here."""
    del request
    return web.json_response(_LSP, headers=NOSNIFF)


async def no_terminals(request: web.Request) -> web.Response:
    """`/api/terminals…`: as a server answers that has them switched off."""
    del request
    raise api_error(404, "Terminals are switched off")


async def notebooks_moved(request: web.Request) -> web.Response:
    """`GET /api/notebooks…`: its old name leads to the contents API, as in Jupyter."""
    return redirect(f"/api/contents{request.match_info['path']}")
