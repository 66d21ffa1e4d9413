"""What the bench measures. Each figure holds the server against a floor, in turns, on the same machine.

Owns the kernels on both sides that several figures share. The installation under test is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from statistics import quantiles
from typing import Final

from local.bench_bare import BareServer
from local.bench_cells import Load, Place, Took, drive
from local.bench_http import Requests, fetch
from local.bench_links import ServerPlace, WayPlace
from local.bench_machine import children, parent, pss_mb
from local.bench_pool import ClientPool
from local.bench_raw import RawKernel
from local.bench_start import call, create, raw_starts, server_starts
from local.bench_table import Aim, Figure, at_least, at_most, compared, in_turns
from local.stack import Stack

KERNELS: Final = 40
CLIENTS: Final = 2
CONNECTIONS: Final = 32  # of each client process, each with a user of its own
AT_ONCE: Final = 20


@dataclass
class Bench:
    """`turns` of `seconds` for each side. `rest` ends what was started here."""

    stack: Stack
    pool: ClientPool
    worker_class: str
    turns: int
    seconds: float
    rest: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def raw(self) -> list[RawKernel]:
        """Kernels without a server."""
        kernels = [RawKernel() for _ in range(KERNELS)]
        for kernel in kernels:
            self.rest.callback(kernel.end)
        self.took([kernel.place for kernel in kernels], 0.0, store_history=False)  # all are up then
        return kernels

    @cached_property
    def served(self) -> list[ServerPlace]:
        """Kernels of as many users."""
        tokens = [self.stack.token(f"student-{number}") for number in range(KERNELS)]
        with ThreadPoolExecutor(8) as threads:
            places = list(threads.map(lambda token: create(self.stack.port, token), tokens))
        self.took(places, 0.0, store_history=False)
        return places

    def took(self, places: Sequence[Place], seconds: float, *, store_history: bool) -> list[Took]:
        """Cells at `places`, shared out to the client processes."""
        clients = min(self.pool.size, len(places))
        loads = [Load(tuple(places[at::clients]), seconds, store_history) for at in range(clients)]
        return self.pool.run(drive, loads)

    # -- figures --------------------------------------------------------------------------------------------------

    def round_trip(self) -> Iterator[Figure]:
        """One client, one cell after the other: the median and the 99th percentile (ms) of all turns."""
        served = tuple(self.served)
        sides: list[Place] = [self.raw[0].place, WayPlace(served, straight=True), WayPlace(served, straight=False)]
        medians: list[list[float]] = []
        tails: list[list[float]] = []
        for _ in range(self.turns):
            turn = [self.took([place], self.seconds, store_history=False)[0].latencies for place in sides]
            medians.append([_percentile(one, 50) * 1e3 for one in turn])
            tails.append([_percentile(one, 99) * 1e3 for one in turn])
        for name, values, aims in (
            ("median", medians, (at_most(1.2), at_most(1.35))),
            ("p99", tails, (None, None)),
        ):
            floor, owner, other = zip(*values, strict=True)
            yield compared(f"round trip through the owner, {name}", "ms", floor, owner, aims[0])
            yield compared(f"round trip through another worker, {name}", "ms", floor, other, aims[1])

    def cells(self) -> Iterator[Figure]:
        """Cells per second, one in flight on each kernel, and how long the slowest hundredth takes."""
        for count in (8, KERNELS):
            raw: list[Place] = [kernel.place for kernel in self.raw[:count]]
            served: list[Place] = list(self.served[:count])
            for history in (False, True):
                turns = [
                    [self.took(side, self.seconds, store_history=history) for side in (raw, served)]
                    for _ in range(self.turns)
                ]
                name = f"{count} kernels{', history' if history else ''}"
                rates = [[sum(one.rate for one in side) for side in turn] for turn in turns]
                tails = [[_tail_ms(side) for side in turn] for turn in turns]
                yield _both(f"cells, {name}", "1/s", rates, at_least(0.8))
                yield _both(f"cells p99, {name}", "ms", tails, at_most(1.0))

    def status(self) -> Iterator[Figure]:
        """`GET /api/status`, each connection with a user of its own, so that most are answered by another worker."""
        users = [f"asker-{number}" for number in range(CLIENTS * CONNECTIONS)]
        tokens = [self.stack.token(user) for user in users]

        def rate(port: int) -> Callable[[], float]:
            loads = [Requests(port, "/api/status", tuple(tokens[at::CLIENTS]), self.seconds) for at in range(CLIENTS)]
            return lambda: sum(self.pool.run(fetch, loads))

        with BareServer(self.worker_class, self.stack.workers) as bare:
            floor, value = in_turns(self.turns, rate(bare.port), rate(self.stack.port))
        yield compared("GET /api/status", "1/s", floor, value, at_least(0.35))

    def start(self) -> Iterator[Figure]:
        """From asking for a kernel to the end of its first cell."""
        served = server_starts(self.stack.port, self.stack.token)
        floor, value = in_turns(self.turns * 2, lambda: raw_starts(1), lambda: served(1))
        yield compared("start to first cell", "s", floor, value)
        floor, value = in_turns(max(1, self.turns // 2), lambda: raw_starts(AT_ONCE), lambda: served(AT_ONCE))
        yield compared(f"start to first cell, {AT_ONCE} at once", "s", floor, value)

    def memory(self) -> Iterator[Figure]:
        """Proportional memory of the server's processes (arbiter, workers, nursery, its supervisor) and of kernels."""
        if "served" not in self.__dict__:
            yield Figure("server, no kernels", "MB", pss_mb(self._server_pids()))
        raw = pss_mb(kernel.pid for kernel in self.raw) / KERNELS
        assert self.served
        yield Figure(f"server, {KERNELS} kernels", "MB", pss_mb(self._server_pids()))
        one = pss_mb(children(int(self.stack.nursery()["pid"]))) / KERNELS
        yield compared("one kernel of 40", "MB", [raw], [one])

    def _server_pids(self) -> list[int]:
        assert self.stack.gunicorn is not None
        nursery = int(self.stack.nursery()["pid"])
        return [self.stack.gunicorn.pid, *self.stack.worker_pids(), nursery, parent(nursery)]

    def close(self) -> None:
        """End the kernels."""
        self.rest.close()
        for place in self.__dict__.pop("served", []):
            call(self.stack.port, "DELETE", f"/api/kernels/{place.kernel_id}", place.token)


def _both(name: str, unit: str, turns: list[list[float]], aim: Aim) -> Figure:
    floor, value = zip(*turns, strict=True)
    return compared(name, unit, floor, value, aim)


def _tail_ms(side: list[Took]) -> float:
    return _percentile([latency for one in side for latency in one.latencies], 99) * 1e3


def _percentile(values: list[float] | tuple[float, ...], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1]
