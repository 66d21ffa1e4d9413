"""Every fault of the design's table strikes a class at work, and no line, no cell and no variable is lost.

Two minutes of `local/chaos`, kernels confined as far as this machine can, with the proof that nothing is left of the
installation. What was lost, and to which
fault, is in the table that a failure shows.
"""

from __future__ import annotations

import pytest

from local.chaos_faults import DEFAULT, Scene, parse
from local.chaos_main import away_s, run
from local.chaos_room import Plan
from local.chaos_table import REPEATS_OF_LINES, remarks, table
from tests.cluster.conftest import running
from tests.redis_server import RedisServer

STUDENTS = 8
SECONDS = 110.0
MOST_REMARKS = 10
# What `local/chaos` holds against its bounds, and what depends on how busy the machine of the test is: pauses, and how
# much a client was sent in the moment before it could say that it had got it.
MEASURED = ("were promised.", f"more than 1 in {REPEATS_OF_LINES}.")
SLACK = 5
REPEATS = 2  # lines of a student at a strike; a share of all lines would ask more of a slow machine, which prints fewer
PLANNED = ("more", "less", "reload")  # an entry worker that ends as planned has first asked what its clients have got
FAULTS = parse(",".join(DEFAULT))


@pytest.mark.timeout(400)
def test_a_class_loses_nothing_while_faults_strike(redis: RedisServer) -> None:
    with running(redis, confined=True) as stack:
        report = run(Scene(stack, redis, stack.workers, away_s(SECONDS)), Plan(STUDENTS, SECONDS, FAULTS, seed=1))
    shown = f"\n{table(report)}\n{remarks(report.rows, MOST_REMARKS)}"
    assert [sentence for sentence in report.broken if not sentence.endswith(MEASURED)] == [], shown
    assert all(row.pause_s - row.lag_s < SLACK * row.bound_s for row in report.rows if row.bound_s), shown
    assert report.total().repeated <= REPEATS * STUDENTS * report.total().strikes, shown
    planned = [remark for row in report.rows if row.name in PLANNED for remark in row.remarks]
    # An open question is asked again on each new connection; a reply may be (seen when the machine is overloaded).
    assert [one for one in planned if "repeated: stream" in one] == [], shown
    assert sum(row.strikes for row in report.rows) >= len(FAULTS) / 2, shown
    assert all(row.cells for row in report.rows), shown
