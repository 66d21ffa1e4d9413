"""Kernels that are forked from a zygote: real ones, in a nursery that keeps one warm."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq.asyncio

from kernels import nursery_call
from kernels.__main__ import main as kernels_command
from kernels.errors import SpawnRefused
from kernels.kernel_manager import NurseryKernelManager
from kernels.nursery_client import KernelExited, NurseryBack, NurseryClient
from kernels.records import KernelRecord
from kernels.warmth import Warmth
from tests.kernel_fixture import said, started, talking
from tests.nursery_fixture import (
    Ear,
    Place,
    client,
    descriptors,
    emptied,
    kernel_env,
    own_nursery,
    parent_of,
    state_of,
    until,
)

READY_S = 60.0
SECRETS = ("REDIS_URL", "KERNELRING_JWT_SECRET")


@pytest.fixture(scope="module")
def shared() -> Iterator[Place]:
    with pytest.MonkeyPatch.context() as patch:
        for name in SECRETS:
            patch.setenv(name, "sesame-open")
        with own_nursery(Warmth(("numpy",), 2)) as found:
            yield found


@pytest.fixture
async def place(shared: Place) -> AsyncIterator[Place]:
    yield shared
    await emptied(shared)


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
async def nurse(place: Place, ear: Ear) -> AsyncIterator[NurseryClient]:
    async with client(place, ear) as found:
        await warm(place)
        yield found


def zygote(place: Place) -> dict[str, Any]:
    found = nursery_call.ask(place.runtime, "status", 5)["zygote"]
    assert isinstance(found, dict)
    return found


async def warm(place: Place, other_than: int = 0) -> int:
    """The pid of a zygote that forks."""
    return int(await until(lambda: _ready(place, other_than), READY_S))


def _ready(place: Place, other_than: int) -> int:
    found = zygote(place)
    return int(found["pid"]) if found["ready"] and found["pid"] != other_than else 0


def record_of(manager: NurseryKernelManager) -> KernelRecord:
    assert manager.kernel_record is not None
    return manager.kernel_record


async def test_a_warm_kernel_is_the_nurserys_child_in_a_session_of_its_own(
    place: Place, nurse: NurseryClient, context: zmq.asyncio.Context
) -> None:
    manager = await started(nurse, context)
    record = record_of(manager)
    assert (record.warm, record.recorder) == (True, True)
    await until(lambda: parent_of(record.pid) == place.nursery_pid())  # once the process between them has ended
    assert os.getsid(record.pid) == os.getpgid(record.pid) == record.pid
    async with talking(manager) as talk:
        assert await said(talk, "print(6 * 7)") == "42"
    await manager.shutdown_kernel()
    assert not state_of(record.pid)


async def test_zygote_and_spares_have_one_thread_and_no_secret(place: Place, nurse: NurseryClient) -> None:
    found = zygote(place)
    await until(lambda: len(zygote(place)["spares"]) == 2)
    for pid in [found["pid"], *_children(place.nursery_pid())]:
        assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"sesame" not in environ
        assert not any(name.encode() in environ for name in SECRETS)
        assert not any("nursery.sock" in each or each.startswith(str(place.folder)) for each in descriptors(pid))


async def test_a_warm_kernel_has_the_environment_and_directory_that_were_given(
    nurse: NurseryClient, context: zmq.asyncio.Context, tmp_path: Path
) -> None:
    env = kernel_env() | {"TZ": "Asia/Tokyo", "TMPDIR": str(tmp_path), "PYTHONPATH": "/somewhere"}
    warm_one = await _manager(nurse, context, tmp_path, env)
    cold_one = await _manager(nurse, context, tmp_path, env | {"PYTHONHASHSEED": "1"})
    assert (record_of(warm_one).warm, record_of(cold_one).warm) == (True, False)
    told = []
    for manager in (warm_one, cold_one):
        async with talking(manager) as talk:
            told.append((await said(talk, _TELL)).replace("PYTHONHASHSEED", "").splitlines())
        await manager.shutdown_kernel(now=True)
    assert told[0] == told[1]


_TELL = """
import locale, os, signal, sys, tempfile, time, multiprocessing as mp
print(sorted(name for name in os.environ if name != 'PYTHONHASHSEED'))
print(os.getcwd(), _dh, tempfile.gettempdir(), time.tzname, locale.setlocale(locale.LC_CTYPE))
print(sys.path, sys.flags.safe_path, sys.flags.no_user_site)
print([part for part in sys.argv if 'connection' not in part and 'k/' not in part], sys.executable, sys.prefix)
print([signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD, signal.SIGHUP)])
print(open('/proc/self/oom_score_adj').read(), os.readlink('/proc/self/fd/0'))
print(sorted(name for name in vars(sys.modules['__main__']) if not name.startswith('_')), 'kernels' in sys.modules)
print(mp.process.ORIGINAL_DIR, os.umask(0o77), get_ipython().profile_dir.location, get_ipython().ipython_dir)
"""


async def test_no_two_kernels_draw_the_same_random_numbers(nurse: NurseryClient, context: zmq.asyncio.Context) -> None:
    code = """
import random, uuid, secrets, tempfile, multiprocessing, numpy
print(random.random()); print(numpy.random.random()); print(numpy.random.default_rng().random())
print(uuid.uuid4()); print(uuid.uuid1()); print(secrets.token_hex()); print(tempfile.mktemp())
print(bytes(multiprocessing.current_process().authkey).hex())
"""
    managers = [await started(nurse, context) for _ in range(3)]
    drawn: list[str] = []
    for manager in managers:
        assert record_of(manager).warm
        async with talking(manager) as talk:
            drawn += (await said(talk, code)).splitlines()
        await manager.shutdown_kernel(now=True)
    assert len(drawn) == len(set(drawn)) == 24


async def test_everybody_is_told_how_a_warm_kernel_ended(
    nurse: NurseryClient, ear: Ear, context: zmq.asyncio.Context
) -> None:
    killed, left = await started(nurse, context), await started(nurse, context)
    os.kill(record_of(killed).pid, signal.SIGKILL)
    event = await ear.hear(KernelExited, lambda event: event.record.pid == record_of(killed).pid)
    assert event.record.exit is not None
    assert event.record.exit.reason == "killed by signal 9 (SIGKILL)"
    async with talking(left) as talk:
        talk.execute("import os; os._exit(7)")
        event = await ear.hear(KernelExited, lambda event: event.record.pid == record_of(left).pid)
    assert event.record.exit is not None
    assert event.record.exit.code == 7
    await asyncio.gather(killed.shutdown_kernel(now=True), left.shutdown_kernel(now=True))


async def test_what_a_warm_kernel_has_started_ends_with_it(nurse: NurseryClient, context: zmq.asyncio.Context) -> None:
    manager = await started(nurse, context)
    async with talking(manager) as talk:
        child = int(await said(talk, "import subprocess; print(subprocess.Popen(['sleep', '600']).pid)"))
    await manager.shutdown_kernel(now=True)
    assert not state_of(child)


async def test_an_order_that_a_spare_cannot_carry_out_is_refused_in_words(
    place: Place, nurse: NurseryClient, context: zmq.asyncio.Context
) -> None:
    with pytest.raises(SpawnRefused, match="cannot enter /nowhere: No such file"):
        await _manager(nurse, context, Path("/nowhere"), kernel_env())
    assert list(place.folder.iterdir()) == []


async def test_a_zygote_that_dies_is_replaced_and_kernels_start_meanwhile(
    place: Place, nurse: NurseryClient, context: zmq.asyncio.Context
) -> None:
    before = zygote(place)["pid"]
    os.kill(before, signal.SIGKILL)
    manager = await started(nurse, context)
    async with talking(manager) as talk:
        assert await said(talk, "print(1)") == "1"
    await warm(place, before)
    later = await started(nurse, context)
    assert record_of(later).warm
    await asyncio.gather(manager.shutdown_kernel(now=True), later.shutdown_kernel(now=True))


async def test_rewarm_makes_a_new_zygote(place: Place, nurse: NurseryClient) -> None:
    before = zygote(place)["pid"]
    assert kernels_command(["rewarm", "--runtime", str(place.runtime)]) == 0
    assert await warm(place, before)
    assert not state_of(before)


async def test_a_warm_kernel_outlives_the_nursery(
    place: Place, nurse: NurseryClient, ear: Ear, context: zmq.asyncio.Context
) -> None:
    manager = await started(nurse, context)
    found = zygote(place)
    async with talking(manager) as talk:
        await said(talk, "x = 17")
        place.kill_nursery()
        await ear.hear(NurseryBack)
        await until(lambda: not any(map(state_of, [found["pid"], *found["spares"]])))
        assert await said(talk, "print(x)") == "17"
    record = await nurse.get(manager.kernel_id)
    assert (record.state, record.pid, record.warm) == ("running", record_of(manager).pid, True)
    await warm(place)
    await manager.shutdown_kernel(now=True)


async def test_thirty_starts_leave_nothing_in_nursery_and_zygote(
    place: Place, nurse: NurseryClient, context: zmq.asyncio.Context
) -> None:

    def kept() -> list[int]:
        pids = (place.nursery_pid(), int(zygote(place)["pid"]))
        return [len(descriptors(pid)) for pid in pids] + [len(_children(pid)) for pid in pids]

    for at in range(31):
        manager = await started(nurse, context)
        assert record_of(manager).warm
        await manager.shutdown_kernel(now=True)
        if at == 0:
            await until(lambda: len(_children(place.nursery_pid())) == 3)  # the zygote and two spares
            first = kept()
    await until(lambda: all(now <= then for now, then in zip(kept(), first, strict=True)))


async def _manager(
    nurse: NurseryClient, context: zmq.asyncio.Context, cwd: Path, env: dict[str, str]
) -> NurseryKernelManager:
    return await NurseryKernelManager.start(
        kernel_name="python3", user="ann", nursery=nurse, zmq_context=context, cwd=cwd, env=env
    )


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
