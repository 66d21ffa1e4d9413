"""`python -m kernels status|stop|rewarm --runtime DIR`: the nursery, for people.

`status` says what runs. `rewarm` has new Python kernels forked from a fresh process, for what pip has changed.
`stop` ends every kernel, the nursery and its supervisor, and returns once they are gone; also when the nursery
itself was killed and only its kernels are left.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from kernels import nursery_call, nursery_disk
from kernels.errors import KernelsError, NurseryUnavailable
from kernels.records import KernelRecord
from kernels.supervisor import ensure_nursery, supervisor_runs

STOP_S = 20.0


def main(arguments: list[str] | None = None) -> int:
    """0: done; 1: it could not be; `status` also says 1 when no nursery runs."""
    parser = argparse.ArgumentParser(prog="python -m kernels", description="The nursery of a runtime directory.")
    parser.add_argument("command", choices=["status", "stop", "rewarm"])
    parser.add_argument("--runtime", type=Path, required=True)
    given = parser.parse_args(arguments)
    runtime = given.runtime.absolute()
    try:
        return {"status": status, "stop": stop, "rewarm": rewarm}[given.command](runtime)
    except KernelsError as error:
        print(error, file=sys.stderr)
        return 1


def status(runtime: Path) -> int:
    """Prints the nursery, its workers and its kernels."""
    found = nursery_call.ask(runtime, "status", 2.0)
    print(f"nursery {found['pid']}, up {found['up_s']:.0f} s, workers: {', '.join(found['workers']) or 'none'}")
    print(f"confinement: {found.get('confinement', 'none')}")
    for missing in found.get("missing", ()):
        print(f"missing: {missing}")
    for record in nursery_call.ask(runtime, "list", 2.0)["records"]:
        print(_line(KernelRecord.from_json(record)))
    return 0


def stop(runtime: Path) -> int:
    """Ends everything and waits until it is gone. Nothing to end is fine."""
    ended = end_all(runtime)
    print("the nursery and its kernels have ended" if ended else f"no nursery runs in {runtime}")
    return 0


def end_all(runtime: Path) -> bool:
    """`stop` without its words; False if there was nothing to end. Raises KernelsError."""
    if not _something_runs(runtime):
        return False
    if not nursery_call.answers(runtime):
        # Killed, or between two lives: one is needed to end the kernels.
        ensure_nursery(runtime, grace_s=STOP_S, timeout_s=STOP_S)
    nursery_call.ask(runtime, "shutdown", STOP_S)
    end = time.monotonic() + STOP_S
    while supervisor_runs(runtime):
        if time.monotonic() > end:
            raise NurseryUnavailable(f"the supervisor in {runtime} has not ended within {STOP_S:g} s")
        time.sleep(0.02)
    return True


def rewarm(runtime: Path) -> int:
    """Has the zygote made anew. Kernels that run stay as they are."""
    nursery_call.ask(runtime, "rewarm", 5.0)
    print("a new zygote is being made; until it is ready kernels start cold")
    return 0


def _something_runs(runtime: Path) -> bool:
    if not runtime.is_dir():
        return False
    if nursery_call.answers(runtime) or supervisor_runs(runtime):
        return True
    return (runtime / "k").is_dir() and any(nursery_disk.load_all(runtime / "k"))


def _line(record: KernelRecord) -> str:
    how = record.exit.reason.splitlines()[0] if record.exit else f"pid {record.pid}"
    return f"{record.kernel_id} {record.kernel_name} of {record.user}: {record.state}, {how}"


if __name__ == "__main__":
    sys.exit(main())
