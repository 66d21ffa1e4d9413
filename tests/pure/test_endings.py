"""A reply without the idle status that follows it shows that output was dropped."""

from __future__ import annotations

import asyncio

import pytest

from kernels import endings
from kernels.endings import Endings

WITHIN_S = 5.0


@pytest.fixture
def overdue(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    monkeypatch.setattr(endings, "IDLE_WITHIN_S", 0.02)
    return asyncio.Event()


async def test_a_missing_status_is_told_of_once(overdue: asyncio.Event) -> None:
    watch = Endings(overdue.set)
    watch.replied("a")
    watch.replied("b")
    await asyncio.wait_for(overdue.wait(), WITHIN_S)
    overdue.clear()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(overdue.wait(), 0.1)


@pytest.mark.parametrize("early", [True, False])
async def test_a_status_that_comes_before_or_after_its_reply_is_not_missing(
    overdue: asyncio.Event, early: bool
) -> None:
    watch = Endings(overdue.set)
    if early:
        watch.idle("a")
    watch.replied("a")
    if not early:
        watch.idle("a")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(overdue.wait(), 0.1)


async def test_of_a_process_that_has_gone_nothing_is_missed(overdue: asyncio.Event) -> None:
    watch = Endings(overdue.set)
    watch.replied("a")
    watch.forget()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(overdue.wait(), 0.1)
