"""What a kernel does otherwise because it is confined."""

from __future__ import annotations

import os
from typing import Any, Final

CONFINED: Final = "KERNELRING_CONFINED"
"""In the environment of a confined kernel: the level."""

LANDLOCK: Final = "landlock"
"""The level at which a kernel can make no sockets with a path and has a part of /dev/shm for itself."""

SOCKETS: Final = "KERNELRING_SOCKETS"
"""Descriptors of the sockets that a kernel is born with, in the order of their numbers, separated by commas."""

MEMORY: Final = "KERNELRING_MEMORY"
"""The directory of a kernel's shared memory."""

_NO_DEBUGGER: Final = "The debugger is off here: it listens where every user of this machine could connect to it."


def refused_debugging(request: dict[str, Any]) -> dict[str, Any] | None:
    """The answer to the request that would start the debugger, of a confined kernel; else None.

    debugpy listens on TCP ports and tells whoever connects there what it takes to run code in the kernel.
    """
    if CONFINED not in os.environ or request.get("command") != "initialize":
        return None
    answer = {"type": "response", "command": "initialize", "request_seq": request.get("seq"), "seq": 1}
    return answer | {"success": False, "message": _NO_DEBUGGER}


def offered_features(features: list[str]) -> list[str]:
    """Of the features of a kernel those that it has when it is confined, if it is."""
    return [each for each in features if each != "debugger" or CONFINED not in os.environ]
