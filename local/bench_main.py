"""`local/bench`: what the server costs, as ratios to the same work without it, measured in one run on this machine.

Starts its own Redis and installation, measures figure by figure, and ends all that it started. It judges nothing but
the aims in the table; a machine that others use is said beside the figure, because ratios bear it better than absolute
numbers, but not well.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from local import bench_browser
from local.bench_figures import FIGURES, LONG
from local.bench_machine import BUSY_SHARE, busy_share, facts
from local.bench_pool import ClientPool
from local.bench_sides import Bench
from local.bench_table import Figure, table
from local.own_redis import OwnRedis, find_binary
from local.paths import ROOT
from local.stack import Stack

CLIENTS: Final = 2


def main() -> int:
    """Measure and print; 0 unless something failed (an aim that is missed is a result, not a failure)."""
    options = _options()
    names = _chosen(options)
    if "pages" in names and (lacking := bench_browser.missing()):
        names.remove("pages")
        print(lacking, file=sys.stderr)
        if not names:
            return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it cleans up as after Ctrl-C
    machine = facts()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    with _bench(options) as bench:
        figures = list(_measure(bench, names))
    print(f"\n{table(figures)}\n\nfloor: cold ipykernels over ipc and the same client without a server;", end=" ")
    print(f"for requests a bare aiohttp handler under the same gunicorn ({bench.worker_class}).")
    if options.json:
        found = {"machine": machine, "figures": [figure.to_json() for figure in figures]}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="local/bench", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="shorter turns: a look, in less than 100 seconds")
    parser.add_argument("--only", action="append", choices=list(FIGURES), help="only this; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too (an absolute path)")
    parser.add_argument("--workers", type=int, default=4, help="how many workers the server has")
    parser.add_argument("--worker-class", help="gunicorn's worker class, instead of the server's own setting")
    return parser.parse_args()


def _chosen(options: argparse.Namespace) -> list[str]:
    given: list[str] = options.only or [name for name in FIGURES if not (options.quick and name in LONG)]
    return [name for name in FIGURES if name in given]


@contextmanager
def _bench(options: argparse.Namespace) -> Iterator[Bench]:
    """Redis, installation and client processes, and their end in the opposite order."""
    with ExitStack() as rest:
        directory = Path(rest.enter_context(tempfile.TemporaryDirectory(prefix="kr-bench-")))
        # Kernels on both sides keep their history there, and not in the history of whoever runs this.
        os.environ["IPYTHONDIR"] = str(directory / "ipython")
        redis = OwnRedis(find_binary(), directory / "redis")
        redis.start()
        rest.callback(redis.stop)
        given = {"GUNICORN_CMD_ARGS": f"--worker-class={options.worker_class}"} if options.worker_class else {}
        stack = Stack(redis.url, workers=options.workers, settings=given, confined=True)
        worker_class = options.worker_class or _worker_class(stack)
        rest.enter_context(stack)
        pool = rest.enter_context(ClientPool(CLIENTS))
        turns, seconds = (3, 0.6) if options.quick else (5, 2.0)
        bench = Bench(stack, pool, worker_class, turns, seconds)
        rest.callback(bench.rest.close)
        yield bench


def _worker_class(stack: Stack) -> str:
    """What the server's gunicorn settings say; asked in a process of its own, for they are read at import."""
    command = [sys.executable, "-c", "from server import gunicorn; print(gunicorn.worker_class)"]
    return subprocess.check_output(command, cwd=ROOT, env=stack.environ(), text=True).strip()


def _measure(bench: Bench, names: list[str]) -> Iterator[Figure]:
    for name in names:
        others, cold = busy_share(), bench.cold_starts()
        began = time.monotonic()
        print(f"measuring {name} …", end=" ", flush=True)
        figures = list(FIGURES[name](bench))
        print(f"{time.monotonic() - began:.0f} s{_warning(others, bench.cold_starts() - cold)}", flush=True)
        yield from figures


def _warning(others: float, cold: int) -> str:
    busy = f"; others used {others:.0%} of this machine just before: repeat when it is quiet"
    return (busy if others >= BUSY_SHARE else "") + (
        "; kernels were started cold: see the nursery's log" if cold else ""
    )


if __name__ == "__main__":
    sys.exit(main())
