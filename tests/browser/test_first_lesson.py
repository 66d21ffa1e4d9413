"""A student's first lesson in Notebook 7: logging in, running cells, plots, questions, widgets, completion."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.kit import SOON_MS, Notebook, Student


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


def test_a_plot_is_shown_as_a_picture(ada: Student) -> None:
    notebook = ada.notebook("plot.ipynb", "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.show()")
    notebook.run(0)
    picture = notebook.output(0).locator("img[src^='data:image/png']")
    expect(picture).to_be_visible(timeout=SOON_MS)
    assert picture.evaluate("image => image.complete && image.naturalWidth > 100")


def test_a_question_of_a_cell_is_answered_in_the_page(ada: Student) -> None:
    notebook = ada.notebook("ask.ipynb", "name = input('Who? ')\nprint('Good to meet you,', name)")
    notebook.run(0)
    notebook.answer(0, "Ada")
    notebook.shows(0, "Good to meet you, Ada")
    notebook.is_done(0)


def test_an_error_is_shown_with_its_traceback_and_the_next_cell_runs(ada: Student) -> None:
    notebook = ada.notebook("error.ipynb", "1 / 0", "6 * 7")
    notebook.run_and_see(0, "ZeroDivisionError: division by zero")
    notebook.run_and_see(1, "42")


def test_tab_shows_what_a_name_may_become_and_enter_takes_one(ada: Student) -> None:
    notebook = ada.notebook("names.ipynb", "planet_earth = 1\nplanet_mars = 2", "")
    notebook.run(0)
    notebook.is_done(0)
    notebook.editor(1).press_sequentially("print(planet_")
    notebook.page.keyboard.press("Tab")
    names = notebook.page.locator(".jp-Completer .jp-Completer-item")
    expect(names).to_have_text([re.compile("planet_earth"), re.compile("planet_mars")], timeout=SOON_MS)
    notebook.page.keyboard.press("ArrowDown")
    notebook.page.keyboard.press("Enter")
    expect(notebook.editor(1)).to_contain_text("print(planet_mars", timeout=SOON_MS)


def test_a_slider_is_moved_with_the_keyboard_and_its_observer_answers(ada: Student) -> None:
    code = """
import ipywidgets
slider = ipywidgets.IntSlider(value=3, description="Speed")
seen = ipywidgets.Output()
@seen.capture(clear_output=True)
def moved(change):
    print("it is", change["new"])
slider.observe(moved, "value")
display(slider, seen)
"""
    notebook = ada.notebook("slider.ipynb", code.strip())
    notebook.run(0)
    handle = notebook.output(0).get_by_role("slider")
    expect(handle).to_be_visible(timeout=SOON_MS)
    handle.press("PageUp")  # five steps; JupyterLab has arrow keys for itself
    notebook.shows(0, "it is 8")
    handle.press("PageUp")
    notebook.shows(0, "it is 13")
    expect(notebook.output(0)).not_to_contain_text("it is 8", timeout=SOON_MS)
