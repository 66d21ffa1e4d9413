"""Twenty thousand lines from one cell, each flushed: how fast they come, and whether all of them do, once and in order.

Owns the judgement of what came. The client is the same on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import orjson

from local.bench_cells import Place, connected, run

LINES: Final = 20_000
CODE: Final = f"for i in range({LINES}): print(i, flush=True)"


@dataclass(frozen=True, slots=True)
class Printed:
    """Lines per second, and how many lines were missing, doubled, out of order or not the cell's."""

    rate: float
    wrong: int


def printed(place: Place, ready: Callable[[], Any]) -> Printed:
    """Run the cell after a small one. Runs in a client process."""
    with connected([place]) as askers:
        run(askers)
        [asker] = askers
        asker.write(CODE)
        asker.listens = True
        ready()
        [seconds] = run(askers).latencies
        return Printed(LINES / seconds, wrong_lines(_lines(asker.said), LINES))


def wrong_lines(found: Sequence[str], count: int) -> int:
    """How many of `found` are not as they should be: the numbers from 0 to `count`, each once and in order."""
    if found == [str(number) for number in range(count)]:
        return 0
    numbers = [int(line) for line in found if line.isdecimal() and int(line) < count]
    once = set(numbers)
    strange, missing, doubled = len(found) - len(numbers), count - len(once), len(numbers) - len(once)
    return strange + missing + doubled + sum(later < earlier for earlier, later in pairwise(numbers))


def _lines(contents: Iterable[bytes]) -> list[str]:
    return "".join(orjson.loads(content)["text"] for content in contents).splitlines()
