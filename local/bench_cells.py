"""The bench's loop: cells on some kernels, one in flight on each, and how long each took.

Owns no sockets of its own and does not know whether a server is between. A cell has ended for a client when both its
reply and the kernel's `idle` have arrived; that is when a front end sends the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson
import zmq

from local.bench_links import Link, LinkError, Parts, RawPlace, ServerPlace, WayPlace

Place = RawPlace | ServerPlace | WayPlace
SMALL: Final = "x = 1"
OUTPUTS: Final = (b'"stream"', b'"execute_result"')  # as a header's msg_type
WARM_CELLS: Final = 3
CELL_MS: Final = 30_000  # a cell that takes longer is lost


@dataclass(frozen=True, slots=True)
class Load:
    """What one client process does: `seconds` of cells at `places`."""

    places: tuple[Place, ...]
    seconds: float
    store_history: bool


@dataclass(frozen=True, slots=True)
class Took:
    """What came of it: the latency of each cell (seconds), and cells per second over all."""

    latencies: tuple[float, ...]
    rate: float


class Asker:
    """One client at one kernel, with one cell in flight at the most. `said`: contents of its outputs, if `listens`."""

    def __init__(self, link: Link, name: int, code: str = SMALL, *, store_history: bool = False) -> None:
        self.link = link
        self.said: list[bytes] = []
        self.listens = False
        self._session = f"bench-{name}-{time.time_ns()}"
        self._count = 0
        self._store_history = store_history
        self.write(code)

    def write(self, code: str) -> None:
        """The cell that `ask` sends from now on."""
        self._kind = "execute_request"
        self._content = orjson.dumps(
            {
                "code": code,
                "silent": False,
                "store_history": self._store_history,
                "user_expressions": {},
                "allow_stdin": False,
                "stop_on_error": True,
            }
        )

    def greet(self) -> None:
        """`ask` sends the question with which front ends begin, until the next `write`."""
        self._kind, self._content = "kernel_info_request", b"{}"

    def ask(self) -> None:
        """Send the next cell."""
        self._count += 1
        self._replied = self._idle = False
        self._asked = f"{self._session}-{self._count}"
        header = {
            "msg_id": self._asked,
            "msg_type": self._kind,
            "username": "bench",
            "session": self._session,
            "date": "2026-01-01T00:00:00.000000Z",
            "version": "5.4",
        }
        self.sent_at = time.perf_counter()
        self.link.send([orjson.dumps(header), b"{}", b"{}", self._content])

    def hear(self) -> bool:
        """Read what has come; True when the cell in flight has ended by it."""
        ended = False
        for channel, parts in self.link.receive():
            if orjson.loads(parts[1]).get("msg_id") == self._asked:
                self._note(channel, parts)
                ended = self._replied and self._idle
        return ended

    def _note(self, channel: str, parts: Parts) -> None:
        if channel == "shell":
            content = orjson.loads(parts[3])
            if content["status"] != "ok":
                raise LinkError(f"the cell failed: {content}")
            self._replied = True
        elif b'"status"' in parts[0]:
            self._idle = orjson.loads(parts[3])["execution_state"] == "idle"
        elif self.listens and any(kind in parts[0] for kind in OUTPUTS):
            self.said.append(parts[3])


def drive(load: Load, ready: Callable[[], Any]) -> Took:
    """Connect, warm up, call `ready`, then run cells for so long. Runs in a client process."""
    with connected(load.places, store_history=load.store_history) as askers:
        for asker in askers:
            for _ in range(WARM_CELLS):
                run([asker])
        ready()
        return run(askers, load.seconds)


def together(places: Sequence[Place], *codes: str) -> None:
    """Connect and run each of the cells on all of the kernels at once, one cell after the other."""
    with connected(places) as askers:
        for code in codes:
            for asker in askers:
                asker.write(code)
            run(askers)


@contextmanager
def connected(places: Sequence[Place], *, store_history: bool = False) -> Iterator[list[Asker]]:
    """A client at each of the places, for as long as the block runs."""
    askers: list[Asker] = []
    try:
        for place in places:
            askers.append(Asker(place.connect(), len(askers), store_history=store_history))
        yield askers
    finally:
        for asker in askers:
            asker.link.close()


def run(askers: Sequence[Asker], seconds: float = 0.0) -> Took:
    """Run the cell of each again and again for so long, once at the least."""
    poller = zmq.Poller()
    whose = {pollable: asker for asker in askers for pollable in asker.link.pollables()}
    for pollable in whose:
        poller.register(pollable, zmq.POLLIN)
    latencies = []
    began = time.perf_counter()
    for asker in askers:
        asker.ask()
    running = len(askers)
    while running:
        events = poller.poll(CELL_MS)
        if not events:
            raise LinkError("a cell was lost")
        for asker in dict.fromkeys(whose[pollable] for pollable, _ in events):
            if not asker.hear():
                continue
            now = time.perf_counter()
            latencies.append(now - asker.sent_at)
            if now - began < seconds:
                asker.ask()
            else:
                running -= 1
    return Took(tuple(latencies), len(latencies) / (time.perf_counter() - began))
