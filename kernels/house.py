"""The kernels that this worker owns.

Owns the way from "this user is mine" to attached kernels: start, adopt, restart, end and let go. Reads the truth from
the nursery, and is told by its maker (`Rule`) which users are this worker's. Knows nothing of Redis, HTTP or peers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog
import zmq
from jupyter_client.kernelspec import NoSuchKernel

from kernels import activity
from kernels.attached import AttachedKernel
from kernels.chores import Chores
from kernels.claims import Claims
from kernels.connecting import Connecting
from kernels.errors import (
    BadRequest,
    ClaimRefused,
    DuplicateKernel,
    KernelCut,
    KernelMoved,
    KernelsError,
    NurseryUnavailable,
    UnknownKernel,
)
from kernels.house_rules import LOST, HouseOptions, Rule
from kernels.nursery_client import ClaimLost, ClaimWanted, Event, KernelExited, NurseryBack, NurseryClient
from kernels.records import KernelRecord, checked_kernel_id, checked_notes
from kernels.tenant import Tenant

log = structlog.get_logger(__name__)

FRESH_WAIT_S: Final = 5.0  # how long a request waits for kernels to be adopted before it is told to come back
RETRY_S: Final = 0.5


class House:
    """Create, `start`, and call `ownership_changed` whenever the rule's answers may have changed."""

    def __init__(self, nursery: NurseryClient, context: zmq.Context[Any], rule: Rule, options: HouseOptions) -> None:
        self._nursery = nursery
        self._connecting = Connecting(nursery, context, options)
        self._rule = rule
        self._claims = Claims(nursery, rule)
        self._options = options
        self._tenants: dict[str, Tenant] = {}
        self._reclaim = False
        self._in_hand: set[str] = set()  # ids that `create` or `end` is at: they are nobody's to adopt
        self._kick = asyncio.Event()
        self._fresh = asyncio.Event()  # set while the tenants are what the newest ring says
        self._changed = asyncio.Event()
        self._chores = Chores()
        self.on_adopted: Callable[[Tenant], None] = lambda _: None  # called for each kernel that was another's before

    def start(self) -> None:
        """Begin to follow the ring and the nursery. The nursery's events must reach `on_event`."""
        self._chores.begin(self._follow(), "house")
        self.ownership_changed()

    async def stop(self) -> None:
        """Let go of everything; the kernels run on."""
        await self._chores.stop()
        self.drop_all("this worker stops")

    # -- what requests ask ----------------------------------------------------------------------------------------

    async def of(self, user: str) -> list[Tenant]:
        """Return the user's kernels, oldest first. Raises NurseryUnavailable while they cannot be known."""
        await self._current()
        mine = [tenant for tenant in self._tenants.values() if tenant.record.user == user]
        return sorted(mine, key=lambda tenant: tenant.record.started_at)

    async def get(self, user: str, kernel_id: str) -> Tenant:
        """Return one kernel of the user's. Raises UnknownKernel (also for somebody else's), NurseryUnavailable."""
        await self._current()
        tenant = self._tenants.get(kernel_id)
        if tenant is None and await self._user_of(kernel_id) == user and kernel_id not in self._in_hand:
            # Started by the owner before us while the ring changed, after we had asked what there is.
            self.ownership_changed()
            raise KernelMoved("the kernel is being taken over")
        if tenant is None or tenant.record.user != user:
            raise UnknownKernel(kernel_id)
        return tenant

    async def create(
        self,
        user: str,
        kernel_id: str,
        kernel_name: str,
        *,
        cwd: Path,
        env: dict[str, str],
        notes: dict[str, Any],
        takes_place: bool = False,
    ) -> Tenant:
        """Start a kernel; return when its process exists (it answers a little later; clients wait for that).

        `takes_place`: of another of its user's, which the caller ends then, so it is allowed where one is the limit.
        Raises DuplicateKernel when the id is taken, NoSuchKernel (jupyter_client) for an unknown kernelspec,
        TooManyKernels, SpawnRefused, NurseryUnavailable.
        """
        await self._current()
        elsewhere = await self._user_of(kernel_id) is not None
        if elsewhere or kernel_id in self._tenants or kernel_id in self._in_hand:
            raise DuplicateKernel(kernel_id)
        manager = self._connecting.manager(user, kernel_id, kernel_name, takes_place=takes_place)
        manager.claim = self._claims.first(user)
        manager.notes = checked_notes(notes)
        self._in_hand.add(kernel_id)
        try:
            await self._connecting.begin(manager, cwd, env)
        finally:
            self._in_hand.discard(kernel_id)
        record = manager.kernel_record
        assert record
        tenant = self._tenants[kernel_id] = Tenant(self._kernel(kernel_id, user), manager, record)
        self._chores.begin(self._bring_up(tenant), "bring_up")
        log.info("kernel_started", user=user, kernel=kernel_id, spec=kernel_name, kernel_pid=record.pid)
        return tenant

    async def _user_of(self, kernel_id: str) -> str | None:
        """Whose kernel this is, whoever owns it now; None when there is none, and for what is no id at all."""
        try:
            return (await self._nursery.get(checked_kernel_id(kernel_id))).user
        except (BadRequest, UnknownKernel):
            return None

    async def farewell(self, user: str, kernel_id: str) -> str | None:
        """Why a kernel of the user's that is gone has ended: a sentence, "" if it was the user, None if not known."""
        with suppress(BadRequest):  # no kernel has such an id; or the nursery is of an older version, as below
            return await self._nursery.farewell(user, kernel_id)
        return None

    async def end(self, tenant: Tenant, reason: str, farewell: str = "") -> None:
        """End a kernel: the one place where that happens. Nothing of it is left afterwards.

        `reason` is for the log, `farewell` for its user: a sentence, for whom it is news.
        """
        kernel_id = tenant.record.kernel_id
        if self._tenants.pop(kernel_id, None) is None:
            raise UnknownKernel(kernel_id)
        self._in_hand.add(kernel_id)
        tenant.kernel.ended(farewell or reason, farewell and f"{farewell} {LOST}")
        try:
            async with tenant.lock:
                with suppress(BadRequest):
                    await self._nursery.bid_farewell(tenant.record.user, kernel_id, farewell)
                if tenant.record.state != "waiting":  # there is no process to be asked
                    await tenant.manager.shutdown_kernel()
                tenant.manager.let_go()
                await self._nursery.end(kernel_id, reason)
        finally:
            self._in_hand.discard(kernel_id)
        log.info("kernel_ended", user=tenant.record.user, kernel=kernel_id, reason=reason)

    async def restart(self, tenant: Tenant, told: str = "The kernel was restarted.", *, now: bool = False) -> None:
        """Restart in place (same id, new process; `now`: unasked); return when it answers. Raises KernelSilent."""
        await self._restart(tenant, told, now=now)

    async def interrupt(self, tenant: Tenant) -> None:
        """Interrupt what runs, by signal or message as the kernelspec says."""
        await tenant.manager.interrupt_kernel()

    async def note(self, tenant: Tenant, notes: dict[str, Any]) -> None:
        """Keep `notes` with the kernel, where they outlive this worker. Raises BadRequest when they are too long."""
        tenant.record = await self._nursery.note(tenant.record.kernel_id, checked_notes(notes))

    # -- what the ring and the nursery say ------------------------------------------------------------------------

    def ownership_changed(self) -> None:
        """The rule's answers may have changed: adopt what was gained. What was lost goes when its new owner has it."""
        self._fresh.clear()
        self._kick.set()
        self._changed.set()

    def drop_all(self, why: str) -> None:
        """Let go of every kernel at once: this worker is not a member any more."""
        for tenant in list(self._tenants.values()):
            self._let_go(tenant, why)

    @property
    def mine(self) -> list[Tenant]:
        """The kernels here whose users are this worker's."""
        return [tenant for tenant in self._tenants.values() if self._rule.owns(tenant.record.user)]

    @property
    def holding(self) -> int:
        """How many kernels are attached here."""
        return len(self._tenants)

    async def handed_over(self, within_s: float, to_anybody: Callable[[], bool]) -> None:
        """Wait until others have taken every kernel here: `within_s` at the most, and while there are any."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._tenants and to_anybody():
                    self._changed.clear()
                    await self._changed.wait()

    async def left_by_clients(self, within_s: float) -> None:
        """Wait until no client is connected to a kernel here; `within_s` at the most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await asyncio.gather(*[tenant.kernel.left_by_clients() for tenant in self._tenants.values()])

    def on_event(self, event: Event) -> None:
        """What the nursery tells."""
        match event:
            case KernelExited(record):
                self._exited(record)
            case ClaimLost(kernel_id, epoch):
                if tenant := self._tenants.get(kernel_id):
                    self._let_go(tenant, f"claimed at epoch {epoch}")
            case ClaimWanted(kernel_id, _):
                self._chores.begin(self._yield(kernel_id), "yield")
            case NurseryBack():
                self._reclaim = True
                self.ownership_changed()

    async def _yield(self, kernel_id: str) -> None:
        """Write no more to a kernel. One that is claimed and only starting is not written to: its start comes to
        nothing by itself, for whoever attaches at a lower epoch is refused."""
        with suppress(NurseryUnavailable):
            if tenant := self._tenants.get(kernel_id):
                await tenant.kernel.hold_back()
            await self._nursery.yielded(kernel_id)

    def _let_go(self, tenant: Tenant, why: str) -> None:
        kernel_id = tenant.record.kernel_id
        tenant.kernel.moved(why)
        tenant.manager.let_go()
        self._changed.set()
        if self._tenants.get(kernel_id) is tenant:
            del self._tenants[kernel_id]
            log.info("kernel_released", user=tenant.record.user, kernel=kernel_id, why=why)
            if self._rule.owns(tenant.record.user):  # whoever took it went by an older ring than ours
                self.ownership_changed()

    def _exited(self, record: KernelRecord) -> None:
        tenant = self._tenants.get(record.kernel_id)
        # A restart that was asked for ends the old process on purpose; it holds the lock meanwhile.
        if tenant and not tenant.lock.locked() and record.incarnation >= tenant.record.incarnation:
            self._tell_exit(tenant, record)

    def _tell_exit(self, tenant: Tenant, record: KernelRecord) -> None:
        tenant.record = record
        if record.exit and tenant.exit_told < record.incarnation:
            tenant.exit_told = record.incarnation
            # One that was never started has not died: it is not started again by itself.
            tell = tenant.kernel.process_exited if record.pid else tenant.kernel.gave_up
            tell(record.exit.sentence)

    # -- following ------------------------------------------------------------------------------------------------

    async def _current(self) -> None:
        self._claims.check_ring()
        if self._fresh.is_set():
            return
        try:
            async with asyncio.timeout(FRESH_WAIT_S):
                await self._fresh.wait()
        except TimeoutError as error:
            raise NurseryUnavailable(
                "Your kernels are being taken over by this worker. Try again in a moment."
            ) from error

    async def _follow(self) -> None:
        while True:
            await self._kick.wait()
            self._kick.clear()
            try:
                await self._reconcile()
            except Exception as error:
                known = isinstance(error, NurseryUnavailable)
                log.warning("kernels_unknown", why=str(error), exc_info=None if known else error)
                asyncio.get_running_loop().call_later(RETRY_S, self._kick.set)
                continue
            if not self._kick.is_set():
                self._fresh.set()

    async def _reconcile(self) -> None:
        # A kernel that `create` starts while the nursery answers is in neither list: no business of this one.
        here = {kernel_id for kernel_id, tenant in self._tenants.items() if not tenant.lock.locked()}
        records = {record.kernel_id: record for record in await self._nursery.kernels()}
        for kernel_id in here - set(records):
            if gone := self._tenants.pop(kernel_id, None):
                gone.kernel.ended("The kernel is gone.")
        await self._keep_mine()
        async with asyncio.TaskGroup() as group:
            for kernel_id, record in records.items():
                known = kernel_id in self._tenants or kernel_id in self._in_hand
                if self._rule.owns(record.user) and not known:
                    group.create_task(self._adopt(record))

    async def _keep_mine(self) -> None:
        """See to it that what is attached here and ours stays so."""
        reclaim, self._reclaim = self._reclaim, False
        for tenant in list(self._tenants.values()):
            if not self._rule.owns(tenant.record.user):
                continue
            if tenant.kernel.held_back:
                # Yielded to a worker that owned it by an older ring, which may have the identity by now.
                self._let_go(tenant, "to be attached anew")
            elif reclaim:  # a new nursery does not know over which connection a kernel is held
                try:
                    await self._claims.again(tenant)
                except (ClaimRefused, UnknownKernel) as error:
                    self._claims.note(error)
                    self._let_go(tenant, str(error))

    async def _adopt(self, record: KernelRecord) -> None:
        """Register a running kernel as ours; claiming and connecting go on behind, and clients wait at their seats."""
        try:
            manager = await self._connecting.adopted(record)
            used_at = await asyncio.to_thread(activity.noted, record.directory)
        except (KernelsError, NoSuchKernel) as error:
            log.warning("kernel_not_adopted", kernel=record.kernel_id, user=record.user, why=str(error))
            return
        kernel = self._kernel(record.kernel_id, record.user)
        kernel.last_activity = used_at or kernel.last_activity
        if record.state == "running":
            kernel.life.adopted(time.monotonic())
            kernel.untold = record.farewell if record.recorder else ""  # others do not say whom they have served
        tenant = self._tenants[record.kernel_id] = Tenant(kernel, manager, record)
        self._chores.begin(self._bring_up(tenant, running=True), "adopt")
        self.on_adopted(tenant)

    def _kernel(self, kernel_id: str, user: str) -> AttachedKernel:
        options = self._options
        return AttachedKernel(
            kernel_id, user, options.backlog_bytes, self._restart_by_itself, options.cell_s, self._stop_cell
        )

    # -- starting -------------------------------------------------------------------------------------------------

    async def _bring_up(self, tenant: Tenant, *, running: bool = False) -> None:
        """Connect to the process of `tenant`; `running`: another owner may be connected to it until we are."""
        kernel, kernel_id = tenant.kernel, tenant.record.kernel_id
        try:
            epoch, boot = self._claims.of(tenant, running=running)
            record, running = await self._connecting.awaited(tenant, epoch, boot, running=running)
            # Its first start has claimed it, and there is no owner before us, who would have to let go.
            claimed = not running and record.incarnation == 1 and record.is_held_by(epoch, boot)
            if record.exit:
                self._tell_exit(tenant, record)
            else:
                await self._connecting.connect(tenant, record, epoch, boot, running=running, claimed=claimed)
            if not claimed:
                await self._nursery.claim(kernel_id, epoch, boot)  # now the owner before us lets go
            log.info("kernel_attached", user=kernel.user, kernel=kernel_id, epoch=epoch, boot=boot, adopted=running)
        except (ClaimRefused, KernelMoved, UnknownKernel, NurseryUnavailable) as error:
            self._claims.note(error)
            self._let_go(tenant, str(error))  # clients ask again, and what is ours is adopted anew
        except KernelCut:
            # Its end is told by whoever cut it. By now the kernel may have the wires of the next start, which goes on.
            return
        except KernelsError as error:
            if not kernel.is_cut:  # else the process has ended, which is told already, or is nobody's any more
                kernel.gave_up(f"The kernel cannot be reached: {error}.")

    def _restart_by_itself(self, kernel: AttachedKernel) -> None:
        tenant = self._tenants.get(kernel.kernel_id)
        if tenant:
            self._chores.begin(self._restart(tenant, None, now=True), "restart")

    def _stop_cell(self, kernel: AttachedKernel, sentence: str) -> None:
        if tenant := self._tenants.get(kernel.kernel_id):
            ends = self._restart(tenant, sentence, now=True) if sentence else self.interrupt(tenant)
            self._chores.begin(ends, "stop_cell")

    async def _restart(self, tenant: Tenant, told: str | None, *, now: bool) -> None:
        async with tenant.lock:
            if self._tenants.get(tenant.record.kernel_id) is not tenant:
                raise UnknownKernel(tenant.record.kernel_id)
            if tenant.record.state == "waiting":
                return  # it starts as soon as it can
            if told:
                tenant.kernel.restarting(told)
            tenant.manager.farewell = tenant.kernel.untold
            try:
                await tenant.manager.restart_kernel(now=now)
                tenant.record = await self._nursery.get(tenant.record.kernel_id)
            except (KernelsError, RuntimeError) as error:
                tenant.kernel.gave_up(f"The kernel could not be started again: {error}.")
                return
        bring_up = self._bring_up(tenant)
        if tenant.record.state == "waiting":  # for longer than a request may take
            self._chores.begin(bring_up, "bring_up")
        else:
            await bring_up
