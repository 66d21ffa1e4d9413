"""Become a command that ends with the process that started it, even if that one is killed.

    python tied.py PARENT_PID COMMAND [arguments]

The kernel sends SIGTERM to this process when its parent dies (PR_SET_PDEATHSIG, kept across exec). Standard
library only, and started by path, so that it costs a few milliseconds.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def command(arguments: list[str]) -> list[str]:
    """The command line that runs `arguments` tied to the calling process."""
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(os.getpid()), *arguments]


def main() -> None:
    """Tie, unblock the signals that the parent keeps for itself, and exec."""
    parent, *arguments = sys.argv[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0):
        sys.exit("prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have died before prctl; then nobody would ever send the signal.
    if os.getppid() != int(parent):
        sys.exit("the process that started this command is gone")
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execvp(arguments[0], arguments)  # noqa: S606 - the command is a list that our caller built


if __name__ == "__main__":
    main()
