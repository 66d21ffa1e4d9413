"""What the nursery knows of a kernel, and what it needs to start one.

Owns the two types that cross the nursery's socket, `KernelRecord` and `SpawnOrder`, with their JSON
form, and the check of everything that comes from outside. It does no I/O.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson

from kernels.bounds import UNBOUNDED, Bounds
from kernels.errors import BadRequest

NOTES_BYTES = 64 * 1024
"""The most that an owner may keep in a kernel's record."""

OUT_OF_MEMORY = "there was not enough memory, and the operating system killed it (signal 9, SIGKILL)"

_KERNEL_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

State = Literal["waiting", "running", "exited"]
JsonObject = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Exit:
    """How a kernel ended: an exit code or a signal (neither when nobody saw it), and the reason in words."""

    code: int | None
    signal: int | None
    reason: str

    @classmethod
    def of_status(cls, status: int | None, *, for_memory: bool = False) -> Exit:
        """From a wait status (as waitpid and /proc have it); None: nobody saw it. `for_memory`: at this moment the
        operating system has killed something for want of memory."""
        if status is None:
            return cls(None, None, "exited while the nursery was away: exit code unknown")
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return cls(code, None, f"exited with code {code}")
        if for_memory and -code == signal.SIGKILL:
            return cls(None, -code, OUT_OF_MEMORY)
        return cls(None, -code, f"killed by signal {-code} ({_signal_name(-code)})")

    @property
    def sentence(self) -> str:
        """For the kernel's user. A reason that begins with a capital is one already."""
        return self.reason if self.reason[:1].isupper() else f"The kernel ended: {self.reason}."

    @property
    def returncode(self) -> int:
        """As `subprocess` tells it: the code, or minus the signal; 255 when unknown."""
        if self.signal is not None:
            return -self.signal
        return 255 if self.code is None else self.code


@dataclass(frozen=True, slots=True)
class KernelRecord:
    """One kernel as the nursery knows it. Kept in `<directory>/record.json`.

    `pid_started` is the process' start time in clock ticks since boot (field 22 of /proc/<pid>/stat):
    with it a pid that was used again is told apart. `incarnation` is 1 at the first start and grows with
    every restart. A kernel that is "waiting" to be started has no process yet: its pid is 0. `claim_epoch` and
    `claim_boot` name the owner that holds the kernel (0 and "" for none).
    `notes` belong to the owner; the nursery only keeps them. `recorder`: it has a flight recorder. `warm`: it was
    forked from the zygote. `bound`: it has said that its sockets are there; a nursery that came later does not know.
    `farewell`: why the process before this one ended, unless that was asked for.
    """

    kernel_id: str
    user: str
    kernel_name: str
    incarnation: int
    directory: Path
    cwd: Path
    pid: int
    pid_started: int
    started_at: str
    state: State = "running"
    exit: Exit | None = None
    claim_epoch: int = 0
    claim_boot: str = ""
    notes: dict[str, Any] = field(default_factory=dict)
    recorder: bool = False
    warm: bool = False
    bound: bool = False
    farewell: str = ""

    def is_held_by(self, epoch: int, boot: str) -> bool:
        """Whether the newest claim is this one."""
        return (self.claim_epoch, self.claim_boot) == (epoch, boot)

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold; `from_json` is its inverse."""
        return asdict(self) | {"directory": str(self.directory), "cwd": str(self.cwd)}

    @classmethod
    def from_json(cls, source: object) -> KernelRecord:
        """Raises BadRequest naming the field that is missing or wrong."""
        found = _object(source, "record")
        state = found.get("state")
        if state not in ("waiting", "running", "exited"):
            raise BadRequest(f"state is {state!r}, not waiting, running or exited")
        return cls(
            kernel_id=checked_kernel_id(found.get("kernel_id")),
            user=text_of(found, "user"),
            kernel_name=text_of(found, "kernel_name"),
            incarnation=number_of(found, "incarnation", least=1),
            directory=Path(text_of(found, "directory")),
            cwd=Path(text_of(found, "cwd")),
            pid=number_of(found, "pid"),
            pid_started=number_of(found, "pid_started"),
            started_at=text_of(found, "started_at"),
            state=state,
            exit=_exit(found.get("exit")),
            claim_epoch=number_of(found, "claim_epoch"),
            claim_boot=text_of(found, "claim_boot", empty=True),
            notes=checked_notes(found.get("notes")),
            recorder=found.get("recorder") is True,
            warm=found.get("warm") is True,
            bound=found.get("bound") is True,
            farewell=str(found.get("farewell", "")),
        )


@dataclass(frozen=True, slots=True)
class SpawnOrder:
    """What to start. `env` is the complete environment: nothing is inherited. It carries no key:
    `directory` already holds connection.json. `recorder`: the command is one of `kernels.inside`. `forkable`: a
    zygote's child can do what the command does. `claim_epoch`, `claim_boot` and `notes` are for the first start of a
    kernel, and of that only; a restart keeps what the kernel has. `farewell`: as in the record."""

    kernel_id: str
    user: str
    kernel_name: str
    incarnation: int
    directory: Path
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: Path
    recorder: bool = False
    forkable: bool = False
    claim_epoch: int = 0
    claim_boot: str = ""
    notes: dict[str, Any] = field(default_factory=dict)
    farewell: str = ""
    bounds: Bounds = UNBOUNDED

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold; `from_json` is its inverse."""
        return asdict(self) | {"directory": str(self.directory), "cwd": str(self.cwd)}

    @classmethod
    def from_json(cls, source: object) -> SpawnOrder:
        """Raises BadRequest naming the field that is missing or wrong."""
        found = _object(source, "order")
        return cls(
            kernel_id=checked_kernel_id(found.get("kernel_id")),
            user=text_of(found, "user"),
            kernel_name=text_of(found, "kernel_name"),
            incarnation=number_of(found, "incarnation", least=1),
            directory=Path(text_of(found, "directory")),
            argv=_argv(found.get("argv")),
            env=_env(found.get("env")),
            cwd=Path(text_of(found, "cwd")),
            recorder=_flag(found, "recorder"),
            forkable=_flag(found, "forkable"),
            claim_epoch=number_of(found, "claim_epoch"),
            claim_boot=text_of(found, "claim_boot", empty=True),
            notes=checked_notes(found.get("notes")),
            farewell=text_of(found, "farewell", empty=True),
            bounds=Bounds.from_json(found.get("bounds", {})),
        )


def now_utc() -> str:
    """The moment, in UTC, with microseconds and a Z: the form that Jupyter's clients parse."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def checked_kernel_id(value: object) -> str:
    """The id, if it is one. It becomes the name of a directory, so nothing else may pass."""
    if not isinstance(value, str) or not _KERNEL_ID.fullmatch(value):
        raise BadRequest(f"kernel_id is {_short(value)}, not a uuid")
    return value


def checked_notes(value: object) -> dict[str, Any]:
    """The notes, if they are a JSON object of at most NOTES_BYTES."""
    if not isinstance(value, dict):
        raise BadRequest(f"notes are {_short(value)}, not an object")
    try:
        size = len(orjson.dumps(value))
    except TypeError as error:
        raise BadRequest(f"notes are not JSON: {error}") from error
    if size > NOTES_BYTES:
        raise BadRequest(f"notes take {size} bytes, more than {NOTES_BYTES}")
    return value


def text_of(source: JsonObject, name: str, *, empty: bool = False) -> str:
    """A field that is a text (a non-empty one, unless `empty`), or BadRequest."""
    value = source.get(name)
    if not isinstance(value, str) or "\0" in value or not (value or empty):
        raise BadRequest(f"{name} is {_short(value)}, not a text")
    return value


def number_of(source: JsonObject, name: str, least: int = 0) -> int:
    """A field that is a whole number of at least `least`, or BadRequest."""
    value = source.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadRequest(f"{name} is {_short(value)}, not a whole number of at least {least}")
    return value


def _flag(source: JsonObject, name: str) -> bool:
    value = source.get(name)
    if not isinstance(value, bool):
        raise BadRequest(f"{name} is {_short(value)}, not true or false")
    return value


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{name} is {_short(value)}, not an object")
    return value


def _argv(value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise BadRequest("argv is not a list of texts")
    if not value[0] or not all(isinstance(part, str) and "\0" not in part for part in value):
        raise BadRequest("argv is not a list of texts")
    return tuple(value)


def _env(value: object) -> dict[str, str]:
    found = _object(value, "env")
    for name, text in found.items():
        if not name or "=" in name or "\0" in name or not isinstance(text, str) or "\0" in text:
            raise BadRequest(f"env has a bad entry {_short(name)}")
    return found


def _exit(value: object) -> Exit | None:
    if value is None:
        return None
    found = _object(value, "exit")
    code, signum = found.get("code"), found.get("signal")
    if not isinstance(code, int | None) or not isinstance(signum, int | None):
        raise BadRequest("exit has no proper code and signal")
    return Exit(code, signum, text_of(found, "reason"))


def _signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:  # a real-time signal has no name of its own
        return "real-time"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
