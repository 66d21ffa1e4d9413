"""Workers, Redis, the nursery and gunicorn are killed, hung and replaced, and no student's variables are lost.

24 students hold a variable each, and their kernels are busy in a loop, while one fault after another strikes one
installation. Afterwards every kernel is interrupted and every variable printed: each of these is answered within ten
seconds, by the same process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio
import redis as redis_client

from kernels.errors import NurseryUnavailable
from local.stack import Stack
from local.student import SocketClosed, Student
from tests.cluster.conftest import LEAN, running
from tests.redis_server import RedisServer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

STUDENTS = 24
ANSWER_S = 10.0
LEASE_S = 3.0
# It ends without an error, which would make the kernel abort the cell that is queued behind it.
LOOP = """
import time
try:
    print("busy", flush=True)
    while True:
        time.sleep(0.02)
except KeyboardInterrupt:
    pass
"""


class Pupil:
    """A student with a secret in a variable, and the kernel process that holds it."""

    def __init__(self, student: Student, secret: int) -> None:
        self.student = student
        self.secret = secret
        self.process = 0

    async def begin(self) -> None:
        """Start a kernel and put the secret into it."""
        await self.student.start()
        await self.student.open()
        outcome = await self.student.run(f"import os\nsecret = {self.secret}\nprint(os.getpid())", 60)
        assert outcome.text, outcome
        self.process = int(outcome.text)

    async def be_busy(self) -> None:
        """Run a loop that never ends; returns once it runs."""
        async with asyncio.timeout(ANSWER_S):
            await self.reconnect()
            msg_id = await self.student.ask(LOOP)
            while True:
                one = await self.student.receive()
                if one.kind == "stream" and one.parent.get("msg_id") == msg_id:
                    return

    async def check(self) -> None:
        """Interrupt the loop, and find the secret in the same process: both answered in time."""
        student = self.student
        async with asyncio.timeout(ANSWER_S):
            status, body, _ = await student.call("POST", f"/api/kernels/{student.kernel_id}/interrupt")
        assert status == 204, body
        outcome = await self.within(student.run, "print(os.getpid(), secret)")
        assert outcome.text.split() == [str(self.process), str(self.secret)], outcome

    async def within(self, what: Callable[[str], Awaitable[Any]], code: str) -> Any:
        """Do `what`, connecting again where the connection was lost, as a front end does."""
        async with asyncio.timeout(ANSWER_S):
            while True:
                try:
                    return await what(code)
                except (SocketClosed, aiohttp.ClientError):
                    await self.reconnect()

    async def reconnect(self) -> None:
        """Open the WebSocket, again and again."""
        while True:
            try:
                return await self.student.open()
            except (aiohttp.ClientError, OSError):
                await asyncio.sleep(0.1)  # as a front end waits between two tries; bounded by the caller


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def stack(redis: RedisServer) -> Iterator[Stack]:
    """One installation for all faults; at its end nothing may be left, whatever has struck it."""
    with running(redis, settings=LEAN) as shared:
        yield shared


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pupils(stack: Stack) -> AsyncIterator[list[Pupil]]:
    async with AsyncExitStack() as room:
        students = [Student(stack.url, stack.token(f"student-{n}")) for n in range(STUDENTS)]
        found = [Pupil(await room.enter_async_context(each), 1000 + n) for n, each in enumerate(students)]
        await together(found, Pupil.begin)
        yield found


async def together(pupils: list[Pupil], what: Callable[[Pupil], Coroutine[Any, Any, None]]) -> None:
    """Let all of them do it at once; the first failure is the test's."""
    async with asyncio.TaskGroup() as group:
        for pupil in pupils:
            group.create_task(what(pupil))


async def strike(pupils: list[Pupil], fault: Callable[[], object]) -> None:
    """All busy; the fault (blocking, it returns when it is over); then all must be well."""
    await together(pupils, Pupil.be_busy)
    await asyncio.to_thread(fault)
    await together(pupils, Pupil.check)


async def test_every_variable_survives_kill_9_of_each_worker(stack: Stack, pupils: list[Pupil]) -> None:
    for pid in stack.worker_pids():

        def kill(pid: int = pid) -> None:
            mark = stack.mark()
            os.kill(pid, signal.SIGKILL)
            stack.wait_event("worker_registered", mark)

        await strike(pupils, kill)


async def test_every_variable_survives_a_worker_more_and_a_worker_less(stack: Stack, pupils: list[Pupil]) -> None:
    assert stack.gunicorn is not None
    gunicorn = stack.gunicorn

    def more() -> None:
        gunicorn.send_signal(signal.SIGTTIN)
        stack.wait_ready(5)

    def less() -> None:
        gunicorn.send_signal(signal.SIGTTOU)
        stack.wait_ready(4)

    await strike(pupils, more)
    await strike(pupils, less)


async def test_every_variable_survives_a_reload_of_all_workers(stack: Stack, pupils: list[Pupil]) -> None:
    def reload() -> None:
        assert stack.gunicorn is not None
        old, mark = set(stack.worker_pids()), stack.mark()
        stack.gunicorn.send_signal(signal.SIGHUP)
        stack.wait_event("worker_registered", mark, count=4)
        stack.wait(lambda: not old & set(stack.worker_pids()), "the old workers are gone")

    await strike(pupils, reload)


async def test_a_reload_moves_nobody_twice(stack: Stack, pupils: list[Pupil]) -> None:
    assert stack.gunicorn is not None
    mark = stack.mark()
    old = set(stack.worker_pids())
    stack.gunicorn.send_signal(signal.SIGHUP)
    await asyncio.to_thread(stack.wait_event, "worker_registered", mark, 4)
    await asyncio.to_thread(stack.wait, lambda: not old & set(stack.worker_pids()), "the old workers are gone")
    await together(pupils, Pupil.check)
    adopted = [event["kernel"] for event in stack.events("kernel_attached", mark)]
    assert sorted(adopted) == sorted(set(adopted))


async def test_every_variable_survives_kill_9_of_the_nursery(stack: Stack, pupils: list[Pupil]) -> None:
    def kill() -> None:
        before = stack.nursery()["pid"]
        os.kill(before, signal.SIGKILL)
        stack.wait(lambda: alive(stack, before), "a new nursery with all workers")

    def alive(stack: Stack, before: int) -> bool:
        found = stack.readyz()
        if not found or not found["checks"]["nursery"]:
            return False
        with suppress(NurseryUnavailable):
            return bool(stack.nursery()["pid"] != before)
        return False

    await strike(pupils, kill)
    async with Student(stack.url, stack.token("newcomer")) as newcomer:
        await newcomer.start()
        await newcomer.open()
        assert (await newcomer.run("print(1)")).text == "1\n"
        assert await newcomer.delete() == 204


async def test_every_variable_survives_flushall(stack: Stack, redis: RedisServer, pupils: list[Pupil]) -> None:
    def flush() -> None:
        with redis_client.Redis.from_url(redis.url) as connection:
            connection.flushall()
        epoch = stack.wait_ready()["epoch"]
        stack.wait(lambda: (stack.readyz() or {}).get("status") == "ready", "all registered again")
        assert epoch

    mark = stack.mark()
    await strike(pupils, flush)
    assert stack.events("kernel_released", mark) == []  # an empty Redis makes nobody the owner of everybody


async def test_cells_run_while_redis_is_away_and_after_it_came_back_empty(
    stack: Stack, redis: RedisServer, pupils: list[Pupil]
) -> None:
    mark = stack.mark()
    await together(pupils, Pupil.be_busy)
    await asyncio.to_thread(redis.kill)
    gone_at = time.monotonic()
    await asyncio.to_thread(stack.wait_event, "registry_away", mark, 4)
    await together(pupils, Pupil.check)
    assert (stack.readyz() or {})["status"] == "degraded"
    await asyncio.sleep(max(0.0, 3.0 - (time.monotonic() - gone_at)))  # away for three seconds at least
    await together(pupils, Pupil.be_busy)
    await asyncio.to_thread(redis.start)
    await asyncio.to_thread(stack.wait_event, "registry_back", mark, 4)
    await asyncio.to_thread(stack.wait_ready)
    await together(pupils, Pupil.check)
    evicted = stack.events("member_evicted", mark) + stack.events("worker_evicted", mark)
    assert evicted == []  # after a stall of Redis itself nobody evicts anybody


async def test_a_worker_that_hangs_loses_its_users_to_others(stack: Stack, pupils: list[Pupil]) -> None:
    hung = stack.worker_pids()[0]

    def hang() -> None:
        mark = stack.mark()
        os.kill(hung, signal.SIGSTOP)
        stack.wait_event("member_evicted", mark, within_s=2 * LEASE_S)
        stack.wait(lambda: not psutil.pid_exists(hung), "the hung worker is killed")
        stack.wait_ready()

    await strike(pupils, hang)


async def test_a_worker_that_hangs_shorter_than_its_lease_and_wakes_serves_on(
    stack: Stack, pupils: list[Pupil]
) -> None:
    hung = stack.worker_pids()[0]

    def hang() -> None:
        os.kill(hung, signal.SIGSTOP)
        time.sleep(LEASE_S / 2)  # the fault is the time itself
        os.kill(hung, signal.SIGCONT)

    mark = stack.mark()
    await strike(pupils, hang)
    assert stack.events("member_evicted", mark) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
async def test_every_variable_survives_the_end_and_start_of_gunicorn(
    stack: Stack, pupils: list[Pupil], signum: int
) -> None:
    def end_and_start() -> None:
        stack.stop_gunicorn(signum)
        assert stack.nursery()["kernels"] == STUDENTS
        stack.start()

    await strike(pupils, end_and_start)


async def test_descriptors_and_tasks_of_a_worker_do_not_grow(stack: Stack, pupils: list[Pupil]) -> None:
    async with Student(stack.url, stack.token("leaky")) as student:

        async def once() -> None:
            await student.start()
            await student.open()
            assert (await student.run("print(1)")).text == "1\n"
            await student.close()
            assert await student.delete() == 204

        def descriptors() -> int:
            return sum(psutil.Process(pid).num_fds() for pid in stack.worker_pids())

        await once()
        before = descriptors()
        for _ in range(8):
            await once()
        # Connections between peers come and go with use; what a leak costs is four sockets for each kernel.
        assert descriptors() < before + 16
