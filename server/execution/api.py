"""Running code on the server's account: the contract of jupyter-server-nbmodel 0.2.9, as the kernel's owner serves it.

The notebook pages run their cells through it, so that what runs is the server's and not the page's; programs may, too.

Source: the extension's own `src/{executor,requestServer,plugin,outputReconciliation}.ts` (in the source map of its
bundle) and its server part, `jupyter_server_nbmodel/{handlers,execution_stack,actions}.py`. What the page does:

- `POST /api/kernels/{id}/execute` with `{code, metadata: {cell_id, document_id, document_path, record_timing}}`. It
  needs a 202 whose `Location` (or `request_url`) says where to ask, and `request_id` and `kernel_id`, which it notes
  in the cell's metadata (`jupyter_server_nbmodel`) when its setting `outputRecovery` is on.
- It asks there every 100 ms, then ever less often, once a second at last. 202: `outputs`, the list so far as a JSON
  text, is reconciled with the cell's: what the cell has is taken for a beginning of it and the rest appended, else it
  is replaced; therefore our text is what JupyterLab's own output area would show (`screen.py`). 300: a question,
  `parent_header` and `input_request`; outputs are not looked at then, so a question is told only after them. 200: the
  end, with `status`, `execution_count` and `outputs`; only `ok` counts as success. Anything else is an error box, so
  an execution that never ran ends with 200, too, and status `aborted`.
- `POST /api/kernels/{id}/input` with `{input}` answers the question. The page adds a stream `stdin` to the cell then,
  with the prompt (eight dots for a password), and so do we.
- A new page asks `GET /api/kernels/{id}/execute`: `requests` has those to be asked for, by `cell_id` and
  `document_path`. It asks each as above. A mark in a cell whose request is unknown (404) is taken away.
- The stop button is `POST /api/kernels/{id}/interrupt`. `DELETE /api/kernels/{id}/requests/{uid}` (204) stops one.

An answer to a page is held back for a moment while its cell is the one that runs: until there is something to show, or
the time is. So a small cell takes one request and no waiting, a slow one is asked for less often, and what it prints is
there sooner. No answer is held for a cell that waits for others: a browser has six connections, and what is behind it
must be taken, too.

Beyond that contract: a result can be asked for again (the extension's server forgets it when told once), so every page
gets it; `request_id` in a POST's body, a UUID, makes it safe to repeat (our pages put one there, `steady.js`);
`stop_on_error` and `store_history`. And `following.py`: waiting for the result, and events.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import orjson
from aiohttp import web

from kernels.errors import KernelMoved
from server import app_keys
from server.api_errors import api_error, request_id
from server.execution.execution import Execution
from server.execution.table import QueueFullError, Table
from server.owned import json_object, object_field, text_field
from server.request_keys import USER

REQUEST_ID: Final = r"{request_id:\w+-\w+-\w+-\w+-\w+}"
MAX_CODE_BYTES: Final = 2**20
MAX_INPUT: Final = 2**16
QUESTION_S: Final = 3.0  # an answer waits so long for its question, which a new owner is still told of
HOLD_S: Final = 0.25  # for the beginning of a cell
HOLD_POLL_S: Final = 1.0  # for more of it
WHOLE_S: Final = 0.02  # what is over so soon after its first output is told at once as a whole
_UID: Final = re.compile(r"[0-9a-zA-Z]{1,16}(-[0-9a-zA-Z]{1,16}){4}")


async def execute(request: web.Request) -> web.Response:
    """`POST /api/kernels/{kernel_id}/execute`: 202 and where to ask; to a page the result, if that is there at once.

    It is kept, so it will run. Never 300: the page repeats what it was answered that to, and here that would run the
    cell again.
    """
    model = await json_object(request) or {}
    code, asked = _code(model), _asked(model)
    uid = _uid(model, request)
    table = await table_of(request)
    try:
        row = await table.put(uid, code, **asked)
    except QueueFullError as error:
        raise api_error(429, "The kernel has more to run than can be kept for it.", str(error)) from error
    if row.order.code != code:
        raise api_error(409, "This request_id was used for other code")
    if not row.order.cell_id:
        return accepted(row, request)
    await _began(table, row)
    return _told(table, row, request) if row.state == "done" else _so_far(row, request)


async def list_requests(request: web.Request) -> web.Response:
    """`GET /api/kernels/{kernel_id}/execute`: what a page that has just been opened must ask for."""
    table = await table_of(request)
    table.seen_at = time.monotonic()
    found: dict[str, Execution] = {}
    unsaved = await request.app[app_keys.EXECUTIONS].unsaved(table)
    for row in table.rows:
        is_new = row.state != "done" or row in unsaved or not (row.collected or row.saved == row.version)
        found.pop(row.order.cell_id or "", None)
        if is_new:
            row.seen = -1  # this page has not seen what stands before a question
            found[row.order.cell_id or row.order.uid] = row
    kernel_id = table.kernel.kernel_id
    told = [row.result(kernel_id) | {"pending": True} for row in found.values()]
    return answer_json({"kernel_id": kernel_id, "requests": told})


async def get_request(request: web.Request) -> web.Response:
    """`GET /api/kernels/{kernel_id}/requests/{request_id}`: 202, 300 or 200."""
    table, row = await row_of(request)
    table.seen_at = time.monotonic()
    if row.order.cell_id:
        version = row.seen
        await _hold(table, row, HOLD_POLL_S, lambda: row.version != version)
    return _told(table, row, request)


async def cancel_request(request: web.Request) -> web.Response:
    """`DELETE /api/kernels/{kernel_id}/requests/{request_id}`: 204; what waits never runs, what runs is interrupted."""
    table, row = await row_of(request)
    await table.cancel(row)
    return web.Response(status=204)


async def give_input(request: web.Request) -> web.Response:
    """`POST /api/kernels/{kernel_id}/input` with `{input}`: 201 once the kernel has been given it.

    One that is repeated with its `request_id` answers no other question, not even when the cell has ended meanwhile.
    """
    model = await json_object(request) or {}
    value = model.get("input")
    if not isinstance(value, str) or len(value) > MAX_INPUT:
        raise api_error(400, f"input must be a string of at most {MAX_INPUT} characters")
    by = _uid(model, request)
    table = await table_of(request)
    if row := _answered(table, by) or await _asking(table, by):
        await table.answer(row, value, by)
        return web.json_response({"request_id": row.order.uid}, status=201)
    raise api_error(409, "Nothing that runs in this kernel asks for input now")


# -- shared with following.py ---------------------------------------------------------------------------------------


async def table_of(request: web.Request) -> Table:
    """The table of the request's kernel. Raises UnknownKernel, KernelMoved."""
    tenant = await request.app[app_keys.HOUSE].get(request[USER], request.match_info["kernel_id"])
    return await request.app[app_keys.EXECUTIONS].of(tenant)


async def row_of(request: web.Request, uid: str | None = None) -> tuple[Table, Execution]:
    """The execution that a request names. Raises a 404 ApiError."""
    table = await table_of(request)
    uid = uid or request.match_info["request_id"]
    if row := table.get(uid):
        return table, row
    raise api_error(404, f"Execution request {uid} for kernel {table.kernel.kernel_id} does not exist")


def answer_json(told: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """As web.json_response, for outputs of many MiB."""
    return web.Response(body=orjson.dumps(told), status=status, headers=headers, content_type="application/json")


def collect(table: Table, row: Execution) -> None:
    """Somebody has got the result."""
    if not row.collected:
        row.collected = True
        table.note(row)


def accepted(row: Execution, request: web.Request) -> web.Response:
    """202: it waits or runs."""
    told = row.result(request.match_info["kernel_id"])
    return answer_json(told, status=202, headers={"Location": told["request_url"]})


def asks(row: Execution, request: web.Request) -> web.Response:
    """300: it asks for input."""
    kernel_id = request.match_info["kernel_id"]
    headers = {"Location": f"/api/kernels/{kernel_id}/input"}
    return answer_json(row.result(kernel_id), status=300, headers=headers)


# -- inside ---------------------------------------------------------------------------------------------------------


def _told(table: Table, row: Execution, request: web.Request) -> web.Response:
    """How far it has come: 200, 300 or 202. A question is told once what stands before it has been."""
    if row.state == "done":
        collect(table, row)
        return answer_json(row.result(table.kernel.kernel_id))
    if row.question and row.seen == row.version:
        return asks(row, request)
    return _so_far(row, request)


def _so_far(row: Execution, request: web.Request) -> web.Response:
    row.seen = row.version
    return accepted(row, request)


async def _began(table: Table, row: Execution) -> None:
    """Return when the cell is over or has begun to show something, or after HOLD_S."""
    before = row.feed.place
    await _hold(table, row, HOLD_S, lambda: row.feed.place != before)
    await _hold(table, row, WHOLE_S, lambda: False)


async def _hold(table: Table, row: Execution, hold_s: float, is_news: Callable[[], bool]) -> None:
    """Return when a cell that runs, or is the next to run, has news, asks or is over, or after `hold_s`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(hold_s):
            while _is_on(table, row) and not (row.question or is_news()):
                await row.news.wait()


def _is_on(table: Table, row: Execution) -> bool:
    """Whether it is the first of those that are not over."""
    return table.moved is None and row is next((one for one in table.rows if one.state != "done"), None)


def _code(model: dict[str, Any]) -> str:
    code = model.get("code")
    if not isinstance(code, str):
        raise api_error(400, "code must be a string")
    if len(code.encode(errors="replace")) > MAX_CODE_BYTES:
        raise api_error(413, f"code must have at most {MAX_CODE_BYTES} bytes")
    if model.get("server") is not None:
        raise api_error(400, "Kernels of another server cannot be reached from here")
    return code


def _asked(model: dict[str, Any]) -> dict[str, Any]:
    metadata = object_field(model, "metadata")
    cell_id = text_field(metadata, "cell_id")
    return {
        "cell_id": cell_id,
        "document_path": text_field(metadata, "document_path"),
        "record_timing": bool(metadata.get("record_timing")),
        "store_history": _flag(model, "store_history", default=True),
        # As in a notebook, where what was queued behind a cell that fails does not run; programs ask for one thing.
        "stop_on_error": _flag(model, "stop_on_error", default=cell_id is not None),
    }


def _flag(model: dict[str, Any], name: str, *, default: bool) -> bool:
    value = model.get(name, default)
    if not isinstance(value, bool):
        raise api_error(400, f"{name} must be true or false")
    return value


def _uid(model: dict[str, Any], request: web.Request) -> str:
    """What a repeated POST is known by: the client's own id for it, else ours, which peers repeat it with."""
    uid = text_field(model, "request_id") or request_id(request)
    if not _UID.fullmatch(uid):
        raise api_error(400, "request_id must be a UUID")
    return uid


def _answered(table: Table, by: str) -> Execution | None:
    """What was answered by this very request, as this owner or one before has noted."""
    return next((row for row in table.rows if row.reply and row.reply.by == by), None)


async def _asking(table: Table, by: str) -> Execution | None:
    """What runs and asks, or was answered by this very request meanwhile; None when nothing does."""
    try:
        async with asyncio.timeout(QUESTION_S):
            while row := table.running:
                if row.question or (row.reply and row.reply.by == by):
                    return row
                if table.moved:
                    raise table.moved
                await row.news.wait()
    except TimeoutError:
        return None
    if table.moved:
        raise KernelMoved(str(table.moved))
    return None
