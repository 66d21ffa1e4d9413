"""What a student reads in the notebook when something goes wrong: one line, in words, in both stock front ends.

On a real installation. Each test waits for what is to be read; what must not come (dialogs) is looked for at the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from local.stack import Stack
from tests.browser.conftest import FLAGS
from tests.cluster.conftest import running
from tests.cluster.test_farewells import WHY, bid_farewell
from tests.redis_server import RedisServer

pytestmark = pytest.mark.timeout(300)

SOON_MS: Final = 60_000
NOTHING: Final = re.compile(r"^(New kernel)?(Dismiss)?$")  # the buttons of an empty line are there, and hidden
FRONTS: Final = {"notebook": "/notebooks/a.ipynb", "lab": "/lab/tree/a.ipynb"}
CELL: Final[dict[str, Any]] = {
    "cell_type": "code",
    "id": "c1",
    "metadata": {},
    "source": "",
    "outputs": [],
    "execution_count": None,
}
SPEC: Final = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
NOTEBOOK: Final = {"cells": [CELL], "metadata": {"kernelspec": SPEC}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def stack(redis: RedisServer) -> Iterator[Stack]:
    with running(redis, workers=2, settings={"KERNELRING_QUOTA_MIB": "1"}) as shared:
        yield shared


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield chromium
        chromium.close()


class Desk:
    """A student with a notebook open in one of the front ends."""

    def __init__(self, stack: Stack, browser: Browser, front: str, user: str) -> None:
        self.stack, self.user, self._front = stack, user, front
        self._context = browser.new_context(viewport={"width": 1280, "height": 700})
        self.call("PUT", "/api/contents/a.ipynb", {"type": "notebook", "format": "json", "content": NOTEBOOK})
        page = self._context.new_page()
        page.goto(f"{stack.url}/?token={stack.token(user)}", timeout=SOON_MS)
        page.close()
        self.open()

    def open(self) -> None:
        """Open the notebook, in a page of its own."""
        self.page: Page = self._context.new_page()
        self.page.goto(self.stack.url + FRONTS[self._front], timeout=2 * SOON_MS)
        self.line: Locator = self.page.locator(".kr-Line")
        expect(self.line).to_have_count(1, timeout=2 * SOON_MS)

    def close(self) -> None:
        self._context.close()

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Ask the API as the student."""
        headers = {"Authorization": f"token {self.stack.token(self.user)}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        url = self.stack.url + path
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 (ours)
        with urllib.request.urlopen(request, timeout=SOON_MS / 1000) as answer:  # noqa: S310
            text = answer.read()
        return json.loads(text) if text else None

    def run(self, code: str) -> None:
        """Put the code into the cell and run it."""
        self.page.locator(".jp-Notebook .cm-content").first.click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(code)
        self.page.keyboard.press("Control+Enter")

    def reads(self, text: str | re.Pattern[str]) -> None:
        """Wait for the cell's output."""
        expect(self.page.locator(".jp-Notebook .jp-OutputArea-output").first).to_contain_text(text, timeout=SOON_MS)

    def is_told(self, text: str | re.Pattern[str]) -> None:
        """Wait for a sentence in the line."""
        expect(self.line).to_contain_text(text, timeout=SOON_MS)

    def pid(self) -> int:
        """The kernel's process."""
        self.run("import os; print('pid', os.getpid())")
        self.reads(re.compile(r"pid \d+"))
        return int(self.page.locator(".jp-Notebook .jp-OutputArea-output").first.inner_text().split()[1])

    def kernel(self) -> str:
        """The id of the notebook's kernel."""
        (session,) = self.call("GET", "/api/sessions")
        return str(session["kernel"]["id"])


@pytest.fixture(params=list(FRONTS))
def desk(request: pytest.FixtureRequest, stack: Stack, browser: Browser) -> Iterator[Desk]:
    name = re.sub(r"\W", "-", request.node.name)
    made = Desk(stack, browser, request.param, f"ada-{name[-40:]}")
    yield made
    expect(made.page.locator(".jp-Dialog")).to_have_count(0)
    made.close()
    for session in made.call("GET", "/api/sessions"):
        made.call("DELETE", f"/api/sessions/{session['id']}")


def test_a_kernel_that_is_killed_is_told_of_and_the_line_can_be_put_away(desk: Desk) -> None:
    pid = desk.pid()
    os.kill(pid, signal.SIGKILL)
    desk.is_told("The kernel ended: killed by signal 9 (SIGKILL). A new one takes its place; variables are lost.")
    assert desk.pid() != pid
    desk.page.set_viewport_size({"width": 400, "height": 700})
    desk.page.get_by_role("button", name="Dismiss").click()
    expect(desk.line).to_have_text(NOTHING)
    assert desk.page.evaluate("document.querySelector('.kr-Line').offsetHeight") == 0


def test_a_worker_that_is_killed_costs_a_word_at_most_and_no_line_of_output(desk: Desk) -> None:
    desk.run("import time\nfor n in range(60):\n    print(f'line {n}', flush=True); time.sleep(0.1)")
    desk.reads("line 5")
    for slot in range(2):
        mark = desk.stack.mark()
        os.kill(desk.stack.worker_of(f"{slot}"), signal.SIGKILL)
        desk.stack.wait_event("worker_registered", mark)
    desk.reads("line 59")
    shown = desk.page.locator(".jp-Notebook .jp-OutputArea-output").first.inner_text().split("\n")
    assert [line for line in shown if line] == [f"line {n}" for n in range(60)]
    expect(desk.line).to_have_text(NOTHING, timeout=SOON_MS)


def test_while_redis_is_away_nothing_is_said_and_cells_run(desk: Desk, redis: RedisServer) -> None:
    desk.pid()
    redis.stop()
    desk.run("print('still', 'here')")
    desk.reads("still here")
    expect(desk.line).to_have_text(NOTHING)
    redis.start()
    desk.stack.wait_ready()


def test_while_the_server_is_away_the_line_says_so_and_goes_by_itself(desk: Desk) -> None:
    pid = desk.pid()
    desk.stack.stop_gunicorn()
    desk.is_told("Reconnecting to your kernel. What runs goes on; nothing is lost.")
    desk.stack.start()
    desk.is_told("Connected again.")
    expect(desk.line).to_have_text(NOTHING, timeout=SOON_MS)
    assert desk.pid() == pid


def test_why_a_kernel_ended_is_told_to_who_opens_the_notebook_again(desk: Desk) -> None:
    desk.pid()
    ended = desk.kernel()
    desk.page.close()
    desk.call("DELETE", f"/api/kernels/{ended}")
    farewell = bid_farewell(desk.stack, desk.user, ended, WHY)
    with ThreadPoolExecutor(1) as thread:  # Playwright has an event loop in this one
        thread.submit(asyncio.run, farewell).result()
    desk.open()
    desk.is_told(f"{WHY} Variables are lost; your notebooks are on disk.")


def test_a_kernel_that_was_killed_meanwhile_is_told_of_once(desk: Desk) -> None:
    pid = desk.pid()
    desk.page.close()
    mark = desk.stack.mark()
    os.kill(pid, signal.SIGKILL)
    desk.stack.wait_event("kernel_attached", mark)
    desk.open()
    desk.is_told("The kernel ended: killed by signal 9 (SIGKILL).")


def test_a_notebook_that_is_not_saved_says_why(desk: Desk) -> None:
    desk.run(f"#{'x' * 2_000_000}")
    desk.page.keyboard.press("Control+s")
    dialog = desk.page.locator(".jp-Dialog")
    expect(dialog).to_contain_text("delete something, then save again", timeout=SOON_MS)
    dialog.get_by_role("button").first.click()
