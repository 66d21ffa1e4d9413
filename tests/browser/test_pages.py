"""Notebook 7 and JupyterLab in a real browser, on a real installation: they load whole, and run a cell.

Nothing is asked of another host, no request fails and no script complains, but for what the front ends
are known to say (`kit.KNOWN`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, expect

from local.stack import Stack
from server.workdir import user_directory
from tests.browser.kit import KNOWN
from tests.cluster.conftest import running
from tests.redis_server import RedisServer

SOON_MS = 30_000
NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code",
            "id": "one",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": "print('he' + 'llo')",
        }
    ],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}
# Notebook 7.6 with jupyter_server, too: its shortcuts listen to settings before their own are loaded.
READY = {
    "/tree": ".jp-DirListing-item",
    "/notebooks/lesson.ipynb": ".jp-Notebook .jp-Cell",
    "/edit/notes.txt": ".jp-FileEditor .cm-content",
    "/consoles/1": ".jp-CodeConsole",
    "/lab": ".jp-DirListing-item",
    "/lab/tree/lesson.ipynb": ".jp-Notebook .jp-Cell",
    "/doc/tree/lesson.ipynb": ".jp-Notebook .jp-Cell",
}

# As JupyterLab saves a setting: the cookie repeated in a header.
SAVE_THEME = """async theme => (await fetch("/lab/api/settings/@jupyterlab/apputils-extension:themes", {
    method: "PUT",
    headers: {"X-XSRFToken": document.cookie.match(/_xsrf=([^;]+)/)[1]},
    body: JSON.stringify({raw: JSON.stringify({theme})}),
})).status"""

Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with RedisServer() as redis, running(redis, confined=True) as shared:
        for user in ("ada", "bob"):
            home = user_directory(shared.directory / "notebooks", user)
            (home / "lesson.ipynb").write_text(json.dumps(NOTEBOOK))
            (home / "notes.txt").write_text("notes")
        yield shared


@pytest.fixture
def visit(stack: Stack, browser: Browser) -> Iterator[Visit]:
    """Open a page as a user, by token; afterwards nothing may have gone wrong in it."""
    faults: list[str] = []

    def watch(page: Page) -> None:
        def console(message: ConsoleMessage) -> None:
            faults.extend(
                [f"console: {message.text}"] if message.type == "error" and not _is_known(message.text) else []
            )

        def response(answer: Response) -> None:
            faults.extend([f"{answer.status} {answer.url}"] if answer.status >= 400 else [])

        page.on("pageerror", lambda error: faults.extend([] if _is_known(str(error)) else [f"page: {error}"]))
        page.on("console", console)
        page.on("response", response)
        page.on("request", lambda asked: faults.extend([] if _is_ours(asked.url, stack) else [asked.url]))

    with ExitStack() as closing:

        def open_page(path: str, user: str = "ada", width: int = 1280) -> Page:
            context = closing.enter_context(browser.new_context(viewport={"width": width, "height": 900}))
            page = context.new_page()
            watch(page)
            page.goto(f"{stack.url}{path}?token={stack.token(user)}")
            assert "token" not in page.url
            return page

        yield open_page
        assert faults == []


def _is_known(text: str) -> bool:
    return any(known in text for known in KNOWN)


def _is_ours(url: str, stack: Stack) -> bool:
    return url.startswith((stack.url, "data:", "blob:"))


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("path", READY)
def test_each_page_loads_whole(visit: Visit, path: str, width: int) -> None:
    page = visit(path, width=width)
    expect(page.locator(READY[path]).first).to_be_attached(timeout=SOON_MS)
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("path", ["/notebooks/lesson.ipynb", "/lab/tree/lesson.ipynb"])
def test_a_cell_runs_with_the_keyboard_and_shows_its_output(visit: Visit, path: str) -> None:
    page = visit(path)
    expect(page.get_by_text("| Idle").or_(page.locator("[data-status=idle]")).first).to_be_attached(timeout=SOON_MS)
    page.locator(".jp-Notebook .jp-Cell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".jp-OutputArea-output").first).to_contain_text("hello", timeout=SOON_MS)


def test_in_a_narrow_window_jupyterlab_opens_with_its_side_bar_closed_and_only_there(visit: Visit) -> None:
    for width in (400, 1280):
        page = visit("/lab/tree/lesson.ipynb", user="bob", width=width)
        expect(page.locator(READY["/lab/tree/lesson.ipynb"]).first).to_be_attached(timeout=SOON_MS)
        expect(page.locator("#jp-left-stack")).to_be_visible(visible=width > 700, timeout=SOON_MS)
        assert page.evaluate("document.querySelector('.jp-Notebook').offsetWidth") > 300
        page.wait_for_load_state("networkidle")  # the layout is kept


def test_the_theme_that_one_student_chooses_is_theirs_in_the_next_page_and_nobody_elses(visit: Visit) -> None:
    page = visit("/tree")
    expect(page.locator("body[data-jp-theme-light=true]")).to_be_attached(timeout=SOON_MS)
    status = page.evaluate(SAVE_THEME, "JupyterLab Dark")
    assert status == 204
    page.reload()
    expect(page.locator("body[data-jp-theme-name='JupyterLab Dark']")).to_be_attached(timeout=SOON_MS)
    expect(visit("/tree", user="bob").locator("body[data-jp-theme-light=true]")).to_be_attached(timeout=SOON_MS)


def test_home_leads_to_both(visit: Visit) -> None:
    page = visit("/")
    page.get_by_role("link", name="Notebooks").click()
    expect(page.locator(".jp-DirListing-item").first).to_be_attached(timeout=SOON_MS)
    page.go_back()
    page.get_by_role("link", name="JupyterLab").click()
    expect(page.locator(".jp-DirListing-item").first).to_be_attached(timeout=SOON_MS)
