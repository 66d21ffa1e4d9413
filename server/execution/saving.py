"""Outputs that nobody is there to see, written into the notebook on disk as the page would have written them.

Owns the decision when. A page that is there saves by itself, and would find that "the file has changed on disk"; so the
owner writes only while no client is connected to the kernel, nobody has lately asked for the outputs, and no page of
the user's has just read a notebook. What a page has fetched and not saved when it went is written too, unless the
notebook was saved since. A cell that the page had not saved when it went is waited for: it gets its outputs once a
save has brought it, unless it has newer ones by then.

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
# A page saves as it runs a cell: such a notebook, made before the cell was over, may be written when it is.
ON_ITS_WAY_S: Final = 10.0
MARK: Final = "jupyter_server_nbmodel"
Node = Any


class Filled(NamedTuple):
    """What a cell has come to: plain values, to be put into a notebook in another thread."""

    cell_id: str | None
    outputs: list[dict[str, Any]]
    execution_count: int | None
    times: dict[str, str]
    saved_since: bool = False  # the notebook, and so perhaps by a page that had newer outputs
    had: bool = False  # by the page that saved it

    @classmethod
    def by(cls, row: Execution, saved_at: float) -> Filled:
        """As it is now."""
        outputs, since = row.outputs.to_list(), is_older(row, saved_at)
        had = row.collected and is_older(row, saved_at - ON_ITS_WAY_S)
        return cls(row.order.cell_id, outputs, row.execution_count, row.times.copy(), since, had)

    def leaves(self, cell: Node) -> bool:
        """Whether the cell is to stay as it is: its user has cleared it, or run it again."""
        has_other = bool(cell.get("outputs")) and cell.get("execution_count") not in (None, self.execution_count)
        return self.had or (self.saved_since and has_other)


class Saver:
    """Of one kernel's table. `expected` says whether a page of the user's is about to come."""

    def __init__(self, table: Table, notebooks: Contents, expected: Callable[[], bool]) -> None:
        self._table = table
        self._notebooks = notebooks
        self._expected = expected
        self._written_at = 0.0
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="save_outputs")

    async def stop(self) -> None:
        """This worker stops; the next owner goes on."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def settled(self) -> None:
        """Return when nothing is being written; what is begun after that asks first whether anybody is expected."""
        async with self._writing:
            return

    async def put_away(self) -> bool:
        """Write all, whoever is there; whether nothing is left that could be written."""
        if unsaved := self._unsaved():
            await self._save(unsaved)
        return not self._waiting()

    def notebook_saved(self) -> None:
        """A page has saved a notebook, which may have brought the cells that were missing."""
        for row in self._table.rows:
            row.missing = -1
        self._table.news.tell()

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
            is_busy = table.running or self._waiting()
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

    def _waiting(self) -> list[Execution]:
        """Of these, what can be written: not those for whose cell a save is waited for."""
        return [row for row in self._unsaved() if row.missing != row.version]

    def _due(self) -> list[Execution]:
        """What is to be written now."""
        table, now = self._table, time.monotonic()
        if table.kernel.connections:
            table.seen_at = now
        if self._expected():
            return []
        absent_s = now - table.seen_at
        since_s = now - self._written_at
        waiting = self._waiting()
        paths = {row.order.document_path for row in waiting if absent_s >= (GONE_S if row.collected else POLL_S)}
        # All of a notebook at once: what we write now would else be taken for the page's own saving of the rest later.
        due = [row for row in waiting if row.order.document_path in paths]
        is_over = any(row.state == "done" for row in due)
        return due if since_s >= (LOOK_S if is_over else SAVE_S) else []

    async def lost(self) -> list[Execution]:
        """Results that a page has fetched, and which are not in the notebook as it was saved last."""
        found = []
        for path, rows in _by_path([row for row in self._unsaved() if row.collected]).items():
            with suppress(web.HTTPException):
                saved_at = await self._saved_at(path)
                older = [row for row in rows if is_older(row, saved_at)]
                there = await self._put_in(path, [Filled.by(row, saved_at) for row in older]) if older else set()
                self._note([row for row in older if row.order.cell_id in there])
                found += [row for row in rows if row.saved != row.version]
        return found

    async def _save(self, due: list[Execution]) -> None:
        async with self._writing:
            self._written_at = time.monotonic()
            for path, rows in _by_path(due).items():
                await self._save_in(path, rows)

    async def _save_in(self, path: str, rows: list[Execution]) -> None:
        """Write what they have come to now. A row whose cell is not there waits for a save; errors of ours do not."""
        user = self._table.kernel.user
        versions = {row.order.cell_id: row.version for row in rows}
        there: set[str | None] = set()
        try:
            saved_at = await self._saved_at(path)
            there = await self._put_in(path, [Filled.by(row, saved_at) for row in rows])
        except web.HTTPException as error:  # the notebook was moved, is none any more, or the disk is full
            log.warning("outputs_not_saved", user=user, path=path, status=error.status, why=error.text)
            if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                return  # it is tried again
        else:
            waiting = len(versions.keys() - there)
            log.info("outputs_saved", user=user, path=path, cells=len(there), waiting_for_their_cell=waiting)
        for row in rows:
            row.missing = versions[row.order.cell_id]
        self._note([row for row in rows if row.order.cell_id in there], versions)

    async def _put_in(self, path: str, filled: list[Filled]) -> set[str | None]:
        """Have them written; return the ids of those whose cells are there."""
        user, widgets = self._table.kernel.user, self._table.widgets.to_metadata()
        there: set[str | None] = set()
        await self._notebooks.amend(user, path, lambda notebook: amend(notebook, filled, widgets, there))
        return there

    def _note(self, rows: list[Execution], versions: dict[str | None, int] | None = None) -> None:
        for row in rows:
            row.saved = versions[row.order.cell_id] if versions else row.version
            self._table.note(row)

    async def _saved_at(self, path: str) -> float:
        """When the notebook was saved last."""
        found = (await self._notebooks.get(self._table.kernel.user, path, content=False))["last_modified"]
        return found.timestamp() if isinstance(found, datetime) else datetime.fromisoformat(found).timestamp()


def is_older(row: Execution, saved_at: float) -> bool:
    """Whether the notebook was saved after this was over."""
    return row.state == "done" and row.finished_at < saved_at


def _by_path(rows: list[Execution]) -> dict[str, list[Execution]]:
    found: dict[str, list[Execution]] = {}
    for row in rows:
        found.setdefault(row.order.document_path or "", []).append(row)
    return found


def amend(
    notebook: Node, filled: list[Filled], widgets: dict[str, Any] | None, there: set[str | None] | None = None
) -> bool:
    """Put what the executions have come to into their cells; return whether that changes the notebook.

    `there` gets the ids of those cells that the notebook has.
    """
    cells = {cell.get("id"): cell for cell in notebook["cells"] if cell["cell_type"] == "code"}
    found = [one for one in filled if one.cell_id in cells]
    if there is not None:
        there.update(one.cell_id for one in found)
    changes = [_put(cells[one.cell_id], one) for one in found if not one.leaves(cells[one.cell_id])]
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
