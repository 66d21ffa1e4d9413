"""A student's first lesson in Notebook 7: logging in, running cells, plots, questions, widgets, completion."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import pytest
from playwright.sync_api import Browser, expect

from local.stack import Stack
from tests.browser.kit import SOON_MS, Notebook, Student

SLIDER: Final = """
import ipywidgets
slider = ipywidgets.IntSlider(value=3, description="Speed")
seen = ipywidgets.Output()
@seen.capture(clear_output=True)
def moved(change):
    print("it is", change["new"])
slider.observe(moved, "value")
display(slider, seen)
"""
CELLS: Final = (
    "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.show()",
    "name = input('Who? ')\nprint('Good to meet you,', name)",
    "1 / 0",
    "6 * 7",
    "planet_earth = 1\nplanet_mars = 2",
    "",
    SLIDER.strip(),
)
PLOT, QUESTION, ERROR, AFTER_IT, NAMES, EMPTY, WIDGET = range(len(CELLS))


@pytest.fixture(scope="module")
def lesson(stack: Stack, browser: Browser) -> Iterator[Notebook]:
    """A notebook in a page, for the stories that each have cells of their own in it."""
    student = Student(stack, browser, "ada-lesson")
    yield student.notebook("lesson.ipynb", *CELLS)
    student.close()
    assert student.faults == []


def test_a_student_logs_in_at_the_login_page_and_runs_the_welcome_notebook(ada: Student) -> None:
    page = ada.browser(log_in=False).new_page()
    page.goto(f"{ada.stack.url}/tree")
    page.get_by_label("Token").fill(ada.token)
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_url(f"{ada.stack.url}/tree", timeout=SOON_MS)
    with page.expect_popup() as opened:
        page.locator(".jp-DirListing-item", has_text="Welcome.ipynb").dblclick()
    notebook = Notebook(opened.value, ada.stack.url, "Welcome.ipynb").is_ready()
    notebook.run_and_see(1, "Hello! This ran on the server, in your own kernel.")
    notebook.run(3)
    notebook.run_and_see(4, "3.875")


def test_an_address_with_a_token_leads_to_the_page_and_the_token_is_gone_from_it(ada: Student) -> None:
    page = ada.browser(log_in=False).new_page()
    page.goto(f"{ada.stack.url}/notebooks/Welcome.ipynb?token={ada.token}")
    Notebook(page, ada.stack.url, "Welcome.ipynb").is_ready()
    assert "token" not in page.url


def test_a_plot_is_shown_as_a_picture(lesson: Notebook) -> None:
    lesson.run(PLOT)
    picture = lesson.output(PLOT).locator("img[src^='data:image/png']")
    expect(picture).to_be_visible(timeout=SOON_MS)
    assert picture.evaluate("image => image.complete && image.naturalWidth > 100")


def test_a_question_of_a_cell_is_answered_in_the_page(lesson: Notebook) -> None:
    lesson.run(QUESTION)
    lesson.answer(QUESTION, "Ada")
    lesson.shows(QUESTION, "Good to meet you, Ada")
    lesson.is_done(QUESTION)


def test_an_error_is_shown_with_its_traceback_and_the_next_cell_runs(lesson: Notebook) -> None:
    lesson.run_and_see(ERROR, "ZeroDivisionError: division by zero")
    lesson.run_and_see(AFTER_IT, "42")


def test_tab_shows_what_a_name_may_become_and_enter_takes_one(lesson: Notebook) -> None:
    lesson.run(NAMES)
    lesson.is_done(NAMES)
    lesson.editor(EMPTY).press_sequentially("print(planet_")
    lesson.page.keyboard.press("Tab")
    names = lesson.page.locator(".jp-Completer .jp-Completer-item")
    expect(names).to_have_text([re.compile("planet_earth"), re.compile("planet_mars")], timeout=SOON_MS)
    lesson.page.keyboard.press("ArrowDown")
    lesson.page.keyboard.press("Enter")
    expect(lesson.editor(EMPTY)).to_contain_text("print(planet_mars", timeout=SOON_MS)


def test_a_slider_is_moved_with_the_keyboard_and_its_observer_answers(lesson: Notebook) -> None:
    lesson.run(WIDGET)
    handle = lesson.output(WIDGET).get_by_role("slider")
    expect(handle).to_be_visible(timeout=SOON_MS)
    handle.press("PageUp")  # five steps; JupyterLab has arrow keys for itself
    lesson.shows(WIDGET, "it is 8")
    handle.press("PageUp")
    lesson.shows(WIDGET, "it is 13")
    expect(lesson.output(WIDGET)).not_to_contain_text("it is 8", timeout=SOON_MS)
