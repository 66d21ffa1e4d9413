"""Whose turn it is to start a kernel, and how much memory there is for it."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from kernels.free_memory import FreeMemory
from kernels.nursery_line import Line

MIB = 2**20


def calls(line: Line) -> list[str]:
    found = []
    while kernel_id := line.call():
        found.append(kernel_id)
    return found


def test_kernels_start_in_order_of_arrival() -> None:
    line = Line()
    for user in "abc":
        line.join(f"{user}1", user)
    assert [line.place(f"{user}1") for user in "abc"] == [1, 2, 3]
    assert calls(line) == ["a1", "b1", "c1"]
    assert line.place("a1") == 0


def test_many_starts_of_one_user_do_not_delay_the_first_of_another() -> None:
    line = Line()
    for number in range(5):
        line.join(f"a{number}", "ann")
    assert line.call() == "a0"
    line.join("b0", "bob")
    line.join("b1", "bob")
    assert calls(line) == ["b0", "a1", "b1", "a2", "a3", "a4"]


def test_who_leaves_is_not_called() -> None:
    line = Line()
    line.join("a", "ann")
    line.join("b", "bob")
    line.leave("a")
    line.leave("never there")
    assert (len(line), line.first(), calls(line), line.first()) == (1, "b", ["b"], "")


@given(st.lists(st.sampled_from("abc") | st.none(), max_size=60))
def test_while_a_users_first_start_waits_nobody_else_is_called_twice(moves: list[str | None]) -> None:
    """A letter: that user joins. None: one is called."""
    line, owner, called_since = Line(), dict[str, str](), dict[str, list[str]]()
    for number, user in enumerate(moves):
        if user:
            if user not in owner.values():
                called_since[str(number)] = []
            owner[str(number)] = user
            line.join(str(number), user)
        elif kernel_id := line.call():
            called_since.pop(kernel_id, None)
            whose = owner.pop(kernel_id)
            for others in called_since.values():
                assert whose not in others
                others.append(whose)


def memory(top: Path, available_mib: int = 10_000) -> FreeMemory:
    meminfo = top / "meminfo"
    meminfo.write_text(f"MemTotal: 1 kB\nMemFree: 1 kB\nMemAvailable:   {available_mib * 1024} kB\n")
    return FreeMemory(top, "above/own", meminfo)


def group(folder: Path, limit: str, used_mib: int, stat: str, names: tuple[str, str]) -> None:
    folder.mkdir(parents=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used_mib * MIB}\n")
    (folder / "memory.stat").write_text(stat)


def test_without_a_limit_there_is_what_the_machine_has(tmp_path: Path) -> None:
    group(tmp_path / "above/own", "max", 1, "", ("memory.max", "memory.current"))
    assert memory(tmp_path, 321).mib() == 321


def test_the_tightest_group_around_counts_and_its_idle_files_are_free(tmp_path: Path) -> None:
    v2 = ("memory.max", "memory.current")
    group(tmp_path / "above/own", str(900 * MIB), 100, "inactive_file 0\n", v2)
    group(tmp_path / "above-not", "0", 0, "", v2)
    for name, text in (("memory.max", 500 * MIB), ("memory.current", 450 * MIB)):
        (tmp_path / "above" / name).write_text(str(text))
    (tmp_path / "above/memory.stat").write_text(f"anon 5\ninactive_anon 7\ninactive_file {30 * MIB}\n")
    assert memory(tmp_path).mib() == 80
    assert memory(tmp_path, 79).mib() == 79


def test_groups_of_version_1_are_read_too(tmp_path: Path) -> None:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    stat = f"inactive_file 1\ntotal_inactive_file {20 * MIB}\n"
    group(tmp_path / "memory/above/own", str(200 * MIB), 150, stat, names)
    assert memory(tmp_path).mib() == 70


def test_this_machine_has_some() -> None:
    assert 0 < FreeMemory().mib() < 2**30
