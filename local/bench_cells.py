"""The bench's loop: cells on some kernels, one in flight on each, and how long each took.

Owns no sockets of its own and does not know whether a server is between. A cell has ended for a client when both its
reply and the kernel's `idle` have arrived; that is when a front end sends the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import zmq

from local.bench_links import Link, LinkError, Parts, RawPlace, ServerPlace, WayPlace

Place = RawPlace | ServerPlace | WayPlace
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
    """One client at one kernel, with one cell in flight at the most."""

    def __init__(self, link: Link, name: int, store_history: bool) -> None:
        self.link = link
        self._session = f"bench-{name}-{time.time_ns()}"
        self._count = 0
        self._content = orjson.dumps(
            {
                "code": "x = 1",
                "silent": False,
                "store_history": store_history,
                "user_expressions": {},
                "allow_stdin": False,
                "stop_on_error": True,
            }
        )

    def ask(self) -> None:
        """Send the next cell."""
        self._count += 1
        self._replied = self._idle = False
        self._asked = f"{self._session}-{self._count}"
        header = {
            "msg_id": self._asked,
            "msg_type": "execute_request",
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


def drive(load: Load, ready: Callable[[], Any]) -> Took:
    """Connect, warm up, call `ready`, then run cells for so long. Runs in a client process."""
    askers = [Asker(place.connect(), name, load.store_history) for name, place in enumerate(load.places)]
    try:
        for asker in askers:
            for _ in range(WARM_CELLS):
                _one(asker)
        ready()
        return _many(askers, load.seconds)
    finally:
        for asker in askers:
            asker.link.close()


def first_cell(place: Place) -> None:
    """Connect and run one cell to its end."""
    asker = Asker(place.connect(), 0, store_history=False)
    try:
        _one(asker)
    finally:
        asker.link.close()


def _one(asker: Asker) -> None:
    _many([asker], 0.0)


def _many(askers: Sequence[Asker], seconds: float) -> Took:
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
