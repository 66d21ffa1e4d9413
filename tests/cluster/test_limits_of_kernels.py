"""What a kernel may have of memory and processor, and the one sentence with which it is told that it had that."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernels.processes import SESSION_NICE
from local.stack import Stack
from local.student import Student
from tests.cluster.confined import confined_stack, record, student, told

CPU_S, TOTAL_MIB = 3, 200
SENTENCE_CPU = "[kernelring] Your notebook has used its 3 seconds of processor time. A new one takes its place"
SENTENCE_TOTAL = "[kernelring] Your notebook and what it has started used more than 200 MiB of memory"
SHARED = """
from multiprocessing import Process
from multiprocessing.shared_memory import SharedMemory
import time
def work():
    room = SharedMemory(create=True, size=100 * 2**20)
    room.buf[:] = bytes(range(256)) * (len(room.buf) // 256)
    time.sleep(600)  # it holds what it has until it is killed
pool = [Process(target=work) for _ in range(4)]
for one in pool:
    one.start()
for one in pool:
    one.join()
"""
WRITTEN = """
import tempfile
with open(tempfile.mkdtemp(dir="/dev/shm") + "/file", "wb") as file:
    for _ in range(400):
        file.write(bytes(2**20))
"""
MINE_GONE = """
import os, time
while any(entry.stat().st_uid == os.getuid() for entry in os.scandir("/dev/shm")):
    time.sleep(0.01)  # between two looks
print("gone")
"""
NULL_WRITTEN = """
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
room = libc.malloc(ctypes.c_size_t(2**32))
ctypes.memset(room, 1, 1)
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    limits = {"KERNELRING_KERNEL_MEMORY_MIB": "512", "KERNELRING_KERNEL_CPU_HOURS": f"{CPU_S / 3600:.9f}"}
    limits |= {"KERNELRING_KERNEL_TOTAL_MIB": str(TOTAL_MIB)}
    with confined_stack(**limits) as found:
        yield found


async def said(who: Student, text: str, within_s: float = 30.0) -> str:
    """The server's own words, when they come."""
    async with asyncio.timeout(within_s):
        while True:
            one = await who.receive(within_s)
            if one.kind == "stream" and text in one.content["text"]:
                return str(one.content["text"])


async def test_a_cell_that_wants_too_much_memory_gets_a_memory_error_and_the_kernel_lives(stack: Stack) -> None:
    async with student(stack, "hungry") as hungry:
        await told(hungry, "kept = 1")
        outcome = await hungry.run("bytearray(2**30)")
        assert outcome.reply["ename"] == "MemoryError"
        assert await told(hungry, "print(kept)") == "1"


async def test_a_kernel_that_a_library_has_ended_for_want_of_memory_names_the_limit(stack: Stack) -> None:
    async with student(stack, "broken") as broken:
        outcome = await broken.run(NULL_WRITTEN)
        assert outcome.reply["status"] == "error"
        assert "512 MiB" in outcome.reply["evalue"], outcome.reply
        assert await told(broken, "print('again')") == "again"


@pytest.mark.parametrize("code", [SHARED, WRITTEN], ids=["processes", "files"])
async def test_a_kernel_with_too_much_shared_memory_is_ended_and_its_neighbour_stays(stack: Stack, code: str) -> None:
    """Each process alone is far from its limit. Files that no process has mapped are memory, too."""
    async with student(stack, "sharer") as sharer, student(stack, "neighbour") as neighbour:
        await told(neighbour, "kept = 1")
        await sharer.ask(code)
        words = await said(sharer, "what it has started")
        assert words.startswith(SENTENCE_TOTAL)
        assert "(KERNELRING_KERNEL_TOTAL_MIB). A new one takes its place" in words
        assert await told(sharer, "print('again')") == "again"
        assert await told(neighbour, "print(kept)") == "1"
        if code == WRITTEN:
            assert await told(sharer, MINE_GONE) == "gone"


async def test_a_kernel_that_has_used_its_processor_time_says_so(stack: Stack) -> None:
    async with student(stack, "busy") as busy:
        await busy.ask("while True: pass")
        assert (await said(busy, "processor time")).startswith(SENTENCE_CPU)
        assert await told(busy, "print('again')") == "again"


async def test_kernels_come_after_the_workers_and_are_the_first_to_go_for_memory(stack: Stack) -> None:
    async with student(stack, "nice") as nice:
        pid = record(stack, nice).pid
        assert await told(nice, "import os; print(os.nice(0))") == str(min(19, os.nice(0) + 5))
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
        if (session := Path(f"/proc/{pid}/autogroup")).exists():
            assert session.read_text().split()[-1] == str(
                5 + SESSION_NICE
            )  # all workers are one session, each kernel is one
        for worker in stack.worker_pids():
            fields = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
            assert int(fields[16]) == int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[16])
            assert int(Path(f"/proc/{worker}/oom_score_adj").read_text()) < 1000
