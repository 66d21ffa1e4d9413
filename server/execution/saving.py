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
from typing import Any, Final, Protocol

import structlog
from aiohttp import web

from kernels.errors import KernelsError
from server.execution.execution import Execution
from server.execution.table import Table

log = structlog.get_logger(__name__)

SAVE_S: Final = 3.0  # between two times that what runs is written
LOOK_S: Final = 0.5  # between two looks whether anybody is there
POLL_S: Final = 2.0  # the extension asks once a second, at the least
MARK: Final = "jupyter_server_nbmodel"
Node = Any


class Notebooks(Protocol):
    """Where notebooks are: `server.contents`."""

    async def get(self, user: str, path: str, *, content: bool) -> dict[str, Any]:
        """The model of a file, with `last_modified`."""

    async def amend(self, user: str, path: str, change: Callable[[Node], bool]) -> bool:
        """Let `change` edit the notebook; write it if that returns True."""


class Saver:
    """Of one kernel's table."""

    def __init__(self, table: Table, notebooks: Notebooks) -> None:
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
        table = self._table
        while not table.moved:
            unsaved = self._unsaved()
            if unsaved and self._is_due() and not self._somebody_looks():
                await self._save()
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(table.news.wait(), LOOK_S if unsaved or table.running else None)
        if table.ended:
            await self._save()  # the kernel is gone, and with it whoever was connected to it

    def _unsaved(self) -> list[Execution]:
        """What the notebook may not have: of each cell its newest run."""
        newest: dict[tuple[str, str], Execution] = {}
        for row in self._table.rows:
            if row.order.cell_id and row.order.document_path and row.state != "queued":
                newest[row.order.document_path, row.order.cell_id] = row
        return [row for row in newest.values() if row.saved != row.version]

    def _is_due(self) -> bool:
        is_over = any(row.state == "done" for row in self._unsaved())
        return is_over or time.monotonic() - self._written_at >= SAVE_S

    def _somebody_looks(self) -> bool:
        return self._table.kernel.connections > 0 or time.monotonic() - self._table.polled_at < POLL_S

    async def _save(self) -> None:
        self._written_at = time.monotonic()
        by_path: dict[str, list[Execution]] = {}
        for row in self._unsaved():
            by_path.setdefault(row.order.document_path or "", []).append(row)
        for path, rows in by_path.items():
            versions = [row.version for row in rows]
            await self._save_in(path, rows)
            for row, version in zip(rows, versions, strict=True):
                row.saved = version
                self._table.note(row)

    async def _save_in(self, path: str, rows: list[Execution]) -> None:
        user, widgets = self._table.kernel.user, self._table.widgets.to_metadata()
        try:
            if saved_at := await self._saved_at(user, path, rows):
                rows = [row for row in rows if not (row.state == "done" and row.finished_at < saved_at)]
            if rows:
                await self._notebooks.amend(user, path, lambda notebook: amend(notebook, rows, widgets))
        except (web.HTTPException, KernelsError, OSError) as error:  # the notebook was moved, or is none any more
            log.warning("outputs_not_saved", user=user, path=path, why=str(error))
        else:
            log.info("outputs_saved", user=user, path=path, cells=len(rows))

    async def _saved_at(self, user: str, path: str, rows: list[Execution]) -> float | None:
        """When the notebook was saved last; asked only if a page has fetched one of the results, and so may have."""
        if not any(row.collected for row in rows):
            return None
        found = (await self._notebooks.get(user, path, content=False))["last_modified"]
        return found.timestamp() if isinstance(found, datetime) else datetime.fromisoformat(found).timestamp()


def amend(notebook: Node, rows: list[Execution], widgets: dict[str, Any] | None) -> bool:
    """Put what the executions have come to into their cells; return whether that changes the notebook."""
    cells = {cell.get("id"): cell for cell in notebook["cells"] if cell["cell_type"] == "code"}
    changes = [_put(cells[row.order.cell_id], row) for row in rows if row.order.cell_id in cells]
    if widgets and any(changes) and notebook["metadata"].get("widgets") != widgets:
        notebook["metadata"]["widgets"] = widgets
    return any(changes)


def _put(cell: Node, row: Execution) -> bool:
    before = (cell.get("outputs"), cell.get("execution_count"), dict(cell["metadata"]))
    cell["outputs"] = _node(type(cell), row.outputs.to_list())
    cell["execution_count"] = row.execution_count
    cell["metadata"].pop(MARK, None)
    if row.times:
        cell["metadata"]["execution"] = row.times.copy()
    return before != (cell["outputs"], cell["execution_count"], dict(cell["metadata"]))


def _node(kind: Callable[..., Node], value: Any) -> Any:
    """As nbformat.from_dict, whose import takes seconds (it compiles a grammar): `kind` is what objects become."""
    if isinstance(value, dict):
        return kind({name: _node(kind, part) for name, part in value.items()})
    return [_node(kind, part) for part in value] if isinstance(value, list) else value
