"""What runs inside a Python kernel: ipykernel with a flight recorder.

Owns nothing of a worker's: this package is loaded in the student's own process, which it trusts with nothing and
which may do with it what it likes. It imports only what ipykernel imports anyway.
"""

from __future__ import annotations

from collections.abc import Sequence


def run_kernel(connection_file: str, *, incarnation: int, recorder_mib: float = 4.0, argv: Sequence[str] = ()) -> None:
    """Be a kernel in this process, in its main thread; return when it was shut down.

    `incarnation` is part of the number of all that it sends. `argv`: more arguments, as ipykernel takes them.
    """
    from kernels.inside.app import RingApp, forget_package

    given = [f"--RingApp.incarnation={incarnation}", f"--RingApp.recorder_mib={recorder_mib:g}"]
    forget_package()
    RingApp.launch_instance(argv=["-f", connection_file, *given, *argv])
