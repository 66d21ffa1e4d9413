"""What the bench measures, in order. Each figure holds the server against a floor, in turns, on the same machine.

Owns the list alone. The memory without kernels is measured before there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from local import bench_pages, bench_pandas, bench_traffic
from local.bench_sides import Bench
from local.bench_start import raw_starts, server_starts
from local.bench_table import Figure, at_most, compared, in_turns

AT_ONCE: Final = 20


def start(bench: Bench) -> Iterator[Figure]:
    """From asking for a kernel to the end of its first cell. Between turns the nursery forks its spares again."""
    served = server_starts(bench.stack.port, bench.stack.token)

    def warm(count: int) -> float:
        bench.settle()
        return served(count)

    spares = bench.settle()
    floor, value = in_turns(bench.turns * 2, lambda: raw_starts(1), lambda: warm(1))
    yield compared(f"start to first reply, {spares} spares", "ms", floor, value, at_most(0.1))
    floor, value = in_turns(bench.turns // 2, lambda: raw_starts(AT_ONCE), lambda: warm(AT_ONCE))
    yield compared(f"start of {AT_ONCE} at once, {spares} spares", "ms", floor, value, at_most(0.125))


FIGURES: Final[dict[str, Callable[[Bench], Iterator[Figure]]]] = {
    "memory": bench_pandas.memory,
    "start": start,
    "pandas": bench_pandas.first_pandas,
    "roundtrip": bench_traffic.round_trip,
    "cells": bench_traffic.cells,
    "lines": bench_traffic.lines,
    "status": bench_traffic.status,
    "crowd": bench_pandas.crowd,
    "pages": bench_pages.pages,
}
LONG: Final = frozenset({"crowd", "pages"})  # left out of a quick run, unless asked for by name
