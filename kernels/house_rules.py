"""What a house is told: who owns whom, and the bounds. And what it adds when it says why a kernel was ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from kernels.bounds import UNBOUNDED, Bounds

LOST: Final = "Variables are lost; your notebooks are on disk."  # as our pages add to a kernel's farewell


class Rule(Protocol):
    """Who owns whom, as the house is told."""

    def owns(self, user: str) -> bool:
        """Whether this worker owns the user's kernels now."""

    def claim(self) -> tuple[int, str]:
        """The epoch and boot id under which this worker claims a kernel."""


@dataclass(frozen=True, slots=True)
class HouseOptions:
    """Bounds. `backlog_bytes` per kernel here, `recorder_mib` in each Python kernel itself.

    `start_timeout_s`: from spawn to the first answer. `cell_s`: how long a cell may run; 0 for as long as it likes.
    """

    kernels_dir: Path
    backlog_bytes: int
    start_timeout_s: float
    recorder_mib: float
    bounds: Bounds = UNBOUNDED
    cell_s: float = 0.0
