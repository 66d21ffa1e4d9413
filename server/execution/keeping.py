"""What of a kernel's executions is in its journal, and how much is kept there.

Owns the versions that were written, so that nothing is written twice, and the bound on results that nobody may ask for
any more.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from server.execution.execution import Execution
from server.execution.journal import WIDGETS, Journal, snapshot
from server.execution.outputs import OUTPUT_BYTES
from server.execution.widgets import Widgets

MAX_FINISHED: Final = 256
MAX_FINISHED_BYTES: Final = 2 * OUTPUT_BYTES


class Keeper:
    """One write at a time: a later version must not be overtaken by an earlier one."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._kept: dict[str, int] = {}
        self._writing = asyncio.Lock()

    async def load(self, session: str, user: str) -> tuple[list[Execution], dict[str, Any]]:
        """What the journal has."""
        return await asyncio.to_thread(self._journal.load, session, user)

    def has(self, row: Execution) -> bool:
        """Whether the journal has it as it is now."""
        return self._kept.get(row.order.uid) == row.version

    def kept(self, row: Execution) -> None:
        """The journal has it as it is now."""
        self._kept[row.order.uid] = row.version

    def note(self, row: Execution) -> None:
        """Something has changed that is not counted as a version."""
        self._kept.pop(row.order.uid, None)

    async def keep(self, row: Execution) -> None:
        """Write it, if that is news."""
        async with self._writing:
            if not self.has(row):
                written, version = snapshot(row), row.version
                await asyncio.to_thread(self._journal.write, row.order.uid, written)
                self._kept[row.order.uid] = version

    async def keep_widgets(self, widgets: Widgets, version: int) -> None:
        """Write the widgets' models, if they are news."""
        if self._kept.get(WIDGETS, 0) != version:
            await asyncio.to_thread(self._journal.write, WIDGETS, widgets.to_json())
            self._kept[WIDGETS] = version

    async def forget(self, rows: list[Execution]) -> list[Execution]:
        """Of those that are over the newest are kept; return the others, which the journal does not have any more."""
        finished = [row for row in reversed(rows) if row.state == "done"]
        size, forgotten = 0, []
        for at, row in enumerate(finished):
            size += row.outputs.size_bytes
            if at >= MAX_FINISHED or (size > MAX_FINISHED_BYTES and at):
                forgotten.append(row)
                self._kept.pop(row.order.uid, None)
                await asyncio.to_thread(self._journal.forget, row.order.uid)
        return forgotten
