"""What counts as the use of a kernel, and how it is noted."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kernels import activity
from kernels.culling import spoken

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CELL = json.dumps({"msg_type": "execute_request"}).encode()


def header(date: object) -> bytes:
    return json.dumps({"date": date}).encode()


def test_what_a_person_does_counts_and_what_a_page_says_by_itself_does_not() -> None:
    for kind in ("execute_request", "complete_request", "inspect_request", "comm_msg"):
        assert activity.is_use(kind, b"{}")
    for kind in ("kernel_info_request", "comm_info_request", "usage_request", "debug_request", "comm_open"):
        assert not activity.is_use(kind, b"{}")
    assert not activity.is_use("comm_msg", b'{"data": {"method": "request_states"}}')


def test_a_cell_that_is_told_of_late_counts_for_when_it_was() -> None:
    early = NOW - timedelta(hours=2)
    assert activity.said_at(header(early.isoformat()), CELL, NOW) == early
    assert activity.said_at(header("2026-03-01T10:00:00.000000Z"), CELL, NOW) == early
    assert activity.said_at(header(early.isoformat()), b'{"msg_type": "kernel_info_request"}', NOW) is None


@pytest.mark.parametrize("date", ["2199-01-01T00:00:00Z", "soon", None, 7, "2026-03-01T13:00:00"])
def test_a_date_that_cannot_be_is_now(date: object) -> None:
    assert activity.said_at(header(date), CELL, NOW) == NOW


def test_the_latest_use_is_noted(tmp_path: Path) -> None:
    assert activity.noted(tmp_path) is None
    activity.note(tmp_path, NOW)
    activity.note(tmp_path, NOW - timedelta(minutes=1))
    assert activity.noted(tmp_path) == NOW
    activity.note(tmp_path, NOW + timedelta(minutes=1))
    assert activity.noted(tmp_path) == NOW + timedelta(minutes=1)


def test_of_a_kernel_that_is_gone_nothing_is_noted(tmp_path: Path) -> None:
    activity.note(tmp_path / "gone", NOW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "1 second"),
        (3, "3 seconds"),
        (90, "90 seconds"),
        (120, "2 minutes"),
        (3600, "60 minutes"),
        (43200, "12 hours"),
    ],
)
def test_times_are_said_as_a_person_says_them(seconds: float, words: str) -> None:
    assert spoken(seconds) == words
