"""Ending background tasks for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

_AGAIN_S = 0.1


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel these tasks and wait until all have ended. What they raise is dropped.

    One cancel is not enough. redis-py sends under `asyncio.wait_for`, which before Python 3.12 drops a
    cancel that arrives in the moment in which the send is done (cpython gh-86296). The task would go on:
        task: the send is done ... stop: cancel ... wait_for: returns, the cancel is forgotten
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_S)
