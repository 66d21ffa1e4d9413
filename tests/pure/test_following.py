"""Following an execution: what happens while an event is being sent is sent after it, and nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from server.execution.execution import Execution, Order
from server.execution.feed import Place
from server.execution.following import events_of
from server.execution.table import Table


def printed(execution: Execution, text: str) -> None:
    """The kernel has printed this."""
    number = execution.feed.place[1] + 1
    execution.hear("iopub", {"msg_type": "stream"}, {"name": "stdout", "text": text}, (1, number), len(text))


def replied(execution: Execution) -> None:
    """The kernel is done with it."""
    execution.hear("shell", {"msg_type": "execute_reply"}, {"status": "ok", "execution_count": 1}, None, 1)
    execution.hear("iopub", {"msg_type": "status"}, {"execution_state": "idle"}, None, 1)


def table_of_nothing_else() -> Table:
    kernel = SimpleNamespace(kernel_id="k")
    return cast(Table, SimpleNamespace(kernel=kernel, moved=None, note=lambda _: None))


async def shown(execution: Execution, meanwhile: Callable[[str], None], **options: Any) -> list[Any]:
    """What is sent of it, each in a word; `meanwhile` happens while one is being sent."""
    told = []
    async with asyncio.timeout(5):
        async for event in events_of(table_of_nothing_else(), execution, options.get("place"), only_end=False):
            told.append(event["data"].get("text") or event["kind"])
            meanwhile(told[-1])
    return told


@pytest.mark.parametrize("place", [None, (0, 0, 0)])
async def test_what_happens_while_an_event_is_sent_is_sent_after_it(place: Place | None) -> None:
    execution = Execution(Order("u", 1, ""), "session", "ada", state="running")
    printed(execution, "a")

    def meanwhile(sent: str) -> None:
        if sent == "a":  # all that was there when it began to be sent
            printed(execution, "b")
            printed(execution, "c")
        if sent == "b":  # and its end comes with more on the way
            printed(execution, "d")
            replied(execution)

    told = await shown(execution, meanwhile, place=place)
    assert told == [*(["clear"] if place is None else []), "a", "b", "c", "d", "done"]


async def test_a_question_that_comes_while_an_event_is_sent_is_told_after_what_was_printed_before_it() -> None:
    execution = Execution(Order("u", 1, ""), "session", "ada", state="running")
    printed(execution, "a")

    def meanwhile(sent: str) -> None:
        if sent == "a":
            printed(execution, "b")
            execution.hear("stdin", {"msg_type": "input_request", "msg_id": "q"}, {"prompt": "?"}, None, 1)
        if sent == "input":
            replied(execution)

    assert await shown(execution, meanwhile, place=(0, 0, 0)) == ["a", "b", "input", "done"]


async def test_a_client_that_is_further_than_its_new_owner_gets_nothing_again() -> None:
    execution = Execution(Order("u", 1, ""), "session", "ada", state="running")
    printed(execution, "a")
    asyncio.get_running_loop().call_later(0.01, caught_up, execution)
    assert await shown(execution, lambda _: None, place=(1, 2, 0)) == ["c", "done"]


def caught_up(execution: Execution) -> None:
    """The kernel tells the new owner again what the one before had passed on, and then more."""
    printed(execution, "b")
    printed(execution, "c")
    replied(execution)


async def test_where_the_kernel_numbers_nothing_a_client_that_was_further_gets_all_of_it_anew() -> None:
    execution = Execution(Order("u", 1, ""), "session", "ada", state="running")
    execution.hear("iopub", {"msg_type": "stream"}, {"name": "stdout", "text": "new"}, None, 3)
    replied(execution)
    assert await shown(execution, lambda _: None, place=(0, 0, 7)) == ["clear", "new", "done"]
