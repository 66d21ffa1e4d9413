"""Kernels in which pandas is loaded: the first such cell, the memory of forty, and a class of two hundred.

Owns the cells. Each runs in a kernel that has run nothing before, so that nothing else counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

import zmq

from local.bench_cells import Asker, Place, connected, run, together
from local.bench_links import LinkError
from local.bench_machine import children, cpu_ns, pss_mb
from local.bench_sides import Bench
from local.bench_table import Figure, at_most, compared, in_turns
from server.settings import Settings

PANDAS: Final = "import numpy, pandas\npandas.DataFrame({'a': numpy.arange(4), 'b': list('wxyz')})"
SHOWN: Final = b"3  3  z"  # the last row of its repr
PIECE: Final = 1 << 16
KERNELS: Final = 40
CLASS: Final = 200
QUIET_S, IDLE_S = 5.0, 20.0


def first_pandas(bench: Bench) -> Iterator[Figure]:
    """The time of the first cell of a kernel that has answered kernel_info, as front ends ask it first."""

    def cold() -> float:
        with bench.raw_kernels(1) as [kernel]:
            return _pandas_ms(kernel.place)

    def warm() -> float:
        with bench.served_kernels(1) as [place]:
            return _pandas_ms(place)

    floor, value = in_turns(bench.turns, cold, warm)
    yield compared("first pandas cell", "ms", floor, value, at_most(0.1))


def memory(bench: Bench) -> Iterator[Figure]:
    """Proportional memory of the server's processes, and of one kernel with its share of zygote and spares."""
    yield Figure("server, no kernels", "MB", pss_mb(bench.server_pids()))
    fill = _fill(Settings.from_environ(bench.stack.environ()).recorder_mib)
    with bench.raw_kernels(KERNELS) as kernels:
        together([kernel.place for kernel in kernels], PANDAS)  # no more: a cold kernel has no recorder to fill
        floor = pss_mb(kernel.pid for kernel in kernels) / KERNELS
    with bench.served_kernels(KERNELS) as places:
        together(places, PANDAS)
        yield Figure(f"server, {KERNELS} kernels", "MB", pss_mb(bench.server_pids()))
        together(places, fill)
        spares = bench.settle()
        value = pss_mb(children(bench.nursery_pid())) / KERNELS
    name = f"kernel with pandas, 1 of {KERNELS} and {spares} spares"
    yield compared(name, "MB", [floor], [value], at_most(0.2))


def crowd(bench: Bench) -> Iterator[Figure]:
    """A class that has run one cell each and now thinks, with all of its clients connected."""
    with bench.served_kernels(CLASS) as places, connected(places) as askers:
        for asker in askers:
            asker.write(PANDAS)
        run(askers)
        bench.settle()
        _listen(askers, QUIET_S)
        pids = bench.all_pids()
        gib = pss_mb(pids) * 1e6 / 2**30
        before, began = cpu_ns(pids), time.perf_counter()
        _listen(askers, IDLE_S)
        used = (cpu_ns(pids) - before) / 1e9 / (time.perf_counter() - began)
    yield Figure(f"whole server, {CLASS} kernels with pandas", "GiB", gib, aim=at_most(3.5))
    yield Figure(f"the same, idle for {IDLE_S:g} s", "% of a core", used * 100, aim=at_most(5))


def _pandas_ms(place: Place) -> float:
    with connected([place]) as [asker]:
        asker.greet()
        run([asker])
        asker.write(PANDAS)
        asker.listens = True
        [seconds] = run([asker]).latencies
        if not any(SHOWN in content for content in asker.said):
            raise LinkError(f"no DataFrame was shown: {asker.said}")
        return seconds * 1e3


def _fill(recorder_mib: float) -> str:
    """A cell that prints more than the recorder keeps, in many messages."""
    pieces = int((recorder_mib + 1) * 2**20 / PIECE)
    return f"for i in range({pieces}): print('x' * {PIECE}, flush=True)"


def _listen(askers: Sequence[Asker], seconds: float) -> None:
    """Let so much time pass as a client does: reading, and answering pings."""
    poller = zmq.Poller()
    whose = {pollable: asker.link for asker in askers for pollable in asker.link.pollables()}
    for pollable in whose:
        poller.register(pollable, zmq.POLLIN)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for pollable, _ in poller.poll(int(left * 1e3) + 1):
            whose[pollable].receive()
