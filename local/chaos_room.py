"""A chaos run: students at work, one fault after the other, and the report.

Owns the order of events: a fault strikes when its victim's cell has printed so much, and the next one only when the
installation is whole again and every cell that was running then has ended, so that each loss has one cause. All chance
comes from the seed.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from kernels.errors import NurseryUnavailable
from local import chaos_cells
from local.chaos_faults import FAULTS, Fault, Scene, Victim
from local.chaos_pupil import CONNECT_S, HUNG_S, Book, Pupil
from local.chaos_table import Report, Row
from local.stack import StackError
from local.student import Student
from server.workdir import user_directory

GATE_S: Final = 60.0
ENDED_S: Final = 2 * HUNG_S + CONNECT_S
TOGETHER: Final = 8  # kernels that are started at once
LAG_S: Final = 0.05
GREEDY: Final = 0  # the student whose kernel overflows its recorder


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. `steps`: faults that strike at once, one step after the other, again and again for `seconds`."""

    students: int
    seconds: float
    steps: Sequence[Sequence[str]]
    seed: int


class Room:
    """`say` is given a line for each fault."""

    def __init__(self, scene: Scene, plan: Plan, say: Callable[[str], None], threads: ThreadPoolExecutor) -> None:
        self._scene, self._plan, self._say, self._threads = scene, plan, say, threads
        self._book = Book()
        self._generator = random.Random(plan.seed)  # noqa: S311 - no secret
        self._pupils: list[Pupil] = []
        self._began_s = 0.0

    async def run(self) -> Report:
        """Let the plan happen. Raises StackError when the installation does not come up at all."""
        async with self._pupils_at_work() as stop, asyncio.TaskGroup() as group:
            watch = group.create_task(self._measure_lag())
            work = [group.create_task(pupil.work(stop)) for pupil in self._pupils]
            await self._strikes()
            stop.set()
            await asyncio.wait(work, timeout=ENDED_S)
            watch.cancel()
            for task in work:
                task.cancel()
        for pupil in self._pupils:
            pupil.audit()
        return Report(list(self._book.rows.values()), self._plan.students, self._plan.seconds, self._plan.seed)

    @asynccontextmanager
    async def _pupils_at_work(self) -> AsyncIterator[asyncio.Event]:
        stack = self._scene.stack
        async with AsyncExitStack() as room:
            for number in range(self._plan.students):
                name, numbered = f"s{number}", number % 2 == 1
                folder = user_directory(stack.directory / "notebooks", name)
                student = await room.enter_async_context(Student(stack.url, stack.token(name), numbered=numbered))
                generator = random.Random(f"{self._plan.seed}/{name}")  # noqa: S311
                self._pupils.append(Pupil(student, name, generator, folder, self._book, numbered=numbered))
            self._book.turn_to("none", None)
            for at in range(0, len(self._pupils), TOGETHER):
                await asyncio.gather(*(pupil.begin() for pupil in self._pupils[at : at + TOGETHER]))
            self._say(f"{len(self._pupils)} students have their kernels")
            yield asyncio.Event()

    async def _measure_lag(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(LAG_S)
            row = self._book.row
            row.lag_s = max(row.lag_s, time.monotonic() - began - LAG_S)

    # -- striking -------------------------------------------------------------------------------------------------

    async def _strikes(self) -> None:
        self._began_s = time.monotonic()
        await asyncio.gather(*(pupil.past(1) for pupil in self._pupils))  # the row without a fault
        for step in itertools.cycle(self._plan.steps):
            if time.monotonic() - self._began_s >= self._plan.seconds:
                return
            try:
                await self._strike(step)
            except (StackError, NurseryUnavailable, OSError) as problem:  # TimeoutError is one
                why = str(problem) or "some students have got no further"
                self._book.row.broken.append(f"it did not recover: {why}")
                self._say(f"gave up: {why}")
                return

    async def _strike(self, step: Sequence[str]) -> None:
        victims = [await self._victim(FAULTS[name]) for name in step]
        name = "+".join(step)
        row = self._book.turn_to(name, _bound(step))
        before = Row(name, **{field: getattr(row, field) for field in ("cells", "lost", "repeated", "gaps")})
        began = time.monotonic()
        row.strikes += 1
        loop = asyncio.get_running_loop()
        await asyncio.gather(
            *(
                loop.run_in_executor(self._threads, FAULTS[each].strike, self._scene, victim)
                for each, victim in zip(step, victims, strict=True)
            )
        )
        await loop.run_in_executor(self._threads, self._scene.whole)
        settled_s = time.monotonic() - began
        row.settled_s = max(row.settled_s, settled_s)
        async with asyncio.timeout(ENDED_S):
            await asyncio.gather(*(pupil.past(pupil.finished + 1) for pupil in self._pupils))
        whom = ", ".join(victim.name for victim in victims)
        self._say(
            f"{began - self._began_s:6.1f} s  {name} in {whom}'s cell: whole after {settled_s:.1f} s, "
            f"{row.lost - before.lost} lines lost, {row.repeated - before.repeated} repeated, "
            f"{row.gaps - before.gaps} gaps told, in {row.cells - before.cells} cells"
        )

    async def _victim(self, fault: Fault) -> Victim:
        """Somebody, at the moment in which the fault is to strike."""
        while True:
            pupil = self._pupils[GREEDY] if fault.on == "burst" else self._generator.choice(self._pupils)
            if fault.on == "burst":
                pupil.next.append(chaos_cells.burst(f"{pupil.name}-{90_000 + pupil.finished}"))
            part = self._generator.uniform(0.05, 0.5)
            async with asyncio.timeout(GATE_S):
                await pupil.printed(part, fault.on)
            victim = self._as_victim(pupil)
            if fault.entry_apart and await self._owner(victim) == victim.entry:
                continue
            pupil.kernel_ends = fault.ends_kernel
            return victim

    def _as_victim(self, pupil: Pupil) -> Victim:
        student = pupil.student
        token = self._scene.stack.token(pupil.name)
        return Victim(pupil.name, student.kernel_id, student.entry, token, pupil.folder)

    async def _owner(self, victim: Victim) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._scene.owner, victim)


def _bound(step: Sequence[str]) -> float | None:
    """Of faults that strike together the longest bound counts; none of them may be unbounded."""
    bounds = [FAULTS[name].bound_s for name in step]
    return None if None in bounds else max(bound for bound in bounds if bound is not None)
