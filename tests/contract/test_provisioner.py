"""Kernels in the nursery through jupyter_client's own kernel manager: real ipykernels, and programs that misbehave."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_client.provisioning.factory import KernelProvisionerFactory

from kernels.errors import SpawnRefused, UnknownKernel
from kernels.kernel_manager import SOCKETS, NurseryKernelManager, kernel_context
from kernels.nursery_client import KernelExited, NurseryBack, NurseryClient
from tests.nursery_fixture import (
    PROGRAMS,
    Ear,
    Place,
    client,
    descriptors,
    kernel_env,
    nursery,
    state_of,
    until,
)

READY_S = 30.0


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


@pytest.fixture
def context() -> Iterator[zmq.asyncio.Context]:
    found = kernel_context()
    yield found
    found.destroy(linger=0)


def programs() -> KernelSpecManager:
    """Finds the kernelspecs of `tests/programs` and no others."""
    return KernelSpecManager(kernel_dirs=[str(PROGRAMS)], ensure_native_kernel=False)


async def started(
    nurse: NurseryClient, context: zmq.Context[Any], kernel_name: str = "python3", **given: Any
) -> NurseryKernelManager:
    spec: dict[str, Any] = {} if kernel_name == "python3" else {"kernel_spec_manager": programs()}
    return await NurseryKernelManager.start(
        kernel_name=kernel_name,
        user="ann",
        nursery=nurse,
        zmq_context=context,
        cwd=Path("/"),
        env=kernel_env(),
        **spec,
        **given,
    )


@asynccontextmanager
async def talking(manager: NurseryKernelManager) -> AsyncIterator[AsyncKernelClient]:
    """A client of jupyter_client's, once the kernel has answered it."""
    talk = manager.client()
    talk.start_channels()
    try:
        await talk.wait_for_ready(timeout=READY_S)
        yield talk
    finally:
        talk.stop_channels()


async def said(talk: AsyncKernelClient, code: str) -> str:
    """What the code printed."""
    printed: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    reply = await talk.execute_interactive(code, output_hook=hear, timeout=READY_S, allow_stdin=False)
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(printed).strip()


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
    assert {path.name for path in manager.directory.iterdir()} >= {f"s-{number}" for number in range(1, 6)}
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
    assert (info["transport"], info["ip"], info["shell_port"]) == ("ipc", str(record.directory / "s"), 1)
    async with talking(second) as talk:
        assert await said(talk, "print(1)") == "1"
    await second.shutdown_kernel(now=True)


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
