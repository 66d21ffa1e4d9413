"""The nursery's bound on the memory of a kernel with all that it has started. Real processes, no Jupyter."""

from __future__ import annotations

import mmap
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from kernels import resident
from kernels.bounds import Bounds
from kernels.nursery_client import KernelExited
from tests.nursery_fixture import Ear, client, nursery, state_of, until

MIB = 2**20
POOL = """
import mmap, os, signal, sys
mine = []
for number in range(4):
    pid = os.fork()
    if not pid:
        if number == 3 and sys.argv[1] != os.devnull:
            os.setsid()
        room = mmap.mmap(-1, 100 * 2**20)  # shared, which RLIMIT_DATA does not count
        for at in range(0, len(room), mmap.PAGESIZE):
            room[at] = 1
        signal.pause()
    mine.append(pid)
with open(sys.argv[1], "w") as file:
    print(*mine, file=file, flush=True)
signal.pause()
"""


def has_ended(pid: int) -> bool:
    return state_of(pid) in ("", "Z")


async def test_a_pool_with_too_much_shared_memory_ends_whole_and_its_neighbour_stays(runtime_dir: Path) -> None:
    ear, note = Ear(), runtime_dir.parent / f"{runtime_dir.name}.pids"
    with nursery(runtime_dir) as place:
        async with client(place, ear) as nurse:
            beside = await nurse.spawn(replace(place.order(user="bob"), bounds=Bounds(total_mib=200)))
            order = place.order(sys.executable, "-c", POOL, str(note))
            record = await nurse.spawn(replace(order, bounds=Bounds(total_mib=200)))
            ended = await ear.hear(KernelExited, lambda event: event.record.kernel_id == record.kernel_id)
            assert ended.record.exit is not None
            assert ended.record.exit.sentence == (
                "Your notebook and what it has started used more than 200 MiB of memory (KERNELRING_KERNEL_TOTAL_MIB)."
            )
            for pid in map(int, note.read_text().split()):
                await until(partial(has_ended, pid))
            assert "kernel_over_memory" in place.log
            assert not has_ended(beside.pid)
    note.unlink()


async def test_a_pool_without_bound_is_left_alone_by_the_same_nursery(runtime_dir: Path) -> None:
    """It is above the bound of the other, which is ended first."""
    ear = Ear()
    with nursery(runtime_dir) as place:
        async with client(place, ear) as nurse:
            free = await nurse.spawn(place.order(sys.executable, "-c", POOL, os.devnull))
            await until(lambda: sum(each.memory.shared for each in session(free.pid)) > 250 * 1024)
            bound = place.order(sys.executable, "-c", POOL, os.devnull)
            record = await nurse.spawn(replace(bound, bounds=Bounds(total_mib=200)))
            await ear.hear(KernelExited, lambda event: event.record.kernel_id == record.kernel_id)
            assert not has_ended(free.pid)
            await nurse.end(free.kernel_id, "the test is over")


def session(leader: int) -> list[resident.Process]:
    found = (resident.look_at(pid) for pid in resident.pids())
    return [each for each in found if each is not None and each.session == leader]


@contextmanager
def forked(many: int) -> Iterator[list[int]]:
    """Children that wait."""
    children = []
    try:
        for _ in range(many):
            if not (pid := os.fork()):
                signal.pause()
                os._exit(0)
            children.append(pid)
        yield children
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_what_forked_children_and_shared_memory_have_in_common_is_counted_once() -> None:
    room, private = mmap.mmap(-1, 40 * MIB), bytearray(b"1") * (60 * MIB)
    room.write(b"1" * len(room))
    with forked(3) as children:
        found = [each for pid in (os.getpid(), *children) if (each := resident.look_at(pid))]
        assert len(found) == 4
        assert {each.session for each in found} == {os.getsid(0)}
        assert {each.parent for each in found[1:]} == {os.getpid()}
        looked = sum(each.memory.private for each in found)
        parts = [resident.part_of(each) for each in found]
        assert looked > 4 * 60 * 1024
        assert sum(part.private for part in parts) < looked / 2
        assert 40 * 1024 <= sum(part.shared for part in parts) + 4 < 50 * 1024
    assert resident.look_at(children[0]) is None
    assert resident.part_of(found[1]) == (0, 0)
    del private


def test_a_process_is_killed_only_if_it_is_the_one_that_was_read() -> None:
    with forked(2) as (one, two):
        mine, other = resident.look_at(one), resident.look_at(two)
        assert mine is not None
        assert other is not None
        resident.kill(replace(other, session=1))
        resident.kill(mine)
        os.waitid(os.P_PID, one, os.WEXITED | os.WNOWAIT)
        assert not has_ended(two)


def test_files_in_shared_memory_are_found_and_links_lead_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, elsewhere = tmp_path / "shm", tmp_path / "elsewhere"
    (shared / "below").mkdir(parents=True)
    elsewhere.mkdir()
    for folder in (shared, shared / "below", elsewhere):
        (folder / "file").write_bytes(b"1" * MIB)
    (shared / "link").symlink_to(elsewhere)
    monkeypatch.setattr(resident, "SHARED_MEMORY", str(shared))
    found = list(resident.shared_files())
    assert 2048 <= sum(kib for _, kib in found) < 3072
    assert {uid for uid, _ in found} == {os.getuid()}
    monkeypatch.setattr(resident, "SHARED_MEMORY", str(shared / "none"))
    assert list(resident.shared_files()) == []
    assert resident.shared_files_kib() == 0
