"""Ordinary lessons, as real cells, at each level of confinement that this machine offers: what is taught still works.

What a level cannot give is in `lessons.DIFFERENCES`, with the reason; it must fail just so.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from local.stack import Stack
from local.student import Student
from tests.cluster.confined import student, told
from tests.cluster.lessons import INSTALLED, LESSONS, PIP, PROGRAMS, WHEEL, came_of, expected
from tests.cluster.levels import LEVELS, level_of, stack_at
from tests.nursery_fixture import until
from tests.sleeping import SLEEPS

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

CELL_S: Final = 60.0


@pytest.fixture(scope="module", params=LEVELS)
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    with stack_at(request.param) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ann(stack: Stack) -> AsyncIterator[Student]:
    await until(lambda: stack.nursery()["zygote"]["ready"], CELL_S)
    async with student(stack, "ann") as made:
        yield made


@pytest.mark.parametrize("name", LESSONS)
async def test_a_lesson_works(stack: Stack, ann: Student, name: str) -> None:
    if not shutil.which(PROGRAMS.get(name, "sh")):
        pytest.skip(f"this machine has no {PROGRAMS[name]}")
    outcome = await ann.run(LESSONS[name].code, CELL_S)
    assert came_of(outcome) == expected(level_of(stack), name), outcome


async def test_pip_installs_into_the_home(stack: Stack, ann: Student) -> None:
    await told(ann, WHEEL)
    await told(ann, PIP, 120)
    home = Path(await told(ann, "import os\nprint(os.environ['HOME'])"))
    (there,) = home.glob(".local/lib/*/site-packages/tinything.py")
    assert await told(ann, INSTALLED) == f"42 {there}"


async def test_a_figure_is_shown(ann: Student) -> None:
    outcome = await ann.run("import matplotlib.pyplot as plt\nplt.plot([1, 3, 2]);", CELL_S)
    (shown,) = [one.content["data"] for one in outcome.said if one.kind == "display_data"]
    assert shown["image/png"].startswith("iVBORw0KGgo")


async def test_a_cell_asks_and_is_answered(ann: Student) -> None:
    asked = await ann.ask("print('Hello', input('Who? '))", allow_stdin=True)
    while (question := await ann.receive(CELL_S)).kind != "input_request":
        pass
    assert question.content["prompt"] == "Who? "
    await ann.send_raw(ann.message("input_reply", {"value": "ann"}, "stdin", question.header)[1])
    assert (await ann.outcome(asked, CELL_S)).text == "Hello ann\n"


async def test_a_cell_that_is_stopped_leaves_its_kernel_as_it_was(ann: Student) -> None:
    asked = await ann.ask(f"kept = 42\nprint('here', flush=True)\n{SLEEPS}")
    while (await ann.receive(CELL_S)).kind != "stream":
        pass
    assert (await ann.call("POST", f"/api/kernels/{ann.kernel_id}/interrupt"))[0] == 204
    assert (await ann.outcome(asked, CELL_S)).reply["ename"] == "KeyboardInterrupt"
    assert await told(ann, "print(kept)") == "42"
