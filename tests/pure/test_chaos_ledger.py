"""The judge of `local/chaos`: whatever goes wrong with a cell's lines is counted, and under its right name."""

from __future__ import annotations

import itertools
import random

import pytest

from local.chaos_cells import LINE, Cell, deal
from local.chaos_faults import DEFAULT, FAULTS, parse
from local.chaos_ledger import Connection, Ledger, Sheet
from local.chaos_table import Report, Row, table
from local.student import Said

CELL = Cell("s1-1", "steady", "", ("steady",) * 6)
FIRST, SECOND = Connection(1, 0.0), Connection(2, 100.0)


class Lesson:
    """A ledger with one cell, sent at 10 s, and messages for it."""

    def __init__(self, *, numbered: bool = False) -> None:
        self.ledger = Ledger(numbered=numbered)
        self.sheet: Sheet = self.ledger.open("asked", CELL, 10.0)
        self._ids = itertools.count()

    def said(self, kind: str, channel: str = "iopub", **content: object) -> Said:
        header = {"msg_id": f"m{next(self._ids)}", "msg_type": kind}
        return Said(channel, header, {"msg_id": "asked"}, content, {"kernelring": [1, 1]})

    def lines(self, *numbers: int) -> Said:
        text = "".join(f"s1-1 {number:05d} 11.0000 steady\n" for number in numbers)
        return self.text(text)

    def text(self, text: str, name: str = "stdout") -> Said:
        return self.said("stream", name=name, text=text)

    def hear(self, *all_said: Said, connection: Connection = FIRST, now_s: float = 11.0) -> None:
        for said in all_said:
            self.ledger.hear(said, connection, now_s)

    def whole(self) -> None:
        """The cell as it should be."""
        self.hear(self.said("status", execution_state="busy"), self.said("execute_input", code=""))
        self.hear(self.lines(0, 1), self.text("s1-1 0000"), self.text("2 11.0000 steady\ns1-1 00003 11.0000 steady"))
        self.hear(self.text("\n"), self.lines(4, 5), self.said("execute_reply", "shell", status="ok"))
        self.hear(self.said("status", execution_state="idle"))


def counts(sheet: Sheet) -> tuple[int, int, int]:
    return sheet.repeated, sheet.doubled, sheet.disordered


def test_a_cell_without_faults_is_blameless_however_its_lines_are_cut_into_messages() -> None:
    lesson = Lesson()
    lesson.whole()
    assert lesson.sheet.ended
    assert lesson.sheet.missing_lines() == []
    assert lesson.sheet.missing_parts() == []
    assert counts(lesson.sheet) == (0, 0, 0)
    assert lesson.sheet.remarks == []


def test_lines_and_messages_that_do_not_come_are_missing() -> None:
    lesson = Lesson()
    lesson.hear(lesson.lines(0, 1, 4), lesson.said("execute_reply", "shell", status="ok"))
    assert lesson.sheet.missing_lines() == [2, 3, 5]
    assert lesson.sheet.missing_parts() == ["busy", "execute_input", "idle"]


def test_half_a_line_is_a_lost_line() -> None:
    lesson = Lesson()
    lesson.hear(lesson.lines(0), lesson.text("s1-1 000"), lesson.lines(2))
    assert lesson.sheet.missing_lines() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("connection", "numbered", "expected"),
    [(SECOND, False, (2, 0, 0)), (FIRST, False, (0, 2, 0)), (SECOND, True, (0, 2, 0))],
    ids=["after a reconnect", "on one connection", "to a client that said what it had got"],
)
def test_a_message_that_comes_again_counts_by_its_lines(
    connection: Connection, numbered: bool, expected: tuple[int, int, int]
) -> None:
    lesson = Lesson(numbered=numbered)
    message = lesson.lines(0, 1)
    lesson.hear(message)
    lesson.hear(message, connection=connection, now_s=101.0)
    assert counts(lesson.sheet) == expected


def test_what_comes_again_of_a_cell_long_judged_or_forgotten_is_counted_and_counted_once() -> None:
    lesson = Lesson()
    message = lesson.lines(0, 1)
    lesson.hear(message)
    assert sum(sheet.take().repeated for sheet in lesson.ledger.sheets()) == 0
    lesson.hear(message, connection=SECOND)
    lesson.ledger.forget("asked")
    assert sum(sheet.take().repeated for sheet in lesson.ledger.sheets()) == 0  # it was given up
    lesson.hear(message, connection=Connection(3, 200.0))
    assert [sum(sheet.take().repeated for sheet in lesson.ledger.sheets()) for _ in range(2)] == [2, 0]


def test_a_line_that_comes_again_in_a_new_message_is_not_missed() -> None:
    lesson = Lesson()
    lesson.hear(lesson.lines(0, 1), lesson.lines(1, 2))
    assert counts(lesson.sheet) == (0, 1, 0)


def test_a_line_after_a_later_one_is_out_of_order() -> None:
    lesson = Lesson()
    lesson.hear(lesson.lines(0, 3, 1))
    assert counts(lesson.sheet) == (0, 0, 1)


def test_output_after_the_end_of_its_cell_is_out_of_order() -> None:
    lesson = Lesson()
    lesson.sheet.closed = True
    lesson.hear(lesson.lines(0))
    assert counts(lesson.sheet) == (0, 0, 1)


def test_two_replies_are_doubled_even_as_two_messages() -> None:
    lesson = Lesson()
    lesson.whole()
    lesson.hear(lesson.said("execute_reply", "shell", status="ok"))
    assert counts(lesson.sheet) == (0, 1, 0)


def test_a_pause_counts_from_when_the_line_was_printed_or_from_the_reconnect() -> None:
    lesson = Lesson()
    lesson.hear(lesson.said("status", execution_state="busy"), now_s=10.5)
    assert lesson.sheet.pause_s == pytest.approx(0.5)
    lesson.hear(lesson.lines(0), now_s=13.0)
    assert lesson.sheet.pause_s == pytest.approx(2.0)
    lesson.hear(lesson.lines(1), connection=SECOND, now_s=100.25)
    assert lesson.sheet.pause_s == pytest.approx(2.0)


def test_notices_of_a_gap_are_counted_and_are_no_lines() -> None:
    lesson = Lesson()
    notice = lesson.text("[kernelring] 7 messages of output are missing here.\n", "stderr")
    notice.parent = {}
    lesson.hear(notice)
    assert len(lesson.sheet.gaps) == 1
    assert lesson.sheet.shown == 0


def test_a_seed_gives_the_same_notebook_again_and_every_cell_counts_itself() -> None:
    first, second = ([deal(f"s1-{n}", random.Random(n)) for n in range(50)] for _ in range(2))  # noqa: S311
    assert first == second
    assert {cell.kind for cell in first} == {"steady", "asking", "big", "failing", "resulting"}
    for cell in first:
        assert f"ran({cell.name!r})" in cell.code
        compile(cell.code, cell.name, "exec")
        assert LINE.fullmatch(f"{cell.name} 00000 1.0000 {cell.texts[0]}")


def test_every_fault_strikes_in_a_run_without_options() -> None:
    assert {name for step in parse(",".join(DEFAULT)) for name in step} == set(FAULTS)
    with pytest.raises(ValueError, match="no fault 'rain'"):
        parse("more,rain")


def test_a_broken_promise_shows_in_the_table_and_in_words() -> None:
    row = Row("kill-owner", 1.0, strikes=1, cells=3, lines=20_001, repeated=2, lost=4, pause_s=1.5, lag_s=0.1)
    report = Report([row, Row("less", 1.0, pause_s=1.05, lag_s=0.1)], 3, 10.0, 1)
    assert report.broken == [
        "kill-owner: 4 lines lost.",
        "kill-owner: a pause of 1.50 s, where less than 1 s were promised.",
    ]
    assert "BROKEN" in table(report).splitlines()[2]
    assert "held" in table(report).splitlines()[3]
