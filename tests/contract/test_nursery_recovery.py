"""What a nursery finds that comes after another: what has ended meanwhile, what is broken, what is nobody's."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kernels import nursery_disk
from kernels.errors import UnknownKernel
from kernels.nursery_client import NurseryBack
from kernels.processes import start_ticks
from tests.nursery_fixture import Ear, Place, client, nursery, started, state_of, until


@pytest.fixture
def place(runtime_dir: Path) -> Iterator[Place]:
    with nursery(runtime_dir) as found:
        yield found


async def test_what_ends_while_the_nursery_is_away_is_on_record_and_watchers_are_told(place: Place) -> None:
    ear = Ear()
    told: list[object] = []
    async with client(place, ear) as nurse:
        order = place.program("lingering_child")
        record = await nurse.spawn(order)
        child = int(await until((order.directory / "child").read_text))
        nurse.watch(record.kernel_id, told.append)
        supervisor = place.supervisor_pid()
        os.kill(supervisor, signal.SIGSTOP)  # so that no new nursery comes before the kernel has ended
        place.kill_nursery()
        os.kill(record.pid, signal.SIGKILL)
        await until(lambda: state_of(record.pid) in ("Z", ""))
        os.kill(supervisor, signal.SIGCONT)
        await ear.hear(NurseryBack)
        found = await nurse.get(record.kernel_id)
        assert found.state == "exited"
        assert found.exit is not None
        assert found.exit.reason in (
            "killed by signal 9 (SIGKILL)",  # the supervisor had not waited for it yet
            "exited while the nursery was away: exit code unknown",
        )
        await until(lambda: told)
        assert told[0] == found
        await until(lambda: not state_of(child))


async def test_an_end_in_the_gap_leaves_nothing(place: Place) -> None:
    order = place.order()
    async with client(place) as nurse:
        record = await nurse.spawn(order)
        place.kill_nursery()
        await nurse.end(order.kernel_id, "x")
        # The supervisor waits for it a moment later.
        assert state_of(record.pid) in ("", "Z")
        await until(lambda: not state_of(record.pid))
        assert not order.directory.exists()


async def test_a_corrupt_record_is_moved_aside_and_harms_nobody(place: Place) -> None:
    ear = Ear()
    async with client(place, ear) as nurse:
        bad, good = place.order(), place.order()
        bad_record, good_record = await nurse.spawn(bad), await nurse.spawn(good)
        (bad.directory / "record.json").write_text('{"kernel_id": "')
        place.kill_nursery()
        await ear.hear(NurseryBack)
        assert await nurse.kernels() == [good_record]
        assert (bad.directory / "record.corrupt").read_text() == '{"kernel_id": "'
        assert place.log.count("kernel_record_corrupt") == 1
        with pytest.raises(UnknownKernel):
            await nurse.get(bad.kernel_id)
        os.kill(bad_record.pid, signal.SIGKILL)
        await until(lambda: not state_of(bad_record.pid))


async def test_a_directory_without_a_record_goes_after_a_minute_with_what_runs_out_of_it(
    place: Place,
) -> None:
    ear = Ear()
    async with client(place, ear) as nurse:
        order, fresh = place.program("ignores_sigterm"), place.order()
        record = await nurse.spawn(order)
        await until((order.directory / "up").exists)
        (order.directory / "record.json").unlink()
        hour_ago = time.time() - 3600
        os.utime(order.directory, (hour_ago, hour_ago))
        place.kill_nursery()
        await ear.hear(NurseryBack)
        assert not order.directory.exists()
        await until(lambda: not state_of(record.pid))
        assert fresh.directory.exists()


async def test_a_pid_that_was_used_again_is_not_taken_for_the_kernel(place: Place) -> None:
    ear = Ear()
    bystander = started("sleep", "600")
    try:
        async with client(place, ear) as nurse:
            order = place.order()
            record = await nurse.spawn(order)
            before = (start_ticks(bystander.pid) or 0) - 1
            nursery_disk.save(replace(record, pid=bystander.pid, pid_started=before))
            place.kill_nursery()
            await ear.hear(NurseryBack)
            assert (await nurse.get(order.kernel_id)).state == "exited"
            assert not await nurse.signal(order.kernel_id, signal.SIGKILL)
            await nurse.end(order.kernel_id, "x")
            assert bystander.poll() is None
            os.kill(record.pid, signal.SIGKILL)
            await until(lambda: not state_of(record.pid))
    finally:
        bystander.kill()
        bystander.wait()
