"""Outputs that nobody is there to see, written into the notebook on disk as the page would have written them.

Owns the decision when. A page that is there saves by itself, and would find that "the file has changed on disk"; so the
owner writes only while no client is connected to the kernel and nobody has lately asked for the outputs. What a page
has fetched and not saved when it went is written too, unless the notebook was saved since.

The form is JupyterLab's: `outputs` and `execution_count` of the code cell with that id, its `metadata.execution` when
times are recorded, without the extension's mark of a pending request; and `metadata.widgets` of the notebook.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import structlog
from aiohttp import web

from kernels.errors import ClaimRefused
from server.contents.contents import Contents
from server.execution.execution import Execution
from server.execution.table import Table

log = structlog.get_logger(__name__)

SAVE_S: Final = 3.0  # between two times that what runs is written
LOOK_S: Final = 0.5  # between two looks whether anybody is there
POLL_S: Final = 2.0  # the extension asks once a second, at the least
GONE_S: Final = 15.0  # a page that has all and asks no more may be connecting again
MARK: Final = "jupyter_server_nbmodel"
Node = Any


class Filled(NamedTuple):
    """What a cell has come to: plain values, to be put into a notebook in another thread."""

    cell_id: str | None
    outputs: list[dict[str, Any]]
    execution_count: int | None
    times: dict[str, str]

    @classmethod
    def by(cls, row: Execution) -> Filled:
        """As it is now."""
        return cls(row.order.cell_id, row.outputs.to_list(), row.execution_count, row.times.copy())


class Saver:
    """Of one kernel's table."""

    def __init__(self, table: Table, notebooks: Contents) -> None:
        self._table = table
        self._notebooks = notebooks
        self._written_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="save_outputs")

    async def stop(self) -> None:
        """This worker stops; the next owner goes on."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            await self._follow()
        except ClaimRefused as error:
            log.info("outputs_left_to_the_next_owner", kernel=self._table.kernel.kernel_id, why=str(error))

    async def _follow(self) -> None:
        table = self._table
        while not table.moved:
            if due := self._due():
                await self._save(due)
            is_busy = table.running or self._unsaved()
            with suppress(TimeoutError):
                await asyncio.wait_for(table.news.wait(), LOOK_S if is_busy else None)
        if table.ended:
            await self._save(self._unsaved())  # the kernel is gone, and with it whoever was connected to it

    def _unsaved(self) -> list[Execution]:
        """What the notebook may not have: of each cell its newest run."""
        newest: dict[tuple[str, str], Execution] = {}
        for row in self._table.rows:
            if row.order.cell_id and row.order.document_path and row.state != "queued":
                newest[row.order.document_path, row.order.cell_id] = row
        return [row for row in newest.values() if row.saved != row.version]

    def _due(self) -> list[Execution]:
        """What is to be written now."""
        table, now = self._table, time.monotonic()
        if table.kernel.connections:
            table.seen_at = now
        absent_s = now - table.seen_at
        since_s = now - self._written_at
        unsaved = self._unsaved()
        paths = {row.order.document_path for row in unsaved if absent_s >= (GONE_S if row.collected else POLL_S)}
        # All of a notebook at once: what we write now would else be taken for the page's own saving of the rest later.
        due = [row for row in unsaved if row.order.document_path in paths]
        is_over = any(row.state == "done" for row in due)
        return due if since_s >= (LOOK_S if is_over else SAVE_S) else []

    async def lost(self) -> list[Execution]:
        """Results that a page has fetched, and which are not in the notebook as it was saved last."""
        found = []
        for row in [row for row in self._unsaved() if row.collected]:
            with suppress(web.HTTPException):
                saved_at = await self._saved_at(self._table.kernel.user, row.order.document_path or "", [row])
                if saved_at is not None and saved_at < row.finished_at:
                    found.append(row)
        return found

    async def _save(self, due: list[Execution]) -> None:
        self._written_at = time.monotonic()
        by_path: dict[str, list[Execution]] = {}
        for row in due:
            by_path.setdefault(row.order.document_path or "", []).append(row)
        for path, rows in by_path.items():
            versions = [row.version for row in rows]
            if not await self._save_in(path, rows):
                continue  # it is tried again
            for row, version in zip(rows, versions, strict=True):
                row.saved = version
                self._table.note(row)

    async def _save_in(self, path: str, rows: list[Execution]) -> bool:
        """Whether that is settled: done, or never possible."""
        user, widgets = self._table.kernel.user, self._table.widgets.to_metadata()
        try:
            if saved_at := await self._saved_at(user, path, rows):
                rows = [row for row in rows if not (row.state == "done" and row.finished_at < saved_at)]
            if filled := [Filled.by(row) for row in rows]:
                await self._notebooks.amend(user, path, lambda notebook: amend(notebook, filled, widgets))
        except web.HTTPException as error:  # the notebook was moved, is none any more, or the disk is full
            log.warning("outputs_not_saved", user=user, path=path, status=error.status, why=error.text)
            return error.status < HTTPStatus.INTERNAL_SERVER_ERROR
        log.info("outputs_saved", user=user, path=path, cells=len(rows))
        return True

    async def _saved_at(self, user: str, path: str, rows: list[Execution]) -> float | None:
        """When the notebook was saved last; asked only if a page has fetched one of the results, and so may have."""
        if not any(row.collected for row in rows):
            return None
        found = (await self._notebooks.get(user, path, content=False))["last_modified"]
        return found.timestamp() if isinstance(found, datetime) else datetime.fromisoformat(found).timestamp()


def amend(notebook: Node, filled: list[Filled], widgets: dict[str, Any] | None) -> bool:
    """Put what the executions have come to into their cells; return whether that changes the notebook."""
    cells = {cell.get("id"): cell for cell in notebook["cells"] if cell["cell_type"] == "code"}
    changes = [_put(cells[one.cell_id], one) for one in filled if one.cell_id in cells]
    if widgets and any(changes):
        notebook["metadata"]["widgets"] = _node(type(notebook), widgets)
    return any(changes)


def _put(cell: Node, filled: Filled) -> bool:
    before = (cell.get("outputs"), cell.get("execution_count"), dict(cell["metadata"]))
    cell["outputs"] = _node(type(cell), filled.outputs)
    cell["execution_count"] = filled.execution_count
    cell["metadata"].pop(MARK, None)
    if filled.times:
        cell["metadata"]["execution"] = _node(type(cell), filled.times)
    return before != (cell["outputs"], cell["execution_count"], dict(cell["metadata"]))


def _node(kind: Callable[..., Node], value: Any) -> Any:
    """As nbformat.from_dict, whose import takes seconds (it compiles a grammar): `kind` is what objects become."""
    if isinstance(value, dict):
        return kind({name: _node(kind, part) for name, part in value.items()})
    return [_node(kind, part) for part in value] if isinstance(value, list) else value
