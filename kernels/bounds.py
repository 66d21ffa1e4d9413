"""What the owner lets a start have: it says so with each order, and the nursery sees to it.

Owns the type alone. So a changed setting holds from a worker's reload on, without a new nursery.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from kernels.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Bounds:
    """0 is no bound. `user_kernels`: how many kernels a user may have. Of the host: `host_kernels` may run,
    `free_mib` must be left when one starts, and `wait_s` is how long one waits for that. Of each process:
    `nice` as in nice(2), `cpu_s` of the processor. Of a kernel with all that it has started: `total_mib` of memory."""

    user_kernels: int = 0
    host_kernels: int = 0
    free_mib: int = 0
    wait_s: int = 0
    nice: int = 0
    cpu_s: int = 0
    total_mib: int = 0

    @classmethod
    def from_json(cls, source: object) -> Self:
        """Raises BadRequest. What is not said is not bounded."""
        if not isinstance(source, Mapping):
            raise BadRequest("bounds are not an object")
        return cls(**{each.name: _number(source, each.name) for each in fields(cls) if each.name in source})


UNBOUNDED: Final = Bounds()


def _number(source: Mapping[str, Any], name: str) -> int:
    value = source[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadRequest(f"{name} is not a whole number of at least 0")
    return value
