"""What the way through the server costs: round trips, cells and lines per second, and plain requests.

Owns no kernels; they are the bench's, and the same for all figures here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from statistics import quantiles
from typing import Final

from local.bench_bare import BareServer
from local.bench_cells import Place, Took
from local.bench_http import Requests, fetch
from local.bench_lines import LINES, Printed, printed
from local.bench_links import LinkError, WayPlace
from local.bench_sides import Bench
from local.bench_table import Aim, Figure, at_least, at_most, compared, in_turns

KERNELS: Final = 40
FEW: Final = 8
RAW_TRIES: Final = 5
CONNECTIONS: Final = 32  # of each client process, each with a user of its own


def round_trip(bench: Bench) -> Iterator[Figure]:
    """One client, one cell after the other: the median and the 99th percentile (ms) of all turns."""
    served = tuple(bench.served(KERNELS))
    sides: list[Place] = [*bench.raw(1), WayPlace(served, straight=True), WayPlace(served, straight=False)]
    medians: list[list[float]] = []
    tails: list[list[float]] = []
    for _ in range(bench.turns):
        turn = [bench.took([place], bench.seconds, store_history=False)[0].latencies for place in sides]
        medians.append([_percentile(one, 50) * 1e3 for one in turn])
        tails.append([_percentile(one, 99) * 1e3 for one in turn])
    for name, values, aims in (
        ("median", medians, (at_most(1.2), at_most(1.35))),
        ("p99", tails, (None, None)),
    ):
        floor, owner, other = zip(*values, strict=True)
        yield compared(f"round trip through the owner, {name}", "ms", floor, owner, aims[0])
        yield compared(f"round trip through another worker, {name}", "ms", floor, other, aims[1])


def cells(bench: Bench) -> Iterator[Figure]:
    """Cells per second, one in flight on each kernel, and how long the slowest hundredth takes."""
    for count in (FEW, KERNELS):
        sides: list[Sequence[Place]] = [bench.raw(count), bench.served(count)]
        for history, aim in ((False, at_least(1.0)), (True, at_least(1.3))):
            turns = [
                [bench.took(side, bench.seconds, store_history=history) for side in sides] for _ in range(bench.turns)
            ]
            name = f"{count} kernels{', history' if history else ''}"
            rates = [[sum(one.rate for one in side) for side in turn] for turn in turns]
            tails = [[_tail_ms(side) for side in turn] for turn in turns]
            yield _both(f"cells, {name}", "1/s", rates, aim)
            yield _both(f"cells p99, {name}", "ms", tails, at_most(1.0))


def lines(bench: Bench) -> Iterator[Figure]:
    """Many flushed lines from one cell: how fast they come, and how many did not come as they should."""
    [raw], [served] = bench.raw(1), bench.served(1)
    turns = [[_raw_lines(bench, raw), _lines(bench, served)] for _ in range(bench.turns // 2)]
    yield _both(f"{LINES:,} flushed lines", "1/s", [[side.rate for side in turn] for turn in turns], at_least(1.0))
    floor, wrong = (sum(side.wrong for side in column) for column in zip(*turns, strict=True))
    yield Figure("lines lost, doubled or disordered", "lines", wrong, floor, aim=at_most(0))


def _raw_lines(bench: Bench, place: Place) -> Printed:
    """A cold ipykernel drops what is beyond a thousand messages that wait for a client. When the cell's end is among
    them, the client waits in vain, and the turn is measured again."""
    for _ in range(RAW_TRIES):
        with suppress(LinkError):
            return _lines(bench, place)
    raise LinkError("the kernel without a server has dropped the end of its output again and again")


def _lines(bench: Bench, place: Place) -> Printed:
    return bench.pool.run(printed, [place])[0]


def status(bench: Bench) -> Iterator[Figure]:
    """`GET /api/status`, each connection with a user of its own, so that most are answered by another worker."""
    clients = bench.pool.size
    tokens = [bench.stack.token(f"asker-{number}") for number in range(clients * CONNECTIONS)]

    def rate(port: int) -> Callable[[], float]:
        loads = [Requests(port, "/api/status", tuple(tokens[at::clients]), bench.seconds) for at in range(clients)]
        return lambda: sum(bench.pool.run(fetch, loads))

    with BareServer(bench.worker_class, bench.stack.workers) as bare:
        floor, value = in_turns(bench.turns, rate(bare.port), rate(bench.stack.port))
    yield compared("GET /api/status", "1/s", floor, value, at_least(0.35))


def _both(name: str, unit: str, turns: list[list[float]], aim: Aim) -> Figure:
    floor, value = zip(*turns, strict=True)
    return compared(name, unit, floor, value, aim)


def _tail_ms(side: list[Took]) -> float:
    return _percentile([latency for one in side for latency in one.latencies], 99) * 1e3


def _percentile(values: list[float] | tuple[float, ...], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1]
