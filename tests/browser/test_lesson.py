"""README's page of another site that runs cells here, as it stands there, in a real browser.

Its library is a stand-in (`services_standin.js`) with the same protocol. And what foreign pages cannot do.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from local.stack import Stack
from tests.browser.site import Site
from tests.browser.test_home import FLAGS, SOON_MS
from tests.cluster.conftest import running
from tests.redis_server import RedisServer

README = Path(__file__).parents[2] / "README.md"
STANDIN = Path(__file__).with_name("services_standin.js")

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
    """The site that may call the API."""
    with Site(tmp_path_factory.mktemp("school")) as site:
        site.put("services.js", STANDIN.read_text(encoding="utf-8"))
        yield site


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site that may not."""
    with Site(tmp_path_factory.mktemp("stranger")) as site:
        site.put("services.js", STANDIN.read_text(encoding="utf-8"))
        site.put("empty.html", "<!doctype html><title>Stranger</title>")
        yield site


@pytest.fixture(scope="module")
def stack(school: Site) -> Iterator[Stack]:
    with RedisServer() as redis, running(redis, settings={"KERNELRING_ALLOW_ORIGIN": school.origin}) as shared:
        yield shared


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context() as context:
        yield context.new_page()


def lesson(stack: Stack, site: Site, user: str) -> str:
    """The address of README's page on a site, made for a user of it."""
    text = examples()[1]
    assert len(text.splitlines()) < 40
    return site.put("lesson.html", text.replace("http://localhost:8000", stack.url).replace("TOKEN", stack.token(user)))


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
    button.click()
    expect(button).to_be_disabled()
    expect(button).to_be_enabled(timeout=SOON_MS)
    return page.locator("#output").inner_text().strip()


def test_readmes_page_runs_cells_and_finds_its_variables_again(stack: Stack, school: Site, page: Page) -> None:
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: dialog.accept("Ada"))
    page.goto(lesson(stack, school, "ada"))
    assert run(page) == "Hello Ada"
    assert run(page, "1 / 0") == "ZeroDivisionError: division by zero"
    page.reload()
    assert run(page, "print(len(name))\nname") == "3\n'Ada'"
    assert faults == []
    assert page.context.cookies() == []


def test_the_same_page_on_a_site_that_is_not_on_the_list_gets_nowhere(stack: Stack, stranger: Site, page: Page) -> None:
    with page.expect_event("pageerror", timeout=SOON_MS) as error:
        page.goto(lesson(stack, stranger, "eve"))
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
