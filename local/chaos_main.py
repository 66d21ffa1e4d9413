"""`local/chaos`: students run cells while faults strike, and every line is checked.

Starts its own Redis and installation and ends them. Prints what struck and a table of what it cost; the exit code is 1
if a promise of the design was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from local.bench_machine import BUSY_SHARE, busy_share, facts
from local.chaos_faults import DEFAULT, FAULTS, Scene, parse
from local.chaos_room import Plan, Room
from local.chaos_table import Report, remarks, table
from local.own_redis import OwnRedis, find_binary
from local.stack import Stack

THREADS: Final = 4
LONG_RUN_S: Final = 300.0  # from here on Redis stays away as long as DESIGN.md says
AWAY_S: Final = (5.0, 30.0)


class ChaosRedis(OwnRedis):
    """A Redis of ours that may be struck."""

    def kill(self) -> None:
        """SIGKILL."""
        self._signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def pause(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, signum: int) -> None:
        assert self.process is not None
        self.process.send_signal(signum)


def main() -> int:
    """Run, and print; 0 when every promise held."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it cleans up as after Ctrl-C
    print(", ".join(f"{name} {value}" for name, value in facts().items()), flush=True)
    if (share := busy_share()) > BUSY_SHARE:
        print(f"This machine is busy with something else ({share:.0%}): pauses will be longer.", flush=True)
    plan = Plan(options.students, options.seconds, options.faults, options.seed)
    print(f"{plan.students} students, {options.workers} workers, {plan.seconds:g} s, seed {plan.seed}", flush=True)
    with _scene(options.workers, away_s(plan.seconds), options.keep_log) as scene:
        report = run(scene, plan)
    _show(report, options.remarks)
    if options.json:
        options.json.write_text(json.dumps(report.to_json(), indent=1) + "\n")
    return 1 if report.broken else 0


def away_s(seconds: float) -> float:
    """How long Redis stays away in a run of so many seconds."""
    return AWAY_S[seconds >= LONG_RUN_S]


def run(scene: Scene, plan: Plan) -> Report:
    """Let a plan happen to an installation that runs."""
    # What a fault starts ends with the thread that started it (local/tied.py), so the threads outlive the loop.
    with ThreadPoolExecutor(THREADS) as threads:
        report = asyncio.run(Room(scene, plan, lambda text: print(text, flush=True), threads).run())
        scene.stack.stop_gunicorn()
    return report


def _show(report: Report, most: int) -> None:
    print(f"\n{table(report)}\n")
    print("pause: how late the latest line was, from the reconnect where there was one; away: without a connection.")
    print(f"This process itself was up to {report.total().lag_s:.2f} s late.")
    print(remarks(report.rows, most))
    print("\nEvery promise held." if not report.broken else "\nBroken:\n  " + "\n  ".join(report.broken))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="local/chaos",
        description=__doc__.split("\n")[0],
        epilog="Faults: " + "; ".join(f"{name}: {fault.strike.__doc__}" for name, fault in FAULTS.items()),
    )
    parser.add_argument("--students", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--faults", type=parse, default=parse(",".join(DEFAULT)), metavar="a,b,c+d",
                        help="in this order, again and again; those joined by + strike at once")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all there too (an absolute path)")
    parser.add_argument("--remarks", type=int, default=8, help="how many remarks to print for each fault")
    parser.add_argument("--keep-log", type=Path, metavar="FILE", help="keep the server's log there")
    return parser.parse_args()


@contextmanager
def _scene(workers: int, redis_away_s: float, keep_log: Path | None) -> Iterator[Scene]:
    """Redis and installation, and their end in the opposite order."""
    with ExitStack() as rest:
        directory = Path(rest.enter_context(tempfile.TemporaryDirectory(prefix="kr-chaos-")))
        os.environ["IPYTHONDIR"] = str(directory / "ipython")  # kernels keep their history there
        redis = ChaosRedis(find_binary(), directory / "redis")
        redis.start()
        rest.callback(redis.stop)
        stack = rest.enter_context(Stack(redis.url, workers=workers, confined=True))
        if keep_log:
            rest.callback(lambda: keep_log.write_bytes(stack.log_path.read_bytes()))
        yield Scene(stack, redis, workers, redis_away_s)


if __name__ == "__main__":
    sys.exit(main())
