"""Where a client goes on at a kernel's next owner, with a real kernel."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import zmq

from kernels import framing
from kernels.attached import AttachedKernel
from kernels.recorded import Recorded
from kernels.resume import Resume
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


@pytest.mark.timeout(60)
async def test_what_a_client_has_from_the_owner_before_is_not_told_again_when_this_one_hears_it_later() -> None:
    with tempfile.TemporaryDirectory(prefix="kr-") as found, ring_kernel(Path(found)):
        kernel = AttachedKernel("kernel", "ann", 2**20, lambda _: None)
        info = json.loads((Path(found) / "connection.json").read_text())
        info["key"] = info["key"].encode()
        with zmq.Context() as context:
            await kernel.attach_new(context, info, Recorded(1, "boot", granted), 30.0)
            first = await kernel.take_seat(Resume("first"))
            assert first.number
            has = (first.number[0], first.number[1] + AHEAD)
            ann = await kernel.take_seat(Resume("ann", number=has))
            await first.send(*framing.checked(request()))
            frames: list[bytes] = []
            while not frames or b'"idle"' not in framing.part_of(frames[-1], 3):
                frames += await ann.frames()
            numbers = [framing.number_of(framing.part_of(frame, 2)) for frame in frames]
            told = [number[1] for number in numbers if number]
            kernel.ended("the test has ended")
        assert told == list(range(has[1] + 1, told[-1] + 1))
        assert len(told) > 10
