"""The pages of Notebook 7 and of JupyterLab.

Owns which page an address shows, as the two applications have it (`notebook.app`, `jupyterlab_server.handlers`): a
folder, a notebook, a file, a console; and the redirects between them. What the pages hold is rendered by the catalogue.
"""

from __future__ import annotations

import html
from typing import Any, Final

from aiohttp import web
from yarl import URL

from server import app_keys
from server.api_errors import ApiError
from server.frontend.ahead import start_ahead
from server.frontend.frontend import FRONTEND, catalogue_of
from server.frontend.headers import page_headers
from server.login_page import redirect
from server.request_keys import USER
from server.workdir import user_directory

_NOTHING: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Not found - kernelring</title>
<style>:root {{ color-scheme: light dark; }} body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 12vh auto 0;
max-width: 30rem; padding: 0 1rem; overflow-wrap: anywhere; }}</style>
</head>
<body>
<main>
<h1>Not found</h1>
<p>You have no file or folder called <strong>{path}</strong>. It may have been renamed or deleted.</p>
<p><a href="/tree">Your notebooks</a></p>
</main>
</body>
</html>
"""

WORKSPACE: Final = r"{workspace:[a-zA-Z0-9\-_]+}"


async def tree(request: web.Request) -> web.Response:
    """`GET /tree/{path}`: the folder; a notebook or a file leads to where it is shown."""
    path = _path(request)
    kind = await _kind(request, path)
    if kind is None:
        text = _NOTHING.format(path=html.escape(path))
        return web.Response(status=404, text=text, content_type="text/html", headers=page_headers(request))
    if kind == "directory":
        return await page(request, "notebook", "tree.html", treePath=path)
    return _to("/notebooks/" if kind == "notebook" else "/files/", path)


async def notebooks(request: web.Request) -> web.Response:
    """`GET /notebooks/{path}`. A folder is shown as a tree; what is missing is said by the page, as in Jupyter."""
    path = _path(request)
    if await _kind(request, path) == "directory":
        return _to("/tree/", path)
    start_ahead(request, path)
    return await page(request, "notebook", "notebooks.html")


async def edit(request: web.Request) -> web.Response:
    """`GET /edit/{path}`."""
    return await page(request, "notebook", "edit.html")


async def consoles(request: web.Request) -> web.Response:
    """`GET /consoles/{path}`."""
    return await page(request, "notebook", "consoles.html")


async def lab(request: web.Request) -> web.Response:
    """`GET /lab…` and `/doc…`: JupyterLab, on a workspace and a path that its address may name."""
    mode = "single-document" if request.path.startswith("/doc") else "multiple-document"
    workspace, path = request.match_info.get("workspace", "default"), request.match_info.get("path", "")
    start_ahead(request, path)
    return await page(request, "lab", "index.html", mode=mode, workspace=workspace, treePath=path)


async def lab_not_found(request: web.Request) -> web.Response:
    """Any other address below `/lab`: JupyterLab, which says that it is not there."""
    return await page(request, "lab", "index.html", notFoundUrl=request.path)


async def without_slash(request: web.Request) -> web.Response:
    """`GET /lab/`: `/lab`, as Jupyter has it."""
    return redirect(str(request.rel_url.with_path(request.path.rstrip("/"), keep_query=True)))


async def page(request: web.Request, app: str, template: str, **told: Any) -> web.Response:
    """A page of `app` for the request's user; `told`: what its page config has besides."""
    request.app[FRONTEND].begin_settings()  # the page will ask for them
    catalogue = await catalogue_of(request)
    root = user_directory(request.app[app_keys.SETTINGS].notebooks, request[USER])
    text = catalogue.page(app, template, serverRoot=str(root), **told)
    return web.Response(text=text, content_type="text/html", headers=page_headers(request))


def _path(request: web.Request) -> str:
    return request.match_info.get("path", "").strip("/")


def _to(prefix: str, path: str) -> web.Response:
    return redirect(str(URL.build(path=prefix + path)))


async def _kind(request: web.Request, path: str) -> str | None:
    """`directory`, `notebook` or `file`; None when nothing of that name is there to see."""
    if not path:
        return "directory"
    try:
        model = await request.app[app_keys.CONTENTS].get(request[USER], path, content=False)
    except ApiError as error:
        if error.status != 404:
            raise
        return None
    kind: str = model["type"]
    return kind
