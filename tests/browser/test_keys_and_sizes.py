"""The keyboard alone, and small screens."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.kit import DESK, PHONE, SOON_MS, Notebook, Student, fits


def test_from_the_login_page_to_a_saved_notebook_without_a_mouse(ada: Student) -> None:
    context = ada.browser(log_in=False)
    ada.put_notebook(context, "keys.ipynb", "")
    page = context.new_page()
    page.goto(f"{ada.stack.url}/notebooks/keys.ipynb")
    page.keyboard.type(ada.token)  # the field has the focus
    with page.expect_websocket(lambda socket: "/channels" in socket.url, timeout=SOON_MS):
        page.keyboard.press("Enter")
    notebook = Notebook(page, ada.stack.url, "keys.ipynb").is_ready()
    notebook.press("Enter")  # into the cell
    page.keyboard.type("6 * 7")
    page.keyboard.press("Shift+Enter")
    notebook.shows(0, "42")
    notebook.save()
    # The page saves by itself, too, when a cell is run: what was answered first may be that.
    ada.stack.wait(lambda: ada.notebook_on_disk("keys.ipynb").cells[0].outputs, "the output on disk")
    saved = ada.notebook_on_disk("keys.ipynb").cells[0]
    assert (saved.source, saved.outputs[0].data["text/plain"]) == ("6 * 7", "42")


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_a_notebook_and_the_list_of_files_fit_the_screen(ada: Student, size: tuple[int, int]) -> None:
    notebook = ada.notebook("small.ipynb", "'seen'")
    # Not before: a narrow toolbar has the kernel's indicator, which is waited for, behind its last button.
    notebook.page.set_viewport_size({"width": size[0], "height": size[1]})
    page, run = notebook.page, notebook.button("notebook:run-cell-and-select-next")
    assert fits(page)
    notebook.editor(0).click()
    assert is_in_view(run, size)
    assert is_in_view(notebook.editor(0), size)
    run.click()
    notebook.shows(0, "seen")
    assert is_in_view(notebook.output(0), size)

    page.goto(f"{ada.stack.url}/tree")
    line = page.locator(".jp-DirListing-item", has_text="small.ipynb")
    expect(line).to_be_visible(timeout=SOON_MS)
    assert fits(page)
    assert is_in_view(line.locator(".jp-DirListing-itemText"), size)


def is_in_view(place: Locator, size: tuple[int, int]) -> bool:
    """Whether it can be seen without scrolling from side to side."""
    box = place.bounding_box()
    assert box is not None
    return box["width"] > 0 and box["x"] >= 0 and box["x"] + box["width"] <= size[0]
