"""The faults that strike a chaos run: one for each row of DESIGN.md's failure table that can happen on one machine.

Owns how each is brought about and how long it lasts; every one returns when the installation is whole again. They block
(they are run in threads), touch only processes of the installation that they are given, and find their victim at the
moment of the blow: who owns a student now, and through whom the student came in. Not here: a machine that is gone (it
would take the judge along), and memory that runs out, which needs a limit to strike.
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import redis as redis_client

from kernels.errors import NurseryUnavailable
from local.chaos_cells import BURST_FILE, PRINTED_FILE
from local.stack import Stack

DOZE_S: Final = 1.5  # half a lease
EVICTED_S: Final = 12.0
PRINTED_S: Final = 30.0


class Breakable(Protocol):
    """A Redis that may be struck."""

    @property
    def url(self) -> str:
        """Where it is."""

    def start(self) -> None:
        """Start it, empty, where it was."""

    def kill(self) -> None:
        """SIGKILL."""

    def pause(self) -> None:
        """SIGSTOP."""

    def resume(self) -> None:
        """SIGCONT."""


@dataclass(frozen=True, slots=True)
class Victim:
    """A student in mid-cell. `entry`: the slot that took the student's connection."""

    name: str
    kernel_id: str
    entry: str
    token: str
    folder: Path


@dataclass(slots=True)
class Scene:
    """What can be struck. `configured`: with how many workers gunicorn was started; `away_s`: how long Redis goes."""

    stack: Stack
    redis: Breakable
    configured: int
    away_s: float

    def owner(self, victim: Victim) -> str:
        """The slot that owns the student now, as any worker says."""
        return str(self.stack.wait(lambda: self._ask_owner(victim), f"a worker that says who owns {victim.name}"))

    def _ask_owner(self, victim: Victim) -> str:
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{self.stack.url}/api/kernels/{victim.kernel_id}", headers={"Authorization": f"Bearer {victim.token}"}
        )
        with suppress(OSError), urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return str(answer.headers["X-Kernelring-Owner"])
        return ""

    def whole(self) -> None:
        """Wait until all workers are there, and the nursery."""
        self.stack.wait(self._is_whole, f"{self.stack.workers} workers and the nursery")

    def _is_whole(self) -> bool:
        found = self.stack.readyz()
        return bool(
            found
            and found["status"] == "ready"
            and len(found["members"]) == self.stack.workers
            and all(found["checks"].values())
            and len(self.stack.worker_pids()) == self.stack.workers
        )

    def kill_workers(self, *pids: int) -> None:
        """SIGKILL, and wait for those that take their places."""
        mark, killed = self.stack.mark(), 0
        for pid in pids:
            with suppress(ProcessLookupError):  # a fault that strikes with this one has ended it
                os.kill(pid, signal.SIGKILL)
                killed += 1
        if killed:
            self.stack.wait_event("worker_registered", mark, killed)


Strike = Callable[[Scene, Victim], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """`bound_s`: how late a line may be (DESIGN.md); None where it says nothing. `on`: what cell it needs to be in, and
    `ends_kernel`: that the victim's kernel ends, and what must be said of it.
    """

    strike: Strike
    bound_s: float | None
    on: str = ""
    ends_kernel: str = ""
    entry_apart: bool = False  # only a student who came in through another worker than the owner


# -- workers ----------------------------------------------------------------------------------------------------------


def kill_owner(scene: Scene, victim: Victim) -> None:
    """kill -9 of the owner."""
    scene.kill_workers(scene.stack.worker_of(scene.owner(victim)))


def kill_entry(scene: Scene, victim: Victim) -> None:
    """kill -9 of the worker that the student is connected to."""
    scene.kill_workers(scene.stack.worker_of(victim.entry))


def kill_both(scene: Scene, victim: Victim) -> None:
    """kill -9 of owner and entry worker in one moment."""
    slots = {scene.owner(victim), victim.entry}
    scene.kill_workers(*(scene.stack.worker_of(slot) for slot in slots))


def kill_all(scene: Scene, _: Victim) -> None:
    """kill -9 of all workers in one moment."""
    scene.kill_workers(*scene.stack.worker_pids())


def more(scene: Scene, _: Victim) -> None:
    """One worker more (TTIN)."""
    scene.stack.workers += 1
    _signal(scene, signal.SIGTTIN)


def less(scene: Scene, _: Victim) -> None:
    """One worker less (TTOU); two stay."""
    if scene.stack.workers > 2:
        scene.stack.workers -= 1
        _signal(scene, signal.SIGTTOU)


def reload(scene: Scene, _: Victim) -> None:
    """All workers replaced (HUP). gunicorn takes its configured number of workers again."""
    old, mark = set(scene.stack.worker_pids()), scene.stack.mark()
    scene.stack.workers = scene.configured
    _signal(scene, signal.SIGHUP)
    scene.stack.wait_event("worker_registered", mark, scene.stack.workers)
    scene.stack.wait(lambda: not old & set(scene.stack.worker_pids()), "the old workers are gone")


def hang_owner(scene: Scene, victim: Victim) -> None:
    """The owner hangs for good (SIGSTOP) until it is evicted."""
    _hang(scene, scene.stack.worker_of(scene.owner(victim)))


def hang_entry(scene: Scene, victim: Victim) -> None:
    """The entry worker hangs for good."""
    _hang(scene, scene.stack.worker_of(victim.entry))


def hang_and_wake(scene: Scene, victim: Victim) -> None:
    """The owner hangs, and wakes in the moment in which it is evicted."""
    hung = scene.stack.worker_of(scene.owner(victim))
    mark = scene.stack.mark()
    os.kill(hung, signal.SIGSTOP)
    scene.stack.wait_event("member_evicted", mark, within_s=EVICTED_S)
    with suppress(ProcessLookupError):
        os.kill(hung, signal.SIGCONT)


def doze(scene: Scene, victim: Victim) -> None:
    """The owner hangs for less than its lease."""
    hung = scene.stack.worker_of(scene.owner(victim))
    os.kill(hung, signal.SIGSTOP)
    time.sleep(DOZE_S)  # the fault is the time itself
    os.kill(hung, signal.SIGCONT)


def _hang(scene: Scene, pid: int) -> None:
    mark = scene.stack.mark()
    os.kill(pid, signal.SIGSTOP)
    scene.stack.wait_event("member_evicted", mark, within_s=EVICTED_S)
    scene.stack.wait(lambda: pid not in scene.stack.worker_pids(), "the hung worker is killed")


def _signal(scene: Scene, signum: int) -> None:
    assert scene.stack.gunicorn is not None
    scene.stack.gunicorn.send_signal(signum)


def restart(scene: Scene, _: Victim) -> None:
    """gunicorn is ended and started again."""
    scene.stack.stop_gunicorn(signal.SIGTERM)
    _start(scene)


def kill_gunicorn(scene: Scene, _: Victim) -> None:
    """gunicorn and all workers are killed, and it is started again."""
    scene.stack.stop_gunicorn(signal.SIGKILL)
    _start(scene)


def _start(scene: Scene) -> None:
    scene.configured = scene.stack.workers
    scene.stack.start(ready=False)


# -- what they lean on ------------------------------------------------------------------------------------------------


def redis_restart(scene: Scene, _: Victim) -> None:
    """Redis is killed and comes back empty at once."""
    scene.redis.kill()
    scene.redis.start()


def redis_away(scene: Scene, _: Victim) -> None:
    """Redis is away for a while, and comes back empty."""
    scene.redis.kill()
    time.sleep(scene.away_s)  # the fault is the time itself
    scene.redis.start()


def redis_hang(scene: Scene, _: Victim) -> None:
    """Redis takes connections and answers nothing for a while."""
    scene.redis.pause()
    time.sleep(scene.away_s)
    scene.redis.resume()


def redis_flush(scene: Scene, _: Victim) -> None:
    """Redis is emptied."""
    with redis_client.Redis.from_url(scene.redis.url) as connection:
        connection.flushall()


def kill_nursery(scene: Scene, _: Victim) -> None:
    """kill -9 of the nursery."""
    before = int(scene.stack.nursery()["pid"])
    os.kill(before, signal.SIGKILL)
    scene.stack.wait(lambda: _nursery_after(scene, before), "a new nursery")


def _nursery_after(scene: Scene, before: int) -> bool:
    with suppress(NurseryUnavailable):
        return int(scene.stack.nursery()["pid"]) != before
    return False


# -- kernels ----------------------------------------------------------------------------------------------------------


def kill_kernel(scene: Scene, victim: Victim) -> None:
    """kill -9 of a kernel, as the system does it when memory is short."""
    record = json.loads((scene.stack.runtime / "k" / victim.kernel_id / "record.json").read_text())
    os.kill(int(record["pid"]), signal.SIGKILL)


def overflow(scene: Scene, victim: Victim) -> None:
    """The owner hangs, the kernel prints more than its recorder keeps, the owner is killed."""
    owner = scene.stack.worker_of(scene.owner(victim))
    mark = scene.stack.mark()
    printed = victim.folder / PRINTED_FILE
    os.kill(owner, signal.SIGSTOP)
    try:
        (victim.folder / BURST_FILE).touch()
        scene.stack.wait(printed.exists, "the burst is printed", PRINTED_S)
    finally:
        with suppress(ProcessLookupError):  # evicted and killed meanwhile, if printing took longer than its lease
            os.kill(owner, signal.SIGKILL)
    printed.unlink()
    (victim.folder / BURST_FILE).unlink()
    scene.stack.wait_event("worker_registered", mark)


QUICK_S: Final = 1.0
HUNG_S: Final = 5.0
START_S: Final = 10.0

FAULTS: Final[dict[str, Fault]] = {
    "kill-owner": Fault(kill_owner, QUICK_S, entry_apart=True),
    "kill-entry": Fault(kill_entry, QUICK_S, entry_apart=True),
    "kill-both": Fault(kill_both, QUICK_S, entry_apart=True),
    "more": Fault(more, QUICK_S),
    "less": Fault(less, QUICK_S),
    "reload": Fault(reload, QUICK_S),
    "hang-owner": Fault(hang_owner, HUNG_S, entry_apart=True),
    "hang-entry": Fault(hang_entry, HUNG_S, entry_apart=True),
    "hang-and-wake": Fault(hang_and_wake, HUNG_S),
    "doze": Fault(doze, HUNG_S),
    "restart": Fault(restart, START_S),
    "kill-gunicorn": Fault(kill_gunicorn, START_S),
    "kill-all": Fault(kill_all, START_S),
    "redis-restart": Fault(redis_restart, None),
    "redis-flush": Fault(redis_flush, None),
    "redis-away": Fault(redis_away, None),
    "redis-hang": Fault(redis_hang, None),
    "kill-nursery": Fault(kill_nursery, None),
    "kill-kernel": Fault(kill_kernel, None, on="steady", ends_kernel="The kernel ended"),
    "overflow": Fault(overflow, None, on="burst"),
}

# Each of the table in turn, the likeliest first, and the pairs that a bad day brings.
DEFAULT: Final = (
    "kill-owner", "kill-entry", "kill-both", "more", "less", "reload", "hang-owner", "hang-and-wake", "restart",
    "kill-gunicorn", "overflow", "redis-restart", "redis-away", "redis-flush", "kill-nursery", "kill-kernel",
    "kill-owner+redis-restart", "kill-owner+kill-nursery", "reload+kill-owner", "hang-owner+redis-flush", "hang-entry",
    "doze", "redis-hang", "kill-all",
)  # fmt: skip


def parse(text: str) -> list[list[str]]:
    """`a,b+c` as [[a], [b, c]]; raise ValueError for a name that is not a fault's."""
    found = [step.split("+") for step in text.split(",")]
    for name in (name for step in found for name in step):
        if name not in FAULTS:
            raise ValueError(f"there is no fault {name!r}; there are {', '.join(FAULTS)}")
    return found
