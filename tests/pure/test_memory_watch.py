"""Whose a process is, what counts with a kernel, and when a kernel is killed for what it has in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernels import processes, resident
from kernels.bounds import Bounds
from kernels.confine import warden
from kernels.nursery_ward import Ward
from kernels.nursery_watch import Watch, bound_of, whose
from kernels.records import KernelRecord, now_utc
from kernels.resident import Memory, Process

MIB = 1024
SERVER, ANN, BOB = 0, 200_000, 200_001
NURSERY = 50
SENTENCE = "Your notebook and what it has started used more than 200 MiB of memory (KERNELRING_KERNEL_TOTAL_MIB)."


def process(
    pid: int, uid: int, private: int = 0, shared: int = 0, *, session: int = 0, parent: int = NURSERY
) -> Process:
    return Process(pid, parent, session or pid, uid, Memory(private * MIB, shared * MIB))


def ward(pid: int, user: str = "ann", total_mib: int = 200) -> Ward:
    kernel_id = f"0123abcd-0123-4567-89ab-{pid:012x}"
    record = KernelRecord(kernel_id, user, "python3", 1, Path("/k"), Path("/k"), pid, 1, now_utc())
    return Ward(record, pidfd=1000 + pid, bounds=Bounds(total_mib=total_mib))


class Machine:
    """What /proc would say. A page that two have is half in each of their `parts`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: dict[int, Process] = {}
        self.parts: dict[int, Memory] = {}
        self.files: list[tuple[int, int]] = []
        self.killed: list[int] = []
        self.forgotten: list[int] = []
        self.asked = 0
        monkeypatch.setattr(resident, "pids", lambda: list(self.found))
        monkeypatch.setattr(resident, "look_at", self.found.get)
        monkeypatch.setattr(resident, "part_of", self.part_of)
        monkeypatch.setattr(resident, "kill", lambda process: self.killed.append(process.pid))
        monkeypatch.setattr(resident, "shared_files_kib", lambda: sum(kib for _, kib in self.files))
        monkeypatch.setattr(resident, "shared_files", lambda: iter(self.files))
        monkeypatch.setattr(processes, "signal_group", lambda pid, pidfd, signum: self.killed.append(pid))
        monkeypatch.setattr(warden, "forget_shared_memory", self.forgotten.append)
        monkeypatch.setattr("os.getuid", lambda: SERVER)

    def part_of(self, process: Process) -> Memory:
        self.asked += 1
        return self.parts.get(process.pid, process.memory)

    def runs(self, *found: Process) -> None:
        self.found.clear()
        self.found.update({each.pid: each for each in found})


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


async def look(watch: Watch, times: int = 1) -> None:
    for _ in range(times):
        await watch.look()


def test_a_kernel_is_its_session_its_descendants_and_what_of_its_user_has_come_loose() -> None:
    kernel, other = process(100, ANN), process(200, BOB)
    pool, daemon = process(101, ANN, session=100), process(102, ANN, parent=101)
    grandchild, loose = process(103, ANN, parent=102), process(104, ANN)
    nursery, zygote = process(NURSERY, SERVER, parent=1), process(60, SERVER)
    found = whose([grandchild, kernel, other, pool, daemon, loose, nursery, zygote], {100, 200, 300}, SERVER)
    assert {each.pid for each in found[100].own} == {100, 101, 102, 103}
    assert [each.pid for each in found[100].loose] == [104]
    assert [each.pid for each in found[200].all] == [200]
    assert set(found) == {100, 200}


def test_where_kernels_are_not_confined_a_uid_says_nothing() -> None:
    found = whose([process(100, SERVER), process(101, SERVER), process(NURSERY, SERVER)], {100}, SERVER)
    assert [each.pid for each in found[100].all] == [100]


def test_the_bound_is_what_the_order_says_or_a_quarter_more_than_one_process_may_have() -> None:
    assert [bound_of(300, 1024), bound_of(0, 1024), bound_of(0, 0)] == [300, 1280, 0]


async def test_a_sum_above_the_bound_twice_in_a_row_ends_the_kernel_with_all_of_its_processes(machine: Machine) -> None:
    ann, bob = ward(100), ward(200, "bob")
    watch = Watch(lambda: [ann, bob], 0)
    machine.runs(process(100, ANN, 90), process(101, ANN, shared=120, session=100), process(200, BOB, 190))
    await look(watch)
    assert (machine.killed, ann.struck) == ([], "")
    await look(watch)
    assert machine.killed == [100, 100, 101]
    assert (ann.struck, bob.struck) == (SENTENCE, "")


async def test_what_it_takes_for_a_moment_is_forgiven(machine: Machine) -> None:
    ann = ward(100)
    watch = Watch(lambda: [ann], 0)
    for mib in (300, 100, 300, 100):
        machine.runs(process(100, ANN, mib))
        await look(watch)
    assert ann.struck == ""


async def test_pages_that_forked_children_have_in_common_count_once(machine: Machine) -> None:
    ann = ward(100)
    pool = [process(101 + number, ANN, 150, session=100) for number in range(5)]
    machine.runs(process(100, ANN, 150), *pool)
    machine.parts = {pid: Memory(25 * MIB) for pid in machine.found}
    await look(Watch(lambda: [ann], 0), 3)
    assert (ann.struck, machine.asked) == ("", 18)


async def test_who_is_far_from_the_bound_is_not_looked_at_closely(machine: Machine) -> None:
    machine.runs(process(100, ANN, 100))
    await look(Watch(lambda: [ward(100)], 0), 3)
    assert machine.asked == 0


async def test_files_in_shared_memory_count_once_and_with_the_kernel_that_has_mapped_them(machine: Machine) -> None:
    small, large = ward(100), ward(110)
    machine.runs(process(100, ANN, 100), process(110, ANN, 20, 150))
    machine.files = [(ANN, 150 * MIB)]
    await look(Watch(lambda: [small, large], 0), 3)
    assert (small.struck, large.struck) == ("", "")


async def test_files_that_nobody_has_mapped_count_with_each_kernel_and_go(machine: Machine) -> None:
    ann, bob = ward(100), ward(200, "bob")
    machine.runs(process(100, ANN, 20), process(200, BOB, 20))
    machine.files = [(ANN, 100 * MIB), (ANN, 150 * MIB), (SERVER, 500 * MIB)]
    await look(Watch(lambda: [ann, bob], 0), 2)
    assert (ann.struck, bob.struck, machine.forgotten) == (SENTENCE, "", [ANN])


async def test_a_kernel_that_is_gone_and_one_without_bound_are_left_alone(machine: Machine) -> None:
    gone, free = ward(100), ward(200, "bob", total_mib=0)
    machine.runs(process(100, ANN, 300), process(200, BOB, 900))
    watch = Watch(lambda: [gone, free], 0)
    await look(watch)
    gone.pidfd = -1
    await look(watch, 2)
    assert machine.killed == []
