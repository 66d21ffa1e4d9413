"""The bench's client processes: each does its part of a load, all begin at the same moment.

Owns the processes. They are the same for both sides of a ratio.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from types import TracebackType
from typing import Any, Final, Self, TypeVar

L = TypeVar("L")
R = TypeVar("R")

TOGETHER_S: Final = 60.0  # until all have connected and warmed up

_barriers: dict[int, Barrier] = {}


class ClientPool:
    """`with ClientPool(2) as pool:`"""

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.size = size
        barriers = {count: context.Barrier(count) for count in range(1, size + 1)}
        self._pool = ProcessPoolExecutor(size, context, initializer=_meet_at, initargs=(barriers,))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run(self, work: Callable[[L, Callable[[], Any]], R], loads: Sequence[L]) -> list[R]:
        """`work(load, ready)` for each load (at most `size`), each in a process; `ready` waits for the others."""
        futures = [self._pool.submit(_work, work, load, len(loads)) for load in loads]
        return [future.result() for future in futures]


def _meet_at(barriers: dict[int, Barrier]) -> None:
    _barriers.update(barriers)


def _work(work: Callable[[L, Callable[[], Any]], R], load: L, together: int) -> R:
    barrier = _barriers[together]
    try:
        return work(load, lambda: barrier.wait(TOGETHER_S))
    except BaseException:
        barrier.abort()  # the others must not wait for this one
        raise
