"""Messages between the nursery, its zygote and the spares: a length, JSON, and perhaps descriptors.

Owns the form alone. All three are of one program and one user, and a spare has not run anybody's code yet, so
what comes is believed; a message that ends early means that the other side has ended.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!I")
BOUND = b"b"
"""What a kernel says last: its sockets are there. Not a message but this byte, for its user's code may run by then."""

FDS = 8
"""The most descriptors that one message carries."""


class WireEnded(Exception):  # noqa: N818 (named for what it says)
    """The other side has gone, or took too long."""


def send(wire: socket.socket, message: dict[str, Any], *fds: int) -> None:
    """Sends one message, with copies of the descriptors. Raises WireEnded."""
    body = json.dumps(message).encode()
    try:
        socket.send_fds(wire, [_LENGTH.pack(len(body))], fds)
        wire.sendall(body)
    except OSError as error:  # TimeoutError is one, too
        raise WireEnded(str(error)) from error


def receive(wire: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message and its descriptors, which are the caller's to close. Raises WireEnded."""
    try:
        head, fds, _, _ = socket.recv_fds(wire, _LENGTH.size, FDS)
        for fd in fds:
            os.set_inheritable(fd, False)
        head += _exactly(wire, _LENGTH.size - len(head)) if head else b""
        if not head:
            raise WireEnded("it has ended")
        found = json.loads(_exactly(wire, _LENGTH.unpack(head)[0]))
    except OSError as error:
        raise WireEnded(str(error)) from error
    assert isinstance(found, dict)
    return found, fds


def _exactly(wire: socket.socket, length: int) -> bytes:
    parts = []
    while length:
        part = wire.recv(min(length, 1 << 20))
        if not part:
            raise WireEnded("it ended within a message")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
