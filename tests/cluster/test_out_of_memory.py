"""The machine itself runs out of memory: the kernel that took it is killed, by the operating system, and nothing else.

The machine is a control group with little memory, of v1 or v2, that holds the whole installation. Skipped where no such
group can be made.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kernels.oom import CGROUPS, own_group
from tests.cluster.attack_ground import attacked
from tests.cluster.conftest import LEAN, running
from tests.cluster.test_limits_of_kernels import said
from tests.redis_server import RedisServer

ROOM_MIB = 1400  # two workers, the nursery and what it forks from, two kernels: about half of it
GREEDY = f"taken = b'x' * ({2 * ROOM_MIB} * 2**20)"
GONE_S = 10.0
TOPS = ((CGROUPS / "memory", "memory.limit_in_bytes"), (CGROUPS, "memory.max"))
# Nothing of ours may be quicker: neither its own limit nor the watchdog.
SETTINGS = LEAN | {"KERNELRING_KERNEL_MEMORY_MIB": "100000", "KERNELRING_KERNEL_TOTAL_MIB": "100000"}


@contextmanager
def small_machine() -> Iterator[Path]:
    """A group with little memory and no swap; this process is in it within, and what it starts stays there."""
    before = [(top / own_group(), limit) for top, limit in TOPS if (top / own_group() / "cgroup.procs").exists()]
    if os.geteuid() != 0 or not before:
        pytest.skip("no control group can be made here")
    (parent, limit), name = before[0], f"kr-{secrets.token_hex(4)}"
    group = parent / name
    try:
        group.mkdir()
        (group / limit).write_text(str(ROOM_MIB * 2**20))
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"a control group cannot bound memory here: {error}")
    try:
        yield group
    finally:
        (parent / "cgroup.procs").write_text(str(os.getpid()))
        end = time.monotonic() + GONE_S
        while (group / "cgroup.procs").read_text() and time.monotonic() < end:
            time.sleep(0.05)  # between two looks
        group.rmdir()


@pytest.mark.timeout(240)
async def test_a_machine_that_is_out_of_memory_loses_the_kernel_that_took_it_and_no_more(redis: RedisServer) -> None:
    with small_machine() as group, running(redis, workers=2, confined=True, settings=SETTINGS) as stack:
        async with attacked(stack) as ground:
            kernel = ground.mallory.kernel_id
            await ground.mallory.ask(GREEDY)
            # Before it kills, Linux takes what it can: the pages of programs, which are read again at once.
            told = await said(ground.mallory, "memory", 120)
            assert "there was not enough memory, and the operating system killed it" in told
            await ground.goes_on()
            assert "oom_kill 1\n" in "".join(each.read_text() for each in group.glob("memory.[eo][vo][em]*"))
            assert (await ground.mallory.run("print('a new one')", 60)).text == "a new one\n"
            assert ground.mallory.kernel_id == kernel
