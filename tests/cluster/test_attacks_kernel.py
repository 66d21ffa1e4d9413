"""What the cells of one student try against another, whose cell runs all the time and is whole in the end.

Every attack aims at what the installation of this file consists of, by name, and has its bound: at most 200 processes
or threads, 1 GiB, 2,000 descriptors. Their refusal is an error of the cell, and all the others do not notice.

Cells' attacks that are elsewhere, and not here again: `test_confined` (files, sockets, /proc, signals and traces of
kernel, nursery, worker, arbiter and zygote; shared memory; the keys and records of kernels; namespaces, mounts, other
uids; what is left behind by a kernel; what lies in the way of the next), `test_confined_files` (links and hard links
that the server is to follow), `contract/test_confinement` (a link in the place of a socket), `test_limits_of_kernels`,
`test_bad_kernels` (a kernel that talks nonsense). Requests are in `test_attacks_web`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
import redis as redis_client

from local import own_uids
from local.stack import Stack
from local.student import Student
from tests.cluster import attack_tools
from tests.cluster.attack import resident_mib
from tests.cluster.attack_ground import DIARY, Ground, attacked
from tests.cluster.confined import attempts, confined_stack, record, status, student, told
from tests.nursery_fixture import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

N_UIDS: Final = 3  # ada, mallory, and one that is given twice
LIMITS: Final = {
    "KERNELRING_USER_PROCESSES": "100",
    "KERNELRING_KERNEL_MEMORY_MIB": "512",
    "KERNELRING_KERNEL_FILES": "256",
    "KERNELRING_KERNEL_FILE_MIB": "32",
}

AIMED: Final = "import fcntl, resource, signal\nat.__dict__.update(json.loads({places!r}))"
DENIED: Final = r"PermissionError: \[Errno (1|13)\]"
ATTACKS: Final = {
    # what ada's kernel says
    "a forged connection file": ("forged_connection()", "Empty"),
    "an abstract socket of hers": ("connect('\\0' + at.abstract)", DENIED),
    "her socket through her process' root": ("os.chdir(f'/proc/{at.pid}/root' + at.k) or connect('s/s-2')", DENIED),
    "her descriptors": ("os.open(f'/proc/{at.pid}/fd/1', os.O_RDONLY)", DENIED),
    "a copy of her descriptor": ("libc('syscall', 438, os.pidfd_open(at.pid), 1, 0)", DENIED),
    "a watch on her folder": ("libc('inotify_add_watch', libc('inotify_init'), at.home.encode(), 0xfff)", DENIED),
    # her processes, and those of the server
    "a map of her memory": ("open(f'/proc/{at.pid}/maps').read()", DENIED),
    "her memory through a thread": ("open(f'/proc/{at.pid}/task/{at.pid}/mem', 'rb').read(1)", DENIED),
    "where her memory lies": ("open(f'/proc/{at.pid}/auxv', 'rb').read()", DENIED),
    "what she reads and writes": ("open(f'/proc/{at.pid}/io').read()", DENIED),
    "where her locks lie": ("libc('syscall', 274, at.pid, room(), room())", DENIED),
    "when her clocks wake her": ("open(f'/proc/{at.pid}/timerslack_ns', 'w').write('9' * 9)", DENIED),
    "to move her memory elsewhere": ("libc('syscall', 256, at.pid, 64, room(), room())", DENIED),
    "her program": ("os.readlink(f'/proc/{at.pid}/exe')", DENIED),
    "her namespaces": ("os.open(f'/proc/{at.pid}/ns/net', os.O_RDONLY)", DENIED),
    "the environment of Redis": ("open(f'/proc/{at.redis_pid}/environ').read()", DENIED),
    "the memory of Redis": ("open(f'/proc/{at.redis_pid}/mem', 'rb').read(1)", DENIED),
    "ptrace by the x32 door": ("libc('syscall', 0x40000000 + 521, 16, at.pid, None, None)", r"OSError: \[Errno 38\]"),
    "to end her kernel": ("os.kill(at.pid, signal.SIGKILL)", DENIED),
    "to end her group": ("os.killpg(at.pid, signal.SIGKILL)", DENIED),
    "a signal by a descriptor": ("signal.pidfd_send_signal(os.pidfd_open(at.pid), signal.SIGKILL)", DENIED),
    "a signal to a thread": ("libc('syscall', 234, at.pid, at.pid, 9)", DENIED),
    "a signal with a value": ("libc('sigqueue', at.pid, 9, None)", DENIED),
    "to end Redis": ("os.kill(at.redis_pid, signal.SIGKILL)", DENIED),
    "to slow her down": ("os.setpriority(os.PRIO_PROCESS, at.pid, 19)", DENIED),
    "to slow her and all of hers down": ("os.setpriority(os.PRIO_USER, at.uid, 19)", DENIED),
    "to put her last at the disk": ("libc('syscall', 251, 1, at.pid, 3 << 13)", DENIED),
    "to bind her to a processor": ("os.sched_setaffinity(at.pid, [0])", DENIED),
    "to take her memory away": ("resource.prlimit(at.pid, resource.RLIMIT_DATA, (0, 0))", DENIED),
    "to have her ended first": ("open(f'/proc/{at.pid}/oom_score_adj', 'w').write('1000')", DENIED),
    "to come first": ("os.setpriority(os.PRIO_PROCESS, 0, -20)", DENIED),
    "to come always": ("os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))", DENIED),
    # Redis, the server, the machine
    "to ask Redis": ("redis('KEYS *')", "PermissionError: -NOAUTH"),
    "to empty Redis": ("redis('FLUSHALL')", "PermissionError: -NOAUTH"),
    "to guess at Redis": ("redis('AUTH x')", "PermissionError: -WRONGPASS"),
    "the server's port": ("listen(at.port)", r"OSError: \[Errno 98\]"),
    "the port of Redis": ("listen(at.redis_port)", r"OSError: \[Errno 98\]"),
    "her keys by a program of root's": ("run('su', '-c', 'id')", "PermissionError"),
    "where the machine puts cores": ("open('/proc/sys/kernel/core_pattern', 'w')", "PermissionError|OSError"),
    "keys pressed on a terminal": ("fcntl.ioctl(os.openpty()[1], 0x5412, b'x')", DENIED),
    "a raw socket": ("socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)", DENIED),
    "memory that stays without its process": ("libc('shmget', 0, 4096, 0o1600)", DENIED),
    "locks that stay without their process": ("libc('semget', 0, 1, 0o1600)", DENIED),
    "messages that stay without their process": ("libc('msgget', 0, 0o1600)", DENIED),
    "a queue that stays without its process": ("libc('syscall', 240, b'kr', 0o102, 0o600, None)", DENIED),
    # her folders, and what the server works with
    "to move one's own folder": ("os.rename(at.mine, at.mine + '2')", DENIED),
    "a hard link to one's key": ("os.link(at.mine_k + '/connection.json', 'key')", "PermissionError|OSError"),
    "a hard link to the table of uids": ("os.link(at.table, 'table')", DENIED),
    "a link among the sockets": ("os.symlink(at.home, at.mine_k + '/s/s-9')", DENIED),
    # bombs
    "a fork bomb": ("fork_bomb()", r"BlockingIOError: \[Errno 11\]"),
    "a thread bomb": ("thread_bomb()", "RuntimeError: can't start new thread"),
    "a memory bomb": ("memory_bomb()", "MemoryError"),
    "a memory bomb of a library": ("malloc_bomb()", "MemoryError"),
    "to hold memory fast": ("hold_memory()", r"OSError: \[Errno 12\]"),
    "to fill the disk": ("disk_bomb('large')", r"OSError: \[Errno 27\]"),
    "to fill what is shared": ("disk_bomb('/dev/shm/kr-attack')", r"OSError: \[Errno 27\]"),
    "files without end": ("descriptor_bomb(lambda: open('/dev/null'))", r"OSError: \[Errno 24\]"),
    "sockets without end": ("descriptor_bomb(socket.socket)", r"OSError: \[Errno 24\]"),
    "connections without end": (
        "descriptor_bomb(lambda: socket.create_connection(('127.0.0.1', at.port), 10))", r"OSError: \[Errno 24\]"),
    "descriptors under way without end": ("descriptors_under_way()", r"OSError: \[Errno 109\]"),
}  # fmt: skip

NEEDED: Final = {
    "an abstract socket of hers": "landlock([6-9]|[1-9][0-9])",
    "ptrace by the x32 door": "seccomp",
    "memory that stays without its process": "seccomp",
    "locks that stay without their process": "seccomp",
    "messages that stay without their process": "seccomp",
    "a queue that stays without its process": "seccomp",
}


@pytest.fixture(scope="module")
def confining() -> Iterator[Stack]:
    first, _ = own_uids.claim()
    with confined_stack(KERNELRING_UIDS=f"{first}-{first + N_UIDS - 1}", **LIMITS) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground(confining: Stack) -> AsyncIterator[Ground]:
    async with attacked(confining) as found:
        await told(found.mallory, Path(attack_tools.__file__).read_text())
        await told(found.mallory, AIMED.format(places=json.dumps(places(found))))
        yield found


def places(ground: Ground) -> dict[str, str | int]:
    """What there is to aim at."""
    stack, mine = ground.stack, record(ground.stack, ground.mallory)
    with redis_client.Redis.from_url(stack.environ()["REDIS_URL"]) as client:
        redis_pid = client.info("server")["process_id"]
    return {
        "pid": ground.kernel.pid,
        "uid": uid_of(ground.kernel.pid),
        "k": str(ground.kernel.directory),
        "home": str(ground.home("ada")),
        "mine": str(ground.home("mallory")),
        "mine_k": str(mine.directory),
        "table": str(ground.home(".kernelring") / "uids.json"),
        "abstract": ground.abstract,
        "port": stack.port,
        "redis_pid": redis_pid,
        "redis_port": urlsplit(stack.environ()["REDIS_URL"]).port or 0,
    }


def uid_of(pid: int) -> int:
    return int(status(pid)["Uid"].split()[0])


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_by_a_cell_is_refused(ground: Ground, name: str) -> None:
    needed = re.compile(NEEDED.get(name, ""))
    if not needed.search((ground.stack.readyz() or {})["confinement"]):
        pytest.skip(f"this machine lacks {needed.pattern}")
    attack, refusal = ATTACKS[name]
    async with ground.unharmed():
        found = await attempts(ground.mallory, {name: attack})
        assert re.match(refusal, found[name]), found


async def test_command_lines_which_all_may_read_tell_no_secret(ground: Ground) -> None:
    stack, nursery = ground.stack, ground.stack.nursery()
    assert stack.gunicorn
    supervisor = int((stack.runtime / "nursery.lock").read_text())
    pids = [stack.gunicorn.pid, *stack.worker_pids(), supervisor, nursery["pid"], nursery["zygote"]["pid"]]
    lines = await told(ground.mallory, f"for pid in {[*pids, ground.kernel.pid]}:"
                       " print(open(f'/proc/{pid}/cmdline').read())")  # fmt: skip
    assert str(stack.runtime) in lines
    key = json.loads((ground.kernel.directory / "connection.json").read_text())["key"]
    password = urlsplit(stack.environ()["REDIS_URL"]).password
    for secret in (stack.secret, (stack.runtime / "secret").read_text().strip(), key, password, DIARY):
        assert secret
        assert secret not in lines


async def test_a_flood_of_output_is_its_own_clients_alone(ground: Ground) -> None:
    before = max(map(resident_mib, ground.stack.worker_pids()))
    async with ground.unharmed():
        flood = "for n in range(40): print(str(n % 10) * 2**20)"
        assert (await ground.mallory.run(flood, 120)).reply["status"] == "ok"
    assert max(map(resident_mib, ground.stack.worker_pids())) < before + 200


async def test_connections_that_a_cell_holds_keep_nobody_out(ground: Ground) -> None:
    hold = f"held = [socket.create_connection(('127.0.0.1', {ground.stack.port}), 10) for _ in range(120)]"
    async with ground.unharmed():
        await told(ground.mallory, hold)
        assert (await ground.ada.call("GET", f"/api/kernels/{ground.ada.kernel_id}"))[0] == 200
        await told(ground.mallory, "for each in held: each.close()")


async def test_a_kernel_that_stops_itself_can_be_ended(ground: Ground) -> None:
    async with ground.unharmed(), Student(ground.stack.url, ground.stack.token("mallory")) as again:
        await again.start()
        await again.open()
        pid = record(ground.stack, again).pid
        await again.ask("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)")
        await until(lambda: status(pid)["State"].startswith("T"))
        await ground.goes_on()
        assert await again.delete() == 204


TRAPS: Final = """
import os
os.chdir(os.environ["TMPDIR"])
os.makedirs("a/b")
for place in ("link", "a/link", "a/b/link"):
    os.symlink({home!r}, place)
    os.symlink({runtime!r}, place + "2")
    os.symlink({home!r} + "/diary.txt", place + "3")
"""


async def test_links_in_what_the_server_removes_lead_nowhere(ground: Ground) -> None:
    async with ground.unharmed():
        async with Student(ground.stack.url, ground.stack.token("mallory")) as again:
            await again.start()
            await again.open()
            await told(again, TRAPS.format(home=str(ground.home("ada")), runtime=str(ground.stack.runtime)))
            directory = record(ground.stack, again).directory
            assert await again.delete() == 204
        await until(lambda: not directory.exists())
        assert (ground.home("ada") / "diary.txt").read_text() == DIARY


PLANTED: Final = """
import os
for name in (".local", ".ipython", ".config", ".cache", ".jupyter"):
    if os.path.lexists(name):
        os.rename(name, name + "-kept")
    os.symlink({home!r}, name)
"""
TAKEN_AWAY: Final = """
for name in (".local", ".ipython", ".config", ".cache", ".jupyter"):
    os.unlink(name)
    if os.path.lexists(name + "-kept"):
        os.rename(name + "-kept", name)
"""


async def test_links_where_the_next_kernel_starts_lead_nowhere(ground: Ground) -> None:
    home = ground.home("ada")
    before = {(path.name, path.lstat().st_uid) for path in home.iterdir()}
    async with ground.unharmed():
        await told(ground.mallory, PLANTED.format(home=str(home)))
        code, kernel, _ = await ground.mallory.call("POST", "/api/kernels", {})
        assert code == 500, kernel  # it cannot look there, and says so
        assert "Permission denied" in kernel["message"]
        await told(ground.mallory, TAKEN_AWAY)
    assert {(path.name, path.lstat().st_uid) for path in home.iterdir()} == before


POISON: Final = """
import os, pickle, site, sys
ran = os.path.expanduser("~/ran")
act = f"import os; open({ran!r}, 'a').write(str(os.getuid()) + chr(10))"
class Poison:
    def __reduce__(self):
        return exec, (act,)
packages = os.environ["PYTHONPATH"].rpartition(":")[2]
profile = os.path.expanduser("~/.ipython/profile_default")
for folder in (packages, f"{profile}/startup", f"{profile}/db/autorestore", os.path.expanduser("~/.jupyter")):
    os.makedirs(folder, exist_ok=True)
for name in ("sitecustomize", "usercustomize", "kernels", "server", "nbconvert", "json"):
    open(f"{packages}/{name}.py", "w").write(act)
    open(os.path.expanduser(f"~/{name}.py"), "w").write(act)
open(f"{packages}/poison.pth", "w").write(act)
open(f"{profile}/startup/00.py", "w").write(act)
open(os.path.expanduser("~/.jupyter/jupyter_nbconvert_config.py"), "w").write(act)
for place in (f"{profile}/db/autorestore/x", os.path.expanduser("~/fontlist.pickle")):
    with open(place, "wb") as file:
        pickle.dump(Poison(), file)
"""
CURED: Final = """
import glob
for name in ("*.py", ".local/lib/*/site-packages/*", ".ipython/profile_default/startup/*", ".jupyter/*"):
    for path in glob.glob(os.path.expanduser("~/" + name)):
        os.path.isfile(path) and os.unlink(path)
"""


async def test_what_poisons_python_is_run_by_nobody_else(ground: Ground) -> None:
    """Modules instead of others, start-up files, pickles: the next kernels, an export, the server's own work."""
    page = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    async with ground.unharmed():
        await told(ground.mallory, POISON)
        async with (
            Student(ground.stack.url, ground.stack.token("mallory")) as again,
            Student(ground.stack.url, ground.stack.token("ada")) as hers,
        ):
            asked = {"type": "notebook", "format": "json", "content": page}
            assert (await again.call("PUT", "/api/contents/page.ipynb", asked))[0] == 201
            assert (await again.call("POST", "/api/contents/page.ipynb/checkpoints"))[0] == 201
            assert (await again.call("GET", "/nbconvert/html/page.ipynb", within_s=90))[0] == 200
            for one in (again, hers):
                await one.start()
                await one.open()
                assert await told(one, "print(1)") == "1"
                assert await one.delete() == 204
        await told(ground.mallory, CURED)
    ran = (ground.home("mallory") / "ran").read_text().split()
    assert set(ran) == {str(uid_of(record(ground.stack, ground.mallory).pid))}


LEFT: Final = """
import ctypes, os, socket, subprocess
os.mkdir("/dev/shm/{name}", 0o700)
for n in range(3):
    os.makedirs(f"/dev/shm/{name}/{{n}}/deeper")
    open(f"/dev/shm/{name}/{{n}}/deeper/diary", "w").write("of the one before")
os.symlink("/dev/shm/{name}", "/dev/shm/{name}-link")
open("/dev/shm/{name}-file", "w").write("of the one before")
left = [subprocess.Popen(["setsid", "sh", "-c", "trap '' TERM HUP; exec sleep 600"]) for _ in range(3)]
print(ctypes.CDLL(None).shmget(0x6b72, 4096, 0o1600), *[each.pid for each in left])
"""


async def test_nothing_is_left_for_who_is_given_a_uid_again(ground: Ground) -> None:
    stack, name = ground.stack, f"kr-{ground.kernel.kernel_id}"
    async with ground.unharmed():
        async with student(stack, "carl") as carl:
            uid = uid_of(record(stack, carl).pid)
            segment, *pids = map(int, (await told(carl, LEFT.format(name=name))).split())
        await until(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()])
        shutil.rmtree(ground.home("carl"))  # as who runs the server does when somebody has left
        async with student(stack, "dora") as dora:
            assert uid_of(record(stack, dora).pid) == uid == stack.uids[1]
            await until(lambda: not [path for path in Path("/dev/shm").glob(f"{name}*") if os.path.lexists(path)])
            assert segment == -1  # it would stay: it belongs to no process
