"""Starting a kernel as a client sees it: from asking for it to the end of its first cell.

Owns the kernels of one measurement, and ends them. Each is started by a thread that mostly waits.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import orjson

from local.bench_cells import SMALL, together
from local.bench_links import LinkError, NotNow, ServerPlace, when_ready
from local.bench_raw import RawKernel, end_all

Measure = Callable[[int], float]
"""Start so many at once; the milliseconds until all of them have run a cell."""


def raw_starts(count: int) -> float:
    """Without a server."""
    started: list[RawKernel] = []

    def one(_: int) -> None:
        kernel = RawKernel()
        started.append(kernel)
        together([kernel.place], SMALL)

    try:
        return _timed(one, count)
    finally:
        end_all(started)


def server_starts(port: int, token_of: Callable[[str], str]) -> Measure:
    """At the server on `port`, each by a user of its own."""

    def starts(count: int) -> float:
        started: list[ServerPlace] = []

        def one(number: int) -> None:
            started.append(create(port, token_of(f"starter-{number}-{time.time_ns()}")))
            together([started[-1]], SMALL)

        try:
            return _timed(one, count)
        finally:
            for place in started:
                end(place)

    return starts


def create(port: int, token: str) -> ServerPlace:
    """`POST /api/kernels`."""
    model = orjson.loads(when_ready(lambda: _call(port, "POST", "/api/kernels", token)))
    return ServerPlace(port, model["id"], token)


def end(place: ServerPlace) -> None:
    """`DELETE` it."""
    when_ready(lambda: _call(place.port, "DELETE", f"/api/kernels/{place.kernel_id}", place.token))


def _call(port: int, method: str, path: str, token: str) -> bytes:
    """One request on a connection of its own. Raises LinkError unless it succeeds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status >= 300:
        error = NotNow if answer.status == 503 else LinkError
        raise error(f"{method} {path}: {answer.status} {body[:300]!r}")
    return body


def _timed(one: Callable[[int], None], count: int) -> float:
    with ThreadPoolExecutor(count) as threads:
        began = time.perf_counter()
        list(threads.map(one, range(count)))
        return (time.perf_counter() - began) * 1e3
