"""Uids that nobody else on this machine uses as long as this process lives.

Two installations with the same uids would end each other's processes: what runs as a uid ends with its user's last
kernel. Owns the claims alone, and knows nothing of who has the uids in /etc/passwd; the server looks there.
"""

from __future__ import annotations

import os
import socket
from typing import Final

_FIRST: Final = 2_000_000
_SIZE: Final = 2_000
_BLOCKS: Final = 1_000
_STEP: Final = 379  # from one pid to the next, so that neighbours do not look at the same


class NoUidsError(RuntimeError):
    """All blocks are claimed."""


def claim() -> tuple[int, int]:
    """The first and the last of a block of uids.

    A claim is the name of an abstract socket: only one process has it, and it goes with that process, however that
    ends. Where to look first is told by the pid, so that what a killed run has left is seldom met by the next.
    """
    for turn in range(_BLOCKS):
        block = (os.getpid() * _STEP + turn) % _BLOCKS
        with socket.socket(socket.AF_UNIX) as name:
            try:
                name.bind(f"\0kernelring-uids-{block}")
            except OSError:
                continue
            name.detach()  # stays open, and is not inherited by programs
            first = _FIRST + block * _SIZE
            return first, first + _SIZE - 1
    raise NoUidsError("every block of uids is claimed by some process")
