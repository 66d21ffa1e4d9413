"""The chaos run's result: what struck, and what it cost the students, as a table and as JSON.

Owns the rows and which of their numbers break a promise. Knows nothing of how they came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

REPEATS_OF_LINES: Final = 10_000  # one line in so many may repeat, after the death of an entry worker


@dataclass(slots=True)
class Row:
    """All cells that ended after this fault had struck and before the next one did.

    `lines` that had to come (output, but also replies, results, prompts and states); how many of them are `lost`, came
    again after a reconnect (`repeated`) or otherwise (`doubled`), came out of order. Cells that `ran` `twice` or
    `never`, after which variables were gone, or that left their student `hung`; `unread` were sent again by hand,
    because they had reached nobody but a worker that was killed before it read them. `gaps`: notices that output is
    missing; `cut`: lines that such a notice accounts for where it was provoked. `pause_s`: the longest that something
    was late, counted from the reconnect where there was one; `away_s`: the longest without a connection.
    """

    name: str
    bound_s: float | None = None
    strikes: int = 0
    cells: int = 0
    lines: int = 0
    lost: int = 0
    repeated: int = 0
    doubled: int = 0
    disordered: int = 0
    twice: int = 0
    never: int = 0
    unread: int = 0
    variables: int = 0
    hung: int = 0
    gaps: int = 0
    cut: int = 0
    pause_s: float = 0.0
    away_s: float = 0.0
    settled_s: float = 0.0
    lag_s: float = 0.0  # how late the judge itself was at the worst: the pause is no more exact than that
    remarks: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # promises broken that no number shows

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, and in time."""
        numbers = (self.lost, self.doubled, self.disordered, self.twice, self.never, self.variables, self.hung)
        return not any(numbers) and not self.broken and self.in_time

    @property
    def in_time(self) -> bool:
        """Whether the pause is within its bound."""
        return self.bound_s is None or self.pause_s - self.lag_s < self.bound_s

    def remark(self, text: str) -> None:
        """What a reader should know of one of the numbers."""
        self.remarks.append(text)


@dataclass(slots=True)
class Report:
    """A whole run."""

    rows: list[Row]
    students: int
    seconds: float
    seed: int

    def total(self) -> Row:
        """All rows in one."""
        whole = Row("all")
        for name in _COUNTED:
            setattr(whole, name, sum(getattr(row, name) for row in self.rows))
        for name in ("pause_s", "away_s", "settled_s", "lag_s"):
            setattr(whole, name, max((getattr(row, name) for row in self.rows), default=0.0))
        return whole

    @property
    def broken(self) -> list[str]:
        """One sentence for each promise that was broken."""
        found = [sentence for row in self.rows for sentence in _broken(row)]
        whole = self.total()
        if whole.repeated * REPEATS_OF_LINES > whole.lines:
            found.append(f"{whole.repeated} of {whole.lines} lines repeated: more than 1 in {REPEATS_OF_LINES}.")
        return found

    def to_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "students": self.students,
            "seconds": self.seconds,
            "seed": self.seed,
            "rows": [asdict(row) | {"holds": row.holds} for row in self.rows],
            "broken": self.broken,
        }


_COUNTED: Final = (
    "strikes", "cells", "lines", "lost", "repeated", "doubled", "disordered", "twice", "never", "unread", "variables",
    "hung", "gaps", "cut",
)  # fmt: skip
_WORDS: Final = {
    "lost": "lines lost",
    "doubled": "lines doubled",
    "disordered": "lines out of order",
    "twice": "cells ran twice",
    "never": "cells never ran",
    "variables": "times variables were gone",
    "hung": "students left hanging",
}


def _broken(row: Row) -> list[str]:
    found = [f"{row.name}: {getattr(row, name)} {words}." for name, words in _WORDS.items() if getattr(row, name)]
    if not row.in_time:
        found.append(f"{row.name}: a pause of {row.pause_s:.2f} s, where less than {row.bound_s:g} s were promised.")
    return found + [f"{row.name}: {sentence}" for sentence in row.broken]


HEAD: Final = (
    "fault", "strikes", "cells", "lines", "lost", "repeated", "doubled", "disord.", "twice", "never", "unread", "vars",
    "hung", "gaps", "cut", "pause s", "bound", "away s", "",
)  # fmt: skip


def table(report: Report) -> str:
    """The rows as text."""
    body = [_cells(row) for row in (*report.rows, report.total())]
    widths = [max(len(row[at]) for row in (HEAD, *body)) for at in range(len(HEAD))]
    lines = [
        "  ".join(
            text.rjust(widths[at]) if 0 < at < len(HEAD) - 1 else text.ljust(widths[at]) for at, text in enumerate(row)
        )
        for row in (HEAD, *body)
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join(line.rstrip() for line in (lines[0], rule, *lines[1:-1], rule, lines[-1]))


def remarks(rows: Sequence[Row], most: int) -> str:
    """What stands behind the numbers, `most` of it for each row."""
    lines = []
    for row in rows:
        lines += [f"{row.name}: {text}" for text in row.remarks[:most]]
        if len(row.remarks) > most:
            lines.append(f"{row.name}: … and {len(row.remarks) - most} more (see --json)")
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    counted = tuple(f"{getattr(row, name):,}" for name in _COUNTED)
    bound = "" if row.bound_s is None else f"< {row.bound_s:g}"
    said = "" if row.name == "all" else "held" if row.holds else "BROKEN"
    return row.name, *counted, f"{row.pause_s:.2f}", bound, f"{row.away_s:.2f}", said
