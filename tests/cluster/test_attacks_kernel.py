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
from tests.cluster.attack_cells import ATTACKS, LEFT_OUT, NEEDED, refusal_of
from tests.cluster.attack_ground import DIARY, Ground, attacked
from tests.cluster.confined import attempts, record, status, student, told
from tests.cluster.levels import LEVELS, stack_at
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


@pytest.fixture(scope="module", params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def confining(level: str) -> Iterator[Stack]:
    first, _ = own_uids.claim() if level == "uids" else (0, 0)
    few = {"KERNELRING_UIDS": f"{first}-{first + N_UIDS - 1}"} if first else {}
    with stack_at(level, **LIMITS, **few) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground(confining: Stack) -> AsyncIterator[Ground]:
    private = confining.directory / "private.txt"
    private.write_text(DIARY)  # of who runs the server
    private.chmod(0o600)
    if confining.uid is not None:
        os.chown(private, confining.uid, confining.uid)
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
        "servers": str(stack.directory),
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
async def test_an_attack_by_a_cell_is_refused(ground: Ground, level: str, name: str) -> None:
    if why := LEFT_OUT[level].get(name):
        pytest.skip(why)
    needed = re.compile(NEEDED.get(name, ""))
    if not needed.search((ground.stack.readyz() or {})["confinement"]):
        pytest.skip(f"this machine lacks {needed.pattern}")
    async with ground.unharmed():
        found = await attempts(ground.mallory, {name: ATTACKS[name][0]})
        assert re.match(refusal_of(level, name), found[name]), found


@pytest.mark.parametrize("level", ["namespaces"], indirect=True)
async def test_a_kernel_sees_no_process_but_its_own(ground: Ground) -> None:
    # Their beginnings: a forked kernel has its zygote's, which lists what on this machine it may read.
    asked = "import glob\nfor path in glob.glob('/proc/[0-9]*/cmdline'): print(open(path).read().split(chr(0))[:4])"
    lines = await told(ground.mallory, asked)
    assert len(lines.splitlines()) >= 1
    assert not [name for name in ("gunicorn", "redis", "kernels.nursery") if name in lines], lines


@pytest.mark.parametrize("level", ["uids", "landlock"], indirect=True)
async def test_command_lines_which_all_may_read_tell_no_secret(ground: Ground) -> None:
    stack, nursery = ground.stack, ground.stack.nursery()
    assert stack.gunicorn
    supervisor = int((stack.runtime / "nursery.lock").read_text())
    pids = [stack.gunicorn.pid, *stack.worker_pids(), supervisor, nursery["pid"], nursery["zygote"]["pid"]]
    lines = await told(ground.mallory, f"for pid in {[*pids, ground.kernel.pid]}:"
                       " print(open(f'/proc/{pid}/cmdline').read())")  # fmt: skip
    assert all(name in lines for name in ("gunicorn", "kernels.nursery", str(stack.runtime)))
    key = json.loads((ground.kernel.directory / "connection.json").read_text())["key"]
    password = urlsplit(stack.environ()["REDIS_URL"]).password
    for secret in (stack.secret, (stack.runtime / "secret").read_text().strip(), key, password, DIARY):
        assert secret
        assert secret not in lines


BOMB: Final = """
import subprocess, sys
lean = '''
import ctypes, os, time
ctypes.CDLL(None).prctl(15, b"{name}", 0, 0, 0)  # all of them are called so
for n in range(200):
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    os.pwrite(1, b"%03d" % n, 0)
time.sleep(600)
'''
subprocess.run([sys.executable, "-S", "-c", lean], stdout=open("bombs.txt", "w"))
"""


@pytest.mark.parametrize("level", ["landlock"], indirect=True)  # elsewhere none of them begins: "a fork bomb"
async def test_a_kernel_of_too_many_processes_is_ended(ground: Ground) -> None:
    async with ground.unharmed(), Student(ground.stack.url, ground.stack.token("mallory")) as again:
        await again.start()
        await again.open()
        pid, name = record(ground.stack, again).pid, f"kr-{again.kernel_id[:8]}"
        await again.ask(BOMB.format(name=name))
        await until(lambda: not Path(f"/proc/{pid}").exists(), 60)
        assert f"kernel='{again.kernel_id}'" in line_of(ground.stack.runtime / "nursery.log", "kernel_over_processes")
        assert int((ground.home("mallory") / "bombs.txt").read_text()) > 50
        await until(lambda: not called(name))
        assert await again.delete() == 204


@pytest.mark.parametrize("level", ["namespaces"], indirect=True)
async def test_a_fork_bomb_is_refused_in_a_kernel_of_its_own(ground: Ground, level: str) -> None:
    async with ground.unharmed(), student(ground.stack, "mallory") as again:
        await told(again, Path(attack_tools.__file__).read_text())
        found = await attempts(again, {"a fork bomb": ATTACKS["a fork bomb"][0]})
        assert re.match(refusal_of(level, "a fork bomb"), found["a fork bomb"]), found


def called(name: str) -> list[Path]:
    """Processes of a name."""
    return [path for path in Path("/proc").glob("[0-9]*/comm") if read(path) == name]


def read(path: Path) -> str:
    """What is in a file, unless it is gone."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def line_of(log: Path, event: str) -> str:
    """The last one that tells of it."""
    return [line for line in log.read_text().splitlines() if f"event='{event}'" in line][-1]


async def test_a_flood_of_output_is_its_own_clients_alone(ground: Ground) -> None:
    before = max(map(resident_mib, ground.stack.worker_pids()))
    async with ground.unharmed():
        flood = "for n in range(40): print(str(n % 10) * 2**20)"
        outcome = await ground.mallory.run(flood, 120)
        assert outcome.reply["status"] == "ok", outcome.reply
    assert max(map(resident_mib, ground.stack.worker_pids())) < before + 200


async def test_connections_that_a_cell_holds_keep_nobody_out(ground: Ground) -> None:
    hold = f"held = [socket.create_connection(('127.0.0.1', {ground.stack.port}), 10) for _ in range(120)]"
    async with ground.unharmed():
        await told(ground.mallory, hold)
        assert (await ground.ada.call("GET", f"/api/kernels/{ground.ada.kernel_id}"))[0] == 200
        await told(ground.mallory, "for each in held: each.close()")


@pytest.mark.parametrize("level", ["uids", "landlock"], indirect=True)  # the first of a namespace cannot
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


async def test_links_where_the_next_kernel_starts_lead_nowhere(ground: Ground, level: str) -> None:
    home = ground.home("ada")
    before = {(path.name, path.lstat().st_uid) for path in home.iterdir()}
    async with ground.unharmed():
        await told(ground.mallory, PLANTED.format(home=str(home)))
        code, kernel, _ = await ground.mallory.call("POST", "/api/kernels", {})
        await told(ground.mallory, TAKEN_AWAY)
        if level == "uids":  # it cannot look there, and says so
            assert (code, "Permission denied" in kernel["message"]) == (500, True)
        else:  # it sees that they are there, and does without
            assert code == 201, kernel
            assert (await ground.mallory.call("DELETE", f"/api/kernels/{kernel['id']}"))[0] == 204
    assert {(path.name, path.lstat().st_uid) for path in home.iterdir()} == before


POISON: Final = """
import os, pickle, site, sys
ran = os.path.expanduser("~/ran")
walls = "next(line for line in open('/proc/self/status') if line.startswith('Seccomp_filters:')).split()[1]"
act = f"import os; open({ran!r}, 'a').write(str(os.getuid()) + ' ' + {walls} + chr(10))"
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


async def test_what_poisons_python_is_run_by_nobody_else(ground: Ground, level: str) -> None:
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
    ran = {tuple(line.split()) for line in (ground.home("mallory") / "ran").read_text().splitlines()}
    pid = record(ground.stack, ground.mallory).pid
    assert {uid for uid, _ in ran} == {str(uid_of(pid))}
    if level != "uids":  # the server has the same
        walls = {filters for _, filters in ran}
        assert ground.stack.gunicorn
        assert walls == {status(pid)["Seccomp_filters"]} != {status(ground.stack.gunicorn.pid)["Seccomp_filters"]}


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


@pytest.mark.parametrize("level", ["uids"], indirect=True)  # where nobody is given one nothing is left for them
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
