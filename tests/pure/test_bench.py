"""The bench's own judgement: aims, and lines that did not come as they should."""

from __future__ import annotations

import pytest

from local.bench_lines import wrong_lines
from local.bench_table import Figure, at_least, at_most, compared, table


def test_an_aim_is_for_the_median_ratio_of_the_turns() -> None:
    figure = compared("start", "ms", floor=[100.0, 100.0, 1000.0], value=[9.0, 11.0, 90.0], aim=at_most(0.1))
    assert figure.ratio == pytest.approx(0.09)
    assert figure.holds is True


def test_without_a_ratio_an_aim_is_for_the_value() -> None:
    assert Figure("memory", "GiB", 3.4, aim=at_most(3.5)).holds is True
    assert Figure("memory", "GiB", 3.6, aim=at_most(3.5)).holds is False
    assert Figure("lines lost", "lines", 1, floor=5, aim=at_most(0)).holds is False


def test_a_figure_without_an_aim_only_informs() -> None:
    assert Figure("memory", "MB", 200.0).holds is None
    assert "reached" not in table([Figure("memory", "MB", 200.0)])


def test_the_table_says_which_aims_were_missed() -> None:
    text = table([compared("cells", "1/s", [100.0], [90.0], at_least(1.0)), Figure("idle", "%", 1.2, aim=at_most(5))])
    assert [line.split()[-1] for line in text.splitlines()[2:]] == ["missed", "reached"]


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (["0", "1", "2", "3"], 0),
        (["0", "1", "3"], 1),
        (["0", "1", "1", "2", "3"], 1),
        (["0", "2", "1", "3"], 1),
        (["0", "1", "a notice", "2", "3"], 1),
        ([], 4),
    ],
)
def test_lines_that_are_missing_doubled_disordered_or_strange_are_counted(found: list[str], wrong: int) -> None:
    assert wrong_lines(found, 4) == wrong
