"""The bench's result: figures with floor, ratio and aim, as a table and as JSON.

Owns how a ratio is formed: floor and server are measured in turns, each turn of the server is held against the turn of
the floor beside it, and the median of those counts. So a machine that is busier for a while spoils one turn and not the
figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Aim:
    """What a ratio should be, or a value that has none: at the most (`most=True`) or at least `bound`."""

    bound: float
    most: bool

    def holds(self, found: float) -> bool:
        """Whether it is."""
        return found <= self.bound if self.most else found >= self.bound

    def __str__(self) -> str:
        return f"{'<=' if self.most else '>='} {self.bound:g}"


def at_most(bound: float) -> Aim:
    """For times."""
    return Aim(bound, most=True)


def at_least(bound: float) -> Aim:
    """For rates."""
    return Aim(bound, most=False)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line. The aim is for the ratio, or for the value where there is no ratio; without an aim it informs only."""

    name: str
    unit: str
    value: float
    floor: float | None = None
    ratio: float | None = None
    aim: Aim | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the aim is reached; None when there is none."""
        return None if self.aim is None else self.aim.holds(self.value if self.ratio is None else self.ratio)

    def to_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "name": self.name,
            "unit": self.unit,
            "value": self.value,
            "floor": self.floor,
            "ratio": self.ratio,
            "aim": str(self.aim) if self.aim else None,
            "holds": self.holds,
        }


def in_turns(turns: int, *sides: Callable[[], T]) -> list[list[T]]:
    """Measure all sides one after the other, `turns` times; the values of each side."""
    rows = [[side() for side in sides] for _ in range(turns)]
    return [list(column) for column in zip(*rows, strict=True)]


def compared(name: str, unit: str, floor: Sequence[float], value: Sequence[float], aim: Aim | None = None) -> Figure:
    """The figure of values measured in turns."""
    ratio = median(one / base for one, base in zip(value, floor, strict=True))
    return Figure(name, unit, median(value), median(floor), ratio, aim)


COLUMNS: Final = ("figure", "unit", "floor", "server", "ratio", "aim", "")


def table(figures: Sequence[Figure]) -> str:
    """The figures as text, right-aligned numbers."""
    rows = [COLUMNS, *(_row(figure) for figure in figures)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(COLUMNS))]
    lines = ["  ".join(_cell(text, at, widths[at]) for at, text in enumerate(row)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _row(figure: Figure) -> tuple[str, ...]:
    said = {True: "reached", False: "missed", None: ""}[figure.holds]
    floor, ratio = _number(figure.floor), _number(figure.ratio)
    return figure.name, figure.unit, floor, _number(figure.value), ratio, str(figure.aim or ""), said


def _cell(text: str, at: int, width: int) -> str:
    return text.rjust(width) if 2 <= at <= 4 else text.ljust(width)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"
