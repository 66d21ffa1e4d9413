"""Kernels that have the server's own uid reach nothing of each other.

The other half, with what works all the same, is `test_one_uid_lives`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from kernels import nursery_call
from kernels.confine.one_uid import memory_of
from local.paths import ROOT
from tests.cluster.confined import status
from tests.one_uid import LANDLOCK, NAMESPACES, Ground, Pupil, ground, only, outer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

REFUSED: Final = ("PermissionError", "OSError: [Errno 38]", "OSError: [Errno 18]")  # ENOSYS, EXDEV
UNSEEN: Final = ("FileNotFoundError", "ProcessLookupError", "OSError: [Errno 30]")  # EROFS
NOBODY: Final = 65534
MEMORY: Final = (
    "from multiprocessing import shared_memory as m\nmade = m.SharedMemory(create=True, size=64)\nprint(made.name)"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[LANDLOCK, NAMESPACES])
async def school(request: pytest.FixtureRequest) -> AsyncIterator[Ground]:
    async with ground(request.param) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ann(school: Ground) -> AsyncIterator[Pupil]:
    async with school.pupil("ann") as found:
        (school.home("ann") / "diary").write_text("secret")
        await found.told("import subprocess\nchild = subprocess.Popen(['sleep', '600'])\nx = 42")
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bob(school: Ground) -> AsyncIterator[Pupil]:
    async with school.pupil("bob") as found:
        yield found


def refused(school: Ground, found: dict[str, str]) -> None:
    also = UNSEEN if school.options.level == NAMESPACES else ()
    assert {name: what for name, what in found.items() if not what.startswith(REFUSED + also)} == {}


async def test_a_kernel_has_the_servers_uid_and_no_capability(ann: Pupil) -> None:
    found = status(ann.record.pid)
    assert found["Uid"].split() == [str(os.getuid())] * 4
    assert [found[name].strip("0") for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")] == [""] * 4
    assert os.getuid() or not found["CapBnd"].strip("0")
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert ann.record.warm


async def test_files_of_others_and_of_the_server_are_closed(school: Ground, ann: Pupil, bob: Pupil) -> None:
    home, k, mine = school.home("ann"), ann.record.directory, bob.record.directory
    (school.place.runtime / "secret").write_text("x" * 32)
    name = await ann.told(MEMORY)
    hidden = Path("~").expanduser()
    try:
        found = await bob.attempts(
            {
                "list home": f"os.listdir('{home}')",
                "read diary": f"open('{home}/diary').read()",
                "read it by a descriptor": f"open('/proc/self/fd/%d' % os.open('{home}/diary', os.O_PATH)).read()",
                "write into home": f"open('{home}/x', 'w')",
                "cut diary": f"os.truncate('{home}/diary', 0)",
                "remove diary": f"os.unlink('{home}/diary')",
                "move home": f"os.rename('{home}', '{home}2')",
                "link to diary": f"os.link('{home}/diary', 'stolen')",
                "link to its inode": f"libc('linkat', os.open('{home}/diary', os.O_PATH), b'', -100, b's', 0x1000)",
                "list notebooks": f"os.listdir('{home.parent}')",
                "make a home": f"os.mkdir('{home.parent}/carl')",
                "list runtime": f"os.listdir('{school.place.runtime}')",
                "the server's secret": f"open('{school.place.runtime}/secret').read()",
                "the nursery's log": f"open('{school.place.runtime}/nursery.log').read()",
                "list kernels": f"os.listdir('{k.parent}')",
                "its key": f"open('{k}/connection.json').read()",
                "own record": f"open('{mine}/record.json').read()",
                "write own record": f"open('{mine}/record.json', 'w')",
                "own log by its name": f"open('{mine}/log', 'w')",
                "write own key": f"open('{mine}/connection.json', 'w')",
                "replace own socket": f"os.unlink('{mine}/s/s-1')",
                "move own socket": f"os.rename('{mine}/s/s-1', '{mine}/s/s-2')",
                "add own socket": f"os.symlink('{k}/s/s-2', '{mine}/s/x')",
                "move own sockets": f"os.rename('{mine}/s', '{mine}/t/s')",
                "a hard link among own sockets": f"os.link('{mine}/t', '{mine}/s/x')",
                "temporary files of others": "os.listdir('/tmp')",
                "the server's home": f"os.listdir('{hidden}')",
                "its working directory": f"os.listdir('{ROOT}')",
                "her shared memory": f"open('{memory_of(k)}/{name}')",
                "a watch on her folder": f"libc('inotify_add_watch', libc('inotify_init'), b'{home}', 0xfff)",
                "passwords": "open('/etc/shadow').read()",
                "an attribute": f"os.setxattr('{home}/diary', 'user.x', b'1')",
            }
        )
    finally:
        (school.place.runtime / "secret").unlink()
    refused(school, found)
    if school.options.level == LANDLOCK:
        shared = {
            "what others share": "os.listdir('/dev/shm')",
            "terminals": "os.listdir('/dev/pts')",
            "a terminal": "os.openpty()",
        }
        refused(school, await bob.attempts(shared))


async def test_modes_owners_and_times_of_what_is_not_ones_own_stay(school: Ground, ann: Pupil, bob: Pupil) -> None:
    """Landlock lets it pass: so does the filter, without doing it."""
    home = school.home("ann")
    places = (home, home / "diary", ROOT / "kernels" / "nursery.py")
    before = [path.stat() for path in places]
    await bob.attempts(
        {
            "close home": f"os.chmod('{home}', 0)",
            "open home": f"os.chmod('{home}', 0o777)",
            "date": f"os.utime('{home}/diary', (1, 1))",
            "owner": f"os.chown('{home}/diary', {os.getuid()}, {os.getgid()})",
            "close the server": f"os.fchmod(os.open('{ROOT}/kernels/nursery.py', os.O_RDONLY), 0)",
        }
    )
    after = [path.stat() for path in places]
    assert [(each.st_mode, each.st_mtime, each.st_ctime) for each in before] == [
        (each.st_mode, each.st_mtime, each.st_ctime) for each in after
    ]


async def test_processes_of_others_and_of_the_server_are_out_of_reach(school: Ground, ann: Pupil, bob: Pupil) -> None:
    nursery = nursery_call.ask(school.place.runtime, "status", 5)
    pids = {
        "kernel": ann.record.pid,
        "child": outer(ann.record.pid, int(await ann.told("print(child.pid)"))),
        "nursery": nursery["pid"],
        "supervisor": school.place.supervisor_pid(),
        "zygote": nursery["zygote"]["pid"],
        "server": os.getpid(),
    }
    for name, pid in pids.items():
        refused(school, await bob.attempts(AT_A_PROCESS(pid)))
        assert status(pid)["State"][0] in "SRD", name
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() != "999"
    assert await ann.told("print(x, open('diary').read())") == "42 secret"


def AT_A_PROCESS(pid: int) -> dict[str, str]:  # noqa: N802 (a table with one unknown)
    return {
        "environment": f"open('/proc/{pid}/environ').read()",
        "memory": f"open('/proc/{pid}/mem', 'rb')",
        "map": f"open('/proc/{pid}/maps').read()",
        "auxv": f"open('/proc/{pid}/auxv', 'rb').read()",
        "files": f"os.readlink('/proc/{pid}/fd/2')",
        "what is known of files": f"open('/proc/{pid}/fdinfo/2').read()",
        "a file": f"os.open('/proc/{pid}/fd/2', os.O_WRONLY)",
        "folder": f"os.listdir('/proc/{pid}/cwd')",
        "root": f"os.listdir('/proc/{pid}/root')",
        "program": f"os.readlink('/proc/{pid}/exe')",
        "namespaces": f"os.open('/proc/{pid}/ns/net', os.O_RDONLY)",
        "end first": f"open('/proc/{pid}/oom_score_adj', 'w').write('999')",
        "forget pages": f"open('/proc/{pid}/clear_refs', 'w').write('1')",
        "clocks": f"open('/proc/{pid}/timerslack_ns', 'w').write('9')",
        "name": f"open('/proc/{pid}/comm', 'w').write('x')",
        "group": f"open('/proc/{pid}/autogroup', 'w').write('19')",
        "core": f"open('/proc/{pid}/coredump_filter', 'w').write('1')",
        "signal": f"os.kill({pid}, signal.SIGCONT)",
        "signal 0": f"os.kill({pid}, 0)",
        "signal to group": f"os.killpg(os.getpgid({pid}), signal.SIGCONT)",
        "signal by a descriptor": f"signal.pidfd_send_signal(os.pidfd_open({pid}), signal.SIGCONT)",
        "signal to a thread": f"libc('syscall', 234, {pid}, {pid}, 18)",
        "signal with a value": f"libc('sigqueue', {pid}, 18, None)",
        "trace": f"libc('ptrace', 16, {pid}, None, None)",
        "read memory": f"libc('process_vm_readv', {pid}, None, 0, None, 0, 0)",
        "a copy of a descriptor": f"libc('syscall', 438, os.pidfd_open({pid}), 1, 0)",
        "advise": f"libc('syscall', 440, os.pidfd_open({pid}), None, 0, 21, 0)",
        "reap memory": f"libc('syscall', 448, os.pidfd_open({pid}), 0)",
        "compare": f"libc('syscall', 312, os.getpid(), {pid}, 0, 0, 0)",
        "limits": f"__import__('resource').prlimit({pid}, 7, (0, 0))",
        "priority": f"os.setpriority(os.PRIO_PROCESS, {pid}, 19)",
        "priority of a group": f"os.setpriority(os.PRIO_PGRP, {pid}, 19)",
        "disk": f"libc('syscall', 251, 1, {pid}, 3 << 13)",
        "processor": f"os.sched_setaffinity({pid}, [0])",
        "policy": f"os.sched_setparam({pid}, os.sched_param(0))",
        "attributes": f"libc('syscall', 314, {pid}, ctypes.create_string_buffer(48), 0)",
        "pages": f"libc('syscall', 256, {pid}, 64, None, None)",
        "some pages": f"libc('syscall', 279, {pid}, 0, None, None, None, 0)",
        "locks": f"libc('syscall', 274, {pid}, ctypes.create_string_buffer(8), ctypes.create_string_buffer(8))",
        "by the x32 door": f"libc('syscall', 0x40000000 + 521, 16, {pid}, None, None)",
    }


async def test_what_is_for_all_of_a_uid_is_for_ones_own(school: Ground, ann: Pupil) -> None:
    pids = (ann.record.pid, os.getpid(), school.place.nursery_pid())
    before = [os.getpriority(os.PRIO_PROCESS, pid) for pid in pids]
    async with school.pupil("eve") as eve:
        await eve.attempts({
            "priority of all": "os.setpriority(os.PRIO_USER, 0, 17)",
            "priority of a uid": "os.setpriority(os.PRIO_USER, os.getuid(), 17)",
            "disk of a uid": "libc('syscall', 251, 3, os.getuid(), 3 << 13)",
        })  # fmt: skip
    assert [os.getpriority(os.PRIO_PROCESS, pid) for pid in pids] == before


async def test_a_policy_for_another_is_not_put_in_force(ann: Pupil, bob: Pupil) -> None:
    """libzmq's threads set their own, and end the process when that is refused: the filter lets none pass."""
    await bob.attempts({"batch": f"os.sched_setscheduler({ann.record.pid}, os.SCHED_BATCH, os.sched_param(0))"})
    assert os.sched_getscheduler(ann.record.pid) == os.SCHED_OTHER


async def test_no_socket_with_a_path_is_made_by_a_kernel_its_threads_or_children(
    school: Ground, ann: Pupil, bob: Pupil
) -> None:
    only(school, LANDLOCK)
    s, nursery = ann.record.directory / "s", school.place.socket
    in_thread = "from concurrent.futures import ThreadPoolExecutor as _T\n"
    await bob.told(in_thread + "pool = _T(1)")
    anew = "run(sys.executable, '-c', 'import socket; socket.socket(socket.AF_UNIX)')"
    found = await bob.attempts(
        {
            **{f"socket {n}": f"connect('{s}/s-{n}')" for n in range(1, 6)},
            "nursery": f"connect('{nursery}')",
            "abstract": "connect('\\0x')",
            "in a thread": f"pool.submit(connect, '{nursery}').result()",
            "in a new thread": f"_T(1).submit(connect, '{nursery}').result()",
            "in a child": anew,
            "a pair that can be connected": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
            "a raw pair": "socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)",
            "a nameless call": "libc('socket', 1 | 1 << 40, 1, 0)",
            "clone3": "libc('syscall', 435, None, 0)",
            "io_uring": "libc('syscall', 425, 1, None)",
            "a user namespace": "libc('unshare', 0x10000000)",
            "no filter in front": "libc('prctl', 36, 0, 0, 0, 0)",
        }
    )
    refused(school, found)
    assert await bob.told("import socket\na, b = socket.socketpair()\na.send(b'x'); print(b.recv(1))") == "b'x'"


@pytest.mark.skipif(os.geteuid() != 0, reason="it is somebody else already")
@pytest.mark.parametrize("level", [LANDLOCK, NAMESPACES])
async def test_all_of_it_with_another_uid(level: str) -> None:
    """These tests, and those of `test_one_uid_lives`, which as root would show less."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-k",
        f"{level} or who_takes or cannot_be_made",
        __file__,
        __file__.replace(".py", "_lives.py"),
    ]
    done = await asyncio.to_thread(
        subprocess.run, command, user=NOBODY, group=NOBODY, extra_groups=[],
        cwd=ROOT, capture_output=True, text=True, timeout=200,
        env={"PATH": os.environ["PATH"], "HOME": "/", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:]
