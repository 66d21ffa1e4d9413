"""How a forked kernel comes to its owner: claimed with its first start, heard of when it has its sockets."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import zmq.asyncio

from kernels import nursery_call
from kernels.errors import BadRequest, ClaimRefused, DuplicateKernel
from kernels.house import House
from kernels.house_rules import HouseOptions
from kernels.kernel_manager import NurseryKernelManager
from kernels.nursery_client import ClaimLost, ClaimWanted, Event, NurseryClient
from kernels.records import KernelRecord
from kernels.tenant import Tenant
from kernels.warmth import Warmth
from kernels.wires import is_bound
from tests.kernel_fixture import said, started, talking
from tests.nursery_fixture import Ear, Place, client, emptied, kernel_env, own_nursery, until

READY_S = 60.0
THREADS = (
    "import os\nbefore = len(os.listdir('/proc/self/task'))\n{}\nprint(len(os.listdir('/proc/self/task')) - before)"
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Place]:
    with own_nursery(Warmth(("numpy", "pandas"), 2)) as found:
        yield found


@pytest.fixture
async def place(shared: Place) -> AsyncIterator[Place]:
    yield shared
    await emptied(shared)


async def warm(place: Place) -> None:
    await until(lambda: nursery_call.ask(place.runtime, "status", 5)["zygote"]["ready"], READY_S)


@dataclass
class Ring:
    """A rule that one can change."""

    epoch: int
    boot: str
    mine: bool = True

    def owns(self, user: str) -> bool:
        return self.mine

    def claim(self) -> tuple[int, str]:
        return self.epoch, self.boot


class Worker(NurseryClient):
    """A worker's line and its house. While `held` is not set, it does not learn that a kernel has its sockets."""

    def __init__(self, place: Place, ring: Ring, context: zmq.Context[Any]) -> None:
        super().__init__(place.socket, ring.boot, self._on_house_event)
        self.events: list[Event] = []
        self.held = asyncio.Event()
        self.held.set()
        self.house = House(self, context, ring, HouseOptions(place.folder, 2**20, 30.0, 1.0))

    async def settled(self, kernel_id: str) -> KernelRecord:
        found = await super().settled(kernel_id)
        await self.held.wait()
        return found

    async def create(
        self, kernel_id: str, notes: dict[str, Any] | None = None, env: dict[str, str] | None = None
    ) -> Tenant:
        given = kernel_env() | (env or {})
        return await self.house.create("ann", kernel_id, "python3", cwd=Path("/"), env=given, notes=notes or {})

    def _on_house_event(self, event: Event) -> None:
        self.events.append(event)
        self.house.on_event(event)


@asynccontextmanager
async def worker(place: Place, ring: Ring, context: zmq.Context[Any]) -> AsyncIterator[Worker]:
    made = Worker(place, ring, context)
    await made.start()
    made.house.start()
    try:
        yield made
    finally:
        await made.house.stop()
        await made.close()


async def adopted(by: Worker, kernel_id: str) -> Tenant:
    """The kernel at its next owner, attached."""
    async with asyncio.timeout(READY_S):
        tenant = await by.house.get("ann", kernel_id)
        await tenant.kernel.attached()
    return tenant


async def test_a_warm_kernel_says_when_it_has_its_sockets(place: Place, context: zmq.asyncio.Context) -> None:
    async with client(place) as nurse:
        await warm(place)
        manager = await started(nurse, context)
        record = await nurse.settled(manager.kernel_id)
        assert (record.warm, record.bound, record.exit) == (True, True, None)
        assert is_bound(dict(manager.get_connection_info()))
        await manager.shutdown_kernel(now=True)


async def test_of_a_kernel_that_cannot_say_so_nobody_waits_to_hear_it(place: Place) -> None:
    async with client(place) as nurse, asyncio.timeout(3):
        record = await nurse.spawn(place.order())
        assert not (await nurse.settled(record.kernel_id)).bound


async def test_a_warm_kernel_that_ends_before_it_has_its_sockets_keeps_nobody_waiting(
    place: Place, context: zmq.asyncio.Context
) -> None:
    async with client(place) as nurse:
        await warm(place)
        manager = await started(nurse, context)
        await manager.signal_kernel(9)
        async with asyncio.timeout(3):
            assert (await nurse.settled(manager.kernel_id)).exit or is_bound(dict(manager.get_connection_info()))
        await manager.shutdown_kernel(now=True)


async def test_a_kernel_is_claimed_and_noted_with_its_first_start_alone(place: Place) -> None:
    ear = Ear()
    async with client(place, ear, "a") as a, client(place, who="b") as b:
        order = replace(place.order(), claim_epoch=5, claim_boot="boot-a", notes={"path": "x"})
        record = await a.spawn(order)
        assert (record.claim_epoch, record.claim_boot, record.notes) == (5, "boot-a", {"path": "x"})
        with pytest.raises(ClaimRefused):
            await b.claim(record.kernel_id, 4, "boot-b")
        claim = asyncio.create_task(b.claim(record.kernel_id, 6, "boot-b", quiet=True))
        assert await ear.hear(ClaimWanted) == ClaimWanted(record.kernel_id, 6)
        await a.yielded(record.kernel_id)
        await claim
        await a.signal(record.kernel_id, 9)
        await until(lambda: not Path(f"/proc/{record.pid}").exists())
        again = await a.spawn(replace(order, incarnation=2, notes={}))
        assert (again.claim_epoch, again.claim_boot, again.notes) == (6, "boot-b", {"path": "x"})
        with pytest.raises(BadRequest):
            await a.spawn(replace(place.order(), notes={"long": "x" * 70_000}))


async def test_an_order_sent_again_to_the_next_nursery_holds_the_kernel_there(place: Place) -> None:
    ear = Ear()
    async with client(place, ear, "a") as a, client(place, who="b") as b:
        order = replace(place.order(), claim_epoch=5, claim_boot="boot-a")
        record = await a.spawn(order)
        place.kill_nursery()
        assert await a.spawn(order) == record
        await b.claim(record.kernel_id, 6, "boot-b")
        assert await ear.hear(ClaimLost) == ClaimLost(record.kernel_id, 6)
    await warm(place)  # a zygote that is ended while it imports leaves for a moment what it tries the modules in


async def test_a_kernel_whose_worker_was_killed_before_it_attached_is_the_next_owners(
    place: Place, context: zmq.asyncio.Context
) -> None:
    await warm(place)
    kernel_id = str(uuid.uuid4())
    async with worker(place, Ring(1, "boot-a"), context) as a:
        a.held.clear()
        await a.create(kernel_id, {"path": "x"})
    async with worker(place, Ring(2, "boot-b"), context) as b:
        tenant = await adopted(b, kernel_id)
        assert tenant.record.notes == {"path": "x"}
        async with talking(tenant.manager) as talk:
            assert await said(talk, "print(6 * 7)") == "42"
        await b.house.end(tenant, "enough")


async def test_a_worker_that_attaches_late_finds_the_kernel_another_owners(
    place: Place, context: zmq.asyncio.Context
) -> None:
    await warm(place)
    kernel_id = str(uuid.uuid4())
    ring = Ring(1, "boot-a")
    async with worker(place, ring, context) as a, worker(place, Ring(2, "boot-b"), context) as b:
        a.held.clear()
        await a.create(kernel_id)
        ring.mine = False
        b.house.ownership_changed()
        tenant = await adopted(b, kernel_id)
        await until(lambda: ClaimLost(kernel_id, 2) in a.events and not a.house.holding)
        a.held.set()
        async with talking(tenant.manager) as talk:
            assert await said(talk, "print(6 * 7)") == "42"
        assert (a.house.holding, b.house.holding) == (0, 1)
        await b.house.end(tenant, "enough")


async def test_a_worker_whose_user_becomes_anothers_while_it_adopts_leaves_the_kernel_to_its_owner(
    place: Place, context: zmq.asyncio.Context
) -> None:
    await warm(place)
    kernel_id = str(uuid.uuid4())
    fickle = Ring(2, "boot-b", mine=False)
    async with worker(place, Ring(1, "boot-a"), context) as a, worker(place, fickle, context) as b:
        await a.create(kernel_id)
        tenant = await adopted(a, kernel_id)
        found: list[Tenant] = []

        def note(adopted: Tenant) -> None:  # it is about to claim
            fickle.mine = False
            found.append(adopted)

        b.house.on_adopted = note
        fickle.mine = True
        b.house.ownership_changed()
        await until(lambda: found and (found[0].kernel.is_attached or not b.house.holding), READY_S)
        answered = asyncio.Event()
        tenant.kernel.probe("shell", answered.set, None)
        async with asyncio.timeout(READY_S):
            await answered.wait()
        assert (a.house.holding, b.house.holding) == (1, 0)
        await a.house.end(tenant, "enough")


async def test_an_id_that_is_taken_is_refused_and_its_kernel_lives_on(
    place: Place, context: zmq.asyncio.Context
) -> None:
    await warm(place)
    kernel_id = str(uuid.uuid4())
    async with worker(place, Ring(1, "boot-a"), context) as a:
        tenant = await a.create(kernel_id)
        with pytest.raises(DuplicateKernel):
            await a.create(kernel_id)
        await adopted(a, kernel_id)
        assert (await a.get(kernel_id)).state == "running"
        await a.house.end(tenant, "enough")


def start_file(folder: Path, code: str) -> dict[str, str]:
    """The environment of a kernel that runs `code` when it starts."""
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "first.py").write_text(code)
    return {"IPYTHONDIR": str(folder)}


async def test_a_kernel_that_its_start_files_end_is_dead_and_not_started_again(
    place: Place, context: zmq.asyncio.Context, tmp_path: Path
) -> None:
    await warm(place)
    async with worker(place, Ring(1, "boot-a"), context) as a:
        tenant = await a.create(str(uuid.uuid4()), env=start_file(tmp_path, "import os; os._exit(3)"))
        await until(lambda: tenant.kernel.life.execution_state == "dead")
        assert (tenant.record.warm, tenant.record.incarnation) == (True, 1)
        await a.house.end(tenant, "enough")


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import time; time.sleep(1.5)", id="take longer than it is listened for"),
        pytest.param(
            "import threading\nthreading.Thread(target=print, args=('x' * 3_000_000,)).start()", id="say too much"
        ),
    ],
)
async def test_a_kernel_is_attached_whatever_its_start_files_do(
    place: Place, context: zmq.asyncio.Context, tmp_path: Path, code: str
) -> None:
    await warm(place)
    kernel_id = str(uuid.uuid4())
    async with worker(place, Ring(1, "boot-a"), context) as a:
        await a.create(kernel_id, env=start_file(tmp_path, code))
        tenant = await adopted(a, kernel_id)
        assert tenant.kernel.life.execution_state in ("idle", "busy")
        async with talking(tenant.manager) as talk:
            assert await said(talk, "print(6 * 7)") == "42"
        await a.house.end(tenant, "enough")


@pytest.mark.parametrize(
    ("code", "starts"),
    [
        ("x = 1", False),
        ("import numpy", True),
        ("from numpy.linalg import norm", True),
        ("import pandas as pd", True),
    ],
)
async def test_openblas_gets_its_threads_when_the_users_code_imports_what_uses_it(
    place: Place, context: zmq.asyncio.Context, code: str, starts: bool
) -> None:
    async with client(place) as nurse:
        await warm(place)
        manager = await _with_two_blas_threads(nurse, context)
        async with talking(manager) as talk:
            assert await said(talk, THREADS.format(code)) == str(int(starts))
            assert await said(talk, THREADS.format(code)) == "0"
        await manager.shutdown_kernel(now=True)


async def _with_two_blas_threads(nurse: NurseryClient, context: zmq.Context[Any]) -> NurseryKernelManager:
    return await NurseryKernelManager.start(
        kernel_name="python3",
        user="ann",
        nursery=nurse,
        zmq_context=context,
        cwd=Path("/"),
        env=kernel_env() | {"OPENBLAS_NUM_THREADS": "2"},
    )
