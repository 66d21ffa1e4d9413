"""Two students at one server: what one of them tries against the other, and what a lesson needs all the same.

Everything that is attacked belongs to the installation that the test has made.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from kernels import nursery_call
from local.stack import Stack
from local.student import Student
from tests.cluster.confined import attempts, record, status, student, told
from tests.cluster.lessons import LESSONS, came_of, expected
from tests.cluster.levels import LEVELS, WITH_UIDS, level_of, stack_at
from tests.nursery_fixture import until
from tests.redis_server import RedisServer
from tests.sleeping import SLEEPS

LIBC: Final = """
import ctypes, os, signal, socket
_libc = ctypes.CDLL(None, use_errno=True)
def libc(name, *arguments):
    result = getattr(_libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result
def connect(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(path)
    return "connected"
def give_away(path):
    open(path, "w").close()
    os.chown(path, 0, 0)
    if os.stat(path).st_uid == os.getuid():
        raise PermissionError("it is said to be done, and is not")
"""


COLD: Final = ("a list of files", "a pool", "a manager", "shared memory", "a subprocess", "a database", "a socket",
               "temporary files", "threads", "a table in a file", "asyncio", "output of a fork")  # fmt: skip


@pytest.fixture(scope="module", params=LEVELS)
def confining(request: pytest.FixtureRequest) -> Iterator[Stack]:
    with stack_at(request.param) as stack:
        yield stack


@WITH_UIDS
async def test_each_user_has_a_uid_and_a_home_of_their_own(confining: Stack) -> None:
    async with student(confining, "ann") as ann, student(confining, "bob") as bob:
        pids = [record(confining, who).pid for who in (ann, bob)]
        uids = [int(status(pid)["Uid"].split()[0]) for pid in pids]
        assert len(set(uids)) == 2
        first, last = confining.uids
        assert all(first <= uid <= last for uid in uids)
        for pid, uid, name in zip(pids, uids, ("ann", "bob"), strict=True):
            found = status(pid)
            assert found["Uid"].split() == found["Gid"].split() == [str(uid)] * 4
            assert found["Groups"] == ""
            assert found["NoNewPrivs"] == "1"
            assert int(found["CapPrm"], 16) == int(found["CapEff"], 16) == 0
            assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"
            home = (confining.directory / "notebooks" / name).stat()
            assert (home.st_uid, home.st_gid, stat.S_IMODE(home.st_mode)) == (uid, uid, 0o700)


async def test_what_the_server_says_of_it(confining: Stack) -> None:
    ready = confining.readyz()
    assert ready is not None
    assert ready["confinement"] == confining.nursery()["confinement"]
    assert len(confining.events("kernels_confined")) == 1


async def test_a_kernel_has_an_environment_of_its_own(confining: Stack) -> None:
    async with student(confining, "ann") as ann:
        home = confining.directory / "notebooks" / "ann"
        directory = record(confining, ann).directory
        found = await told(ann, "import os, tempfile\nprint(os.getcwd(), os.environ['HOME'], os.environ['USER'])\n"
                           "print(tempfile.gettempdir(), oct(os.umask(0o77)))")  # fmt: skip
        assert found.split() == [str(home), str(home), "ann", f"{directory}/t", "0o77"]
        assert confining.secret not in await told(ann, "print(dict(os.environ))")


async def test_one_student_reaches_nothing_of_another(confining: Stack) -> None:
    async with student(confining, "ann") as ann, student(confining, "bob") as bob:
        await told(ann, "from multiprocessing import shared_memory as m\nopen('diary', 'w').write('secret')\n"
                   "shared = m.SharedMemory(create=True, size=64)\nx = 42")  # fmt: skip
        shared = await told(ann, "print(shared.name)")
        target, mine = record(confining, ann), record(confining, bob)
        k, home, runtime = target.directory, confining.directory / "notebooks" / "ann", confining.runtime
        if level_of(confining) == "uids":
            await until(lambda: stat.S_IMODE((mine.directory / "s").stat().st_mode) == 0o710)
        pids = {"kernel": target.pid, "nursery": confining.nursery()["pid"], "worker": confining.worker_pids()[0]}
        assert confining.gunicorn
        pids["arbiter"] = confining.gunicorn.pid
        pids["zygote"] = confining.nursery()["zygote"]["pid"]
        worker = next(iter((runtime / "w").iterdir()))
        tries = {
            "list home": f"os.listdir('{home}')",
            "read diary": f"open('{home}/diary').read()",
            "write into home": f"open('{home}/x', 'w')",
            "move home": f"os.rename('{home}', '{home}2')",
            "link to diary": f"os.link('{home}/diary', 'stolen')",
            "list notebooks": f"os.listdir('{home.parent}')",
            "make a home": f"os.mkdir('{home.parent}/carl')",
            "table of uids": f"open('{home.parent}/.kernelring/uids.json').read()",
            "list runtime": f"os.listdir('{runtime}')",
            "the server's secret": f"open('{runtime}/secret').read()",
            "list kernels": f"os.listdir('{runtime}/k')",
            "list kernel": f"os.listdir('{k}')",
            "its key": f"open('{k}/connection.json').read()",
            "its record": f"open('{k}/record.json').read()",
            "own record": f"open('{mine.directory}/record.json').read()",
            "write own key": f"open('{mine.directory}/connection.json', 'w')",
            "move own key": f"os.rename('{mine.directory}/connection.json', '{mine.directory}/c')",
            "replace own socket": f"os.unlink('{mine.directory}/s/s-1')",
            "add own socket": f"os.symlink('{k}/s/s-2', '{mine.directory}/s/x')",
            "shared memory": f"__import__('multiprocessing.shared_memory').shared_memory.SharedMemory('{shared}')",
            "nursery's socket": f"connect('{runtime}/nursery.sock')",
            "worker's socket": f"connect('{worker}')",
            **{f"socket {n}": f"connect('{k}/s/s-{n}')" for n in range(1, 6)},
            "its pipe": f"connect('{k}/s/s-p')",
            **{f"environment of {name}": f"open('/proc/{pid}/environ').read()" for name, pid in pids.items()},
            **{f"memory of {name}": f"open('/proc/{pid}/mem', 'rb')" for name, pid in pids.items()},
            **{f"files of {name}": f"[os.readlink(f'/proc/{pid}/fd/{{n}}') for n in os.listdir('/proc/{pid}/fd')]"
               for name, pid in pids.items()},
            **{f"folder of {name}": f"os.listdir('/proc/{pid}/cwd')" for name, pid in pids.items()},
            **{f"signal {name}": f"os.kill({pid}, signal.SIGCONT)" for name, pid in pids.items()},
            **{f"trace {name}": f"libc('ptrace', 16, {pid}, None, None)" for name, pid in pids.items()},
            "read its memory": f"libc('process_vm_readv', {target.pid}, None, 0, None, 0, 0)",
        }  # fmt: skip
        found = await attempts(bob, tries, LIBC)
        assert {name: what for name, what in found.items() if what.startswith("GOT")} == {}
        assert set(found) == set(tries)
        assert await told(ann, "print(x, open('diary').read())") == "42 secret"


async def test_what_leads_out_of_a_kernel_is_refused(confining: Stack) -> None:
    async with student(confining, "bob") as bob:
        tries = {
            "be root": "os.setuid(0)",
            "be another": f"os.setresuid(*[{os.getuid()}] * 3)",
            "groups": "os.setgroups([0])",
            "give a file away": "give_away('f')",
            "change root": "os.chroot('.')",
            "a user namespace": "libc('unshare', 0x10000000)",
            "a mount namespace": "libc('unshare', 0x00020000)",
            "mount": "libc('mount', b'x', b'.', b'tmpfs', 0, None)",
            "a packet socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
            "a machine's socket": "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
            "keys": "libc('syscall', 250, 0, 0, 0, 0, 0)",
            "bpf": "libc('syscall', 321, 0, None, 0)",
            "io_uring": "libc('syscall', 425, 1, None)",
            "more memory": "__import__('resource').setrlimit(2, (1 << 40, 1 << 40))",
            "more processes": "__import__('resource').setrlimit(6, (1 << 20, 1 << 20))",
            "not be killed first": "open('/proc/self/oom_score_adj', 'w').write('0')",
            "a device": "os.mknod('d', 0o20666, os.makedev(1, 1))",
            "write to the system": "open('/usr/x', 'w')",
            "shadow": "open('/etc/shadow').read()",
        }
        found = await attempts(bob, tries, LIBC)
        assert {name: what for name, what in found.items() if what.startswith("GOT")} == {}


async def test_shared_scratch_is_closed_where_there_is_landlock(confining: Stack) -> None:
    if "landlock" not in (confining.readyz() or {})["confinement"]:
        pytest.skip("this machine has no Landlock")
    async with student(confining, "bob") as bob:
        found = await attempts(
            bob, {"list": "os.listdir('/tmp')", "write": "open('/tmp/kernelring-x', 'w')"}, "import os"
        )
        assert all(what.startswith("PermissionError") for what in found.values()), found


async def test_limits_are_told_as_errors_of_the_cell(confining: Stack) -> None:
    async with student(confining, "bob") as bob:
        tries = {"memory": "bytearray(2 << 30)", "files": "[open('/dev/null') for _ in range(5000)]",
                 "file": "open('large', 'wb').truncate(2 << 30)"}  # fmt: skip
        found = await attempts(bob, tries)
        assert found["memory"].startswith("MemoryError")
        assert "Too many open files" in found["files"]
        assert "File too large" in found["file"]
        assert await told(bob, "print(1)") == "1"


async def test_the_debugger_which_would_listen_for_everybody_stays_off(confining: Stack) -> None:
    async with student(confining, "ann") as ann:
        info = await ann.outcome(await ann.send("kernel_info_request", {}))
        assert "debugger" not in info.reply["supported_features"]
        async with ann.http.get(f"{confining.url}/api/kernelspecs") as answer:
            specs = (await answer.json())["kernelspecs"]
        async with ann.http.get(f"{confining.url}/api/kernelspecs/python3") as answer:
            assert await answer.json() == specs["python3"]
        assert specs["python3"]["spec"]["metadata"]["debugger"] is False  # what JupyterLab's button goes by
        asked = {"type": "request", "seq": 1, "command": "initialize", "arguments": {}}
        found = await ann.outcome(await ann.send("debug_request", asked, "control"))
        assert found.reply["success"] is False
        assert "every user" in found.reply["message"]
        pid = record(confining, ann).pid
        mine = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir()}
        listening = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        assert not [each for each in listening if each[3] == "0A" and f"socket:[{each[9]}]" in mine]


async def test_a_kernel_that_is_not_forked_is_confined_and_teaches_as_well(confining: Stack) -> None:
    await until(lambda: confining.nursery()["zygote"]["ready"], 60)
    os.kill(confining.nursery()["zygote"]["pid"], 9)  # until there is another one kernels are exec'd
    await until(lambda: not confining.nursery()["zygote"]["ready"])
    async with student(confining, "cold") as cold:
        assert record(confining, cold).warm is False
        assert status(record(confining, cold).pid)["Seccomp"] == "2"
        found = {name: came_of(await cold.run(LESSONS[name].code, 60)) for name in COLD}
        assert found == {name: expected(level_of(confining), name) for name in COLD}


async def test_a_kernel_is_interrupted_restarted_and_ended(confining: Stack) -> None:
    async with student(confining, "ann") as ann:
        asked = await ann.ask(f"print('here', flush=True)\n{SLEEPS}")
        while (await ann.receive()).kind != "stream":
            pass
        assert (await ann.call("POST", f"/api/kernels/{ann.kernel_id}/interrupt"))[0] == 204
        assert (await ann.outcome(asked)).reply["ename"] == "KeyboardInterrupt"
        before = record(confining, ann).pid
        assert (await ann.call("POST", f"/api/kernels/{ann.kernel_id}/restart"))[0] == 200
        await ann.open()
        assert await told(ann, "print('time' in globals())") == "False"
        assert record(confining, ann).pid != before


LEFT_BEHIND: Final = """
import multiprocessing.resource_tracker as tracker, os, subprocess
from multiprocessing.shared_memory import SharedMemory
shared = SharedMemory(create=True, size=9)
tracker.unregister('/' + shared.name, 'shared_memory')
subprocess.Popen(['setsid', 'sh', '-c', 'sleep {left} & exec sleep {left}'])
os.chdir(os.environ['TMPDIR'])
for _ in range(1500):
    os.mkdir('d')
    os.chdir('d')
print(shared.name)
"""
IN_SIGHT: Final = ("uids", "landlock")  # in namespaces a kernel's shared memory goes with them


async def test_nothing_of_a_user_is_left_when_their_last_kernel_has_ended(confining: Stack) -> None:
    """A process that has left the kernel's session, shared memory, folders deeper than Python can remove."""
    async with student(confining, "ann") as ann:
        left = f"600.{secrets.randbits(32)}"
        name = await told(ann, LEFT_BEHIND.format(left=left))
        found = record(confining, ann)
        await until(lambda: len(sleeping(left)) == 2)
        assert {status(pid)["Uid"] for pid in sleeping(left)} == {status(found.pid)["Uid"]}
        assert bool([*Path("/dev/shm").rglob(name)]) == (level_of(confining) in IN_SIGHT)
    await until(lambda: not sleeping(left))
    await until(lambda: not found.directory.exists())
    assert not [*Path("/dev/shm").rglob(name)]


def sleeping(argument: str) -> list[int]:
    """The pids of `sleep` with it, wherever they see themselves."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            if path.read_bytes() == f"sleep\0{argument}\0".encode():
                found.append(int(path.parent.name))
    return found


async def test_a_student_can_put_nothing_in_the_way_of_the_next_start(confining: Stack) -> None:
    """Links, folders and pipes where the server and the nursery are about to work."""
    async with student(confining, "ann") as ann:
        await told(
            ann, "import os\nos.makedirs('.ipython', exist_ok=True); os.mkfifo('pipe'); os.symlink('/etc', 'etc')"
        )
        status_code, _, _ = await ann.call("POST", "/api/kernels", {"path": "etc/x.ipynb"})
        assert status_code == 201
        other = (await ann.call("GET", "/api/kernels"))[1]
        assert len(other) == 2
        for kernel in other:
            if kernel["id"] != ann.kernel_id:
                assert (await ann.call("DELETE", f"/api/kernels/{kernel['id']}"))[0] == 204


async def test_a_layer_that_fails_ends_the_start(confining: Stack) -> None:
    """Here the user's directory belongs to somebody else."""
    home = confining.directory / "notebooks" / "eve"
    home.mkdir(mode=0o700)
    os.chown(home, 65534, 65534)
    async with asyncio.timeout(30):
        async with Student(confining.url, confining.token("eve")) as eve:
            code, said, _ = await eve.call("POST", "/api/kernels", {})
    assert code == 500
    assert "belongs to uid 65534" in said["message"]
    assert nursery_call.ask(confining.runtime, "status", 10)["kernels"] == 0


@WITH_UIDS
def test_several_users_are_refused_while_every_kernel_could_log_in_to_redis(
    confining: Stack, redis: RedisServer
) -> None:
    refused = Stack(redis.url, workers=1, confined=True, settings={"KERNELRING_BEHIND_TLS": "1"})
    try:
        refused.start(ready=False)
        assert refused.gunicorn
        assert refused.gunicorn.wait(60) == 2
        assert "requirepass" in refused.tail()
        assert not (refused.runtime / "nursery.sock").exists()
    finally:
        refused.stop()
