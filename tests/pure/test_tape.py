"""What the recorder keeps of a kernel's output: all of it, in little memory, up to its bound."""

from __future__ import annotations

import base64
import os
import sys

import pytest

from kernels.inside.tape import MAX_MESSAGES, Tape

LIMIT = 2**20


def line(number: int) -> list[bytes]:
    return [b'{"msg_type":"stream"}' * 20, b"{}", b'{"kernelring":[1,%d]}' % number, b'{"text":"%d"}' % number]


def held_bytes(tape: Tape) -> int:
    return sum(len(block.text) for block in tape._blocks) + sum(len(each.text) for each in tape._newest)


@pytest.mark.parametrize("count", [1, 10, 100, 1000])
def test_what_is_kept_comes_back_as_it_was(count: int) -> None:
    tape = Tape(LIMIT)
    for number in range(1, count + 1):
        tape.append(line(number))
    assert (tape.first, tape.last) == (1, count)
    for n in {0, 1, count // 2, count - 1, count, count + 5}:
        assert tape.after(n) == [line(number) for number in range(n + 1, count + 1)]


def test_what_falls_out_is_the_oldest_and_no_more_than_a_sixteenth_at_a_time() -> None:
    tape, kept = Tape(LIMIT), []
    for number in range(1, 5001):
        tape.append(line(number))
        kept.append(tape.last + 1 - tape.first)
        assert tape.after(tape.last - 1) == [line(number)]
    full = kept[kept.index(max(kept)) :]
    assert min(full) >= max(full) * 14 // 16
    assert tape.after(0) == [line(number) for number in range(tape.first, 5001)]


def test_there_is_a_bound_on_the_number_of_messages_too() -> None:
    tape = Tape(2**30)
    for _ in range(MAX_MESSAGES * 2):
        tape.append([b"x"])
    assert MAX_MESSAGES * 7 // 8 <= len(tape.after(0)) <= MAX_MESSAGES


def test_a_message_larger_than_the_tape_is_not_kept_nor_what_was_before_it() -> None:
    tape = Tape(LIMIT)
    for parts in ([b"a"], [b"b" * 2 * LIMIT], [b"c"]):
        tape.append(parts)
    assert (tape.first, tape.last, tape.after(0)) == (3, 3, [[b"c"]])


def test_printed_lines_take_less_than_a_tenth_of_their_size() -> None:
    tape = Tape(LIMIT)
    for number in range(1, 5001):
        tape.append(line(number))
    assert held_bytes(tape) < LIMIT / 10


def test_figures_and_buffers_are_kept_as_they_are() -> None:
    tape = Tape(LIMIT)
    figures = [[b"{}", base64.b64encode(os.urandom(20_000)), os.urandom(3)] for _ in range(20)]
    for figure in figures:
        tape.append([figure[0], figure[1], memoryview(bytearray(figure[2]))])
    assert tape.after(0) == figures
    assert sys.getsizeof(b"") < held_bytes(tape) <= sum(len(part) for figure in figures for part in figure) + 1000
