"""The kernel in a student's hand: interrupting, restarting, and running in Lab and in a console as well."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.kit import SOON_MS, Notebook, Place, Student, dialog

ENDLESS = "print('it begins')\nwhile True:\n    pass"


@pytest.mark.parametrize("place", ["notebooks", "lab/tree"])
def test_a_cell_is_interrupted_and_the_kernel_restarted_from_the_keyboard(ada: Student, place: Place) -> None:
    notebook = ada.notebook("loop.ipynb", "x = 41\n" + ENDLESS, "x + 1", place=place)
    notebook.run_and_see(0, "it begins")
    notebook.kernel_is("busy")
    notebook.press("i", "i")
    notebook.shows(0, "KeyboardInterrupt")
    notebook.run_and_see(1, "42")
    restart(notebook)
    notebook.run_and_see(1, "NameError: name 'x' is not defined")
    notebook.is_done(1, 1)


@pytest.mark.parametrize("place", ["notebooks", "lab/tree"])
def test_the_buttons_run_interrupt_and_restart(ada: Student, place: Place) -> None:
    notebook = ada.notebook("buttons.ipynb", ENDLESS, "print('still here')", place=place)
    notebook.editor(0).click()
    notebook.button("notebook:run-cell-and-select-next").click()
    notebook.shows(0, "it begins")
    notebook.button("notebook:interrupt-kernel").click()
    notebook.shows(0, "KeyboardInterrupt")
    notebook.run_and_see(1, "still here")
    notebook.is_done(1, 2)
    notebook.button("notebook:restart-kernel").click()
    dialog(notebook.page).locator("button.jp-mod-accept").click()
    notebook.kernel_is("idle")
    notebook.run_and_see(1, "still here")
    notebook.is_done(1, 1)
    expect(notebook.page.locator(".jp-DebuggerBugButton")).to_have_attribute("aria-disabled", "true")  # it is off here


def test_cells_that_wait_behind_an_interrupted_one_do_not_run(ada: Student) -> None:
    notebook = ada.notebook("queue.ipynb", ENDLESS, "print('this ' + 'has run')", "print('and ' + 'this')")
    notebook.run_and_see(0, "it begins")
    notebook.run(1)
    notebook.is_running(1)
    notebook.press("i", "i")
    notebook.shows(0, "KeyboardInterrupt")
    notebook.run_and_see(2, "and this")
    expect(notebook.output(1)).not_to_contain_text("this has run")


def test_a_console_runs_a_line(ada: Student) -> None:
    page = ada.browser().new_page()
    page.goto(f"{ada.stack.url}/consoles/lesson")
    dialog(page).locator("button.jp-mod-accept").click()  # "Select": Python 3
    prompt = page.locator(".jp-CodeConsole-promptCell .cm-content")
    expect(page.locator(".jp-CodeConsole-banner")).to_contain_text("Python 3", timeout=SOON_MS)
    prompt.fill("print(6 * 7)")
    prompt.press("Shift+Enter")
    expect(page.locator(".jp-CodeConsole-content")).to_contain_text("42", timeout=SOON_MS)


def restart(notebook: Notebook) -> None:
    """Restart the kernel from the keyboard: 0 0, and Enter in the dialog."""
    notebook.press("0", "0")
    expect(dialog(notebook.page)).to_contain_text("Restart Kernel?", timeout=SOON_MS)
    notebook.page.keyboard.press("Enter")
    expect(dialog(notebook.page)).to_have_count(0, timeout=SOON_MS)
    notebook.kernel_is("idle")
