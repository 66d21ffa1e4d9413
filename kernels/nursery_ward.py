"""One kernel in the nursery's care, and what is asked of it in passing.

Owns the type and the small questions around a start and an end. It starts and ends nothing.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from kernels import processes
from kernels.bounds import UNBOUNDED, Bounds
from kernels.confine import folders
from kernels.errors import SpawnRefused
from kernels.records import KernelRecord, SpawnOrder, now_utc

AGAIN_S = 2.0
"""How soon a kernel is started again that has ended by itself, or whose restart was asked for."""

SETTLED_S = 60.0
"""How long a forked kernel may take to say that it has its sockets, before others are started beside it."""

COLD_S = 10.0
"""How long a kernel that was exec'd may take until it has its sockets, before it is taken for what it is."""


@dataclass(slots=True)
class Ward:
    """A kernel in care. `pidfd` is -1 once it has exited; `emptying` then waits for the rest of its group, and
    `group_left` says whether there may be one: only as long may its number be asked for."""

    record: KernelRecord
    pidfd: int = -1
    born: float = 0.0
    bounds: Bounds = UNBOUNDED  # of what an earlier nursery has started they are not known
    born_with_sockets: bool = False
    ending: str = ""
    struck: str = ""  # why the nursery itself has killed it, for its user
    ended: float = 0.0
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    group_left: bool = False
    retired: bool = False  # its owner is about to end it: nobody adopts it any more
    emptying: asyncio.Task[None] | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)  # it waits no more for its start
    settled: asyncio.Event = field(default_factory=asyncio.Event)  # no more will be heard of how it starts

    def has_a_place(self) -> bool:
        """Whether it is one of the host's kernels: it runs, or has just ended and may be about to be started again.

        Without the latter a kernel that waits would take the place of one that is restarted, and both would run.
        """
        return self.pidfd >= 0 or (not self.ending and time.monotonic() - self.ended < AGAIN_S and self.ended > 0)

    def is_coming(self) -> bool:
        """Whether it was started and has not come to its own: then it needs the processor, and more memory soon.

        One that was exec'd says nothing: it is looked for its last socket, and not for long.
        """
        if not self.settled.is_set():
            return time.monotonic() - self.born < SETTLED_S
        if not self.record.recorder or self.record.warm or time.monotonic() - self.born > COLD_S:
            return False
        if self.born_with_sockets:
            return processes.threads(self.record.pid) == 1  # libzmq's come when it takes them
        return not (self.record.directory / "s" / folders.SOCKETS[-1]).exists()


def check_owner(ward: Ward, order: SpawnOrder) -> None:
    """Raises SpawnRefused for an order that is not the owner's of this kernel."""
    if ward.ending:
        raise SpawnRefused(f"kernel {order.kernel_id} is being ended")
    if order.user != ward.record.user:
        raise SpawnRefused(f"kernel {order.kernel_id} is not {order.user}'s")


def check_successor(last: KernelRecord, order: SpawnOrder) -> None:
    """Raises SpawnRefused for an order that does not follow the last incarnation."""
    if order.incarnation < last.incarnation:
        raise SpawnRefused(f"incarnation {order.incarnation} is over: {last.incarnation} was started")
    if last.state == "running":
        raise SpawnRefused(f"incarnation {last.incarnation} is still running")


def check_first(order: SpawnOrder) -> None:
    """Raises SpawnRefused for an order that would start a kernel again that has been ended.

    A former owner that is about to let go hears of the end of the process as of a death. What it writes for the next
    one while the directory is being removed may keep that, so the directory proves nothing.
    """
    if order.incarnation > 1:
        raise SpawnRefused(f"kernel {order.kernel_id} has been ended")


def first_record(order: SpawnOrder, before: KernelRecord | None, pid: int, started: int) -> KernelRecord:
    """A restart keeps claim and notes: they are the kernel's, not the process'."""
    return KernelRecord(
        kernel_id=order.kernel_id,
        user=order.user,
        kernel_name=order.kernel_name,
        incarnation=order.incarnation,
        directory=order.directory,
        cwd=order.cwd,
        pid=pid,
        pid_started=started,
        started_at=now_utc(),
        claim_epoch=before.claim_epoch if before else order.claim_epoch,
        claim_boot=before.claim_boot if before else order.claim_boot,
        notes=before.notes if before else order.notes,
        recorder=order.recorder,
        farewell=order.farewell,
    )
