"""Notebooks in other formats: `/nbconvert/{format}…`, and which formats there are.

Owns the bounds: how many conversions run at once in this worker, how long one may take and how much it may make. The
conversion itself is a process of its own (`export.py`), with no secret in its environment.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson
import structlog
from aiohttp import hdrs, web

from server import app_keys
from server.api_errors import api_error
from server.frontend.files import attachment
from server.frontend.headers import NOSNIFF, sandboxed
from server.login_page import redirect
from server.owned import json_object, text_field
from server.request_keys import USER
from server.workdir import PASSED_ON

log = structlog.get_logger(__name__)

AT_ONCE: Final = 2
WAITING: Final = 8  # beyond these the client is told to come back
TIME_S: Final = 60.0
MAX_NOTEBOOK_BYTES: Final = 64 * 2**20
MAX_MADE_BYTES: Final = 256 * 2**20
MEMORY_MIB: Final = 1024
HEAD_BYTES: Final = 64 * 1024
ROOT: Final = Path(__file__).resolve().parents[2]

# What the menu offers. What needs a browser or an engine for PDF is left out.
MIMES: Final[dict[str, str]] = {
    "asciidoc": "text/asciidoc",
    "html": "text/html",
    "latex": "text/latex",
    "markdown": "text/markdown",
    "notebook": "application/json",
    "python": "text/x-python",
    "rst": "text/restructuredtext",
    "script": "",
    "slides": "text/html",
}
KEPT: Final = frozenset({"slides"})  # never shown: their scripts are on other hosts
WITH_PANDOC: Final = frozenset({"asciidoc", "latex", "rst"})


class Exports:
    """The conversions of this worker. `walls`: what a process is put behind where users have no uids, else ""."""

    def __init__(self) -> None:
        self.walls: Callable[[], str] = str
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._coming = 0

    async def run(
        self, kind: str, name: str, notebook: bytes, use: str, confined: tuple[str, ...]
    ) -> tuple[dict[str, str], bytes]:
        """(what it is, its bytes), made in a process that is `confined`, as `export.py` takes it.

        Raises ApiError (503 when too many wait, 500 when it cannot be converted).
        """
        if self._coming >= AT_ONCE + WAITING:
            raise api_error(
                503, "Too many notebooks are being exported. Try again in a moment.", headers={hdrs.RETRY_AFTER: "5"}
            )
        self._coming += 1
        try:
            async with self._turns:
                return await _convert(kind, name, notebook, use, confined)
        finally:
            self._coming -= 1


EXPORTS: web.AppKey[Exports] = web.AppKey("exports", Exports)


async def list_formats(request: web.Request) -> web.Response:
    """`GET /api/nbconvert`: the formats that can be made on this machine."""
    del request
    has_pandoc = await asyncio.to_thread(shutil.which, "pandoc")
    offered = {kind: {"output_mimetype": mime} for kind, mime in MIMES.items() if has_pandoc or kind not in WITH_PANDOC}
    return web.json_response(offered, headers=NOSNIFF)


async def export(request: web.Request) -> web.Response:
    """`GET /nbconvert/{format}/{path}`; with `?download=true` to be kept and not shown."""
    kind, path = _kind(request), request.match_info["path"].strip("/")
    if not path.endswith(".ipynb"):
        return redirect(f"/files/{path}")
    notebook = await _read(request, path)
    is_kept = kind in KEPT or request.query.get("download", "").lower() in ("true", "1")
    return await _exported(request, path.rpartition("/")[2], notebook, is_kept=is_kept)


async def export_model(request: web.Request) -> web.Response:
    """`POST /nbconvert/{format}`: of a notebook that is in the body, as the contents API has it."""
    model = await json_object(request) or {}
    if not isinstance(model.get("content"), dict):
        raise api_error(400, "The body must be a notebook's model, with its content")
    name = (text_field(model, "name") or "notebook.ipynb").replace("\0", "")  # it becomes an argument of a command
    return await _exported(request, name, orjson.dumps(model["content"]), is_kept=_kind(request) in KEPT)


def _kind(request: web.Request) -> str:
    kind = request.match_info["format"]
    if kind not in MIMES:
        raise api_error(404, f"No exporter for format: {kind[:64]}")
    return kind


async def _exported(request: web.Request, name: str, notebook: bytes, *, is_kept: bool) -> web.Response:
    use = "kept" if is_kept else "shown"
    told, body = await request.app[EXPORTS].run(_kind(request), name, notebook, use, await _confined(request))
    headers = sandboxed(request) | {hdrs.CACHE_CONTROL: "no-store", hdrs.CONTENT_TYPE: f"{told['mime']}; charset=utf-8"}
    if told["mime"] == "application/zip":
        headers[hdrs.CONTENT_TYPE] = told["mime"]
    if told["mime"] == "application/zip" or is_kept:
        headers[hdrs.CONTENT_DISPOSITION] = attachment(told["name"])
    return web.Response(body=body, headers=headers)


async def _confined(request: web.Request) -> tuple[str, ...]:
    """How a process is confined that works for the user: as the user's kernels are."""
    if identity := await request.app[app_keys.CONTENTS].identity(request[USER]):
        return str(identity.uid), str(identity.gid)
    walls = await asyncio.to_thread(request.app[EXPORTS].walls)
    return (walls,) if walls else ()


async def _read(request: web.Request, path: str) -> bytes:
    opened = await request.app[app_keys.CONTENTS].open_file(request[USER], path)
    try:
        if opened.stat.st_size > MAX_NOTEBOOK_BYTES:
            raise api_error(413, f"Notebooks above {MAX_NOTEBOOK_BYTES >> 20} MiB are not exported")
        return await asyncio.to_thread(os.pread, opened.fd, opened.stat.st_size, 0)
    finally:
        os.close(opened.fd)


async def _convert(
    kind: str, name: str, notebook: bytes, use: str, confined: tuple[str, ...]
) -> tuple[dict[str, str], bytes]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server.frontend.export", kind, name, use, str(MEMORY_MIB), *confined),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd="/",  # nbconvert looks for templates in the working directory
        env=_environment() | ({"HOME": "/"} if confined else {}),  # not theirs: code in it would be imported
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(TIME_S):
            made = await _conversation(process, notebook)
    except TimeoutError:
        raise api_error(500, f"nbconvert failed: it took longer than {TIME_S:g} s") from None
    finally:
        await _end(process)
    told = _told(made)
    if "error" in told:
        log.warning("export_failed", format=kind, why=told["error"][:200])
        raise api_error(500, f"nbconvert failed: {told['error']}")
    return told, made.partition(b"\n")[2]


async def _conversation(process: asyncio.subprocess.Process, notebook: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None

    async def give(stdin: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):  # it has ended before it read all; why is in what it says, or in its silence
            stdin.write(notebook)
            await stdin.drain()
        stdin.close()

    giving = asyncio.create_task(give(process.stdin), name="give_notebook")
    parts, size = [], 0
    try:
        while part := await process.stdout.read(HEAD_BYTES):
            parts.append(part)
            if (size := size + len(part)) > MAX_MADE_BYTES:
                raise api_error(500, f"nbconvert failed: it makes more than {MAX_MADE_BYTES >> 20} MiB")
    finally:
        giving.cancel()
    return b"".join(parts)


def _told(made: bytes) -> dict[str, str]:
    try:
        return dict(orjson.loads(made.partition(b"\n")[0]))
    except ValueError:  # it was killed: the bounds on its time and memory
        return {"error": "it needs more time or memory than it may have"}


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)  # pandoc, too
    await process.wait()


def _environment() -> dict[str, str]:
    base: dict[str, Any] = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return base | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": str(ROOT),
        "JUPYTER_NO_CONFIG": "1",
    }
