"""The sockets that a kernel is born with, where it may make none itself.

Owns the step from descriptors to ZMQ's sockets. They have their places and listen already; nobody's code ran between.
"""

from __future__ import annotations

import os
from typing import Any, Final

import zmq
from ipykernel.heartbeat import Heartbeat

from kernels.inside.confined import SOCKETS

_FROM_FIRST: Final = 1


def given() -> dict[int, int]:
    """Descriptors by the numbers of the sockets; empty for a kernel that makes its own. Takes the word out of sight."""
    text = os.environ.pop(SOCKETS, "")
    found = {number: int(fd) for number, fd in enumerate(filter(None, text.split(",")), _FROM_FIRST)}
    for fd in found.values():
        os.set_inheritable(fd, False)
    return found


def bind(socket: Any, place: str, number: int, born_with: dict[int, int]) -> int:
    """Has a socket take what the kernel was born with. Its number; 0 when there is none for it."""
    fd = born_with.get(number)
    if fd is None:
        return 0
    socket.setsockopt(zmq.USE_FD, fd)
    socket.bind(f"ipc://{place}-{number}")
    return number


class Heart(Heartbeat):
    """ipykernel's."""

    def __init__(self, *args: Any, born_with: dict[int, int], **given: Any) -> None:
        super().__init__(*args, **given)  # type: ignore[no-untyped-call]
        self._born_with = born_with

    def _try_bind_socket(self) -> Any:
        return bind(self.socket, self.ip, self.port, self._born_with) or super()._try_bind_socket()  # type: ignore[no-untyped-call]
