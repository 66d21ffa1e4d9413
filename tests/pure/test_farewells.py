"""Why kernels have ended is kept for their users, within bounds; and when it was for want of memory."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from kernels import farewells, oom
from kernels.farewells import Farewells
from kernels.oom import OomKills
from kernels.records import OUT_OF_MEMORY, Exit


def test_words_are_for_the_user_whose_kernel_it_was() -> None:
    kept = Farewells()
    kept.keep("ada", "k1", "It was idle.")
    kept.keep("ada", "k2", "")
    assert (kept.of("ada", "k1"), kept.of("ada", "k2"), kept.of("ada", "k3")) == ("It was idle.", "", None)
    assert kept.of("ben", "k1") is None


def test_the_oldest_words_of_a_user_go_first_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farewells, "MAX_PER_USER", 2)
    kept = Farewells()
    kept.keep("ben", "k0", "words")
    for kernel in ("k1", "k2", "k3"):
        kept.keep("ada", kernel, "words")
    assert [kept.of("ada", kernel) for kernel in ("k1", "k2", "k3")] == [None, "words", "words"]
    assert kept.of("ben", "k0") == "words"


def test_the_user_of_longest_ago_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farewells, "MAX_USERS", 2)
    kept = Farewells()
    for user in ("ada", "ben", "ada", "cleo"):
        kept.keep(user, "k", "words")
    assert [kept.of(user, "k") for user in ("ada", "ben", "cleo")] == ["words", None, "words"]


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    """As a control group's memory.events."""
    path = tmp_path / "memory.events"
    path.write_text("low 0\noom 4\noom_kill 3\noom_group_kill 0\n")
    return path


def test_a_kill_for_want_of_memory_is_known_for_a_moment(counter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kills = OomKills([counter.with_name("not there"), counter])
    assert not kills.lately()
    counter.write_text("oom 5\noom_kill 4\n")
    assert kills.lately()
    assert kills.lately()  # it may have killed two
    monkeypatch.setattr(oom, "LATELY_S", -1.0)
    assert not kills.lately()


def test_without_a_count_nothing_is_claimed(tmp_path: Path) -> None:
    assert not OomKills([tmp_path / "not there"]).lately()


def test_a_count_that_goes_away_or_starts_anew_is_no_kill(counter: Path) -> None:
    kills = OomKills([counter])
    counter.unlink()
    assert not kills.lately()
    counter.write_text("oom_kill 1\n")
    assert not kills.lately()


def test_this_machine_has_a_count() -> None:
    assert oom.own_group() == oom.own_group().strip("/")
    assert any(oom._count(path) is not None for path in oom._sources())


def test_only_what_was_killed_with_sigkill_at_that_moment_was_short_of_memory() -> None:
    assert Exit.of_status(signal.SIGKILL, for_memory=True) == Exit(None, 9, OUT_OF_MEMORY)
    assert Exit.of_status(signal.SIGTERM, for_memory=True).reason == "killed by signal 15 (SIGTERM)"
    assert Exit.of_status(1 << 8, for_memory=True).reason == "exited with code 1"
    assert Exit.of_status(signal.SIGKILL).reason == "killed by signal 9 (SIGKILL)"
