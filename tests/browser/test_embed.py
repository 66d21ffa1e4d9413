"""Lessons on another site: README's two pages, as they stand there, in a browser; and what foreign pages cannot do.

The library of the page that runs cells is a stand-in (`services_standin.js`) with the same protocol.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Frame, FrameLocator, Page, expect

from local.stack import Stack
from server.workdir import user_directory
from tests.browser.site import Site
from tests.browser.test_home import SOON_MS
from tests.cluster.conftest import running
from tests.redis_server import RedisServer

README = Path(__file__).parents[2] / "README.md"
STANDIN = Path(__file__).with_name("services_standin.js")

DOT = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"><circle cx="20" cy="20" r="20"/></svg>'
DRAWN = """() => { const dot = document.querySelector("img[alt='A dot']"); return dot?.naturalWidth === 40; }"""

# What a page of another site can try with a browser that is logged in here.
ASK = """async ([url, init]) => {
  try { return (await (await fetch(url, init)).json()).identity?.username ?? "refused"; }
  catch (error) { return error.name; }
}"""
OPEN = """(url) => new Promise((resolve) => {
  const socket = new WebSocket(url);
  socket.onopen = () => resolve("open");
  socket.onerror = () => resolve("refused");
})"""


def examples() -> list[str]:
    """The pages in README's section, as a reader would copy them."""
    _, _, rest = README.read_text(encoding="utf-8").partition("\n## In a lesson\n")
    return re.findall(r"```html\n(.*?)```", rest.partition("\n## ")[0], re.DOTALL)


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site that may call the API, and show notebooks in frames."""
    with Site(tmp_path_factory.mktemp("school")) as site:
        site.put("services.js", STANDIN.read_text(encoding="utf-8"))
        yield site


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site that may do neither."""
    with Site(tmp_path_factory.mktemp("stranger")) as site:
        site.put("services.js", STANDIN.read_text(encoding="utf-8"))
        site.put("empty.html", "<!doctype html><title>Stranger</title>")
        yield site


@pytest.fixture(scope="module")
def stack(school: Site) -> Iterator[Stack]:
    settings = {"KERNELRING_ALLOW_ORIGIN": school.origin, "KERNELRING_FRAME_ANCESTORS": school.origin}
    with RedisServer() as redis, running(redis, workers=2, settings=settings, confined=True) as shared:
        yield shared


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context() as context:
        yield context.new_page()


def published(text: str, stack: Stack, site: Site, token: str) -> str:
    """The address of a page of README's on a site, which has written a token into it."""
    assert len(text.splitlines()) < 40
    return site.put("lesson.html", text.replace("http://localhost:8000", stack.url).replace("TOKEN", token))


def with_cells(stack: Stack, site: Site, user: str) -> str:
    """The address of README's page with cells of its own."""
    return published(examples()[1], stack, site, stack.token(user))


def with_frame(stack: Stack, site: Site, token: str, notebook: str = "Welcome.ipynb") -> str:
    """The address of README's page with a notebook in a frame."""
    page = '<!doctype html><meta name="viewport" content="width=device-width"><body style="margin: 0">'
    return published(page + examples()[0].replace("Welcome.ipynb", notebook), stack, site, token)


def write(stack: Stack, user: str, name: str, code: str) -> None:
    """Give a user a notebook with one cell, and a picture below it."""
    cell: dict[str, Any] = {"cell_type": "code", "id": "a", "metadata": {}, "source": code, "outputs": []}
    picture = {"cell_type": "markdown", "id": "b", "metadata": {}, "source": "![A dot](dot.svg)"}
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": spec},
        "cells": [cell | {"execution_count": None}, picture],
    }
    home = user_directory(stack.directory / "notebooks", user)
    home.mkdir(parents=True, exist_ok=True)
    (home / name).write_text(json.dumps(book))
    (home / "dot.svg").write_text(DOT)


def frame_of(page: Page) -> Frame:
    return page.frames[1]


def run_in(frame: FrameLocator) -> None:
    """Run the first cell of the notebook in a frame, with the toolbar's button."""
    frame.locator(".jp-CodeCell .cm-content").first.click(timeout=3 * SOON_MS)
    frame.get_by_role("toolbar").get_by_title("Run this cell and advance").or_(
        frame.locator('[data-command="notebook:run-cell-and-select-next"]')
    ).first.click()


def kernel_of(page: Page) -> str:
    """A new kernel of whoever is logged in on our own page."""
    made = page.evaluate("fetch('/api/kernels', {method: 'POST'}).then((answer) => answer.json())")
    return str(made["id"])


def run(page: Page, code: str | None = None) -> str:
    """Run a cell of the page; what it shows."""
    button = page.get_by_role("button", name="Run")
    expect(button).to_be_enabled(timeout=SOON_MS)
    if code is not None:
        page.locator("#code").fill(code)
    button.click()  # from here on it is disabled, until the cell is done
    expect(button).to_be_enabled(timeout=SOON_MS)
    return page.locator("#output").inner_text().strip()


def test_readmes_page_runs_cells_and_finds_its_variables_again(stack: Stack, school: Site, page: Page) -> None:
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: dialog.accept("Ada"))
    page.goto(with_cells(stack, school, "ada"))
    assert run(page) == "Hello Ada"
    assert run(page, "1 / 0") == "ZeroDivisionError: division by zero"
    page.reload()
    assert run(page, "print(len(name))\nname") == "3\n'Ada'"
    assert faults == []
    assert page.context.cookies() == []


def test_the_same_page_on_a_site_that_is_not_on_the_list_gets_nowhere(stack: Stack, stranger: Site, page: Page) -> None:
    with page.expect_event("pageerror", timeout=SOON_MS) as error:
        page.goto(with_cells(stack, stranger, "eve"))
    assert "Failed to fetch" in str(error.value)
    expect(page.get_by_role("button", name="Run")).to_be_disabled()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])  # the second is the same site, so the cookie goes along
def test_a_login_here_is_nothing_to_a_page_elsewhere(
    stack: Stack, school: Site, stranger: Site, page: Page, host: str
) -> None:
    school.put("empty.html", "<!doctype html><title>School</title>")
    page.goto(f"{stack.url}/?token={stack.token('ada')}")
    socket = f"{stack.url.replace('http', 'ws', 1)}/api/kernels/{kernel_of(page)}/channels"
    assert page.evaluate(OPEN, socket) == "open"
    token = stack.token("bob")
    for site, expected in ((school, "bob"), (stranger, "TypeError")):
        origin = site.origin.replace("localhost", host)
        allowed = expected if host == "localhost" else "TypeError"  # a host by another name is another origin
        page.goto(f"{origin}/empty.html")
        url = f"{stack.url}/api/me"
        for init in ({}, {"credentials": "include"}, {"method": "DELETE", "credentials": "include"}):
            assert page.evaluate(ASK, [url, init]) == "TypeError"
        assert page.evaluate(ASK, [url, {"headers": {"Authorization": f"Bearer {token}"}}]) == allowed
        with_cookie = {"headers": {"Authorization": f"Bearer {token}"}, "credentials": "include"}
        assert page.evaluate(ASK, [url, with_cookie]) == "TypeError"
        assert page.evaluate(OPEN, socket) == "refused"


def test_a_notebook_runs_in_a_frame_on_another_site_without_a_login(stack: Stack, school: Site, page: Page) -> None:
    write(stack, "ada", "sum of 1.ipynb", "print('six times seven is', 6 * 7)")
    token, mark = stack.token("ada", lifetime_s=60), stack.mark()
    page.set_viewport_size({"width": 400, "height": 700})
    page.goto(with_frame(stack, school, token, "sum%20of%201.ipynb"))
    frame = page.frame_locator("iframe")
    run_in(frame)
    expect(frame.locator(".jp-OutputArea-output")).to_have_text("six times seven is 42", timeout=3 * SOON_MS)
    frame_of(page).wait_for_function(DRAWN, timeout=SOON_MS)
    assert "kernelring" not in {cookie["name"] for cookie in page.context.cookies()}
    assert token not in frame_of(page).url
    assert token.rpartition(".")[2] not in stack.log_path.read_text()[mark:]
    for chrome in ("#top-panel-wrapper", "#menu-panel-wrapper", ".jp-nb-interface-switcher-button"):
        expect(frame.locator(chrome)).not_to_be_visible()
    toolbar = frame.locator(".jp-NotebookPanel-toolbar").bounding_box()
    edge = page.locator("iframe").bounding_box()
    assert toolbar
    assert edge
    assert toolbar["y"] - edge["y"] < 4  # nothing above it, not even room
    assert frame_of(page).evaluate("document.documentElement.scrollWidth") <= 400


def test_the_token_in_a_frames_address_may_end_while_the_page_is_open(stack: Stack, school: Site, page: Page) -> None:
    """The page has one of its own, which logs nobody in."""
    write(stack, "bob", "own.ipynb", "1")
    page.goto(with_frame(stack, school, stack.token("bob"), "own.ipynb"))
    frame = frame_of(page)
    config = frame.locator("#jupyter-config-data").inner_text(timeout=SOON_MS)
    own = json.loads(config)["token"]
    headers = {"headers": {"Authorization": f"token {own}"}}
    assert frame.evaluate(ASK, [f"{stack.url}/api/me", headers]) == "bob"
    assert frame.evaluate(ASK, [f"{stack.url}/api/me", {}]) == "refused"
    assert page.request.post(f"{stack.url}/login", data={"token": own}).status == 403
    assert page.request.get(f"{stack.url}/embed/own.ipynb?token={own}").status == 403


@pytest.mark.parametrize("path", ["/embed/Welcome.ipynb", "/tree", "/login"])
def test_a_site_that_may_not_frame_it_is_refused_by_the_browser(
    stack: Stack, stranger: Site, page: Page, path: str
) -> None:
    address = f"{stack.url}{path}?token={stack.token('ada')}"
    page.goto(stranger.put("frame.html", f'<!doctype html><iframe src="{address}"></iframe>'))
    frame_of(page).wait_for_url("chrome-error://chromewebdata/", timeout=SOON_MS)


@pytest.mark.parametrize(("token", "why"), [("", "Nobody is logged in here."), ("x", "This is not a valid token")])
def test_a_frame_says_why_it_shows_no_notebook(stack: Stack, school: Site, page: Page, token: str, why: str) -> None:
    page.goto(with_frame(stack, school, token))
    alert = page.frame_locator("iframe").get_by_role("alert")
    expect(alert).to_contain_text(why, timeout=SOON_MS)
    expect(alert).to_contain_text("Load the lesson again")


def test_a_login_here_is_kept_from_the_frame_and_by_it(stack: Stack, school: Site, page: Page) -> None:
    page.goto(f"{stack.url}/?token={stack.token('ada')}")
    page.goto(with_frame(stack, school, ""))  # another site: the cookie does not go along
    expect(page.frame_locator("iframe").get_by_role("alert")).to_contain_text("Nobody", timeout=SOON_MS)
    page.goto(with_frame(stack, school, stack.token("bob")))
    assert frame_of(page).locator("#jupyter-config-data").count() == 1
    page.goto(stack.url)
    expect(page.locator("#user")).to_have_text("ada", timeout=SOON_MS)
