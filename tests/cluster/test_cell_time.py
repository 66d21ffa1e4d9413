"""A cell may run for so long: then it is stopped, with a sentence in its output, whichever worker serves it by then."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest

from local.stack import Stack
from local.student import Student
from tests.cluster.conftest import LEAN, all_again, running
from tests.redis_server import RedisServer

LIMIT_S = 6.0
SENTENCE = "[kernelring] This cell has run for 0.1 minutes, the limit, and is stopped.\n"
LINES = f"import time; time.sleep({LIMIT_S / 2}); print('half of it'); time.sleep(600)"
STUBBORN = """
import time
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    settings = LEAN | {"KERNELRING_CELL_MINUTES": str(LIMIT_S / 60)}
    with RedisServer() as server, running(server, workers=2, settings=settings) as shared:
        yield shared


async def test_a_cell_that_runs_too_long_is_stopped_also_by_the_next_owner(stack: Stack) -> None:
    async with Student(stack.url, stack.token("ann")) as ann:
        await ann.start()
        await ann.open()
        await ann.run("kept = 1")
        while ann.entry == ann.owner:  # its socket would end with the owner
            await ann.open()
        asked = await ann.ask(LINES)
        began = time.monotonic()
        async with asyncio.timeout(30):
            while "half of it" not in (await ann.receive()).content.get("text", ""):
                pass
        os.kill(stack.worker_of(ann.owner), signal.SIGKILL)
        outcome = await ann.outcome(asked)
        assert LIMIT_S - 0.5 < time.monotonic() - began < LIMIT_S + 2.5, "it was not counted from the cell's start"
        all_again(stack)
        assert outcome.notices == [SENTENCE]
        assert outcome.reply["ename"] == "KeyboardInterrupt"
        assert (await ann.run("print(kept)")).text == "1\n"


async def test_waiting_for_input_counts_and_a_stubborn_cell_ends_its_kernel(stack: Stack) -> None:
    async with Student(stack.url, stack.token("bob")) as bob, Student(stack.url, stack.token("eva")) as eva:
        for student in (bob, eva):
            await student.start()
            await student.open()
        asked = await bob.ask("input()", allow_stdin=True)
        stubborn = await eva.ask(STUBBORN)
        asking, refusing = await asyncio.gather(bob.outcome(asked, 40), eva.outcome(stubborn, 40))
        assert (asking.reply["ename"], asking.notices) == ("KeyboardInterrupt", [SENTENCE])
        assert refusing.notices == [SENTENCE]
        assert "A cell ran for more than 0.1 minutes, the limit, and did not stop" in refusing.reply["evalue"]
        assert (await eva.run("print('anew')")).text == "anew\n"
