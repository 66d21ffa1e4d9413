"""A cell that runs, in the page, while what the page asks fails: its output is complete, once, and the cell ends.

And what was run is on disk at once, so that it is found again by whoever closed the lid right after.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Response, Route, expect

from local.stack import Stack
from server.owned import ENTRY_HEADER, OWNER_HEADER
from tests.browser.desk import FRONTS, SOON_MS, Desk
from tests.cluster.conftest import running
from tests.redis_server import RedisServer

pytestmark = pytest.mark.timeout(300)

RUN: Final = re.compile(r"/api/kernels/[^/]+/(execute|input|requests/)")
SESSIONS: Final = re.compile(r"/api/sessions(\?|$)")
ALL: Final = [f"line {n}" for n in range(40)]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with RedisServer() as redis, running(redis, workers=4, confined=True) as shared:
        yield shared


@pytest.fixture(params=["notebook"])
def desk(request: pytest.FixtureRequest, stack: Stack, browser: Browser) -> Iterator[Desk]:
    name = re.sub(r"\W", "-", request.node.name)
    with Desk(stack, browser, request.param, f"bob-{name[-40:]}") as made:
        yield made


in_both = pytest.mark.parametrize("desk", FRONTS, indirect=True)


class Gated:
    """A cell that prints, waits for a file, and prints the rest. It notes each time that it is run."""

    def __init__(self, directory: Path) -> None:
        self._gate, self._runs = directory / "gate", directory / "runs"
        self.code = (
            "import os, time\n"
            f"with open({str(self._runs)!r}, 'a') as runs: runs.write('x')\n"
            f"for n in range(20): print('line', n, flush=True)\n"
            f"while not os.path.exists({str(self._gate)!r}): time.sleep(0.01)\n"
            f"for n in range(20, 40): print('line', n, flush=True)"
        )

    def open(self) -> None:
        """Let the cell go on."""
        self._gate.touch()

    @property
    def runs(self) -> int:
        return len(self._runs.read_text())


@pytest.fixture
def gated(desk: Desk) -> Gated:
    return Gated(desk.folder)


def is_whole(desk: Desk, gated: Gated) -> None:
    """Wait for the cell's end, in this page; nothing is missing, nothing is there twice."""
    desk.reads("line 39")
    expect(desk.cell.locator(".jp-InputPrompt")).to_have_text("[1]:", timeout=SOON_MS)
    assert desk.lines() == ALL
    assert gated.runs == 1


class Faults:
    """Of each kind of question one is lost, the next is told to come again, and of the third the answer is lost."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def __call__(self, route: Route) -> None:
        found = RUN.search(route.request.url)
        assert found
        kind = f"{route.request.method} {found[1]}"
        turn = self.seen[kind] % 5
        self.seen[kind] += 1
        if turn == 0:
            route.abort("connectionreset")
        elif turn == 1:
            route.fulfill(status=503, json={"message": "Try again in a moment."})
        elif turn == 2:
            route.fetch()
            route.abort("connectionreset")
        else:
            route.continue_()


@in_both
def test_what_fails_on_the_way_is_repeated_and_neither_cell_nor_answer_counts_twice(desk: Desk) -> None:
    runs = desk.folder / "runs"
    faults = Faults()
    desk.page.route(RUN, faults)
    desk.run(
        f"with open({str(runs)!r}, 'a') as runs: runs.write('x')\n"
        "first = input('First?')\nsecond = input('Second?')\nprint('so', first, second)"
    )
    for answer in ("Ada", "Bob"):
        # The box of the question before stays for half a second.
        box = desk.page.locator(".jp-OutputArea-stdin-item:not(.jp-OutputArea-stdin-hiding) .jp-Stdin-input")
        box.fill(answer, timeout=SOON_MS)
        box.press("Enter")
    expect(desk.cell.locator(".jp-OutputArea")).to_contain_text("so Ada Bob", timeout=SOON_MS)
    assert runs.read_text() == "x"
    assert faults.seen["POST execute"] == 4
    assert faults.seen["POST input"] >= 5


@pytest.mark.parametrize("role", [ENTRY_HEADER, OWNER_HEADER])
def test_a_worker_is_killed_and_the_cell_goes_on_in_the_page(desk: Desk, gated: Gated, role: str) -> None:
    workers: set[str] = set()

    def note(answer: Response) -> None:
        if RUN.search(answer.url) and role.lower() in answer.headers:
            workers.add(answer.headers[role.lower()])

    desk.page.on("response", note)
    desk.run(gated.code)
    desk.reads("line 19")
    assert workers
    for worker in sorted(workers):  # all that the page has reached so far, one after the other
        mark = desk.stack.mark()
        os.kill(desk.stack.worker_of(worker), signal.SIGKILL)
        desk.stack.wait_event("worker_registered", mark)
    gated.open()
    is_whole(desk, gated)


def test_all_workers_are_replaced_and_the_cell_goes_on_in_the_page(desk: Desk, gated: Gated) -> None:
    desk.run(gated.code)
    desk.reads("line 19")
    mark = desk.stack.mark()
    assert desk.stack.gunicorn
    desk.stack.gunicorn.send_signal(signal.SIGHUP)
    desk.stack.wait_event("worker_registered", mark, count=4)
    gated.open()
    is_whole(desk, gated)


def test_a_new_cell_that_was_run_is_found_in_another_browser_with_all_that_it_put_out(desk: Desk, gated: Gated) -> None:
    desk.page.get_by_text("Click to add a cell.").click()
    desk.place = 1
    desk.write(gated.code)
    with desk.page.expect_response(_is_save, timeout=SOON_MS):
        desk.cell.locator(".cm-content").press("Control+Enter")
    desk.leave()
    gated.open()
    desk.move()
    is_whole(desk, gated)


def test_what_somebody_else_has_saved_meanwhile_is_not_overwritten_and_nothing_is_asked(desk: Desk) -> None:
    desk.pid()
    theirs = desk.call("GET", "/api/contents/a.ipynb")["content"]
    theirs["cells"][0]["source"] = "theirs = 1"
    desk.call("PUT", "/api/contents/a.ipynb", {"type": "notebook", "format": "json", "content": theirs})
    asked: list[str] = []
    desk.page.on("request", lambda request: asked.append(request.method) if "/a.ipynb" in request.url else None)
    for code in ("print('mine')", "print('mine again')"):
        with desk.page.expect_response(RUN):
            desk.run(code)
        desk.reads(code[7:-2])
    expect(desk.page.locator(".jp-Dialog")).to_have_count(0)
    desk.page.keyboard.press("Control+s")
    dialog = desk.page.locator(".jp-Dialog")
    expect(dialog).to_contain_text("changed on disk", timeout=SOON_MS)
    dialog.get_by_role("button", name="Revert").click()
    expect(desk.cell.locator(".cm-content")).to_contain_text("theirs = 1", timeout=SOON_MS)
    assert "PUT" not in asked
    with desk.page.expect_response(_is_save, timeout=SOON_MS):  # that is settled
        desk.run("print('settled')")


@in_both
def test_a_cell_that_is_run_while_its_page_still_opens_waits_for_the_kernel_and_is_run_once(
    desk: Desk, gated: Gated
) -> None:
    held: list[Route] = []
    is_there: list[Route] = []  # the notebook: what was asked about sessions before is no page's yet

    def note(route: Route) -> None:
        is_there.append(route)
        route.continue_()

    desk.page.route(re.compile("/api/contents/a.ipynb.*content=1"), note)
    desk.page.route(SESSIONS, lambda route: held.append(route) if is_there else route.continue_())
    gated.open()
    desk.page.goto(desk.stack.url + FRONTS[desk.front], timeout=2 * SOON_MS)
    desk.run(gated.code)
    expect(desk.cell.locator(".jp-InputPrompt")).to_have_text("[*]:", timeout=SOON_MS)
    for route in held:
        route.continue_()
    desk.page.unroute(SESSIONS)
    is_whole(desk, gated)
    assert held
    assert len(desk.call("GET", "/api/kernels")) == 1


def _is_save(answer: Response) -> bool:
    return answer.request.method == "PUT" and "/api/contents/a.ipynb" in answer.url
