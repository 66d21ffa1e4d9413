"""Supervisor and nursery through kills, starts at once, want of workers, and their stop."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kernels import nursery_call
from kernels.__main__ import main as kernels_command
from kernels.errors import NurseryUnavailable
from kernels.nursery_client import ClaimLost, KernelExited, NurseryBack, NurseryClient
from kernels.supervisor import ensure_nursery, supervisor_runs
from tests.nursery_fixture import (
    WITHIN_S,
    Ear,
    Place,
    client,
    descriptors,
    nothing_left,
    nursery,
    processes_naming,
    started,
    state_of,
    until,
)

SECRETS = {"REDIS_URL": "redis://:sesame@localhost", "KERNELRING_JWT_SECRET": "open sesame " * 4}


@pytest.fixture
def place(runtime_dir: Path) -> Iterator[Place]:
    with nursery(runtime_dir) as found:
        yield found


async def test_a_former_owner_that_claimed_from_the_nursery_before_is_told_too(place: Place) -> None:
    ears = {who: Ear() for who in ("a", "b")}
    async with client(place, ears["a"], "a") as a, client(place, ears["b"], "b") as b:
        kernel_id = (await a.spawn(place.order())).kernel_id
        await a.claim(kernel_id, 1, "boot-a")
        place.kill_nursery()
        for ear in ears.values():
            await ear.hear(NurseryBack)
        await b.claim(kernel_id, 2, "boot-b", quiet=True)
        assert not [event for event in ears["a"].events if isinstance(event, ClaimLost)]
        await b.claim(kernel_id, 2, "boot-b")
        assert await ears["a"].hear(ClaimLost) == ClaimLost(kernel_id, 2)
        assert not [event for event in ears["b"].events if isinstance(event, ClaimLost)]


async def test_a_killed_nursery_is_replaced_and_its_kernels_go_on(place: Place) -> None:
    ear = Ear()
    async with client(place, ear) as nurse:
        order = place.order(user="ann")
        record = await nurse.spawn(order)
        await nurse.claim(order.kernel_id, 7, "boot")
        noted = await nurse.note(order.kernel_id, {"path": "a.ipynb"})
        old = place.kill_nursery()
        await ear.hear(NurseryBack)
        assert place.nursery_pid() != old
        assert await nurse.kernels() == [noted]
        assert (noted.claim_epoch, noted.claim_boot, noted.notes) == (7, "boot", {"path": "a.ipynb"})
        assert state_of(record.pid) == "S"

        other = await nurse.spawn(place.order())
        os.kill(other.pid, signal.SIGTERM)
        await ear.hear(KernelExited, lambda event: event.record.pid == other.pid)

        os.kill(record.pid, signal.SIGKILL)
        event = await ear.hear(KernelExited, lambda event: event.record.pid == record.pid)
        assert event.record.exit is not None
        assert event.record.exit.reason == "killed by signal 9 (SIGKILL)"
        await nurse.spawn(replace(order, incarnation=2))


async def test_a_call_in_the_gap_waits_for_the_next_nursery(place: Place) -> None:
    async with client(place) as nurse:
        await nurse.spawn(place.order())
        place.kill_nursery()
        # In the gap for certain: the socket refuses.
        await until(lambda: not nursery_call.answers(place.runtime))
        order = place.order()
        record = await nurse.spawn(order)
        assert record.state == "running"
        assert len(await nurse.kernels()) == 2


async def test_a_call_under_way_when_the_nursery_is_killed_is_sent_again(place: Place) -> None:
    async with client(place) as nurse:
        await nurse.status()
        pid = place.nursery_pid()
        # Stopped, it has the order and does not answer: when it is killed the order is under way.
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: state_of(pid) == "T")
        order = place.order()
        call = asyncio.create_task(nurse.spawn(order))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        assert (await call).state == "running"
        assert len(await nurse.kernels()) == 1


async def test_any_number_of_starts_at_once_make_one_nursery(runtime_dir: Path) -> None:
    runtime_dir.mkdir()
    command = (sys.executable, "-m", "kernels.supervisor", "--runtime", str(runtime_dir))
    both = [started(*command) for _ in range(2)]
    await asyncio.gather(
        *(asyncio.to_thread(ensure_nursery, runtime_dir, 120, WITHIN_S) for _ in range(4)),
    )
    assert [process.wait() for process in both] == [0, 0]
    with nursery(runtime_dir) as place:
        assert len(processes_naming(f"kernels.nursery --runtime {place.runtime}")) == 1
        await until(lambda: len(processes_naming(f"kernels.supervisor --runtime {place.runtime}")) == 1)


async def test_a_killed_supervisor_is_replaced_and_takes_over_the_nursery_that_runs(place: Place) -> None:
    ear = Ear()
    async with client(place, ear) as nurse:
        record = await nurse.spawn(place.order())
        old = place.nursery_pid()
        os.kill(place.supervisor_pid(), signal.SIGKILL)
        await until(lambda: not supervisor_runs(place.runtime))
        ensure_nursery(place.runtime, 120, WITHIN_S)
        assert place.nursery_pid() == old
        assert supervisor_runs(place.runtime)
        await until(lambda: "nursery_found" in place.log)
        place.kill_nursery()
        await ear.hear(NurseryBack)
        assert [found.pid for found in await nurse.kernels()] == [record.pid]


async def test_with_supervisor_and_nursery_killed_a_new_start_finds_the_kernels(place: Place) -> None:
    ear = Ear()
    async with client(place, ear) as nurse:
        record = await nurse.spawn(place.order())
        os.kill(place.supervisor_pid(), signal.SIGKILL)
        place.kill_nursery()
        await until(lambda: not supervisor_runs(place.runtime))
        ensure_nursery(place.runtime, 120, WITHIN_S)
        await ear.hear(NurseryBack)
        assert await nurse.kernels() == [record]
        assert state_of(record.pid) == "S"
        os.kill(record.pid, signal.SIGKILL)
        await ear.hear(KernelExited)


async def test_with_everything_killed_stop_still_ends_the_kernels(place: Place) -> None:
    async with client(place) as nurse:
        record = await nurse.spawn(place.order())
    os.kill(place.supervisor_pid(), signal.SIGKILL)
    place.kill_nursery()
    await until(lambda: not supervisor_runs(place.runtime))
    assert kernels_command(["stop", "--runtime", str(place.runtime)]) == 0
    await until(lambda: not state_of(record.pid))
    nothing_left(place)


@pytest.mark.parametrize("whom", ["nursery", "supervisor"])
async def test_sigterm_ends_kernels_nursery_and_supervisor(place: Place, whom: str) -> None:
    order = place.program("ignores_sigterm")
    async with client(place) as nurse:
        await nurse.spawn(order)
        await until((order.directory / "up").exists)
        os.kill(place.nursery_pid() if whom == "nursery" else place.supervisor_pid(), signal.SIGTERM)
        await until(lambda: not supervisor_runs(place.runtime))
    nothing_left(place)


async def test_a_sigterm_between_two_nurseries_ends_the_kernels_too(place: Place) -> None:
    async with client(place) as nurse:
        record = await nurse.spawn(place.order())
        supervisor = place.supervisor_pid()
        os.kill(supervisor, signal.SIGSTOP)
        place.kill_nursery()
        os.kill(supervisor, signal.SIGTERM)
        os.kill(supervisor, signal.SIGCONT)
        await until(lambda: not supervisor_runs(place.runtime))
        await until(lambda: not state_of(record.pid))
    nothing_left(place)


async def test_when_no_worker_has_come_for_the_grace_time_everything_ends(runtime_dir: Path) -> None:
    with nursery(runtime_dir, grace_s=0.5) as place:
        async with client(place) as nurse:
            record = await nurse.spawn(place.order())
            # While a worker is there the time does not run.
            with pytest.raises(AssertionError):
                await until(lambda: not supervisor_runs(place.runtime), within_s=1)
        await until(lambda: not supervisor_runs(place.runtime))
        assert not state_of(record.pid)
        nothing_left(place)
        assert "nursery_grace_over" in place.log


async def test_a_worker_in_time_stops_the_grace_time(runtime_dir: Path) -> None:
    with nursery(runtime_dir, grace_s=1.0) as place:
        async with client(place) as nurse:
            record = await nurse.spawn(place.order())
        async with client(place):
            with pytest.raises(AssertionError):
                await until(lambda: not supervisor_runs(place.runtime), within_s=1.5)
            assert state_of(record.pid) == "S"


def test_stop_and_status_say_what_there_is(runtime_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runtime = ["--runtime", str(runtime_dir)]
    assert kernels_command(["status", *runtime]) == 1
    assert "no nursery answers" in capsys.readouterr().err
    assert kernels_command(["stop", *runtime]) == 0
    assert "no nursery runs" in capsys.readouterr().out
    assert not runtime_dir.exists()
    with nursery(runtime_dir) as place:
        assert kernels_command(["status", *runtime]) == 0
        assert capsys.readouterr().out.startswith(f"nursery {place.nursery_pid()}, up ")


async def test_status_lists_workers_and_kernels(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    async with client(place, who="host/3") as nurse:
        record = await nurse.spawn(place.order())
        status = await asyncio.to_thread(kernels_command, ["status", "--runtime", str(place.runtime)])
    assert status == 0
    said = capsys.readouterr().out
    assert "workers: host/3" in said
    assert f"{record.kernel_id} program of ann: running, pid {record.pid}" in said


async def test_neither_supervisor_nor_nursery_nor_kernel_gets_a_secret(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    with nursery(runtime_dir) as place:
        async with client(place) as nurse:
            record = await nurse.spawn(place.order())
            for pid in (place.supervisor_pid(), place.nursery_pid(), record.pid):
                environ = Path(f"/proc/{pid}/environ").read_text()
                names = {entry.partition("=")[0] for entry in environ.split("\0") if entry}
                assert names <= {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH"}
                assert "sesame" not in environ
                if pid != record.pid:
                    assert str(Path(f"/proc/{pid}/cwd").readlink()) == "/"


async def test_the_daemons_keep_nothing_of_their_starter_open(place: Place) -> None:
    kept = set(descriptors(place.supervisor_pid())) & set(descriptors(os.getpid()))
    # All descriptors of one kind that have no name, such as pidfds, are called the same: that shows nothing.
    assert {name for name in kept if not name.startswith("anon_inode:")} <= {"/dev/null"}
    for pid in (place.supervisor_pid(), place.nursery_pid()):
        assert os.getsid(pid) != os.getsid(0)


async def test_kernels_can_be_interrupted_though_the_starter_ignored_the_signal(runtime_dir: Path) -> None:
    """What a shell does to a command with `&`: the signal's disposition is inherited through exec."""
    runtime_dir.mkdir()
    start = f"{sys.executable} -m kernels.supervisor --runtime {runtime_dir}"
    ignoring = ["sh", "-c", f"trap '' INT TERM HUP; exec {start}"]
    assert (await asyncio.to_thread(subprocess.run, ignoring)).returncode == 0
    with nursery(runtime_dir) as place:
        ear = Ear()
        async with client(place, ear) as nurse:
            order = place.order()
            await nurse.spawn(order)
            await nurse.signal(order.kernel_id, signal.SIGINT)
            event = await ear.hear(KernelExited)
            assert event.record.exit is not None
            assert event.record.exit.signal == signal.SIGINT


async def test_a_nursery_that_cannot_be_is_reported_in_a_sentence(runtime_dir: Path) -> None:
    with pytest.raises(NurseryUnavailable, match="longer than 62 bytes"):
        ensure_nursery(runtime_dir / ("x" * 64), 120, 1)
    runtime_dir.mkdir()
    (runtime_dir / "k").write_text("in the way")
    with pytest.raises(NurseryUnavailable, match="within 1 s"):
        ensure_nursery(runtime_dir, 120, 1)
    supervisor = int(await until((runtime_dir / "nursery.lock").read_text))
    os.kill(supervisor, signal.SIGKILL)
    await until(lambda: not processes_naming(str(runtime_dir)))


async def test_a_client_without_a_nursery_says_so_in_time_and_works_once_it_is_there(
    runtime_dir: Path,
) -> None:
    runtime_dir.mkdir()
    place = Place(runtime_dir)
    nurse = NurseryClient(place.socket, "worker", Ear(), wait_s=0.2)
    await nurse.start()
    try:
        assert not nurse.connected
        with pytest.raises(NurseryUnavailable, match=r"no nursery at .* for 0.2 s"):
            await nurse.status()
        with nursery(runtime_dir):
            await until(lambda: nurse.connected)
            assert (await nurse.status())["workers"] == ["worker"]
    finally:
        await nurse.close()
    with pytest.raises(NurseryUnavailable, match="closed"):
        await nurse.status()
