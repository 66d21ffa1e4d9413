"""What a kernel was sent and has not come to is counted on each channel, and bounded."""

from __future__ import annotations

import pytest

from kernels.unsettled import MAX_BYTES, MAX_MESSAGES, Unsettled


def filled(channel: str, count: int, size: int = 10) -> Unsettled:
    unsettled = Unsettled()
    for number in range(count):
        unsettled.sent(channel, f"{channel}-{number}", size)
    return unsettled


def test_a_channel_is_full_after_so_many_messages_and_others_are_not() -> None:
    assert not filled("shell", MAX_MESSAGES - 1).full("shell")
    unsettled = filled("shell", MAX_MESSAGES)
    assert unsettled.full("shell")
    assert not unsettled.full("control")
    assert not unsettled.full("stdin")


def test_a_channel_is_full_after_so_many_bytes_also_under_one_id() -> None:
    unsettled = filled("control", 1, MAX_BYTES - 1)
    assert not unsettled.full("control")
    unsettled.sent("control", "control-0", 1)
    assert unsettled.full("control")
    unsettled.heard("control-0")
    assert not unsettled.full("control")
    assert unsettled.empty


def test_a_word_about_one_message_settles_those_before_it() -> None:
    unsettled = filled("shell", MAX_MESSAGES)
    unsettled.heard("shell-9")
    for number in range(10):
        assert not unsettled.full("shell")
        unsettled.sent("shell", f"more-{number}", 1)
    assert unsettled.full("shell")
    unsettled.heard("more-9")
    assert unsettled.empty


@pytest.mark.parametrize("msg_id", ["", "unknown", "stdin-0"])
def test_a_word_about_something_else_settles_nothing(msg_id: str) -> None:
    unsettled = filled("shell", 1)
    unsettled.heard(msg_id)
    assert not unsettled.empty


def test_an_input_request_settles_stdin_alone() -> None:
    unsettled = filled("stdin", MAX_MESSAGES)
    unsettled.sent("shell", "cell", 1)
    unsettled.asked()
    assert not unsettled.full("stdin")
    assert not unsettled.empty
    unsettled.asked()
    assert not unsettled.full("stdin")
