"""The page at `/` in a real browser, on a real installation: a guest at work, also while a worker is killed."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, Page, expect

from local.stack import Stack
from server.tokens import mint_guest, mint_user

SOON_MS = 20_000


@pytest.fixture
def stack(rough_stack: Stack) -> Stack:
    """One of the guests' workers is killed here."""
    return rough_stack


@pytest.fixture
def visit(stack: Stack, browser: Browser) -> Iterator[Page]:
    """A new guest's page, at 1280 pixels. Nothing may be asked of any other host, and no script may fail."""
    with ExitStack() as closing:
        context = closing.enter_context(browser.new_context(viewport={"width": 1280, "height": 900}))
        page = context.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.extend([] if request.url.startswith(stack.url) else [request.url]))
        page.goto(f"{stack.url}/?token={mint_guest(stack.secret, lifetime_s=60)}")
        yield page
        assert faults == []


def run(page: Page, code: str) -> None:
    """Type a cell and run it with the keyboard."""
    page.get_by_label("Code").fill(code)
    page.get_by_label("Code").press("Shift+Enter")


def start(page: Page) -> None:
    """Start a kernel and wait until it is there."""
    page.get_by_role("button", name="New kernel").click()
    expect(page.locator("#kernel-table")).to_contain_text("idle", timeout=SOON_MS)


def test_a_guest_runs_two_cells_in_one_kernel_and_sees_the_ring(visit: Page) -> None:
    assert "token" not in visit.url
    expect(visit.locator("#user")).to_have_text(re.compile("guest-[0-9a-f]{8}"))
    expect(visit.locator("#workers tbody tr")).to_have_count(4)
    start(visit)
    run(visit, "import os")
    expect(visit.locator("#runs")).to_contain_text("done", timeout=SOON_MS)
    run(visit, "print(os.name)")
    expect(visit.locator("#runs")).to_contain_text("posix", timeout=SOON_MS)
    expect(visit.locator("#workers")).to_contain_text("owns your kernels")


def test_input_is_asked_for_and_errors_are_shown(visit: Page) -> None:
    start(visit)
    run(visit, "print('hello', input('Name? '))")
    answer = visit.locator("#runs input")
    expect(answer).to_be_visible(timeout=SOON_MS)
    answer.fill("Ada")
    answer.press("Enter")
    expect(visit.locator("#runs")).to_contain_text("hello Ada", timeout=SOON_MS)
    run(visit, "1/0")
    expect(visit.locator("#runs")).to_contain_text("ZeroDivisionError: division by zero", timeout=SOON_MS)


def test_a_killed_owner_costs_no_variable_and_the_page_stays(stack: Stack, visit: Page) -> None:
    start(visit)
    run(visit, "x = 41")
    expect(visit.locator("#runs")).to_contain_text("done", timeout=SOON_MS)
    owner = visit.locator("#workers tr", has_text="owns your kernels").locator("td, th").first.inner_text()
    mark = stack.mark()
    os.kill(stack.worker_of(owner.split()[0]), signal.SIGKILL)
    stack.wait_event("worker_registered", mark)
    run(visit, "print(x + 1)")
    expect(visit.locator("#runs")).to_contain_text("42", timeout=SOON_MS)
    expect(visit.locator("#changes")).to_contain_text("your kernels", timeout=SOON_MS)


def test_a_flood_of_output_is_cut_and_the_page_stays_usable(visit: Page) -> None:
    start(visit)
    run(visit, "print('gone\\rhere'); print('y' * 5_000_000)")
    expect(visit.locator("#runs")).to_contain_text("earlier characters are not shown here", timeout=SOON_MS)
    run(visit, "6 * 7")
    expect(visit.locator("#runs .result")).to_have_text("42", timeout=SOON_MS)


def test_a_name_with_markup_is_shown_as_text(stack: Stack, browser: Browser) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{stack.url}/?token={mint_user(stack.secret, '<b>$user</b>', lifetime_s=60)}")
        expect(page.locator("#workers tbody tr")).to_have_count(4, timeout=SOON_MS)
        expect(page.locator("#user")).to_have_text("<b>$user</b>")


def test_two_guests_see_nothing_of_each_other(stack: Stack, browser: Browser, visit: Page) -> None:
    start(visit)
    with browser.new_context() as context:
        other = context.new_page()
        other.goto(f"{stack.url}/?token={mint_guest(stack.secret, lifetime_s=60)}")
        expect(other.locator("#no-kernels")).to_be_visible(timeout=SOON_MS)
        assert other.locator("#user").inner_text() != visit.locator("#user").inner_text()


def test_the_page_fits_400_pixels(visit: Page) -> None:
    visit.set_viewport_size({"width": 400, "height": 800})
    start(visit)
    assert visit.evaluate("document.documentElement.scrollWidth") <= 400


def test_logging_out_ends_it(visit: Page) -> None:
    visit.get_by_role("button", name="Log out").click()
    expect(visit).to_have_url(re.compile("/login"), timeout=SOON_MS)


def test_a_token_typed_into_the_login_page_logs_in_and_the_page_logs_out_again(stack: Stack, browser: Browser) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{stack.url}/")
        page.get_by_label("Token").fill(stack.token("ada"))
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(f"{stack.url}/tree", timeout=SOON_MS)
        page.goto(f"{stack.url}/")
        expect(page.locator("#user")).to_have_text("ada", timeout=SOON_MS)
        page.goto(f"{stack.url}/login")
        page.get_by_role("button", name="Log out").click()
        page.goto(f"{stack.url}/")
        expect(page).to_have_url(re.compile("/login"), timeout=SOON_MS)
