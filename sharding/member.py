"""What a member of the ring is, and what a worker says of itself when it wants to become one.

It owns the JSON form that lies in Redis. It does no I/O besides reading the start time of its own process.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from sharding.process import started_ticks

_GENERATION_DIGITS = 20
"""Generations are nanoseconds (19 digits). Padded decimal strings compare right in Lua, whose numbers
would round them."""


@dataclass(frozen=True, slots=True)
class Member:
    """A worker as the ring knows it.

    slot: its place; stable when a worker is replaced. boot: tells two holders of one slot apart.
    generation: when its arbiter started or reloaded (ns). address: absolute path of its internal socket.
    pid, pid_started: its process; the start time (ticks since boot) tells it from a later one with this pid.
    """

    slot: int
    boot: str
    generation: int
    host: str
    address: str
    pid: int
    pid_started: int

    @property
    def name(self) -> str:
        """The slot's name on the ring: it survives the worker."""
        return f"{self.host}/{self.slot}"

    def to_json(self) -> str:
        """The stored form. The slot is not in it: it is the field's name."""
        return json.dumps(
            {
                "boot": self.boot,
                "generation": padded(self.generation),
                "host": self.host,
                "address": self.address,
                "pid": self.pid,
                "pid_started": self.pid_started,
            }
        )

    @classmethod
    def from_json(cls, slot: int, text: str | bytes) -> Member:
        """The member in this slot. Raises ValueError, KeyError or TypeError when the text is not one."""
        stored: dict[str, Any] = json.loads(text)
        return cls(
            slot=slot,
            boot=str(stored["boot"]),
            generation=int(stored["generation"]),
            host=str(stored["host"]),
            address=str(stored["address"]),
            pid=int(stored["pid"]),
            pid_started=int(stored["pid_started"]),
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a worker process says of itself, the same for all its lives on the ring.

    n_slots: how many workers the arbiter wants now; the slots 0..n_slots-1 are filled first.
    Making one reads /proc; ProcessLookupError if `pid` does not run.
    """

    host: str
    address: str
    generation: int
    n_slots: int
    pid: int
    pid_started: int = field(init=False)

    def __post_init__(self) -> None:
        started = started_ticks(self.pid)
        if started is None:
            raise ProcessLookupError(f"no process has the pid {self.pid}")
        object.__setattr__(self, "pid_started", started)

    def member(self, boot: str, slot: int = -1) -> Member:
        """This worker under the given boot id. Slot -1: not given yet."""
        return Member(slot, boot, self.generation, self.host, self.address, self.pid, self.pid_started)


def padded(generation: int) -> str:
    """A generation as text that compares like the number."""
    return f"{generation:0{_GENERATION_DIGITS}d}"
