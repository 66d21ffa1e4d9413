"""The arbiter's word of a death: quick, harmless when Redis is not there, and about the right worker only."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sharding.deathwatch import CALL_S
from sharding.registry import View
from tests.contract.crew import DEADLINE_S, HOST, Crew
from tests.redis_server import RedisServer, free_port

PROGRAM = Path(__file__).parent.parent / "programs" / "deathwatch_probe.py"
DEAD = 2**22 + 1


async def evict(url: str, pid: int, times: int = 1) -> dict[str, Any]:
    """Call it in a process like gunicorn's arbiter; its report."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), url, HOST, str(pid), str(times), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE_S):
        out, _ = await process.communicate()
    assert process.returncode == 0
    report: dict[str, Any] = json.loads(out)
    return report


async def join_as(crew: Crew, name: str, pid: int) -> None:
    """A member whose pid is this one's."""
    candidate = crew.candidate()
    object.__setattr__(candidate, "pid", pid)
    await crew.registry().join(candidate, name, View())


@pytest.mark.parametrize("tls", [False, True])
async def test_the_dead_worker_is_off_the_ring_and_all_others_stay(tls: bool) -> None:
    with RedisServer(password="open-sesame", tls=tls) as server:
        async with Crew(server.url) as crew:
            watcher = (await crew.started(1))[0]
            await join_as(crew, "dying", DEAD)
            await watcher.sees_boots({watcher.me.boot, "dying"})

            report = await evict(server.url, DEAD)

            await watcher.sees_boots({watcher.me.boot})
            assert report["orphans"] == [0]


async def test_a_pid_that_is_no_member_changes_nothing(crew: Crew) -> None:
    watcher = (await crew.started(1))[0]
    epoch = watcher.membership.ring.epoch
    await evict(crew.url, DEAD)
    assert (await watcher.membership.refresh()).epoch == epoch


async def test_it_returns_at_once_while_redis_hangs_and_its_orphan_ends_in_time(
    redis_server: RedisServer,
) -> None:
    redis_server.pause()
    report = await evict(redis_server.url, DEAD, times=5)
    assert report["returned_s"] < 0.2
    assert len(report["orphans"]) == 5
    assert report["orphans_s"] < CALL_S + 5
    assert report["rebound"]
    assert report["handled"] == []


@pytest.mark.parametrize(
    "url",
    ["redis://127.0.0.1:{port}/0", "redis://no-such-host.invalid/0", "not a url", "", "redis://:x@[::1]:1"],
)
async def test_it_raises_nothing_and_leaves_nothing_whatever_the_address(url: str) -> None:
    report = await evict(url.format(port=free_port()), DEAD, times=3)
    assert report["returned_s"] < 0.2
    assert len(report["orphans"]) == 3
