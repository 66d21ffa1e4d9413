"""A student at a notebook in one of the stock front ends, for tests of what is seen there."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect

from local.stack import Stack
from server.workdir import user_directory

SOON_MS: Final = 60_000
NOTHING: Final = re.compile(r"^(New kernel)?(Dismiss)?$")  # the buttons of an empty line are there, and hidden
FRONTS: Final = {"notebook": "/notebooks/a.ipynb", "lab": "/lab/tree/a.ipynb"}
IDLE: Final = "[data-status=idle], :text('| Idle')"
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
# Each request that fails leaves a line in the console, which no script can prevent: of the server that is away; of a
# kernel that is gone (404), whose end words.js asks for; of a notebook that is too large (413).
KNOWN: Final = ("Failed to load resource", "WebSocket connection to")
# And what the front ends say of that themselves.
THEIRS: Final = re.compile(
    "Auto-Save|Canceled future|Connection lost|reconnect|NetworkError|Failed to fetch|Invalid response"
)


class Desk:
    """`with Desk(stack, browser, front, user) as desk`: the notebook is open, and in the end no dialog is."""

    def __init__(self, stack: Stack, browser: Browser, front: str, user: str) -> None:
        self.stack, self.user = stack, user
        self._browser, self.front = browser, front
        self.errors: list[str] = []  # what scripts have said in the console
        self.place = 0  # of the code cell that is worked on
        self._asked = 0

    @property
    def folder(self) -> Path:
        """Where their files are on the server's disk, and where their cells may write."""
        return user_directory(self.stack.directory / "notebooks", self.user)

    def __enter__(self) -> Self:
        self.call("PUT", "/api/contents/a.ipynb", {"type": "notebook", "format": "json", "content": NOTEBOOK})
        self.move()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                expect(self.page.locator(".jp-Dialog")).to_have_count(0)
                assert not self.errors, self.errors
        finally:
            self._context.close()
            for session in self.call("GET", "/api/sessions"):
                self.call("DELETE", f"/api/sessions/{session['id']}")

    def move(self) -> None:
        """Open the notebook in another browser."""
        self._context: BrowserContext = self._browser.new_context(viewport={"width": 1280, "height": 700})
        address = f"{self.stack.url}/?token={self.stack.token(self.user)}"
        # After Redis was away a worker may say once more that new logins wait.
        self.stack.wait(lambda: self._context.request.get(address, timeout=SOON_MS).ok, "a login")
        self.open()

    def leave(self) -> None:
        """As when the lid is closed."""
        self._context.close()

    def open(self) -> None:
        """Open the notebook, in a page of its own; it has its kernel then."""
        self.page: Page = self._context.new_page()
        self.page.on("console", self._said)
        self.page.goto(self.stack.url + FRONTS[self.front], timeout=2 * SOON_MS)
        self.line: Locator = self.page.locator(".kr-Line")
        expect(self.line).to_have_count(1, timeout=2 * SOON_MS)
        expect(self.page.locator(IDLE).first).to_be_attached(timeout=2 * SOON_MS)

    def _said(self, message: ConsoleMessage) -> None:
        text = message.text
        if message.type == "error" and not text.startswith(KNOWN) and not THEIRS.search(text):
            self.errors.append(text)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Ask the API as the student."""
        headers = {"Authorization": f"token {self.stack.token(self.user)}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        url = self.stack.url + path
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 (ours)
        with urllib.request.urlopen(request, timeout=SOON_MS / 1000) as answer:  # noqa: S310
            text = answer.read()
        return json.loads(text) if text else None

    def write(self, code: str) -> None:
        """Put the code into the cell; again, when the front end, which still opens, has taken the focus meanwhile."""
        editor, end = self.cell.locator(".cm-content"), code.splitlines()[-1][-40:]
        for _ in range(5):
            editor.click()
            editor.press("Control+a")
            self.page.keyboard.insert_text(code)
            try:
                return expect(editor).to_contain_text(end, timeout=SOON_MS / 10)
            except AssertionError:
                continue
        raise AssertionError(f"the cell does not take {end}")

    def run(self, code: str) -> None:
        """Put the code into the cell and run it."""
        self.write(code)
        self.cell.locator(".cm-content").press("Control+Enter")

    @property
    def cell(self) -> Locator:
        """The code cell that is worked on."""
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(self.place)

    @property
    def output(self) -> Locator:
        """The first of what it has put out."""
        return self.cell.locator(".jp-OutputArea-output").first

    def reads(self, text: str | re.Pattern[str]) -> None:
        """Wait for the cell's output."""
        expect(self.output).to_contain_text(text, timeout=SOON_MS)

    def lines(self) -> list[str]:
        """The lines of that."""
        return [line for line in self.output.inner_text().split("\n") if line]

    def is_told(self, text: str | re.Pattern[str]) -> None:
        """Wait for a sentence in the line."""
        expect(self.line).to_contain_text(text, timeout=SOON_MS)

    def dismiss(self) -> None:
        """Put the line away. What is said of the connection stands before the news, and may come just now."""
        button = self.page.get_by_role("button", name="Dismiss")
        button.click()
        while not NOTHING.match(self.line.inner_text().strip()) and button.is_visible():
            button.click()

    def pid(self) -> int:
        """The kernel's process."""
        self._asked += 1  # so that what was read before is not read again
        self.run(f"import os; print('time {self._asked}: pid', os.getpid())")
        self.reads(re.compile(rf"time {self._asked}: pid \d+"))
        return int(self.output.inner_text().split()[3])

    def kernel(self) -> str:
        """The id of the notebook's kernel."""
        (session,) = self.call("GET", "/api/sessions")
        return str(session["kernel"]["id"])
