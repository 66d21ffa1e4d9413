"""The executions of all kernels that this worker owns.

Owns the way from a kernel to its table: made when something is first run there, and read from the kernel's journal when
the kernel was another worker's before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakSet

import structlog

from kernels.attached import AttachedKernel
from kernels.errors import KernelGone, KernelMoved
from kernels.house import House
from kernels.tenant import Tenant
from server.contents.contents import Contents
from server.execution.execution import Execution
from server.execution.journal import Journal
from server.execution.saving import Saver
from server.execution.table import Table

log = structlog.get_logger(__name__)


class Executions:
    """`epoch` says under which epoch this worker owns what it owns now; `contents` is where outputs are saved."""

    def __init__(self, house: House, epoch: Callable[[], int], contents: Contents) -> None:
        self._house = house
        self._epoch = epoch
        self._contents = contents
        self._tables: dict[str, Table] = {}
        self._savers: dict[Table, Saver] = {}
        self._resuming: set[asyncio.Task[None]] = set()
        self._adopted: WeakSet[AttachedKernel] = WeakSet()  # another worker had them before
        house.on_adopted = self.resume

    async def stop(self) -> None:
        """This worker stops; what runs is the next owner's."""
        for task in self._resuming:
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

    async def unsaved(self, table: Table) -> list[Execution]:
        """What a page has got and may have gone with before it has saved it."""
        saver = self._savers.get(table)
        return await saver.lost() if saver else []

    def resume(self, tenant: Tenant) -> None:
        """The kernel was another worker's: what it was running for us goes on."""
        self._adopted.add(tenant.kernel)
        task = asyncio.create_task(self._resume(tenant), name="resume_executions")
        self._resuming.add(task)
        task.add_done_callback(self._resuming.discard)

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
        self._savers[table] = Saver(table, self._contents)
        self._savers[table].start()
        table.open()
        return table

    def _closed(self, table: Table) -> None:
        if self._tables.get(table.kernel.kernel_id) is table:
            del self._tables[table.kernel.kernel_id]
        self._savers.pop(table, None)

    def _journal(self, tenant: Tenant) -> Journal:
        return Journal(tenant.record.directory, self._epoch())
