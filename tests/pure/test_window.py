"""How much output may be under way from a kernel to its owner."""

import threading
import time
from collections.abc import Callable

import pytest

from kernels.inside import window as window_module
from kernels.inside.window import HARD_LIMIT, MESSAGE_BYTES, Window

LIMIT = 1_000_000
SIZE = 100_000 - MESSAGE_BYTES


def on_thread(work: Callable[[], None]) -> threading.Thread:
    """Those that send and read are threads of their own."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def filled(limit: int = LIMIT, messages: int = 11) -> Window:
    """A window into which so many messages of 100,000 bytes were sent."""
    window = Window()

    def fill() -> None:
        window.open(limit)
        assert all(window.sent(number, SIZE) for number in range(1, messages + 1))

    on_thread(fill).join()
    return window


def waiting(window: Window) -> threading.Thread:
    thread = on_thread(window.wait)
    thread.join(0.05)
    return thread


def test_who_prints_waits_while_the_owner_has_not_read_and_goes_on_when_it_has() -> None:
    window = filled()
    printer = waiting(window)
    assert printer.is_alive()
    on_thread(lambda: window.read(1))
    printer.join(5)
    assert not printer.is_alive()


def test_within_the_window_nobody_waits() -> None:
    assert not waiting(filled(messages=10)).is_alive()


def test_without_an_owner_that_offers_a_window_nobody_waits() -> None:
    assert not waiting(filled(limit=0, messages=1000)).is_alive()


def test_a_new_owner_begins_with_an_empty_window() -> None:
    window = filled()
    printer = waiting(window)
    on_thread(lambda: window.open(LIMIT)).join()
    printer.join(5)
    assert not printer.is_alive()


def test_the_threads_that_send_and_that_hear_the_owner_never_wait() -> None:
    window = Window()

    def all_in_one() -> None:
        window.open(LIMIT)
        window.sent(1, 2 * LIMIT)
        window.wait()

    thread = on_thread(all_in_one)
    thread.join(2)
    assert not thread.is_alive()


def test_an_owner_that_reads_nothing_is_given_up_and_counts_again_once_it_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(window_module, "PATIENCE_S", 0.1)
    window = filled(messages=25)
    first = waiting(window)
    first.join(5)
    assert not first.is_alive()
    began = time.monotonic()
    window.wait()
    assert time.monotonic() - began < 0.1
    on_thread(lambda: window.read(2)).join()
    monkeypatch.setattr(window_module, "PATIENCE_S", 60.0)
    again = waiting(window)
    assert again.is_alive()
    on_thread(lambda: window.read(25)).join()
    again.join(5)
    assert not again.is_alive()


def test_far_beyond_the_window_nothing_is_sent_until_the_owner_reads() -> None:
    window = filled(messages=10 * HARD_LIMIT + 1)
    results: list[bool] = []

    def send() -> None:
        results.append(window.sent(100, SIZE))
        window.read(41)
        results.append(window.sent(101, SIZE))

    on_thread(send).join()
    assert results == [False, True]


def test_a_message_larger_than_all_of_it_is_sent_into_an_empty_window() -> None:
    window = Window()
    results: list[bool] = []

    def send() -> None:
        window.open(LIMIT)
        results.append(window.sent(1, 100 * LIMIT))

    on_thread(send).join()
    assert results == [True]
