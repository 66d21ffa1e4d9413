"""An installation of somebody who is not root: all of it, and all that it makes, is theirs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local.stack import Stack
from tests.cluster.confined import record, status, student, told
from tests.cluster.levels import LEVELS, level_of, plain_stack, server_uid


@pytest.fixture(scope="module")
def plain() -> Iterator[Stack]:
    with plain_stack() as stack:
        yield stack


async def test_it_serves_a_cell_with_no_right_of_roots(plain: Stack) -> None:
    own = str(server_uid(plain))
    assert own != "0"
    async with student(plain, "ada") as ada:
        assert await told(ada, "open('a.txt', 'w').write('kept'); print(6 * 7, open('a.txt').read())") == "42 kept"
        assert plain.gunicorn
        nursery = plain.nursery()
        supervisor = int((plain.runtime / "nursery.lock").read_text())
        pids = [plain.gunicorn.pid, *plain.worker_pids(), supervisor, nursery["pid"], nursery["zygote"]["pid"]]
        for pid in (*pids, record(plain, ada).pid):
            found = status(pid)
            assert found["Uid"].split() == found["Gid"].split() == [own] * 4
            assert int(found["CapPrm"], 16) == int(found["CapEff"], 16) == 0
        owners = {path.lstat().st_uid for path in plain.directory.rglob("*")}
        assert owners - {plain.log_path.stat().st_uid} == {int(own)}


async def test_it_says_how_far_it_confines_and_why_not_further(plain: Stack) -> None:
    ready = plain.readyz()
    assert ready is not None
    assert ready["confinement"] == plain.nursery()["confinement"]
    level = level_of(plain)
    assert level in (*LEVELS[1:], "none")
    (said,) = plain.events("kernels_not_confined" if level == "none" else "kernels_confined")
    assert "root" in said["missing"]
