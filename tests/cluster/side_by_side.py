"""Tests that mostly wait for a timer wait side by side: all of a module begin at once, and each tells how its own went.

Owns when they run, and nothing of what they do. Such a test is a coroutine and takes whole installations, as fixtures
that more tests than one share, and a `tmp_path`; in it nothing may block, since the others run in the same event loop.
`pytest -k` runs those alone that it selects.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

Story = Callable[..., Coroutine[Any, Any, None]]
Told = dict[str, asyncio.Task[None]]


class SideBySide:
    """`beside = SideBySide()`; then `@beside` makes a story a test, which takes the fixture `told` of its module.

    That one is of the module, and its loop too: `return await beside.tell(request)`.
    """

    def __init__(self) -> None:
        self._stories: dict[str, Story] = {}

    def __call__(self, story: Story) -> Callable[[Told], None]:
        self._stories[story.__name__] = story

        def test(told: Told) -> None:
            told[story.__name__].result()  # raises what the story has raised

        test.__name__, test.__doc__ = story.__name__, story.__doc__
        return test

    async def tell(self, request: pytest.FixtureRequest) -> Told:
        """All the stories that are asked for, to the end of the last one."""
        asked = {item.name for item in request.session.items}
        stories = {name: story for name, story in self._stories.items() if name in asked}
        given = {name: self._given(story, request) for name, story in stories.items()}
        told = {name: asyncio.create_task(story(**given[name]), name=name) for name, story in stories.items()}
        await asyncio.wait(told.values())
        return told

    def _given(self, story: Story, request: pytest.FixtureRequest) -> dict[str, Any]:
        def value(name: str) -> Any:
            if name == "tmp_path":  # pytest's own is of a single test
                return request.getfixturevalue("tmp_path_factory").mktemp(story.__name__, numbered=True)
            return request.getfixturevalue(name)

        return {name: value(name) for name in inspect.signature(story).parameters}
