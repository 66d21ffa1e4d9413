"""A lesson works with a kernel that has the server's own uid, nothing of it outlives it, and it takes what it may.

Not as root, for whom no limit on processes holds and all files are the server's: `test_one_uid` runs them with another
uid.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from kernels import nursery_call, processes
from kernels.errors import SpawnRefused
from kernels.records import SpawnOrder
from tests.cluster.confined import status
from tests.nursery_fixture import processes_naming, until
from tests.one_uid import LANDLOCK, NAMESPACES, Ground, Pupil, ground, only, outer
from tests.sleeping import SLEEPS

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.geteuid() == 0, reason="test_one_uid runs them with another uid"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[LANDLOCK, NAMESPACES])
async def school(request: pytest.FixtureRequest) -> AsyncIterator[Ground]:
    async with ground(request.param) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ann(school: Ground) -> AsyncIterator[Pupil]:
    async with school.pupil("ann") as found:
        await found.told("import subprocess\nchild = subprocess.Popen(['sleep', '600'])\nx = 42")
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bob(school: Ground) -> AsyncIterator[Pupil]:
    async with school.pupil("bob") as found:
        yield found


LESSONS: Final = {
    "a file": "open('a.txt', 'w').write('1'); import os; print(os.listdir('.'))",
    "a command": "!ls a.txt",
    "a failed command": "!false\nprint('a.txt', _exit_code)",
    "its output": "out = !ls\nprint(out)",
    "bash": "get_ipython().run_cell_magic('bash', '', 'ls')",
    "a child": "import subprocess; print(subprocess.run(['ls'], capture_output=True, text=True).stdout)",
    "a python": "import sys; print(subprocess.run([sys.executable, '-c', 'print(\"a.txt\")'], capture_output=True, "
    "text=True).stdout)",
    # These wait a moment: what a fork prints is read by another thread, and nothing tells the cell that it was.
    "output of a fork": "import os\nif os.fork() == 0:\n    print('a.txt', flush=True); os._exit(0)\n"
    "import time; _ = os.wait(), time.sleep(.3)",
    "long output of a fork": "if os.fork() == 0:\n    print('y' * 100_000 + 'a.txt', flush=True); os._exit(0)\n"
    "_ = os.wait(), time.sleep(.3)",
    "a pool": "import multiprocessing as mp\nwith mp.Pool(3) as p: print(p.map(str, ['a.txt', 1]))",
    "a queue": "q = mp.Queue(); p = mp.Process(target=q.put, args=('a.txt',)); p.start(); print(q.get()); p.join()",
    "a lock of two": "l = mp.Lock()\ndef f():\n    with l: v.value += 1\nv = mp.Value('i', 0)\n"
    "ps = [mp.Process(target=f) for _ in range(5)]; [p.start() for p in ps]; [p.join() for p in ps]\n"
    "print('a.txt' if v.value == 5 else v.value)",
    "an array": "a = mp.Array('i', 3); p = mp.Process(target=a.__setitem__, args=(1, 7)); p.start(); p.join()\n"
    "print('a.txt' if a[1] == 7 else a[:])",
    "a manager": "with mp.Manager() as m: d = m.dict(a='a.txt'); print(d)",
    "a pool of the future": "from concurrent.futures import ProcessPoolExecutor as P\n"
    "with P(2) as p: print(list(p.map(str, ['a.txt'])))",
    "shared memory": "from multiprocessing.shared_memory import SharedMemory as S\ns = S(create=True, size=5)\n"
    "s.buf[:5] = b'a.txt'; t = S(s.name); print(bytes(t.buf[:5])); t.close(); s.close(); s.unlink()",
    "asyncio": "import asyncio\np = await asyncio.create_subprocess_shell('echo a.txt', stdout=-1)\n"
    "print(await p.stdout.read())",
    "a copy": "import shutil; shutil.copy2('a.txt', 'b.txt'); print('a.txt', os.listdir())",
    "temporary files": "import tempfile\nwith tempfile.TemporaryDirectory() as d: open(d + '/x', 'w').write('1')\n"
    "print('a.txt')",
    "threads": "import threading\nt = [threading.Thread(target=lambda: None) for _ in range(50)]\n"
    "[x.start() for x in t]; [x.join() for x in t]; print('a.txt')",
    "numpy": "import numpy as np; print('a.txt', (np.ones((200, 200)) @ np.ones((200, 200))).sum())",
    "a figure": "import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.savefig('f.png'); plt.close(); print('a.txt')",
    "a socket": "import socket\na = socket.create_server(('127.0.0.1', 0))\n"
    "b = socket.create_connection(a.getsockname())\nb.sendall(b'a.txt')\n"
    "print(a.accept()[0].recv(9)); a.close(); b.close()",
    "sqlite": "import sqlite3\nwith sqlite3.connect('s.db') as c: c.execute('create table if not exists t (a)'); "
    "c.execute('insert into t values (?)', ['a.txt'])\n"
    "print(sqlite3.connect('s.db').execute('select * from t').fetchall())",
}  # fmt: skip


WITH_NAMESPACES: Final = {
    "a program": "open('run', 'w').write('#!/bin/sh\\necho a.txt')\nos.chmod('run', 0o700)\n!./run",
    "a terminal": "import pty; print('a.txt', os.openpty())",
    "a socket with a path": "m = mp.connection.Listener(family='AF_UNIX'); print('a.txt', m.address); m.close()",
    "a watch": "import ctypes; print('a.txt', ctypes.CDLL(None).inotify_init())",
    "a pool run anew": "import math\nwith mp.get_context('spawn').Pool(1) as p: print('a.txt', p.map(math.sqrt, [4]))",
}


@pytest.mark.parametrize("warm", [True, False])
async def test_ordinary_lessons_work(school: Ground, warm: bool) -> None:
    if warm:
        await until(lambda: nursery_call.ask(school.place.runtime, "status", 5)["zygote"]["spares"])
    else:
        os.kill(nursery_call.ask(school.place.runtime, "status", 5)["zygote"]["pid"], signal.SIGKILL)
        await until(lambda: not nursery_call.ask(school.place.runtime, "status", 5)["zygote"]["ready"])
    async with school.pupil("eve") as eve:
        assert eve.record.warm == warm
        lessons = LESSONS | (WITH_NAMESPACES if school.options.level == NAMESPACES else {})
        found = {name: await eve.told(code) for name, code in lessons.items()}
        assert {name: text for name, text in found.items() if "a.txt" not in text} == {}
        assert "KERNELRING_SOCKETS" not in await eve.told("print(dict(os.environ))")
        sockets = eve.record.directory / "s"
        assert all(stat.S_ISSOCK(path.lstat().st_mode) for path in sockets.iterdir())
    await until(lambda: nursery_call.ask(school.place.runtime, "status", 5)["zygote"]["ready"], 60)


async def test_a_kernel_is_interrupted(bob: Pupil) -> None:
    asked = bob.talk.execute(f"print('here', flush=True)\n{SLEEPS}")
    while (await bob.talk.get_iopub_msg(timeout=15))["msg_type"] != "stream":
        pass
    assert bob.manager.provisioner
    await bob.manager.provisioner.send_signal(signal.SIGINT)
    reply = await bob.talk.get_shell_msg(timeout=15)
    assert (reply["parent_header"]["msg_id"], reply["content"]["ename"]) == (asked, "KeyboardInterrupt")


@pytest.mark.parametrize("warm", [True, False])
async def test_a_kernel_heeds_the_signals_that_end_it(school: Ground, warm: bool) -> None:
    """The first process of a PID namespace gets none whose action is the default."""
    only(school, NAMESPACES)
    if not warm:
        os.kill(nursery_call.ask(school.place.runtime, "status", 5)["zygote"]["pid"], signal.SIGKILL)
        await until(lambda: not nursery_call.ask(school.place.runtime, "status", 5)["zygote"]["ready"])
    for signum in (signal.SIGTERM, signal.SIGXCPU):
        async with school.pupil("eve") as eve:
            killed = "import subprocess as s, time\np = s.Popen(['sleep', '60']); p.terminate(); print(p.wait())\n"
            assert await eve.told(f"import os, signal\n{killed}") == "-15"
            forked = "pid = os.fork()\nif not pid: time.sleep(60)\nos.kill(pid, 15); print(os.wait()[1])"
            assert await eve.told(forked) == "15"
            await school.nurse.signal(eve.record.kernel_id, signum)
            found = await until(lambda: [one for one in school.records() if one["exit"]])
            assert found[0]["exit"]["code"] == signum
    await until(lambda: nursery_call.ask(school.place.runtime, "status", 5)["zygote"]["ready"], 60)


LEFT_BEHIND: Final = """
import multiprocessing.resource_tracker as tracker, os, subprocess
from multiprocessing.shared_memory import SharedMemory
left = SharedMemory(create=True, size=9)
tracker.unregister('/' + left.name, 'shared_memory')
code = '''
import os, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
print(os.getpid(), flush=True)
os.closerange(0, 3)
time.sleep(600)
'''
first = subprocess.run(['setsid', os.sys.executable, '-c', code], capture_output=True, text=True, env={}).stdout
print(first.strip(), subprocess.Popen(['setsid', 'sh', '-c', 'sleep 600 & exec sleep 600']).pid)
"""


@pytest.mark.parametrize("how", ["ended", "killed"])
async def test_nothing_that_a_kernel_has_started_outlives_it(school: Ground, ann: Pupil, how: str) -> None:
    """Without session, parent, environment or descriptor of the kernel's. Of another kernel all stays."""
    theirs = outer(ann.record.pid, int(await ann.told("print(child.pid)")))
    async with school.pupil("eve") as eve:
        pids = [outer(eve.record.pid, int(pid)) for pid in (await eve.told(LEFT_BEHIND)).split()]
        memory = Path("/dev/shm").glob(f"*{eve.record.kernel_id}/*")
        assert len(list(memory)) == (1 if school.options.level == LANDLOCK else 0)
        assert all(status(pid)["State"] for pid in pids)
        if how == "killed":
            os.kill(eve.record.pid, signal.SIGKILL)
            await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert list(Path("/dev/shm").glob(f"*{eve.record.kernel_id}*")) == []
    assert status(theirs)["State"].startswith("S")


async def test_a_nursery_that_was_killed_confines_as_before_and_ends_what_is_left(school: Ground, ann: Pupil) -> None:
    async with school.pupil("eve") as eve:
        pids = [outer(eve.record.pid, int(pid)) for pid in (await eve.told(LEFT_BEHIND)).split()]
        school.place.kill_nursery()
        await until(lambda: nursery_call.answers(school.place.runtime))
        assert await eve.told("print(1)") == "1"
        await until(lambda: nursery_call.ask(school.place.runtime, "status", 5)["workers"])
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert await ann.told("print(x)") == "42"
    await until(lambda: nursery_call.ask(school.place.runtime, "status", 5)["zygote"]["ready"], 60)


def naming(kernel_id: str) -> list[str]:
    """Processes of a kernel: what it has forked has its command line."""
    return [line for line in processes_naming(kernel_id) if not line.partition(" ")[2].startswith("rm ")]


BOMB: Final = """
import os, signal
for _ in range(150):
    if not os.fork():
        os.setsid()
        signal.pause()
        os._exit(0)
print("exploded")
"""
FILLS: Final = """
import os
from multiprocessing.shared_memory import SharedMemory
kept = [SharedMemory(create=True, size=60 * 2**20) for _ in range(4)]
for each in kept:
    os.posix_fallocate(each._fd, 0, 60 * 2**20)
print("filled")
"""


@pytest.mark.parametrize(
    ("code", "sentence"),
    [(BOMB, "more than 100 processes and threads"), (FILLS, "more than 160 MiB of memory")],
)
async def test_who_takes_more_than_a_kernel_may_have_ends_alone(code: str, sentence: str) -> None:
    """No limit of the operating system's is a kernel's own here, and the server counts with all of them."""
    taking = ground(LANDLOCK, processes=100, memory_mib=128)
    async with taking as school, school.pupil("ann") as ann, school.pupil("bob") as bob:
        bob.talk.execute(code)
        exited = await until(lambda: [one for one in school.records() if one["exit"]], 30)
        assert [one["user"] for one in exited] == ["bob"]
        assert sentence in exited[0]["exit"]["reason"]
        await until(lambda: not naming(bob.record.kernel_id))
        assert list(Path("/dev/shm").glob(f"*{bob.record.kernel_id}*")) == []
        assert await ann.told("print(1)") == "1"


@pytest.mark.parametrize(("code", "error"), [(BOMB, "BlockingIOError"), (FILLS, "OSError")])
async def test_who_takes_more_than_there_is_in_its_namespaces_is_refused_it(code: str, error: str) -> None:
    taking = ground(NAMESPACES, processes=100, memory_mib=128)
    async with taking as school, school.pupil("ann") as ann, school.pupil("bob") as bob:
        reply = await bob.talk.execute_interactive(code, output_hook=lambda _: None, timeout=30)
        assert (reply["content"]["status"], reply["content"]["ename"]) == ("error", error)
        assert await ann.told("import subprocess; print(subprocess.run(['true']).returncode)") == "0"


async def test_a_kernel_that_makes_its_sockets_itself_is_refused_in_a_sentence(school: Ground) -> None:
    only(school, LANDLOCK)
    order = school.place.order(user="ann")
    foreign = replace(order, cwd=school.home("ann"))
    with pytest.raises(SpawnRefused, match=r"makes its sockets itself.*level of confinement is"):
        await school.nurse.spawn(foreign)
    await school.nurse.end(order.kernel_id, "refused")


MAKES_SOCKETS: Final = """
import os, socket, sys, time
folder = sys.argv[1]
made = [socket.socket(socket.AF_UNIX) for _ in range(5)]
for number, each in enumerate(made[:4], 1):
    each.bind(f'{folder}/s/s-{number}')
    each.listen()
os.symlink('/etc/passwd', f'{folder}/s/s-5')
while os.path.exists(f'{folder}/s/s-1'):
    time.sleep(0.05)
    if os.path.exists(f'{os.environ["HOME"]}/go'):
        for number in range(1, 5):
            os.unlink(f'{folder}/s/s-{number}')
            os.symlink('/etc/passwd', f'{folder}/s/s-{number}')
        open(f'{os.environ["HOME"]}/gone', 'w')
        time.sleep(600)
"""


async def test_sockets_that_a_kernel_makes_itself_are_taken_from_it(school: Ground) -> None:
    only(school, NAMESPACES)
    home = school.home("ann")
    order = replace(school.place.order(user="ann"), cwd=home)
    order = replace(order, argv=("/usr/bin/python3", "-c", MAKES_SOCKETS, str(order.directory)))
    await school.nurse.spawn(order)
    made = order.directory / "s"
    await until((order.directory / "s-sealed").exists)
    assert sorted(path.name for path in made.iterdir()) == ["s-1", "s-2", "s-3", "s-4"]
    (home / "go").touch()
    await until((home / "gone").exists)
    assert all(stat.S_ISSOCK(path.lstat().st_mode) for path in made.iterdir())
    with socket.socket(socket.AF_UNIX) as owner:
        owner.connect(str(made / "s-1"))
    for name in ("go", "gone"):
        (home / name).unlink()
    await school.nurse.end(order.kernel_id, "over")


async def test_a_namespace_that_cannot_be_made_ends_the_start(tmp_path: Path) -> None:
    def broken() -> None:
        raise OSError(28, "No space left on device")

    order = SpawnOrder("k", "ann", "program", 1, tmp_path, ("true",), {}, tmp_path)
    with pytest.raises(SpawnRefused, match="cannot make namespaces: No space"):
        processes.launch(order, (2,), lambda *_: None, None, broken)
