"""Kernels in the nursery through jupyter_client's own kernel manager: real ipykernels, and programs that misbehave."""

import asyncio
import os
import signal
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_client.provisioning.factory import KernelProvisionerFactory

from kernels.errors import SpawnRefused, UnknownKernel
from kernels.kernel_manager import SOCKETS, NurseryKernelManager
from kernels.nursery_client import KernelExited, NurseryClient
from tests.kernel_fixture import READY_S, said, started, talking
from tests.nursery_fixture import (
    Ear,
    Place,
    client,
    descriptors,
    kernel_env,
    nursery,
    state_of,
    until,
)


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


async def test_a_kernel_started_through_the_manager_answers(
    place: Place, nurse: NurseryClient, context: zmq.asyncio.Context
) -> None:
    manager = await started(nurse, context)
    async with talking(manager) as talk:
        assert await said(talk, "print(6 * 7)") == "42"
        assert await manager.is_alive()
    record = manager.kernel_record
    assert record is not None
    assert (record.user, record.kernel_name, record.incarnation, record.state) == ("ann", "python3", 1, "running")
    assert record == await nurse.get(manager.kernel_id)
    assert stat.S_IMODE(manager.directory.stat().st_mode) & 0o777 == 0o700
    assert stat.S_IMODE((manager.directory / "connection.json").stat().st_mode) == 0o600
    assert {path.name for path in (manager.directory / "s").iterdir()} >= {f"s-{number}" for number in range(1, 6)}
    await manager.shutdown_kernel()


async def test_a_kernel_has_the_environment_that_was_given_and_no_other(
    nurse: NurseryClient, context: zmq.asyncio.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:sesame@localhost")
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    manager = await started(nurse, context)
    record = manager.kernel_record
    assert record is not None
    environ = Path(f"/proc/{record.pid}/environ").read_text().split("\0")[:-1]
    assert sorted(environ) == sorted(f"{name}={value}" for name, value in kernel_env().items())
    assert set(descriptors(record.pid)) & set(descriptors(os.getpid())) <= {"/dev/null"}
    await manager.shutdown_kernel(now=True)


async def test_shutdown_leaves_nothing(place: Place, nurse: NurseryClient, context: zmq.asyncio.Context) -> None:
    manager = await started(nurse, context)
    async with talking(manager) as talk:
        child = int(await said(talk, "import subprocess; print(subprocess.Popen(['sleep', '600']).pid)"))
        pid = int(await said(talk, "import os; print(os.getpid())"))
        await manager.shutdown_kernel()
    # Nothing to wait for: it is so when shutdown has returned.
    assert list(place.folder.iterdir()) == []
    assert not state_of(pid)
    assert not state_of(child)
    assert not await manager.is_alive()
    with pytest.raises(UnknownKernel):
        await nurse.get(manager.kernel_id)


async def test_a_kernel_that_ignores_sigterm_is_killed_in_the_end(
    place: Place, nurse: NurseryClient, context: zmq.asyncio.Context
) -> None:
    manager = await started(nurse, context, "ignores_sigterm")
    manager.shutdown_wait_time = 0.4
    record = manager.kernel_record
    assert record is not None
    await until((manager.directory / "up").exists)
    await manager.shutdown_kernel()
    assert not state_of(record.pid)
    assert list(place.folder.iterdir()) == []


async def test_restart_keeps_id_and_directory_and_counts_incarnations(
    nurse: NurseryClient, context: zmq.asyncio.Context
) -> None:
    manager = await started(nurse, context)
    first = manager.kernel_record
    async with talking(manager) as talk:
        await said(talk, "x = 1")
        await manager.restart_kernel()
        await talk.wait_for_ready(timeout=READY_S)
        assert await said(talk, "print('x' in globals())") == "False"
    second = manager.kernel_record
    assert first is not None
    assert second is not None
    assert (second.kernel_id, second.directory) == (first.kernel_id, first.directory)
    assert (second.incarnation, second.state) == (2, "running")
    assert second.pid != first.pid
    await manager.restart_kernel(now=True)
    assert manager.kernel_record is not None
    assert manager.kernel_record.incarnation == 3
    await manager.shutdown_kernel(now=True)


async def test_a_killed_kernel_is_told_with_the_reason_and_can_be_started_again(
    nurse: NurseryClient, context: zmq.asyncio.Context, ear: Ear
) -> None:
    manager = await started(nurse, context)
    record = manager.kernel_record
    assert record is not None
    async with talking(manager):
        os.kill(record.pid, signal.SIGKILL)
        exited = await asyncio.wait_for(manager.until_exit(), 5)
    assert exited.exit is not None
    assert exited.exit.reason == "killed by signal 9 (SIGKILL)"
    assert (await ear.hear(KernelExited)).record == exited
    assert not await manager.is_alive()
    await manager.restart_kernel(now=True)
    async with talking(manager) as talk:
        assert await said(talk, "print(1)") == "1"
    assert (await nurse.get(manager.kernel_id)).incarnation == 2
    await manager.shutdown_kernel(now=True)


async def test_a_loop_can_be_interrupted(nurse: NurseryClient, context: zmq.asyncio.Context) -> None:
    manager = await started(nurse, context)
    async with talking(manager) as talk:
        begun = asyncio.Event()

        def hear(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                begun.set()

        code = "print('begun', flush=True)\nwhile True: pass"
        cell = asyncio.create_task(talk.execute_interactive(code, output_hook=hear, timeout=READY_S, allow_stdin=False))
        await asyncio.wait_for(begun.wait(), READY_S)
        await manager.interrupt_kernel()
        reply = await cell
        assert reply["content"]["ename"] == "KeyboardInterrupt"
    await manager.shutdown_kernel(now=True)


async def test_a_kernel_that_dies_at_start_says_why(nurse: NurseryClient, context: zmq.asyncio.Context) -> None:
    manager = await started(nurse, context, "dies_at_start")
    exited = await asyncio.wait_for(manager.until_exit(), 5)
    assert exited.exit is not None
    assert exited.exit.code == 3
    assert "no module named spam" in exited.exit.reason
    await manager.shutdown_kernel()


async def test_the_manager_notices_when_somebody_else_ends_its_kernel(
    place: Place, nurse: NurseryClient, context: zmq.asyncio.Context
) -> None:
    manager = await started(nurse, context, "ignores_sigterm")
    async with client(place, who="other") as other:
        await other.end(manager.kernel_id, "culled")
    exited = await asyncio.wait_for(manager.until_exit(), 5)
    assert exited.exit is not None
    assert exited.exit.reason == "ended: culled"
    await manager.interrupt_kernel()
    await manager.shutdown_kernel()


async def test_an_id_that_is_taken_is_refused_and_its_kernel_unharmed(
    nurse: NurseryClient, context: zmq.asyncio.Context
) -> None:
    first = await started(nurse, context)
    key = (first.directory / "connection.json").read_text()
    with pytest.raises(SpawnRefused, match="already"):
        await started(nurse, context, kernel_id=first.kernel_id)
    assert (first.directory / "connection.json").read_text() == key
    async with talking(first) as talk:
        assert await said(talk, "print(1)") == "1"
    await first.shutdown_kernel(now=True)


async def test_what_cannot_be_started_is_refused_in_words_and_leaves_nothing(
    place: Place,
    nurse: NurseryClient,
    context: zmq.asyncio.Context,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(KernelProvisionerFactory, "is_provisioner_available", lambda *_: True)
    with pytest.raises(NoSuchKernel):
        await started(nurse, context, "no_such_kernel")
    for name, spec in {
        "broken": '{"argv": ["no-such-program"], "display_name": "x", "language": "none"}',
        "elsewhere": '{"argv": ["true"], "display_name": "x", "language": "none", "metadata": '
        '{"kernel_provisioner": {"provisioner_name": "elsewhere"}}}',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "kernel.json").write_text(spec)
    specs = KernelSpecManager(kernel_dirs=[str(tmp_path)], ensure_native_kernel=False)
    for name, why in {"broken": "cannot run no-such-program", "elsewhere": "asks for the provisioner"}.items():
        with pytest.raises(SpawnRefused, match=why):
            await NurseryKernelManager.start(
                kernel_name=name,
                user="ann",
                nursery=nurse,
                zmq_context=context,
                cwd=Path("/"),
                env=kernel_env(),
                kernel_spec_manager=specs,
            )
    assert list(place.folder.iterdir()) == []
    assert await nurse.kernels() == []
    assert "Traceback" not in caplog.text


async def test_one_plain_context_serves_the_whole_process(nurse: NurseryClient) -> None:
    plain: zmq.Context[Any] = zmq.Context()
    manager = await started(nurse, plain)
    async with talking(manager) as talk:
        assert await said(talk, "print(1)") == "1"
    await manager.shutdown_kernel(now=True)
    manager.let_go()
    del manager, talk
    assert not plain.closed
    plain.destroy(linger=0)


def test_a_context_has_sockets_for_thousands_of_kernels(context: zmq.asyncio.Context) -> None:
    assert context.get(zmq.MAX_SOCKETS) == SOCKETS >= 16_384
