"""Whose kernels are stopped for what they have on the disk, and whose are not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from server import disk_watch
from server.contents import quota
from server.disk_watch import DiskWatch
from tests.nested import nested


class House:
    """With one kernel of ann's."""

    def __init__(self, tmp_path: Path, state: str) -> None:
        life = SimpleNamespace(execution_state=state)
        record = SimpleNamespace(user="ann", kernel_id="k", directory=tmp_path / "k")
        self.mine: list[Any] = [SimpleNamespace(record=record, kernel=SimpleNamespace(life=life))]
        self.told: list[str] = []

    async def restart(self, tenant: Any, told: str, *, now: bool) -> None:
        self.told.append(told)


def watched(tmp_path: Path, state: str = "busy", quota_mib: int = 1) -> tuple[House, DiskWatch]:
    house: Any = House(tmp_path, state)
    (tmp_path / "home").mkdir()
    (tmp_path / "k" / "t").mkdir(parents=True)
    return house, DiskWatch(house, lambda user: (tmp_path / "home", None), tmp_path, quota_mib)


def write(path: Path, mib: int) -> None:
    path.write_bytes(b"x" * (mib * quota.MIB))


async def test_who_has_too_much_is_stopped_when_it_grows_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_watch, "LEAST_MARGIN", 2 * quota.MIB)
    house, watch = watched(tmp_path)
    write(tmp_path / "home" / "a", 4)
    for _ in range(3):
        await watch._round(fills=True)
    assert house.told == []
    write(tmp_path / "k" / "t" / "b", 1)
    await watch._round(fills=False)
    (told,) = house.told
    assert told.startswith("Your files take 5 of 1 MiB, and a cell went on to write")


@pytest.mark.parametrize(("state", "stopped"), [("busy", 1), ("idle", 0)])
async def test_whose_cell_has_ended_since_it_grew_too_much_is_left_alone_until_there_is_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, stopped: int
) -> None:
    monkeypatch.setattr(disk_watch, "LEAST_MARGIN", 2 * quota.MIB)
    house, watch = watched(tmp_path, state)
    for mib in (2, 4, 4):
        write(tmp_path / "home" / "a", mib)
        await watch._round(fills=True)
    assert len(house.told) == stopped
    write(tmp_path / "home" / "a", 5)  # by what it has left running
    await watch._round(fills=False)
    assert len(house.told) == stopped + 1


async def test_what_is_within_the_margin_may_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_watch, "LEAST_MARGIN", 2 * quota.MIB)
    house, watch = watched(tmp_path)
    for mib in (0, 1, 2):
        write(tmp_path / "home" / "a", mib)
        await watch._round(fills=True)
    assert house.told == []


@pytest.mark.parametrize(("state", "stopped"), [("busy", 1), ("idle", 0)])
async def test_of_more_files_than_are_counted_a_busy_kernel_is_stopped_while_the_disk_fills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, stopped: int
) -> None:
    for module in (quota, disk_watch):
        monkeypatch.setattr(module, "MAX_COUNTED", 10)
    house, watch = watched(tmp_path, state)
    for n in range(12):
        (tmp_path / "home" / str(n)).touch()
    await watch._round(fills=True)
    await watch._round(fills=False)
    assert house.told == []
    await watch._round(fills=True)
    assert len(house.told) == stopped
    assert all("more than 10 files" in told for told in house.told)


async def test_folders_deeper_than_can_be_walked_are_more_than_can_be_counted(tmp_path: Path) -> None:
    house, watch = watched(tmp_path)
    with nested(tmp_path / "home"):
        for _ in range(2):
            await watch._round(fills=True)
    assert len(house.told) == 1
