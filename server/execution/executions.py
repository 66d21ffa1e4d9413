"""The executions of all kernels that this worker owns.

Owns the way from a kernel to its table: made when something is first run there, and read from the kernel's journal when
the kernel was another worker's before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final
from weakref import WeakSet

import structlog

from kernels.attached import AttachedKernel
from kernels.errors import KernelGone, KernelMoved
from kernels.house import House
from kernels.tenant import Tenant
from server.contents.contents import Contents
from server.execution.execution import Execution
from server.execution.journal import Journal
from server.execution.saving import SAVE_S, Saver
from server.execution.table import Table
from server.expiring_lru import ExpiringLru

log = structlog.get_logger(__name__)

COMING_S: Final = 15.0  # a page that has read its notebook is connected to the kernel by then
MAX_COMING: Final = 4096


class Executions:
    """`epoch` says under which epoch this worker owns what it owns now; `contents` is where outputs are saved."""

    def __init__(self, house: House, epoch: Callable[[], int], contents: Contents) -> None:
        self._house = house
        self._epoch = epoch
        self._contents = contents
        self._tables: dict[str, Table] = {}
        self._savers: dict[Table, Saver] = {}
        self._resuming: dict[asyncio.Task[None], AttachedKernel] = {}
        self._adopted: WeakSet[AttachedKernel] = WeakSet()  # another worker had them before
        self._coming: ExpiringLru[str, float] = ExpiringLru(MAX_COMING, time.monotonic)
        house.on_adopted = self.resume
        contents.on_opening = self.page_opens
        contents.on_saved = self.page_saved

    async def stop(self) -> None:
        """This worker stops; what runs is the next owner's."""
        for task in list(self._resuming):
            task.cancel()
        for saver in list(self._savers.values()):
            await saver.stop()
        for table in list(self._tables.values()):
            await table.stop()

    async def of(self, tenant: Tenant) -> Table:
        """The table of a kernel, which knows what was run before. Raises KernelMoved."""
        table = self._tables.get(tenant.record.kernel_id)
        if table is None or table.kernel is not tenant.kernel:
            table = self._open(tenant)
        await table.ready()
        return table

    def is_at_work(self, tenant: Tenant) -> bool:
        """Whether something of ours runs or waits in a kernel, or that is not known yet."""
        table = self._tables.get(tenant.record.kernel_id)
        if table is None or table.kernel is not tenant.kernel:
            return tenant.kernel in self._resuming.values()
        return table.is_at_work

    async def put_away(self, tenant: Tenant) -> bool:
        """Write what the notebooks do not have; whether nothing is left for which there is a place."""
        table = self._tables.get(tenant.record.kernel_id)
        saver = self._savers.get(table) if table else None
        return await saver.put_away() if saver else True

    async def unsaved(self, table: Table) -> list[Execution]:
        """What a page has got and may have gone with before it has saved it."""
        saver = self._savers.get(table)
        return await saver.lost() if saver else []

    async def page_opens(self, user: str) -> None:
        """A notebook of the user's is about to be read: what is being written is, and then nothing for a while.

        Else a page would be told that the file has changed on disk, which it has just read. Whoever reads again and
        again is none, and does not put that off for ever.
        """
        if self._coming.get(user) is None:
            now = time.monotonic()
            self._coming.put(user, now + COMING_S, now + COMING_S + SAVE_S)
        for saver in [saver for table, saver in self._savers.items() if table.kernel.user == user]:
            await saver.settled()

    def page_saved(self, user: str) -> None:
        """A notebook of the user's was saved."""
        for table, saver in self._savers.items():
            if table.kernel.user == user:
                saver.notebook_saved()

    def resume(self, tenant: Tenant) -> None:
        """The kernel was another worker's: what it was running for us goes on."""
        self._adopted.add(tenant.kernel)
        task = asyncio.create_task(self._resume(tenant), name="resume_executions")
        self._resuming[task] = tenant.kernel
        task.add_done_callback(self._resuming.pop)

    async def _resume(self, tenant: Tenant) -> None:
        try:
            await tenant.kernel.attached()
            if await asyncio.to_thread(self._journal(tenant).is_there):
                await self.of(tenant)
        except (KernelMoved, KernelGone) as error:
            log.info("executions_not_resumed", kernel=tenant.record.kernel_id, why=str(error))

    def _open(self, tenant: Tenant) -> Table:
        async def interrupt() -> None:
            await self._house.interrupt(tenant)

        adopted = tenant.kernel in self._adopted
        table = Table(tenant, self._journal(tenant), interrupt, self._closed, adopted=adopted)
        self._tables[tenant.record.kernel_id] = table
        user = tenant.kernel.user
        self._savers[table] = Saver(table, self._contents, lambda: time.monotonic() < (self._coming.get(user) or 0.0))
        self._savers[table].start()
        table.open()
        return table

    def _closed(self, table: Table) -> None:
        if self._tables.get(table.kernel.kernel_id) is table:
            del self._tables[table.kernel.kernel_id]
        self._savers.pop(table, None)

    def _journal(self, tenant: Tenant) -> Journal:
        return Journal(tenant.record.directory, self._epoch())
