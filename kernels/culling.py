"""Kernels that nobody uses, and kernels that are too old, are ended by their owner.

Owns the decision, and its words. A kernel is idle when no cell runs or waits, on whosever account, and nobody has used
it (`activity`) for as long as its kernelspec or the house says; whether a client is connected does not matter. At the
end of its life it goes as soon as no cell runs, and then in any case; its user is told before. Since the nursery must
agree, a worker that does not know yet that a kernel is another's ends nothing.

A cell that comes at that very moment waits for the nursery's answer (`nothing_new`): it runs, or its client is told
that the kernel has ended. `House.end` is still the one place where a kernel ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog

from kernels import activity
from kernels.chores import Chores
from kernels.errors import KernelsError, NurseryUnavailable
from kernels.house import House
from kernels.nursery_client import NurseryClient
from kernels.tenant import Tenant

log = structlog.get_logger(__name__)

LOOK_S: Final = 5.0  # between two looks at all kernels, unless one is due before
LEAST_S: Final = 0.1
AT_ONCE: Final = 4  # a class that went home together is not ended in one moment
# An owner gives the clients of a kernel that it has just got time to come back, however long nobody could come.
WELCOME_S: Final = 60.0
AGAIN_S: Final = 60.0  # after the nursery did not agree
# Before the end of a kernel's life its user is told, and a cell that runs at the end may go on for as long again.
GRACE_S: Final = 600.0
GRACE_SHARE: Final = 0.1  # of a short life


class Work(Protocol):
    """What runs cells on the server's account."""

    def is_at_work(self, tenant: Tenant) -> bool:
        """Whether one runs or waits, or that is not known yet."""

    async def put_away(self, tenant: Tenant) -> bool:
        """Write down what has come of them; whether all of it is, that has a place."""


@dataclass(frozen=True, slots=True)
class Limits:
    """In seconds; 0 for none. `metadata.cull_idle_timeout` of a kernel.json, as Jupyter Server has it, goes first."""

    idle_s: float
    life_s: float

    def idle_of(self, tenant: Tenant) -> float:
        """How long this kernel may be idle."""
        spec = tenant.manager.kernel_spec
        own = spec.metadata.get("cull_idle_timeout") if spec else None
        is_number = isinstance(own, int | float) and not isinstance(own, bool) and own == own
        return max(0.0, float(own)) if is_number and own is not None else self.idle_s

    @property
    def look_s(self) -> float:
        """Between two looks."""
        return min(LOOK_S, self.idle_s / 10) if self.idle_s else LOOK_S

    @property
    def grace_s(self) -> float:
        """Before the end of life, and after it."""
        return min(GRACE_S, GRACE_SHARE * self.life_s)


@dataclass(slots=True)
class Watched:
    """What is known of a kernel from one look to the next."""

    tenant: Tenant
    welcome_until_s: float
    not_before_s: float = 0.0
    ending: bool = False
    noted_at: datetime | None = None
    warned: set[int] = field(default_factory=set)  # the incarnations whose user was told of their age


class Culler:
    """Create, `start`, `stop`. `boot` says by what name this worker claims its kernels."""

    def __init__(
        self, house: House, nursery: NurseryClient, boot: Callable[[], str], limits: Limits, work: Work
    ) -> None:
        self._house = house
        self._nursery = nursery
        self._boot = boot
        self._limits = limits
        self._work = work
        self._watched: dict[str, Watched] = {}
        self._chores = Chores()
        self._turns = asyncio.Semaphore(AT_ONCE)

    def start(self) -> None:
        """Begin."""
        self._chores.begin(self._run(), "culling")

    async def stop(self) -> None:
        """This worker stops: what is being ended is ended by the nursery, if not by us."""
        await self._chores.stop()

    async def _run(self) -> None:
        while True:
            watched = self._watch()
            await asyncio.to_thread(_note, watched)
            pauses = [self._look(one) for one in watched]
            await asyncio.sleep(max(LEAST_S, min([self._limits.look_s, *pauses])))

    def _watch(self) -> list[Watched]:
        """The kernels that are ours now."""
        before, self._watched = self._watched, {}
        for tenant in self._house.mine:
            known = before.get(tenant.record.kernel_id)
            if known is None or known.tenant is not tenant:
                known = Watched(tenant, time.monotonic() + min(WELCOME_S, self._limits.idle_of(tenant) / 4))
            self._watched[tenant.record.kernel_id] = known
        return list(self._watched.values())

    def _look(self, one: Watched) -> float:
        """Have it ended if it is due; return in how many seconds it may be, at the earliest."""
        if one.ending:
            return LOOK_S
        if (wait_s := one.not_before_s - time.monotonic()) > 0:
            return wait_s
        now = datetime.now(UTC)
        left_s, sentence = min(self._idle(one, now), self._old(one, now))
        if left_s > 0 or not sentence:
            return left_s
        one.ending = True
        self._chores.begin(self._try_to_end(one, sentence), "cull")
        return LOOK_S

    def _idle(self, one: Watched, now: datetime) -> tuple[float, str]:
        limit_s = self._limits.idle_of(one.tenant)
        if not limit_s or self._is_in_use(one.tenant):
            return LOOK_S, ""
        left_s = limit_s - (now - one.tenant.kernel.last_activity).total_seconds()
        left_s = max(left_s, one.welcome_until_s - time.monotonic())
        return left_s, f"Your kernel was idle for {spoken(limit_s)} and was ended to make room."

    def _old(self, one: Watched, now: datetime) -> tuple[float, str]:
        life_s, grace_s = self._limits.life_s, self._limits.grace_s
        if not life_s or not self._is_ready(one.tenant):
            return LOOK_S, ""
        left_s = life_s - (now - datetime.fromisoformat(one.tenant.record.started_at)).total_seconds()
        if left_s > grace_s:
            return left_s - grace_s, ""
        self._warn(one)
        if left_s <= 0 and self._is_in_use(one.tenant):
            left_s += grace_s
        return left_s, f"Your kernel was {spoken(life_s)} old, and no kernel gets older here."

    def _warn(self, one: Watched) -> None:
        """Tell once that it will be ended, also in the cell that the server runs."""
        incarnation = one.tenant.record.incarnation
        if incarnation in one.warned:
            return
        one.warned.add(incarnation)
        grace, age = spoken(self._limits.grace_s), spoken(self._limits.life_s)
        one.tenant.kernel.voice.tell(
            f"Your kernel will be ended in {grace}, when it is {age} old; a cell that runs then "
            f"has {grace} more. Write what you need to a file, or restart the kernel to begin anew.",
            None,
            None,
        )

    def _is_ready(self, tenant: Tenant) -> bool:
        """Whether it is connected, and nothing is being done to it."""
        return tenant.kernel.is_attached and not tenant.lock.locked()

    def _is_in_use(self, tenant: Tenant) -> bool:
        return not self._is_ready(tenant) or tenant.kernel.life.runs_cell or self._work.is_at_work(tenant)

    async def _try_to_end(self, one: Watched, sentence: str) -> None:
        kernel = one.tenant.kernel
        try:
            async with self._turns:
                await self._end(one, sentence)
        except KernelsError as error:
            one.not_before_s = time.monotonic() + AGAIN_S
            log.warning("kernel_not_culled", user=kernel.user, kernel=kernel.kernel_id, why=str(error))
        finally:
            one.ending = False

    async def _end(self, one: Watched, sentence: str) -> None:
        """End it, unless it is used meanwhile or is not ours."""
        tenant, kernel = one.tenant, one.tenant.kernel
        used_at, was_in_use = kernel.last_activity, self._is_in_use(tenant)  # in use at the end of its life, that is
        if not await self._work.put_away(tenant) and not was_in_use:
            one.not_before_s = time.monotonic() + AGAIN_S  # the disk is full, for instance
            return
        is_used = kernel.last_activity != used_at or self._is_in_use(tenant)
        if (is_used and not was_in_use) or not self._is_ready(tenant) or tenant not in self._house.mine:
            return
        idle_s = round((datetime.now(UTC) - used_at).total_seconds(), 1)
        with kernel.nothing_new():
            try:
                await self._nursery.retire(kernel.kernel_id, self._boot(), sentence)
            except NurseryUnavailable:  # it may have agreed, and says so again
                await self._nursery.retire(kernel.kernel_id, self._boot(), sentence)
        log.info("kernel_culled", user=kernel.user, kernel=kernel.kernel_id, idle_s=idle_s, why=sentence)
        # Without a pause since the nursery's answer: what waits for it finds the kernel ended.
        await self._house.end(tenant, "culled", sentence)


def spoken(seconds: float) -> str:
    """As a person says it: 60 minutes, 2 hours."""
    for unit_s, unit in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * unit_s:
            return f"{round(seconds / unit_s, 1):g} {unit}"
    return f"{round(seconds, 1):g} second{'s' * (seconds != 1)}"


def _note(watched: list[Watched]) -> None:
    for one in watched:
        used_at = one.tenant.kernel.last_activity
        if used_at == one.noted_at:
            continue
        try:
            activity.note(one.tenant.record.directory, used_at)
            one.noted_at = used_at
        except OSError as error:
            log.warning("activity_not_noted", kernel=one.tenant.record.kernel_id, why=str(error))
