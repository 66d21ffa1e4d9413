"""Where a client goes on at a kernel's next owner, with a real kernel."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import zmq

from kernels import framing
from kernels.attached import AttachedKernel
from kernels.recorded import Recorded
from kernels.resume import Resume
from kernels.seat import Seat
from tests.contract.ring_kernel import ring_kernel

AHEAD = 5  # outputs that the client has from the owner before, and this one has not read yet


CELL = "for line in range(20): print(line, flush=True)"


async def granted() -> None:
    """There is nobody to ask."""


def request() -> bytes:
    """An execute_request's frame."""
    header = {"msg_id": "cell", "msg_type": "execute_request", "session": "first", "username": "", "version": "5.4"}
    content = {"code": CELL, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    return framing.pack("shell", [json.dumps(part).encode() for part in (header, {}, {}, content)])


@asynccontextmanager
async def attached() -> AsyncIterator[AttachedKernel]:
    """A real kernel with a recorder, at its first owner."""
    with tempfile.TemporaryDirectory(prefix="kr-") as found, ring_kernel(Path(found)):
        kernel = AttachedKernel("kernel", "ann", 2**20, lambda _: None)
        info = json.loads((Path(found) / "connection.json").read_text())
        info["key"] = info["key"].encode()
        with zmq.Context() as context:
            await kernel.attach_new(context, info, Recorded(1, "boot", granted), 30.0)
            yield kernel
            kernel.ended("the test has ended")


async def until_idle(seat: Seat) -> list[bytes]:
    """What is read there up to the end of a cell."""
    frames: list[bytes] = []
    while not frames or b'"idle"' not in framing.part_of(frames[-1], 3):
        frames += await seat.frames()
    return frames


@pytest.mark.timeout(60)
async def test_what_a_client_has_from_the_owner_before_is_not_told_again_when_this_one_hears_it_later() -> None:
    async with attached() as kernel:
        first = await kernel.take_seat(Resume("first"))
        assert first.number
        has = (first.number[0], first.number[1] + AHEAD)
        ann = await kernel.take_seat(Resume("ann", number=has))
        await first.send(*framing.checked(request()))
        numbers = [framing.number_of(framing.part_of(frame, 2)) for frame in await until_idle(ann)]
        told = [number[1] for number in numbers if number]
    assert told == list(range(has[1] + 1, told[-1] + 1))
    assert len(told) > 10


@pytest.mark.timeout(60)
async def test_words_of_the_servers_own_are_told_again_only_to_who_has_not_said_that_it_has_got_them() -> None:
    async with attached() as kernel:
        ann, bob = [await kernel.take_seat(Resume(name)) for name in ("ann", "bob")]
        await ann.send(*framing.checked(request()))
        heard = await until_idle(ann)
        await until_idle(bob)
        newest = max(filter(None, (framing.number_of(framing.part_of(frame, 2)) for frame in heard)))
        kernel.voice.tell("It has been restarted.", "restarting", None)
        own = [framing.msg_id_of(framing.part_of(frame, 0)) for frame in await ann.frames()]
        await bob.frames()
        for seat, words in ((ann, own), (bob, [])):
            seat.acknowledge(newest, words)
            seat.leave()
        kernel.voice.tell("It is there.", None, None)
        ann, bob = [await kernel.take_seat(Resume(name)) for name in ("ann", "bob")]
        again = [[framing.unpack(frame)[1][3] for frame in await seat.frames()] for seat in (ann, bob)]
    assert [len(one) for one in again] == [1, 3]
    assert b"It is there" in again[0][0]
    assert again[1][-1] == again[0][0]
