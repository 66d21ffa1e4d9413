"""The way of what a process prints that the kernel has forked, to the kernel: a pair of sockets that it has inherited.

Owns the pair and the cutting of messages into packets, since many processes write and each packet arrives whole. It
has no name that anybody could connect to.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

_HEAD: Final = struct.Struct("16s?")
"""Which message, and whether this is the last of it."""

_LENGTH: Final = struct.Struct("!I")
_PACKET_BYTES: Final = 32 * 1024
WAIT_S: Final = 3.0  # as ipykernel's linger: then what is said is lost


class Relay:
    """`on_message(parts)` is called in the kernel, on the thread that calls `read`."""

    def __init__(self, on_message: Callable[[list[bytes]], None]) -> None:
        self._on_message = on_message
        self._in, self._out = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._in.setblocking(False)
        self._begun: dict[bytes, list[bytes]] = {}

    def fileno(self) -> int:
        """To be read from."""
        return self._in.fileno()

    def read(self) -> None:
        """Takes one packet."""
        try:
            packet = self._in.recv(_HEAD.size + _PACKET_BYTES)
        except BlockingIOError:
            return
        name, is_last = _HEAD.unpack_from(packet)
        parts = self._begun.setdefault(name, [])
        parts.append(packet[_HEAD.size :])
        if is_last:
            self._on_message(_apart(b"".join(self._begun.pop(name))))

    def send(self, parts: list[Any]) -> None:
        """In a process that the kernel has forked. Waits for the kernel to read, and not for long."""
        name, text = os.urandom(16), _together(parts)
        self._out.settimeout(WAIT_S)
        for at in range(0, len(text), _PACKET_BYTES):
            self._out.send(_HEAD.pack(name, at + _PACKET_BYTES >= len(text)) + text[at : at + _PACKET_BYTES])


class Sender:
    """Has the form of the context and of the socket that ipykernel sends with."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def send_multipart(self, parts: list[Any], *_: Any, **__: Any) -> None:
        """One message. What cannot be said in time is lost."""
        try:
            self._relay.send(parts)
        except (TimeoutError, BrokenPipeError, ConnectionResetError):  # the kernel is too busy, or has ended
            return

    def close(self) -> None:
        """Nothing is held."""

    def term(self) -> None:
        """Nothing is held."""


def _together(parts: list[Any]) -> bytes:
    frames = [bytes(part) for part in parts]
    return b"".join(_LENGTH.pack(len(frame)) + frame for frame in frames)


def _apart(text: bytes) -> list[bytes]:
    frames, at = [], 0
    while at < len(text):
        (size,) = _LENGTH.unpack_from(text, at)
        at += _LENGTH.size
        frames.append(text[at : at + size])
        at += size
    return frames
