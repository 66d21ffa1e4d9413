"""Cells run on the server's account: pages are closed and opened again, in other browsers, and a worker is killed.

What a cell prints is gated on files that the story makes, so that it knows where the cell is at each moment.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, expect

from local.stack import Stack
from tests.browser.conftest import NewStudent
from tests.browser.kit import SOON_MS, Notebook, Student

# Prints the line n as soon as a file n is there.
LINES = """
import pathlib, time
for number in range({lines}):
    while not pathlib.Path(f"gate-{{number}}").exists():
        time.sleep(0.02)
    print("line", number)
"""
WHOLE = "".join(f"line {number}\n" for number in range(9))


@pytest.fixture
def bo(new_student: NewStudent, rough_stack: Stack) -> Student:
    """A student of the workers that may be killed."""
    return new_student("bo", rough_stack)


def let(student: Student, *numbers: int) -> None:
    """Let the running cell print these lines."""
    for number in numbers:
        (student.folder / f"gate-{number}").touch()


def started(student: Student, context: BrowserContext, *more: str) -> Notebook:
    """A notebook whose first cell has printed two of nine lines."""
    student.put_notebook(context, "long.ipynb", LINES.format(lines=9).strip(), *more)
    notebook = student.open(context, "long.ipynb")
    let(student, 0, 1)
    notebook.run_and_see(0, "line 1")
    return notebook


def kill_owner(student: Student, context: BrowserContext) -> None:
    """kill -9 the worker that has the student's kernels; return when another has taken its place."""
    owner = student.api(context, "GET", "/api/kernels").headers["x-kernelring-owner"]
    mark = student.stack.mark()
    os.kill(student.stack.worker_of(owner), signal.SIGKILL)
    student.stack.wait_event("worker_registered", mark)


def on_disk(student: Student, lines: int) -> str:
    """The first cell's text in the file, once it has so many lines."""

    def text() -> str:
        outputs: list[Any] = student.notebook_on_disk("long.ipynb").cells[0].outputs
        found = "".join(output.text for output in outputs)
        return found if found.count("\n") >= lines else ""

    return str(student.stack.wait(text, f"{lines} lines on disk"))


def test_a_page_that_was_closed_and_an_owner_that_was_killed_cost_no_line(bo: Student) -> None:
    first = bo.browser()
    started(bo, first, "'and then ' + str(number)")
    first.close()
    elsewhere = bo.browser()
    let(bo, 2, 3)
    assert on_disk(bo, 4).endswith("line 3\n")
    kill_owner(bo, elsewhere)
    let(bo, 4, 5)
    assert on_disk(bo, 6).endswith("line 5\n")

    notebook = bo.open(elsewhere, "long.ipynb", kernel="busy")
    expect(notebook.output(0)).to_have_text(WHOLE[: 6 * 7].strip(), timeout=SOON_MS)
    let(bo, 6)
    expect(notebook.output(0)).to_have_text(WHOLE[: 7 * 7].strip(), timeout=SOON_MS)
    let(bo, 7, 8)
    expect(notebook.output(0)).to_have_text(WHOLE.strip(), timeout=SOON_MS)
    notebook.is_done(0, 1)
    notebook.run_and_see(1, "and then 8")
    notebook.save()
    assert on_disk(bo, 9) == WHOLE


def test_nobody_comes_back_and_the_file_has_it_all(bo: Student) -> None:
    first = bo.browser()
    bo.put_notebook(first, "long.ipynb", LINES.format(lines=9).strip(), "print('done before, and not saved')")
    notebook = bo.open(first, "long.ipynb")
    notebook.run_and_see(1, "done before")
    notebook.is_done(1, 1)
    let(bo, 0)
    notebook.run_and_see(0, "line 0")
    first.close()
    let(bo, *range(9))
    assert on_disk(bo, 9) == WHOLE
    before = bo.notebook_on_disk("long.ipynb").cells[1]
    assert [output.text for output in before.outputs] == ["done before, and not saved\n"], before


def test_a_question_that_was_asked_while_nobody_looked_is_answered_from_a_new_page(bo: Student) -> None:
    first = bo.browser()
    asks = "name = input('Who? ')\nprint('Good to meet you,', name)"
    bo.put_notebook(first, "long.ipynb", LINES.format(lines=3).strip() + "\n" + asks)
    notebook = bo.open(first, "long.ipynb")
    let(bo, 0)
    notebook.run_and_see(0, "line 0")
    first.close()
    let(bo, 1, 2)
    notebook = bo.open(bo.browser(), "long.ipynb", kernel="busy")
    notebook.shows(0, "line 2")
    notebook.answer(0, "Bo")
    notebook.shows(0, "Good to meet you, Bo")
    notebook.is_done(0, 1)


def test_a_page_is_loaded_again_in_the_middle_of_a_cell_and_goes_on(bo: Student) -> None:
    context = bo.browser()
    notebook = started(bo, context)
    notebook.reload(kernel="busy")
    notebook.shows(0, "line 1")
    let(bo, *range(2, 9))
    expect(notebook.output(0)).to_have_text(WHOLE.strip(), timeout=SOON_MS)
    notebook.is_done(0, 1)


def test_two_browsers_at_the_same_time_see_the_same_and_a_killed_owner_only_costs_a_moment(bo: Student) -> None:
    here = bo.browser()
    mine = started(bo, here)
    yours = bo.open(bo.browser(), "long.ipynb", kernel="busy")
    yours.shows(0, "line 1")
    let(bo, 2, 3)
    for notebook in (mine, yours):
        notebook.shows(0, "line 3")
    with bo.expecting("net::ERR"), bo.expecting("WebSocket connection to"), bo.expecting("status of 503"):
        kill_owner(bo, here)
    let(bo, *range(4, 9))
    for notebook in (mine, yours):
        expect(notebook.output(0)).to_have_text(WHOLE.strip(), timeout=SOON_MS)
        notebook.is_done(0, 1)
