"""What somebody at a browser sees of a Jupyter server: when its page is there, and when a cell's output is.

Owns a browser window with a warm cache for one server, whichever it is, and the notebooks that are opened in it. The
times are the page's own: it looks at itself once a frame, and counts from the moment at which the navigation started.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Request

# Chromium looks for its maker's hosts at every start; without these it waits for each of them.
FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WITHIN_MS: Final = 60_000.0
PRESS_EVERY_MS: Final = 30.0
WARM_VISITS: Final = 2  # Chromium keeps the compiled script of a file that it has seen twice

_CLOCK: Final = (Path(__file__).parent / "bench_clock.js").read_text()
_CELL: Final[dict[str, object]] = {
    "cell_type": "code",
    "id": "greeting",
    "metadata": {},
    "execution_count": None,
    "outputs": [],
    "source": "print('first', 'output')",
}
_NOTEBOOK: Final[dict[str, object]] = {
    "cells": [_CELL],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def missing() -> str | None:
    """What the pages cannot be measured without, in a sentence."""
    if importlib.util.find_spec("playwright") is None:
        return "The pages are measured with Playwright, which is not installed: .venv/bin/pip install playwright."
    if shutil.which("chromium") is None:
        return "The pages are measured in Chromium, which is not installed: apt-get install chromium."
    return None


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's, without a screen."""
    from playwright.sync_api import sync_playwright  # an extra: only the pages need it

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def _is_execution(request: Request) -> bool:
    return request.method == "POST" and urlsplit(request.url).path.endswith("/execute")


@dataclass(frozen=True)
class Opened:
    """Milliseconds since the navigation to a notebook began."""

    ready: float  # the toolbar and the first cell are there
    pressed: float  # the key that runs the cell, as soon as the page was ready
    output: float

    @property
    def answered(self) -> float:
        """From the key to the output."""
        return self.output - self.pressed


class Visitor:
    """One user of the server at `url`, logged in by token."""

    def __init__(self, browser: Browser, url: str, token: str) -> None:
        self.url = url
        self._token = token
        self._window: BrowserContext = browser.new_context(viewport={"width": 1280, "height": 900})
        self._window.add_init_script(_CLOCK)
        self._save("listed.ipynb")
        with self._page(f"/tree?token={token}", "listed"):  # gives the cookie
            pass

    def close(self) -> None:
        """Close the window."""
        self._window.close()

    def warm(self, place: str) -> None:
        """Fill the browser's cache with what the pages under `place` load."""
        for _ in range(WARM_VISITS):
            self.notebook(place)

    def tree(self) -> float:
        """Open the list of files; the milliseconds until a file is in it."""
        with self._page("/tree", "listed") as page:
            return self._read(page)["listed"]

    def notebook(self, place: str) -> Opened:
        """Open a notebook that has never been open, at `/lab/tree` or `/notebooks`, and run its cell."""
        name = f"bench-{time.time_ns()}.ipynb"
        self._save(name)
        try:
            with self._page(f"{place}/{name}", "ready") as page:
                self._press_until_taken(page)
                page.wait_for_function("bench.output", timeout=WITHIN_MS)
                return Opened(**{key: self._read(page)[key] for key in ("ready", "pressed", "output")})
        finally:
            self._forget(name)

    def _press_until_taken(self, page: Page) -> None:
        """Run the cell where it is. The front end drops a key that comes before the notebook has its session.

        That a cell is run by the server shows in a request, that it is run by the page in its prompt.
        """
        sent: list[Request] = []
        page.on("request", lambda request: sent.append(request))  # noqa: PLW0108 - Playwright marks what it is given
        deadline = time.monotonic() + WITHIN_MS / 1e3
        while not (page.evaluate("bench.taken()") or any(map(_is_execution, sent))):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the cell of {page.url} does not run")
            page.evaluate("bench.focusCell()")  # Lab puts the focus elsewhere when it has restored its layout
            page.keyboard.press("Control+Enter")
            page.wait_for_timeout(PRESS_EVERY_MS)

    @contextmanager
    def _page(self, path: str, until: str) -> Iterator[Page]:
        """A new page, once the clock has stopped at `until`."""
        page = self._window.new_page()
        try:
            page.goto(self.url + path, wait_until="commit")
            page.wait_for_function(f"window.bench?.{until}", timeout=WITHIN_MS)
            yield page
        finally:
            page.close()

    def _save(self, name: str) -> None:
        self._call("PUT", f"/api/contents/{name}", {"type": "notebook", "format": "json", "content": _NOTEBOOK})

    @staticmethod
    def _read(page: Page) -> dict[str, float]:
        return dict(page.evaluate("({...bench})"))

    def _forget(self, name: str) -> None:
        """End the kernel, and have Lab not open the notebook again."""
        for kernel in self._call("GET", "/api/kernels"):
            self._call("DELETE", f"/api/kernels/{kernel['id']}")
        for workspace in self._call("GET", "/lab/api/workspaces")["workspaces"]["ids"]:
            self._call("DELETE", f"/lab/api/workspaces/{workspace}")
        self._call("DELETE", f"/api/contents/{name}")

    def _call(self, method: str, path: str, body: object = None) -> Any:
        """One request beside the browser. Raises RuntimeError unless it succeeds."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=WITHIN_MS / 1e3)
        try:
            headers = {"Authorization": f"token {self._token}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]!r}")
        return json.loads(text) if text else None
