"""An installation that is stopped while one of its workers starts: that one stops by itself, and nothing is left."""

from __future__ import annotations

import os
import signal

import pytest

from tests.cluster.conftest import LEAN, NewStack, files_of


@pytest.mark.timeout(180)
def test_a_worker_that_is_told_to_stop_while_it_starts_stops_and_leaves_nothing(new_stack: NewStack) -> None:
    stack = new_stack(workers=2, settings=LEAN)
    old, mark = set(stack.worker_pids()), stack.mark()
    os.kill(min(old), signal.SIGKILL)
    stack.wait(lambda: "Booting worker" in stack.log_path.read_bytes()[mark:].decode(), "the next worker's fork")
    stack.stop_gunicorn()
    # It has heard of it: a worker that has not is killed once its time to stop is over, and drains nothing.
    drained = {event["pid"] for event in stack.events("worker_drained", mark)}
    booted = {event["pid"] for event in stack.events(since=mark) if "Booting" in str(event.get("message"))}
    assert booted
    assert booted <= drained
    assert [path for path in files_of(stack) if path.endswith(".sock") and "/w/" in path] == []
