"""What a student reads in the notebook when something goes wrong: one line, in words, in both stock front ends.

On a real installation. Each test waits for what is to be read; what must not come (dialogs) is looked for at the end.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from playwright.sync_api import Browser, expect

from local.stack import Stack
from tests.browser.desk import FRONTS, NOTHING, SOON_MS, Desk
from tests.cluster.conftest import running
from tests.cluster.test_farewells import WHY, bid_farewell
from tests.redis_server import RedisServer

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def stack(redis: RedisServer) -> Iterator[Stack]:
    with running(redis, workers=2, settings={"KERNELRING_QUOTA_MIB": "1"}, confined=True) as shared:
        yield shared


@pytest.fixture(params=list(FRONTS))
def desk(request: pytest.FixtureRequest, stack: Stack, browser: Browser) -> Iterator[Desk]:
    name = re.sub(r"\W", "-", request.node.name)
    with Desk(stack, browser, request.param, f"ada-{name[-40:]}") as made:
        yield made


def test_a_kernel_that_is_killed_is_told_of_and_the_line_can_be_put_away(desk: Desk) -> None:
    pid = desk.pid()
    os.kill(pid, signal.SIGKILL)
    desk.is_told("The kernel ended: killed by signal 9 (SIGKILL). A new one takes its place; variables are lost.")
    assert desk.pid() != pid
    desk.page.set_viewport_size({"width": 400, "height": 700})
    desk.dismiss()
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
    assert desk.lines() == [f"line {n}" for n in range(60)]
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
