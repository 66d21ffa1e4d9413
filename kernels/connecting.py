"""How an owner connects to the process of a kernel of its: anew, or in the place of another owner.

Owns the choice between the two ways of adoption and between their two beginnings. Who may, and what follows when it
comes to nothing, is the house's matter.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import zmq

from kernels.adoption import Unrecorded
from kernels.house_rules import HouseOptions
from kernels.kernel_manager import NurseryKernelManager
from kernels.nursery_client import NurseryClient
from kernels.recorded import Recorded
from kernels.records import KernelRecord
from kernels.tenant import Tenant
from kernels.wires import is_bound

STARTS_AT_ONCE: Final = 4
"""The nursery takes orders one by one. A hundred that are prepared at once keep this worker from its beat."""


def _turns() -> asyncio.Semaphore:
    return asyncio.Semaphore(STARTS_AT_ONCE)


@dataclass(frozen=True, slots=True)
class Connecting:
    """With what a house connects to its kernels."""

    nursery: NurseryClient
    context: zmq.Context[Any]
    options: HouseOptions
    turns: asyncio.Semaphore = field(default_factory=_turns)

    def manager(self, user: str, kernel_id: str, kernel_name: str, *, takes_place: bool) -> NurseryKernelManager:
        """A manager of a kernel that is to be started. `takes_place`: of another of its user's, which ends then."""
        made = NurseryKernelManager(
            kernel_id=kernel_id,
            kernel_name=kernel_name,
            directory=self.options.kernels_dir / kernel_id,
            user=user,
            nursery=self.nursery,
            zmq_context=self.context,
        )
        self._told(made)
        if takes_place and made.bounds.user_kernels:
            made.bounds = replace(made.bounds, user_kernels=made.bounds.user_kernels + 1)
        return made

    async def begin(self, manager: NurseryKernelManager, cwd: Path, env: dict[str, str]) -> None:
        """Have a kernel started, in order of arrival. Raises KernelsError, and what jupyter_client does."""
        async with self.turns:
            await manager.start_kernel(cwd=str(cwd), env=env)

    async def adopted(self, record: KernelRecord) -> NurseryKernelManager:
        """A manager of a kernel that is there. Raises KernelsError, and NoSuchKernel of jupyter_client."""
        return self._told(await NurseryKernelManager.adopt(record, self.nursery, self.context))

    def _told(self, manager: NurseryKernelManager) -> NurseryKernelManager:
        manager.recorder_mib, manager.bounds = self.options.recorder_mib, self.options.bounds
        return manager

    async def awaited(self, tenant: Tenant, epoch: int, boot: str, *, running: bool) -> tuple[KernelRecord, bool]:
        """The record once there is a process, and whether another owner may be connected to that (`running`).

        While the kernel waits for room on the host, its clients read that it does.
        """
        kernel_id = tenant.record.kernel_id
        record = await (self.nursery.get if running else self.nursery.settled)(kernel_id)
        if running and record.state == "waiting":
            await self.nursery.claim(kernel_id, epoch, boot)  # the owner before us has nothing to finish: it lets go
            running = False
        while record.state == "waiting":
            if place := await self.nursery.place(kernel_id):
                tenant.kernel.waits(f"The machine is busy starting other kernels; yours is number {place}.")
            record = await self.nursery.settled(kernel_id)
        tenant.record = record
        return record, running

    async def connect(
        self, tenant: Tenant, record: KernelRecord, epoch: int, boot: str, *, running: bool, claimed: bool
    ) -> None:
        """Attach under this claim. `running`: another owner may be connected until then. `claimed`: it is ours."""

        async def claim() -> None:
            await self.nursery.claim(record.kernel_id, epoch, boot, quiet=True)

        info = dict(tenant.manager.get_connection_info())
        way = Recorded(epoch, boot, claim) if record.recorder else Unrecorded(claim)
        if running and is_bound(info):
            await tenant.kernel.attach_running(self.context, info, way)
            return
        if not claimed:
            await claim()
        bound = record.bound and record.recorder
        await tenant.kernel.attach_new(self.context, info, way, self.options.start_timeout_s, bound=bound)
