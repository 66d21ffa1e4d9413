"""Two tabs of one notebook, and two students at once."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Route, expect

from tests.browser.conftest import NewStudent
from tests.browser.kit import SOON_MS, Student, dialog


def test_a_second_tab_shows_what_the_first_has_run_in_the_same_kernel(ada: Student) -> None:
    context = ada.browser()
    ada.put_notebook(context, "two.ipynb", "x = 41\nprint('from the first')", "x + 1")
    first = ada.open(context, "two.ipynb")
    first.run_and_see(0, "from the first")
    first.save()
    second = ada.open(context, "two.ipynb")
    second.shows(0, "from the first")
    second.run_and_see(1, "42")


def test_two_tabs_never_overwrite_each_other_without_asking(ada: Student) -> None:
    context = ada.browser()
    ada.put_notebook(context, "two.ipynb", "'as it was'")
    first, second = ada.open(context, "two.ipynb"), ada.open(context, "two.ipynb")
    first.write(0, "'of the first tab'")
    first.save()
    second.write(0, "'of the second tab'")
    second.page.keyboard.press("Control+s")
    question = dialog(second.page)
    expect(question).to_contain_text("has changed on disk", timeout=SOON_MS)
    assert ada.notebook_on_disk("two.ipynb").cells[0].source == "'of the first tab'"
    question.get_by_text("Revert", exact=True).click()
    expect(second.editor(0)).to_have_text("'of the first tab'", timeout=SOON_MS)


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_saved_by_another_in_the_midst_of_a_save_is_not_lost(ada: Student, when: str) -> None:
    """Between the front end's look at what is on disk and its save; between its save and its look at what it saved."""
    context = ada.browser()
    ada.put_notebook(context, "two.ipynb", "'as it was'")
    with ada.expecting("412"), ada.expecting("changed meanwhile"):  # of a refused save, whenever a script says so
        notebook = ada.open(context, "two.ipynb")

    def both_save(route: Route) -> None:
        if route.request.method != "PUT":
            return route.continue_()
        if when == "after":
            answer = route.fetch()
            ada.put_notebook(context, "two.ipynb", "'of another'")
            return route.fulfill(response=answer)
        ada.put_notebook(context, "two.ipynb", "'of another'")
        return route.continue_()

    address = re.compile("/api/contents/two.ipynb")
    notebook.page.route(address, both_save)
    notebook.write(0, "'of this tab'")
    last = "POST" if when == "after" else "PUT"  # a checkpoint; before that is made the key is not heard again
    with notebook.page.expect_response(
        lambda answer: answer.request.method == last and "two.ipynb" in answer.url
    ) as saved:
        notebook.page.keyboard.press("Control+s")
    assert saved.value.ok == (when == "after")
    if when == "before":
        expect(dialog(notebook.page)).to_contain_text("has been changed meanwhile", timeout=SOON_MS)
        notebook.page.keyboard.press("Enter")
        expect(dialog(notebook.page)).to_have_count(0)
    notebook.page.unroute(address)
    notebook.write(0, "'of this tab, again'")
    notebook.page.keyboard.press("Control+s")
    question = dialog(notebook.page)
    expect(question).to_contain_text("has changed on disk", timeout=SOON_MS)
    assert ada.notebook_on_disk("two.ipynb").cells[0].source == "'of another'"
    question.get_by_text("Overwrite", exact=True).click()
    expect(question).to_have_count(0)
    ada.stack.wait(
        lambda: ada.notebook_on_disk("two.ipynb").cells[0].source == "'of this tab, again'", "what was chosen"
    )
    ada.put_notebook(context, "two.ipynb", "'of a third'")
    notebook.write(0, "'of this tab, at last'")

    def is_told() -> bool:
        notebook.page.keyboard.press("Control+s")
        return dialog(notebook.page).filter(has_text="changed").count() > 0

    ada.stack.wait(is_told, "words about the third")
    assert ada.notebook_on_disk("two.ipynb").cells[0].source == "'of a third'"


def test_two_students_at_once_see_nothing_of_each_other(new_student: NewStudent) -> None:
    eve, mallory = new_student("eve"), new_student("mallory")
    hers = eve.notebook("secret.ipynb", "secret = 'of eve'\nprint(secret)")
    hers.run_and_see(0, "of eve")
    hers.save()
    his = mallory.notebook("mine.ipynb", "print('secret' in globals())")
    his.run_and_see(0, "False")

    context = his.page.context
    kernel = eve.api(hers.page.context, "GET", "/api/kernels").json()[0]["id"]
    assert kernel not in mallory.api(context, "GET", "/api/kernels").text()
    assert "secret.ipynb" not in mallory.api(context, "GET", "/api/sessions").text()
    assert "secret.ipynb" not in mallory.api(context, "GET", "/api/contents").text()
    other = eve.folder.name
    for path in (
        f"/api/kernels/{kernel}",
        f"/api/kernels/{kernel}/execute",
        f"/api/kernels/{kernel}/channels",
        "/api/contents/secret.ipynb",
        f"/api/contents/{other}/secret.ipynb",
        f"/api/contents/..%2F{other}%2Fsecret.ipynb",
        "/files/secret.ipynb",
        f"/files/..%2F{other}%2Fsecret.ipynb",
        "/nbconvert/html/secret.ipynb",
    ):
        assert mallory.api(context, "GET", path).status == 404, path
    assert mallory.api(context, "POST", f"/api/kernels/{kernel}/interrupt").status == 404
    assert mallory.api(context, "DELETE", f"/api/kernels/{kernel}").status == 404

    page = context.new_page()
    page.goto(f"{mallory.stack.url}/tree")
    page.get_by_role("tab", name="Running").click()
    running = page.locator(".jp-RunningSessions")
    expect(running.get_by_text("mine.ipynb").first).to_be_visible(timeout=SOON_MS)
    expect(running.get_by_text("secret.ipynb")).to_have_count(0)
    hers.write(0, "secret")
    hers.run_and_see(0, "'of eve'")
