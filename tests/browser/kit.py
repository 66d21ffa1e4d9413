"""What the stories of the notebook pages are told with: a student, their browsers, and a notebook in one of them.

Owns how things are found in the pages of Notebook 7 and JupyterLab (their class names, commands and labels), so that a
story reads as what a person does and sees. Everything waits for what it expects, with one deadline; nothing sleeps.
A `Student` collects what no page may do: ask another host, fail in a script, or write an error to the console.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import APIResponse, Browser, BrowserContext, ConsoleMessage, Locator, Page, expect

from local.stack import Stack
from server.workdir import user_directory

SOON_MS: Final = 60_000
DESK: Final = (1280, 900)
PHONE: Final = (400, 800)
Theme = Literal["light", "dark"]
Place = Literal["notebooks", "lab/tree"]

# What pages are known to say, each with its reason. Anything else that is an error fails the story.
KNOWN: Final = {
    "Cannot read properties of undefined (reading 'schema')": (
        "Notebook 7.6 looks for the settings of a plugin of JupyterLab's that it leaves out; as on a jupyter_server"
    ),
    "reading 'updateRenderOption'": "JupyterLab's progress bar has its settings before its notebook, or after its end",
    "Canceled future for kernel_info_request": (
        "JupyterLab connects anew when it asks for a restart, and again when the server tells all pages of it"
    ),
    "Canceled future for create_subshell_request": "as above: it had asked the kernel for one meanwhile",
    "script: Disposed": "something that JupyterLab was waiting for when that part of the page was closed",
    "Comm not found for comm id": "the kernel tells all pages of the end of a comm that another page has opened",
}


class Student:
    """One user; `browser()` opens a browser of theirs, and the pages in it are watched."""

    def __init__(self, stack: Stack, chromium: Browser, name: str) -> None:
        self.stack = stack
        self.name = name
        self.faults: list[str] = []
        self._chromium = chromium
        self._known = list(KNOWN)
        self._contexts: list[BrowserContext] = []

    # -- what is there without a page ----------------------------------------------------------------------------

    @property
    def token(self) -> str:
        return self.stack.token(self.name)

    @property
    def folder(self) -> Path:
        """Where their files are on the server's disk."""
        return user_directory(self.stack.directory / "notebooks", self.name)

    def api(self, context: BrowserContext, method: str, path: str, body: Any = None) -> APIResponse:
        """A request with their token."""
        headers = {"Authorization": f"token {self.token}"}
        return context.request.fetch(f"{self.stack.url}{path}", method=method, data=body, headers=headers)

    def put_notebook(self, context: BrowserContext, path: str, *cells: str) -> None:
        """Make a notebook of code cells, by the contents API."""
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
        content = new_notebook(metadata=metadata, cells=[new_code_cell(code) for code in cells])  # type: ignore[no-untyped-call]
        answer = self.api(context, "PUT", f"/api/contents/{quote(path)}", {"type": "notebook", "content": content})
        assert answer.ok, answer.text()

    def notebook_on_disk(self, path: str) -> Any:
        """The notebook as its file is now."""
        return nbformat.read(self.folder / path, as_version=4)  # type: ignore[no-untyped-call]

    # -- browsers ------------------------------------------------------------------------------------------------

    def browser(self, size: tuple[int, int] = DESK, theme: Theme = "light", *, log_in: bool = True) -> BrowserContext:
        """A browser with nothing in it but, unless told otherwise, the login of this student."""
        width, height = size
        context = self._chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, accept_downloads=True
        )
        context.set_default_timeout(SOON_MS)
        context.on("request", lambda request: self._note_request(request.url))
        context.on("weberror", lambda error: self._note(f"script: {error.error}"))
        context.on("console", self._note_console)
        self._contexts.append(context)
        if log_in:
            answer = context.request.get(f"{self.stack.url}/?token={self.token}")
            assert answer.ok, answer.text()
        return context

    def notebook(self, path: str, *cells: str, place: Place = "notebooks", size: tuple[int, int] = DESK) -> Notebook:
        """Make a notebook and open it in a browser of its own."""
        context = self.browser(size)
        self.put_notebook(context, path, *cells)
        return self.open(context, path, place)

    def open(self, context: BrowserContext, path: str, place: Place = "notebooks", *, kernel: str = "idle") -> Notebook:
        """Open a notebook in a new page of a browser."""
        return Notebook(context.new_page(), self.stack.url, path, place).open(kernel=kernel)

    def close(self) -> None:
        """Close all of it."""
        for context in self._contexts:
            context.close()

    @contextmanager
    def expecting(self, pattern: str) -> Iterator[None]:
        """Meanwhile, and later, a fault with `pattern` in it belongs to the story."""
        self._known.append(pattern)
        yield

    def _note_request(self, url: str) -> None:
        if not url.startswith((self.stack.url, self.stack.url.replace("http", "ws", 1), "data:", "blob:")):
            self._note(f"request: {url}")

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._note(f"console: {message.text} ({message.location['url']})")

    def _note(self, fault: str) -> None:
        if not any(re.search(re.escape(known), fault) for known in self._known):
            self.faults.append(fault)


class Notebook:
    """A notebook in a page, of Notebook 7 (`/notebooks/…`) or of JupyterLab (`/lab/tree/…`)."""

    def __init__(self, page: Page, url: str, path: str, place: Place = "notebooks") -> None:
        self.page = page
        self.path = path
        self._address = f"{url}/{place}/{quote(path)}"

    def open(self, *, kernel: str = "idle") -> Notebook:
        """Go there; return when its first cell is shown and its kernel is in that state."""
        with self._connecting():
            self.page.goto(self._address)
        return self.is_ready(kernel=kernel)

    def reload(self, *, kernel: str = "idle") -> Notebook:
        """As the browser's button does."""
        with self._connecting():
            self.page.reload()
        return self.is_ready(kernel=kernel)

    @contextmanager
    def _connecting(self) -> Iterator[None]:
        """Until the page connects to a kernel. (A cell that is run before is not run, as in any JupyterLab.)"""
        with self.page.expect_websocket(lambda socket: "/channels" in socket.url, timeout=SOON_MS):
            yield

    def is_ready(self, *, kernel: str = "idle") -> Notebook:
        """Wait until its first cell is shown and its kernel is in that state."""
        expect(self.cell(0)).to_be_visible(timeout=SOON_MS)
        self.kernel_is(kernel)
        return self

    # -- cells ---------------------------------------------------------------------------------------------------

    @property
    def panel(self) -> Locator:
        """The notebook with its toolbar."""
        return self.page.locator(".jp-NotebookPanel:visible")

    @property
    def cells(self) -> Locator:
        return self.panel.locator(".jp-Notebook-cell")

    def cell(self, number: int) -> Locator:
        return self.cells.nth(number)

    def editor(self, number: int) -> Locator:
        return self.cell(number).locator(".jp-InputArea .cm-content")

    def output(self, number: int) -> Locator:
        """All that a cell shows below its code."""
        return self.cell(number).locator(".jp-Cell-outputArea")

    def write(self, number: int, code: str) -> None:
        """Put code into a cell in place of what is there."""
        self.editor(number).fill(code)

    def run(self, number: int) -> None:
        """Run a cell with the keyboard."""
        self.editor(number).press("Shift+Enter")

    def run_and_see(self, number: int, output: str | re.Pattern[str]) -> None:
        """Run a cell and wait for a text in its output."""
        self.run(number)
        self.shows(number, output)

    def shows(self, number: int, output: str | re.Pattern[str]) -> None:
        """Wait for a text in a cell's output."""
        expect(self.output(number)).to_contain_text(output, timeout=SOON_MS)

    def is_done(self, number: int, count: int | None = None) -> None:
        """Wait until a cell has run: its prompt has a number."""
        prompt = re.compile(rf"^\[{count}\]:$" if count else r"^\[\d+\]:$")
        expect(self.cell(number).locator(".jp-InputPrompt")).to_have_text(prompt, timeout=SOON_MS)

    def is_running(self, number: int) -> None:
        """Wait until a cell's prompt has a star."""
        expect(self.cell(number).locator(".jp-InputPrompt")).to_have_text("[*]:", timeout=SOON_MS)

    def answer(self, number: int, text: str) -> None:
        """Answer what a cell asks."""
        field = self.output(number).locator("input.jp-Stdin-input")
        expect(field).to_be_visible(timeout=SOON_MS)
        field.fill(text)
        field.press("Enter")

    # -- kernel and file -----------------------------------------------------------------------------------------

    def kernel_is(self, status: str) -> None:
        """Wait until the notebook's indicator says so: `idle`, `busy`."""
        indicator = self.panel.locator(".jp-Notebook-ExecutionIndicator")
        expect(indicator).to_have_attribute("data-status", status, timeout=SOON_MS)

    def press(self, *keys: str) -> None:
        """Press keys in command mode: the notebook itself has the focus, and no cell's editor."""
        self.page.keyboard.press("Escape")
        for key in keys:
            self.page.keyboard.press(key)

    def button(self, command: str) -> Locator:
        """The toolbar's button of a command."""
        return self.panel.locator(f'.jp-Toolbar [data-command="{command}"]').first

    def save(self) -> None:
        """With the keyboard; returns when the server has it."""
        with self.page.expect_response(lambda answer: answer.request.method == "PUT" and self._is_mine(answer.url)):
            self.page.keyboard.press("Control+s")

    def _is_mine(self, url: str) -> bool:
        return f"/api/contents/{quote(self.path)}" in url


def choose(page: Page, *names: str) -> None:
    """Choose from the menu with the mouse: `choose(page, "Settings", "Theme", "JupyterLab Dark")`."""
    page.locator("#jp-MainMenu, .jp-MainMenu, #menu-panel").get_by_role("menuitem", name=names[0], exact=True).click()
    for name in names[1:]:
        page.locator(".lm-Menu").last.locator(".lm-Menu-item", has_text=name).first.click()


def dialog(page: Page) -> Locator:
    """The question that is open."""
    return page.locator(".jp-Dialog")


def fits(page: Page) -> bool:
    """Whether the page needs no scrolling from side to side."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))
