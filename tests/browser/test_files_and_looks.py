"""The list of files, the editor of text files, and the theme, as a student uses them."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.browser.kit import SOON_MS, Notebook, Student, choose, dialog


def test_a_file_is_uploaded_downloaded_renamed_and_deleted(ada: Student, tmp_path: Path) -> None:
    data = bytes(range(256)) * 512
    (tmp_path / "measured.dat").write_bytes(data)
    page = tree(ada)
    with page.expect_file_chooser() as chooser:
        page.locator('.jp-FileBrowser [title="Upload"], .jp-FileBrowser [data-jp-item-name="uploader"] button').click()
    chooser.value.set_files(tmp_path / "measured.dat")
    expect(item(page, "measured.dat")).to_be_visible(timeout=SOON_MS)
    assert (ada.folder / "measured.dat").read_bytes() == data

    item(page, "measured.dat").get_by_role("checkbox").check()  # a click on the name would open it
    with page.expect_download() as downloaded:
        page.locator('[data-command="filebrowser:download"]').first.click()
    assert downloaded.value.path().read_bytes() == data
    assert downloaded.value.suggested_filename == "measured.dat"

    page.locator('[data-command="filebrowser:rename"]').first.click()
    name = page.locator("input.jp-DirListing-editor")
    name.fill("voltages.dat")
    name.press("Enter")
    expect(item(page, "voltages.dat")).to_be_visible(timeout=SOON_MS)
    assert (ada.folder / "voltages.dat").read_bytes() == data

    page.locator('[data-command="filebrowser:delete"]').first.click()
    dialog(page).locator("button.jp-mod-accept").click()
    expect(item(page, "voltages.dat")).to_have_count(0, timeout=SOON_MS)
    assert not (ada.folder / "voltages.dat").exists()


def test_a_folder_is_made_and_a_new_notebook_in_it(ada: Student) -> None:
    page = tree(ada)
    new(page, "New Folder")
    name = page.locator("input.jp-DirListing-editor")
    name.fill("week 1")
    name.press("Enter")
    item(page, "week 1").dblclick()
    expect(page).to_have_url(re.compile("/tree/week%201$"), timeout=SOON_MS)
    with page.expect_popup() as opened:
        new(page, "Python 3 (ipykernel)")
    notebook = Notebook(opened.value, ada.stack.url, "week 1/Untitled.ipynb").is_ready()
    notebook.write(0, "import os\nos.path.basename(os.getcwd())")
    notebook.run_and_see(0, "week 1")


def test_a_text_file_is_edited_and_saved(ada: Student) -> None:
    ada.api(ada.browser(), "PUT", "/api/contents/notes.txt", {"type": "file", "format": "text", "content": "one\n"})
    page = ada.browser().new_page()
    page.goto(f"{ada.stack.url}/edit/notes.txt")
    editor = page.locator(".jp-FileEditor .cm-content")
    expect(editor).to_contain_text("one", timeout=SOON_MS)
    editor.fill("one\ntwo\n")
    with page.expect_response(
        lambda answer: answer.request.method == "PUT" and "/api/contents/notes.txt" in answer.url
    ):
        page.keyboard.press("Control+s")
    assert (ada.folder / "notes.txt").read_text() == "one\ntwo\n"


def test_the_dark_theme_is_chosen_and_kept_in_this_browser_and_in_others(ada: Student) -> None:
    page = tree(ada)
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", "true", timeout=SOON_MS)
    with page.expect_response(lambda answer: answer.request.method == "PUT" and "apputils-extension" in answer.url):
        choose(page, "Settings", "Theme", "JupyterLab Dark")
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", "false", timeout=SOON_MS)
    page.reload()
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", "false", timeout=SOON_MS)
    elsewhere = ada.open(ada.browser(), "Welcome.ipynb").page
    expect(elsewhere.locator("body")).to_have_attribute("data-jp-theme-light", "false", timeout=SOON_MS)


def tree(student: Student) -> Page:
    """The list of a student's files."""
    page = student.browser().new_page()
    page.goto(f"{student.stack.url}/tree")
    expect(item(page, "Welcome.ipynb")).to_be_visible(timeout=SOON_MS)
    return page


def item(page: Page, name: str) -> Locator:
    """A line of the list."""
    return page.locator(".jp-DirListing-item", has=page.get_by_text(name, exact=True))


def new(page: Page, what: str) -> None:
    """Choose from the menu "New"."""
    page.locator(".jp-FileBrowser").get_by_text("New", exact=True).first.click()
    page.locator(".lm-Menu-item", has_text=what).first.click()
