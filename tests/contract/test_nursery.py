"""The nursery over its socket: what it starts, tells, keeps and refuses. Real processes, no Jupyter."""

import asyncio
import json
import os
import resource
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kernels import processes
from kernels.bounds import Bounds
from kernels.errors import BadRequest, ClaimRefused, SpawnRefused, UnknownKernel
from kernels.nursery_client import ClaimLost, ClaimWanted, KernelExited
from kernels.nursery_state import RETIRED_S
from tests.nursery_fixture import (
    Ear,
    Place,
    client,
    descriptors,
    emptied,
    own_nursery,
    parent_of,
    state_of,
    until,
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Place]:
    with own_nursery() as found:
        yield found


@pytest.fixture
async def place(shared: Place) -> AsyncIterator[Place]:
    yield shared
    await emptied(shared)


async def test_a_spawned_program_runs_as_the_order_says_and_inherits_nothing(place: Place) -> None:
    order = place.program("tells_itself")
    order = replace(order, env={"PATH": os.environ["PATH"], "SPAM": "eggs = ham"}, cwd=Path("/tmp"))
    async with client(place) as nurse:
        record = await nurse.spawn(order)
        await until((order.directory / "seen.json").exists)
        seen = json.loads((order.directory / "seen.json").read_text())
        assert seen == {
            "env": sorted(f"{name}={value}" for name, value in order.env.items()),
            "cwd": "/tmp",
            "umask": "0077",
            "blocked": "0" * 16,
            # Python itself ignores SIGPIPE (13) and SIGXFSZ (25).
            "ignored": f"{(1 << 12) | (1 << 24):016x}",
            "oom_score_adj": 1000,
            "session_is_own": True,
        }
        assert parent_of(record.pid) == place.nursery_pid()


async def test_no_descriptor_of_the_nursery_leaks_into_a_kernel(place: Place) -> None:
    async with client(place) as nurse, client(place):
        await nurse.spawn(place.order())
        order = place.order()
        record = await nurse.spawn(order)
        assert descriptors(record.pid) == ["/dev/null", "/dev/null", str(order.directory / "log")]


async def test_the_same_order_sent_again_starts_nothing(place: Place) -> None:
    order = place.order()
    async with client(place) as nurse:
        assert await nurse.spawn(order) == await nurse.spawn(order)
        assert len(await nurse.kernels()) == 1


async def test_incarnations_only_rise_and_wait_for_the_last_to_end(place: Place) -> None:
    ear = Ear()
    async with client(place, ear) as nurse:
        order = place.order()
        record = await nurse.spawn(order)
        with pytest.raises(SpawnRefused, match="still running"):
            await nurse.spawn(replace(order, incarnation=2))
        await nurse.note(order.kernel_id, {"a": 1})
        await nurse.claim(order.kernel_id, 5, "boot")
        os.kill(record.pid, signal.SIGKILL)
        await ear.hear(KernelExited)
        second = await nurse.spawn(replace(order, incarnation=2))
        assert (second.incarnation, second.state, second.exit) == (2, "running", None)
        assert (second.notes, second.claim_epoch, second.claim_boot) == ({"a": 1}, 5, "boot")
        with pytest.raises(SpawnRefused, match="is over"):
            await nurse.spawn(order)


async def test_an_order_that_cannot_be_carried_out_is_refused_in_words(place: Place) -> None:
    async with client(place) as nurse:
        with pytest.raises(SpawnRefused, match="cannot run no-such-program: No such file"):
            await nurse.spawn(place.order("no-such-program"))
        with pytest.raises(SpawnRefused, match="cannot enter /nowhere"):
            await nurse.spawn(replace(place.order(), cwd=Path("/nowhere")))
        with pytest.raises(SpawnRefused, match="is not /tmp"):
            await nurse.spawn(replace(place.order(), directory=Path("/tmp")))
        bare = place.order()
        (bare.directory / "connection.json").unlink()
        with pytest.raises(SpawnRefused, match=r"has no connection\.json"):
            await nurse.spawn(bare)
        with pytest.raises(BadRequest, match="kernel_id"):
            await nurse.spawn(replace(place.order(), kernel_id="../../etc"))
        assert await nurse.kernels() == []
        taken = place.order(user="ann")
        await nurse.spawn(taken)
        with pytest.raises(SpawnRefused, match="is not ben's"):
            await nurse.spawn(replace(taken, user="ben"))


async def test_everybody_is_told_of_an_exit_and_why(place: Place) -> None:
    first, second = Ear(), Ear()
    async with client(place, first) as nurse, client(place, second):
        killed = await nurse.spawn(place.order())
        os.kill(killed.pid, signal.SIGKILL)
        code = await nurse.spawn(place.order("sh", "-c", "exit 7"))
        for ear in (first, second):
            event = await ear.hear(KernelExited, lambda event: event.record.pid == killed.pid)
            assert event.record.exit is not None
            assert event.record.exit.reason == "killed by signal 9 (SIGKILL)"
            event = await ear.hear(KernelExited, lambda event: event.record.pid == code.pid)
            assert event.record.exit is not None
            assert event.record.exit.reason == "exited with code 7"
        assert (await nurse.get(killed.kernel_id)).state == "exited"


async def test_a_kernel_that_dies_at_start_has_its_last_words_told(place: Place) -> None:
    ear = Ear()
    async with client(place, ear) as nurse:
        await nurse.spawn(place.program("dies_at_start"))
        event = await ear.hear(KernelExited)
        assert event.record.exit is not None
        assert event.record.exit.code == 3
        assert event.record.exit.reason.endswith("looking for the library\nno module named spam")


async def test_a_signal_reaches_the_whole_group_and_none_that_has_exited(place: Place) -> None:
    ear = Ear()
    order = place.order("sh", "-c", "sleep 600 & echo $! > $0/child.new; mv $0/child.new $0/child; wait")
    order = replace(order, argv=(*order.argv, str(order.directory)))
    async with client(place, ear) as nurse:
        await nurse.spawn(order)
        child = int(await until((order.directory / "child").read_text))
        assert await nurse.signal(order.kernel_id, signal.SIGTERM)
        await until(lambda: not state_of(child))
        await ear.hear(KernelExited)
        assert not await nurse.signal(order.kernel_id, signal.SIGTERM)
        with pytest.raises(BadRequest, match="no signal 4711"):
            await nurse.signal(order.kernel_id, 4711)


async def test_end_leaves_no_process_and_no_file_however_the_kernel_resists(place: Place) -> None:
    order = place.program("lingering_child")
    async with client(place) as nurse:
        record = await nurse.spawn(order)
        child = int(await until((order.directory / "child").read_text))
        await nurse.end(order.kernel_id, "culled")
        # Nothing to wait for: when `end` has answered, it is so.
        assert not state_of(child)
        assert not state_of(record.pid)
        assert not order.directory.exists()
        with pytest.raises(UnknownKernel):
            await nurse.get(order.kernel_id)
        await nurse.end(order.kernel_id, "culled")


async def test_what_a_kernel_leaves_running_goes_with_it(place: Place) -> None:
    ear = Ear()
    order = place.program("lingering_child")
    async with client(place, ear) as nurse:
        record = await nurse.spawn(order)
        child = int(await until((order.directory / "child").read_text))
        os.kill(record.pid, signal.SIGKILL)
        await ear.hear(KernelExited)
        await until(lambda: not state_of(child))


async def test_the_reason_of_an_end_is_told(place: Place) -> None:
    ear = Ear()
    async with client(place, ear) as nurse:
        order = place.order()
        await nurse.spawn(order)
        await nurse.end(order.kernel_id, "idle for an hour")
        event = await ear.hear(KernelExited)
        assert event.record.exit is not None
        assert event.record.exit.reason == "ended: idle for an hour"


async def test_end_also_removes_a_directory_that_never_became_a_kernel(place: Place) -> None:
    order = place.order()
    async with client(place) as nurse:
        await nurse.end(order.kernel_id, "never started")
    assert not order.directory.exists()


async def test_many_can_be_ended_by_many_at_once(place: Place) -> None:
    async with client(place) as one, client(place) as two:
        orders = [place.order() for _ in range(10)]
        await asyncio.gather(*(one.spawn(order) for order in orders))
        await asyncio.gather(*(nurse.end(order.kernel_id, "x") for nurse in (one, two) for order in orders))
        assert await two.kernels() == []


async def test_a_kernel_that_was_ended_is_not_started_again_by_who_took_its_end_for_a_death(place: Place) -> None:
    async with client(place) as nurse:
        order = place.order()
        await nurse.spawn(order)
        await nurse.end(order.kernel_id, "deleted")
        order.directory.mkdir()  # as it stays when somebody writes into it while it is being removed
        (order.directory / "connection.json").write_text("{}")
        with pytest.raises(SpawnRefused, match="has been ended"):
            await nurse.spawn(replace(order, incarnation=2))
        assert await nurse.kernels() == []


async def test_a_list_is_of_one_user_or_of_all(place: Place) -> None:
    async with client(place) as nurse:
        for user in ("ann", "ann", "ben"):
            await nurse.spawn(place.order(user=user))
        assert len(await nurse.kernels()) == 3
        assert [record.user for record in await nurse.kernels("ben")] == ["ben"]
        assert await nurse.kernels("eve") == []


async def test_a_claim_is_granted_by_epoch_and_the_former_owner_is_told(place: Place) -> None:
    ears = {who: Ear() for who in ("a", "b")}
    async with client(place, ears["a"], "a") as a, client(place, ears["b"], "b") as b:
        kernel_id = (await a.spawn(place.order())).kernel_id
        record = await a.claim(kernel_id, 10, "boot-a")
        assert (record.claim_epoch, record.claim_boot) == (10, "boot-a")
        await a.claim(kernel_id, 10, "boot-a")
        await a.claim(kernel_id, 11, "boot-a")
        for epoch in (11, 10):
            with pytest.raises(ClaimRefused) as refused:
                await b.claim(kernel_id, epoch, "boot-b")
            assert refused.value.epoch == 11
        await b.claim(kernel_id, 12, "boot-b")
        assert await ears["a"].hear(ClaimLost) == ClaimLost(kernel_id, 12)
        with pytest.raises(ClaimRefused):
            await a.claim(kernel_id, 11, "boot-a")
        await a.claim(kernel_id, 13, "boot-a")
        assert await ears["b"].hear(ClaimLost) == ClaimLost(kernel_id, 13)
        assert len(ears["a"].events) == 1
        with pytest.raises(UnknownKernel):
            await a.claim("0" * 8 + "-0000-0000-0000-" + "0" * 12, 1, "boot-a")


async def test_a_quiet_claim_asks_the_former_owner_to_yield_and_the_second_ends_it(place: Place) -> None:
    ear = Ear()
    async with client(place, ear, "a") as a, client(place, who="b") as b:
        kernel_id = (await a.spawn(place.order())).kernel_id
        await a.claim(kernel_id, 1, "boot-a")
        claim = asyncio.create_task(b.claim(kernel_id, 2, "boot-b", quiet=True))
        assert await ear.hear(ClaimWanted) == ClaimWanted(kernel_id, 2)
        assert not claim.done()
        await a.yielded(kernel_id)
        assert (await claim).claim_boot == "boot-b"
        with pytest.raises(ClaimRefused):
            await a.claim(kernel_id, 1, "boot-a")
        assert ear.events == [ClaimWanted(kernel_id, 2)]
        await b.claim(kernel_id, 2, "boot-b")
        assert await ear.hear(ClaimLost) == ClaimLost(kernel_id, 2)


async def test_a_former_owner_that_does_not_yield_or_is_gone_keeps_nobody_waiting(place: Place) -> None:
    async with client(place, who="b") as b:
        async with client(place, who="a") as a:
            kernel_id = (await a.spawn(place.order())).kernel_id
            await a.claim(kernel_id, 1, "boot-a")
            async with asyncio.timeout(5):
                await b.claim(kernel_id, 2, "boot-b", quiet=True)
        async with asyncio.timeout(5):
            await b.claim(kernel_id, 3, "boot-b", quiet=True)


async def test_a_kernel_that_removes_its_directory_is_cared_for_all_the_same(place: Place) -> None:
    ear = Ear()
    async with client(place, ear) as nurse:
        order = place.order()
        record = await nurse.spawn(order)
        shutil.rmtree(order.directory)
        assert (await nurse.claim(order.kernel_id, 1, "boot")).claim_epoch == 1
        os.kill(record.pid, signal.SIGKILL)
        assert (await ear.hear(KernelExited)).record.state == "exited"
        await nurse.end(order.kernel_id, "x")
        assert await nurse.kernels() == []


async def test_notes_are_kept_and_bounded(place: Place) -> None:
    async with client(place) as nurse:
        kernel_id = (await nurse.spawn(place.order())).kernel_id
        await nurse.note(kernel_id, {"path": "a.ipynb"})
        assert (await nurse.get(kernel_id)).notes == {"path": "a.ipynb"}
        with pytest.raises(BadRequest, match="more than 65536"):
            await nurse.note(kernel_id, {"path": "x" * 70_000})
        assert (await nurse.get(kernel_id)).notes == {"path": "a.ipynb"}


async def test_a_flooded_log_is_cut_back(place: Place) -> None:
    order = place.program("floods_stderr")
    log = order.directory / "log"
    async with client(place) as nurse:
        await nurse.spawn(order)
        await until(lambda: log.stat().st_size > 1024 * 1024)
        await until(lambda: log.read_bytes()[:40].startswith(b"[the beginning was cut off]"), 60)
        await nurse.end(order.kernel_id, "flood")


async def test_fifty_kernels_later_the_nursery_has_as_many_descriptors_and_no_zombie(place: Place) -> None:
    pid = place.nursery_pid()
    async with client(place) as nurse:

        async def one_life(number: int) -> None:
            order = place.order(*(("true",) if number % 2 else ()))
            await nurse.spawn(order)
            await nurse.end(order.kernel_id, "done")

        await one_life(0)
        before = len(descriptors(pid))
        for start in range(0, 50, 10):
            await asyncio.gather(*(one_life(number) for number in range(start, start + 10)))
        await until(lambda: len(descriptors(pid)) == before)


async def test_a_kernel_is_retired_by_its_newest_owner_alone_and_is_nobodys_then(place: Place) -> None:
    async with client(place) as nurse, client(place) as other:
        kernel_id = (await nurse.spawn(place.order())).kernel_id
        await nurse.claim(kernel_id, 4, "before")
        await other.claim(kernel_id, 5, "after", quiet=True)
        with pytest.raises(ClaimRefused, match="is held by after"):
            await nurse.retire(kernel_id, "before", "idle")
        assert [record.kernel_id for record in await nurse.kernels()] == [kernel_id]
        for _ in range(2):  # it may be sent again
            await other.retire(kernel_id, "after", "idle")
        assert await nurse.kernels() == []
        with pytest.raises(UnknownKernel, match="about to be ended"):
            await nurse.claim(kernel_id, 6, "later")
        with pytest.raises(UnknownKernel, match="about to be ended"):
            await nurse.get(kernel_id)
        await other.end(kernel_id, "idle")
        with pytest.raises(UnknownKernel):
            await other.get(kernel_id)


async def test_a_retired_kernel_is_ended_though_its_owner_dies(place: Place) -> None:
    async with client(place) as nurse:
        record = await nurse.spawn(place.order())
        await nurse.claim(record.kernel_id, 1, "boot")
        await nurse.retire(record.kernel_id, "boot", "It was idle.")
    await until(lambda: not record.directory.exists(), RETIRED_S + 5)
    async with client(place) as nurse:
        assert await nurse.farewell(record.user, record.kernel_id) == "It was idle."


async def test_a_program_that_is_execd_has_its_bounds(place: Place) -> None:
    async with client(place) as nursery:
        order = replace(place.order(), bounds=Bounds(nice=7, cpu_s=60))
        pid = (await nursery.spawn(order)).pid
        assert resource.prlimit(pid, resource.RLIMIT_CPU) == (60, 60 + processes.HEED_XCPU_S)
        assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 7)
        await nursery.end(order.kernel_id, "the test is over")
