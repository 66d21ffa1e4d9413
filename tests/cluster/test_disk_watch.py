"""A cell that fills the disk is stopped, and its user is told; whoever only has too much, and all others, work on."""

from __future__ import annotations

import asyncio

import pytest

from local.student import Student
from tests.cluster.confined import confined_stack, student, told
from tests.cluster.conftest import LEAN
from tests.cluster.test_limits_of_kernels import said

QUOTA_MIB = 8
MARGIN_MIB = 64
PIECE_MIB = 4
FILLS = f"""
import itertools, time
for n in itertools.count():
    with open(f"piece-{{n}}", "wb") as piece:
        piece.write(bytes({PIECE_MIB} * 2**20))
    time.sleep(0.1)  # a bound of what this test may take of the disk
"""
HAS_MUCH = f"""
kept = 7
for n in range({(QUOTA_MIB + MARGIN_MIB) // PIECE_MIB + 3}):
    with open(f"piece-{{n}}", "wb") as piece:
        piece.write(bytes({PIECE_MIB} * 2**20))
"""
EMPTIED = "import glob, os; [os.unlink(each) for each in glob.glob('piece-*')]; print(len(glob.glob('*')))"


async def fills(who: Student) -> str:
    """What is said to a student whose cell fills the disk."""
    await who.ask(FILLS)
    return await said(who, "Your files take", 120)


@pytest.mark.timeout(240)
async def test_a_cell_that_fills_the_disk_is_stopped_and_its_user_can_make_room() -> None:
    with confined_stack(**LEAN, KERNELRING_QUOTA_MIB=str(QUOTA_MIB)) as stack:
        async with student(stack, "ada") as ada, student(stack, "mallory") as mallory:
            await told(ada, HAS_MUCH)
            words = await fills(mallory)
            assert f" of {QUOTA_MIB} MiB, and a cell went on to write" in words
            assert words.rstrip().endswith("Delete something.")
            # Her second look, in which she has no more than in the first.
            mark = stack.mark()
            await fills(mallory)
            assert {event["user"] for event in stack.events("disk_filled")} == {"mallory"}
            assert len(stack.events("disk_filled", mark)) == 1
            assert await told(ada, "print(kept)") == "7"
            async with asyncio.timeout(60):
                assert await told(mallory, EMPTIED) == "0"
