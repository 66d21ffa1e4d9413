"""One question to the nursery, asked and answered before anything else happens.

For those without an event loop: the supervisor, gunicorn's start and the command line. Workers use
`kernels.nursery_client`.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from kernels.errors import BadRequest, NurseryUnavailable
from kernels.nursery_wire import error_from_json, line, message_of, socket_path


def ask(runtime: Path, op: str, timeout_s: float) -> dict[str, Any]:
    """The nursery's reply. Raises NurseryUnavailable, or the error that it answers with."""
    try:
        found = message_of(_exchange(socket_path(runtime), line({"id": 1, "op": op}), timeout_s))
    except (OSError, BadRequest) as error:
        raise NurseryUnavailable(f"no nursery answers in {runtime}: {error}") from error
    if "error" in found:
        raise error_from_json(found["error"])
    reply: dict[str, Any] = found["reply"]
    return reply


def answers(runtime: Path, timeout_s: float = 1.0) -> bool:
    """Whether a nursery answers there."""
    try:
        ask(runtime, "status", timeout_s)
    except NurseryUnavailable:
        return False
    return True


def _exchange(address: Path, request: bytes, timeout_s: float) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(timeout_s)
        link.connect(str(address))
        link.sendall(request)
        with link.makefile("rb") as stream:
            return stream.readline()
