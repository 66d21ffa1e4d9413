"""The lines that go over the nursery's socket: requests, replies, events and errors as JSON.

Both ends use it. It owns the form alone; it opens no socket.
A request is `{"id": n, "op": name, ...}`; its reply `{"id": n, "reply": {...}}` or
`{"id": n, "error": {"kind", "message", "epoch"?}}`; an event `{"event": name, ...}`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from kernels.errors import (
    BadRequest,
    ClaimRefused,
    KernelsError,
    KernelStuck,
    NurseryUnavailable,
    SpawnRefused,
    TooManyKernels,
    UnknownKernel,
)

LINE_BYTES = 16 * 1024 * 1024
"""The longest line that the nursery reads."""

ANOTHER_RUNS = 75
"""A nursery's exit code when another has the runtime directory (EX_TEMPFAIL)."""

ADDRESS_BYTES = 107
"""The longest address of a Unix socket (sun_path is 108 bytes with its final NUL)."""

_LONGEST_IN_RUNTIME = len("/k/") + 36 + len("/s/s-5")

_KINDS: dict[str, type[KernelsError]] = {
    "bad_request": BadRequest,
    "unknown_kernel": UnknownKernel,
    "claim_refused": ClaimRefused,
    "too_many_kernels": TooManyKernels,  # before its parent: the first that fits is told
    "spawn_refused": SpawnRefused,
    "kernel_stuck": KernelStuck,
    "unavailable": NurseryUnavailable,
}


def socket_path(runtime: Path) -> Path:
    """Where the nursery of a runtime directory listens."""
    return runtime / "nursery.sock"


def check_runtime(runtime: Path) -> None:
    """Raises NurseryUnavailable for a directory whose kernels' sockets would have too long a name."""
    length = len(str(runtime).encode()) + _LONGEST_IN_RUNTIME
    if not runtime.is_absolute():
        raise NurseryUnavailable(f"the runtime directory {runtime} is not an absolute path")
    if length > ADDRESS_BYTES:
        spare = ADDRESS_BYTES - _LONGEST_IN_RUNTIME
        raise NurseryUnavailable(f"the runtime directory {runtime} has a path longer than {spare} bytes")


def line(message: dict[str, Any]) -> bytes:
    """One message as a line."""
    return orjson.dumps(message) + b"\n"


def message_of(text: bytes) -> dict[str, Any]:
    """The message in a line. Raises BadRequest."""
    try:
        found = orjson.loads(text)
    except ValueError as error:
        raise BadRequest(f"not a line of JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadRequest("not a JSON object")
    return found


def error_to_json(error: KernelsError) -> dict[str, Any]:
    """An error as it goes over the wire."""
    kinds = (kind for kind, known in _KINDS.items() if isinstance(error, known))
    found: dict[str, Any] = {"kind": next(kinds, "internal"), "message": str(error)}
    if isinstance(error, ClaimRefused):
        found["epoch"] = error.epoch
    return found


def error_from_json(found: dict[str, Any]) -> KernelsError:
    """The error that came over the wire."""
    message = str(found.get("message"))
    kind = _KINDS.get(str(found.get("kind")), KernelsError)
    if kind is ClaimRefused:
        return ClaimRefused(message, int(found.get("epoch") or 0))
    return kind(message)
