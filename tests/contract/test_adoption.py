"""Kernels that outlive who started them, and are taken over with their variables."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from kernels.kernel_manager import NurseryKernelManager
from kernels.nursery_client import KernelExited, NurseryBack, NurseryClient
from tests.kernel_fixture import READY_S, said, started, talking
from tests.nursery_fixture import Ear, Place, client, kernel_env, nursery


@pytest.fixture
def place(runtime_dir: Path) -> Iterator[Place]:
    with nursery(runtime_dir) as found:
        yield found


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
async def nurse(place: Place, ear: Ear) -> AsyncIterator[NurseryClient]:
    async with client(place, ear) as found:
        yield found


STARTER = """
import asyncio, os, sys
from pathlib import Path
from kernels.kernel_manager import NurseryKernelManager, kernel_context
from kernels.nursery_client import NurseryClient

async def main():
    nurse = NurseryClient(Path(sys.argv[1]), "short-lived", lambda event: None)
    await nurse.start()
    manager = await NurseryKernelManager.start(
        kernel_name="python3", user="ann", nursery=nurse, zmq_context=kernel_context(), cwd=Path("/"),
        env=dict(pair.split("=", 1) for pair in sys.argv[2:]),
    )
    talk = manager.client()
    talk.start_channels()
    await talk.wait_for_ready(timeout=30)
    await talk.execute_interactive("import os; x = os.getpid()", timeout=30)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_a_kernel_outlives_who_started_it_and_is_adopted_with_its_variables(
    place: Place, nurse: NurseryClient, context: zmq.asyncio.Context
) -> None:
    pairs = [f"{name}={value}" for name, value in kernel_env().items()]
    command = [sys.executable, "-c", STARTER, str(place.socket), *pairs]
    done = await asyncio.to_thread(subprocess.run, command)
    assert done.returncode == -signal.SIGKILL
    (record,) = await nurse.kernels("ann")
    assert record.state == "running"

    manager = await NurseryKernelManager.adopt(record, nurse, context)
    assert await manager.is_alive()
    async with talking(manager) as talk:
        assert await said(talk, "print(x)") == str(record.pid)
        assert await said(talk, "print(os.getppid())") == str(place.nursery_pid())
        # All of AsyncKernelManager works on it as on one of its own.
        await manager.restart_kernel()
        await talk.wait_for_ready(timeout=READY_S)
        assert await said(talk, "print('x' in globals())") == "False"
    again = manager.kernel_record
    assert again is not None
    assert (again.kernel_id, again.incarnation) == (record.kernel_id, 2)
    environ = Path(f"/proc/{again.pid}/environ").read_text().split("\0")[:-1]
    assert sorted(environ) == sorted(pairs)
    await manager.shutdown_kernel()
    assert list(place.folder.iterdir()) == []


async def test_letting_go_leaves_the_kernel_to_the_next(
    nurse: NurseryClient, context: zmq.asyncio.Context, place: Place
) -> None:
    first = await started(nurse, context)
    record = first.kernel_record
    assert record is not None
    async with talking(first) as talk:
        await said(talk, "x = 17")
    first.let_go()
    first.__del__()  # as when it is collected: jupyter_client would remove the connection file here
    del first
    second = await NurseryKernelManager.adopt(record, nurse, context)
    async with talking(second) as talk:
        assert await said(talk, "print(x)") == "17"
    await second.shutdown_kernel(now=True)


async def test_an_exited_kernel_is_adopted_as_such_and_can_be_restarted(
    nurse: NurseryClient, context: zmq.asyncio.Context, ear: Ear
) -> None:
    first = await started(nurse, context)
    assert first.kernel_record is not None
    os.kill(first.kernel_record.pid, signal.SIGKILL)
    await ear.hear(KernelExited)
    first.let_go()
    second = await NurseryKernelManager.adopt(await nurse.get(first.kernel_id), nurse, context)
    assert not await second.is_alive()
    await second.restart_kernel(now=True)
    async with talking(second) as talk:
        assert await said(talk, "print(1)") == "1"
    await second.shutdown_kernel(now=True)


async def test_a_kernel_stays_usable_while_the_nursery_is_replaced(
    place: Place, nurse: NurseryClient, context: zmq.asyncio.Context, ear: Ear
) -> None:
    manager = await started(nurse, context)
    record = manager.kernel_record
    assert record is not None
    async with talking(manager) as talk:
        await said(talk, "x = 17")
        place.kill_nursery()
        assert await said(talk, "print(x)") == "17"
        await ear.hear(NurseryBack)
        assert await manager.is_alive()
        assert await said(talk, "print(x)") == "17"
        os.kill(record.pid, signal.SIGKILL)
        exited = await asyncio.wait_for(manager.until_exit(), 5)
        assert exited.exit is not None
        assert exited.exit.signal == signal.SIGKILL
    await manager.shutdown_kernel(now=True)


async def test_a_kernel_cannot_lead_its_adopter_to_another_address(
    nurse: NurseryClient, context: zmq.asyncio.Context
) -> None:
    """The kernel can write its connection file; only the key is taken from there."""
    first = await started(nurse, context)
    record = first.kernel_record
    assert record is not None
    async with talking(first):
        pass
    path = first.directory / "connection.json"
    path.write_text(path.read_text().replace(str(first.directory), "/tmp/other").replace('"ipc"', '"tcp"'))
    first.let_go()
    second = await NurseryKernelManager.adopt(record, nurse, context)
    info = second.get_connection_info()
    assert (info["transport"], info["ip"], info["shell_port"]) == ("ipc", str(record.directory / "s" / "s"), 1)
    async with talking(second) as talk:
        assert await said(talk, "print(1)") == "1"
    await second.shutdown_kernel(now=True)
