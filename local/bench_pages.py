"""The notebook pages in a browser, against stock `jupyter lab` and `jupyter notebook` of the same environment.

Owns the figures. On both sides the same front end does most of the work, on the machine that is measured: where the
times to a page are equal, the server has cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

from local.bench_browser import Opened, Visitor, chromium
from local.bench_sides import Bench
from local.bench_stock import StockServer
from local.bench_table import Aim, Figure, at_most, compared, in_turns

READY: Final = at_most(1)
FIRST_OUTPUT: Final = at_most(1 / 3)
USER: Final = "visitor"
WARM_VISITS: Final = 2  # Chromium keeps the compiled script of a file that it has seen twice


@dataclass(frozen=True)
class Place:
    """Where notebooks are opened: the stock command that has these pages, their path, and what people call them."""

    command: str
    path: str
    name: str


LAB: Final = Place("lab", "/lab/tree", "Lab")
NOTEBOOK: Final = Place("notebook", "/notebooks", "Notebook")


def pages(bench: Bench) -> Iterator[Figure]:
    """Warm cache, a new notebook in each turn; the key is pressed as soon as the page is ready."""
    with chromium() as browser, ExitStack() as open_:  # windows close before the browser
        ours = Visitor(browser, bench.stack.url, bench.stack.token(USER))
        open_.callback(ours.close)
        for place in (LAB, NOTEBOOK):
            server = open_.enter_context(StockServer(place.command))
            stock = Visitor(browser, server.url, server.token)
            open_.callback(stock.close)
            yield from _opened(bench, place, stock, ours)
        floor, value = in_turns(_turns(bench), stock.tree, ours.tree)  # the pages of Notebook, the same bundle
        yield compared("list of files ready", "ms", floor, value, READY)


def _turns(bench: Bench) -> int:
    """A page takes seconds: one turn of a quick run, three of a whole one."""
    return max(1, bench.turns - 2)


def _opened(bench: Bench, place: Place, stock: Visitor, ours: Visitor) -> Iterator[Figure]:
    for visitor in (stock, ours):
        visitor.warm(place.path, min(WARM_VISITS, _turns(bench)))

    def settled() -> Opened:
        bench.settle()
        return ours.notebook(place.path)

    sides = in_turns(_turns(bench), partial(stock.notebook, place.path), settled)

    def figure(name: str, of: Callable[[Opened], float], aim: Aim | None) -> Figure:
        floor, value = ([of(opened) for opened in side] for side in sides)
        return compared(f"{place.name}: {name}", "ms", floor, value, aim)

    yield figure("page ready", lambda opened: opened.ready, READY)
    yield figure("first output, from the key", lambda opened: opened.answered, FIRST_OUTPUT)
    yield figure("first output, from opening", lambda opened: opened.output, None)
