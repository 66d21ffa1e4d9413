"""Cells as students write them in ordinary lessons, and exactly what each prints.

Owns the table alone. Nothing in it attacks anything, and nothing needs more than this machine: what a lesson asks is
whether what it uses still works for who is confined.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from local.student import Outcome


class Lesson(NamedTuple):
    """A cell, and what it prints, but for white space around it."""

    code: str
    prints: str


WHEEL: Final = """
import zipfile
info = "tinything-1.0.dist-info"
with zipfile.ZipFile("tinything-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("tinything.py", "answer = 42")
    wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: tinything\\nVersion: 1.0\\n")
    wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    wheel.writestr(f"{info}/RECORD", "")
"""
PIP: Final = "%pip install --quiet --no-index --no-deps ./tinything-1.0-py3-none-any.whl"
INSTALLED: Final = "import tinything\nprint(tinything.answer, tinything.__file__)"

LESSONS: Final[dict[str, Lesson]] = {
    # the shell
    "a list of files": Lesson("open('a.txt', 'w').close()\n!ls a.*", "a.txt"),
    "a pipeline": Lesson("!printf 'b\\na\\n' | sort | tr -d '\\n'", "ab"),
    "a shell's cell": Lesson("%%bash\nfor n in 1 2 3; do echo -n $((n * n)),; done", "1,4,9,"),
    "a terminal": Lesson("!test -t 1 && tty | cut -c-9", "/dev/pts/"),
    "a program of one's own": Lesson(
        "open('own.py', 'w').write('import sys; print(sys.argv[1:])')\n!python own.py 1 2", "['1', '2']"),
    "versions": Lesson("!git init -q g && cd g && touch a && git add a && git -c user.name=a -c user.email=a@b"
                       " commit -qm x && git log --format=%s", "x"),
    "a compiler": Lesson("open('c.c', 'w').write('#include <stdio.h>\\nint main(void){puts(\"c\");}')\n"
                         "!cc c.c -o c.out && ./c.out", "c"),
    # files, and packages
    "the home": Lesson("import os, pathlib\npathlib.Path('~/kept.txt').expanduser().write_text('kept')\n"
                       "print(open(os.environ['HOME'] + '/kept.txt').read())", "kept"),
    "a module of one's own": Lesson("open('mine.py', 'w').write('def f(x): return x + 1')\n"
                                    "import mine\nprint(mine.f(41))", "42"),
    "temporary files": Lesson("import os, tempfile\nwith tempfile.TemporaryDirectory() as d:\n"
                              "    open(d + '/x', 'w').write('1'); print(os.listdir(d))", "['x']"),
    "a database": Lesson("import sqlite3\nwith sqlite3.connect('s.db') as c:\n"
                         "    c.execute('pragma journal_mode=wal')\n    c.execute('create table t (a)')\n"
                         "    c.execute('insert into t values (42)')\n"
                         "print(sqlite3.connect('s.db').execute('select * from t').fetchall())", "[(42,)]"),
    "a table in a file": Lesson("import pandas as pd\npd.DataFrame({'a': [1, 2]}).to_csv('t.csv', index=False)\n"
                                "print(pd.read_csv('t.csv').a.sum())", "3"),
    "an array that is mapped": Lesson("import numpy as np\na = np.memmap('m', np.int64, 'w+', shape=9); a[:] = 2\n"
                                      "a.flush(); print(np.memmap('m', np.int64).sum())", "18"),
    "an archive": Lesson("import shutil\nprint(len(shutil.make_archive('z', 'zip', '.', 'a.txt')) > 0)", "True"),
    # processes
    "a subprocess": Lesson("import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'print(6 * 7)'],"
                           " capture_output=True, text=True).stdout)", "42"),
    "pipes": Lesson("import subprocess\np = subprocess.Popen(['sort'], stdin=-1, stdout=-1, text=True)\n"
                    "print(p.communicate('b\\na\\n')[0].split())", "['a', 'b']"),
    "a fork": Lesson("import os\nr, w = os.pipe()\nif os.fork() == 0:\n    os.write(w, b'child'); os._exit(0)\n"
                     "print(os.read(r, 9), os.wait()[1])", "b'child' 0"),
    # It waits a moment: what a fork prints is read by another thread, and nothing tells the cell that it was.
    "output of a fork": Lesson("import os\nif os.fork() == 0:\n    print('child', flush=True); os._exit(0)\n"
                               "import time; _ = os.wait(), time.sleep(.3)", "child"),
    "a pool": Lesson("from multiprocessing import Pool\ndef f(x): return x * x\n"
                     "with Pool(2) as p: print(p.map(f, range(4)))", "[0, 1, 4, 9]"),
    "a process and a queue": Lesson("from multiprocessing import Process, Queue\nq = Queue()\n"
                                    "p = Process(target=q.put, args=('said',)); p.start()\nprint(q.get()); p.join()",
                                    "said"),
    "a pool that is spawned": Lesson("import math, multiprocessing\n"
                                     "with multiprocessing.get_context('spawn').Pool(1) as p:\n"
                                     "    print(p.map(math.sqrt, [1, 4]))", "[1.0, 2.0]"),
    "an executor": Lesson("import math\nfrom concurrent.futures import ProcessPoolExecutor\n"
                          "with ProcessPoolExecutor(2) as e: print(list(e.map(math.sqrt, [1, 4])))", "[1.0, 2.0]"),
    "shared memory": Lesson("from multiprocessing.shared_memory import SharedMemory as S\ns = S(create=True, size=9)\n"
                            "s.buf[0] = 42\nt = S(s.name); print(t.buf[0]); t.close(); s.close(); s.unlink()", "42"),
    "an array that is shared": Lesson("from multiprocessing import Array, Process\na = Array('i', 3)\n"
                                      "def f(): a[1] = 42\np = Process(target=f); p.start(); p.join(); print(a[:])",
                                      "[0, 42, 0]"),
    "a manager": Lesson("from multiprocessing import Manager\nwith Manager() as m: print(list(m.list([1, 2])))",
                        "[1, 2]"),
    "threads": Lesson("import threading\nfound = []\nt = [threading.Thread(target=found.append, args=(n,))"
                      " for n in range(50)]\n[x.start() for x in t]; [x.join() for x in t]; print(sum(found))", "1225"),
    "a signal": Lesson("import signal\nsignal.signal(signal.SIGALRM, lambda *_: print('woken'))\nsignal.alarm(1)\n"
                       "signal.pause()", "woken"),
    # the net, and asyncio
    "a socket": Lesson("import socket\na = socket.create_server(('127.0.0.1', 0))\n"
                       "b = socket.create_connection(a.getsockname())\n"
                       "b.sendall(b'said'); print(a.accept()[0].recv(9)); a.close(); b.close()", "b'said'"),
    "a pair of sockets": Lesson("import socket\na, b = socket.socketpair()\na.sendall(b'said'); print(b.recv(9))\n"
                                "a.close(); b.close()", "b'said'"),
    "a web server": Lesson("import http.server, threading, urllib.request\n"
                           "open('kept.txt', 'w').write('kept'); h = http.server.HTTPServer(('127.0.0.1', 0),"
                           " http.server.SimpleHTTPRequestHandler)\n"
                           "h.RequestHandlerClass.log_message = lambda *_: None\n"
                           "threading.Thread(target=h.serve_forever).start()\n"
                           "print(urllib.request.urlopen(f'http://127.0.0.1:{h.server_port}/kept.txt').read())\n"
                           "h.shutdown(); h.server_close()", "b'kept'"),
    "asyncio": Lesson("import asyncio\np = await asyncio.create_subprocess_shell('echo said', stdout=-1)\n"
                      "print((await p.communicate())[0])", "b'said\\n'"),
    "a thread's loop": Lesson("import asyncio, threading\nt = threading.Thread(target=lambda: print(asyncio.run("
                              "asyncio.sleep(0, 'slept'))))\nt.start(); t.join()", "slept"),
}  # fmt: skip

PROGRAMS: Final = {"versions": "git", "a compiler": "cc"}
"""What a machine must have besides, for a lesson to say anything."""

DIFFERENCES: Final[dict[tuple[str, str], tuple[str, str]]] = {
    ("landlock", "a terminal"): (
        "", "the terminals of all kernels lie in one directory and have one owner, so commands have pipes"),
    ("landlock", "a compiler"): (
        "/bin/sh: 1: ./c.out: Permission denied",
        "changes of modes would reach all that has a path, so they are pretended: nothing becomes a program"),
    ("landlock", "a pool that is spawned"): (
        "PermissionError: [Errno 13] Permission denied",
        "semaphores are shared by forks; a Python that is run anew would look for them in /dev/shm, which is closed"),
}  # fmt: skip
"""(level, lesson): (what comes of it there, why)."""


def expected(level: str, name: str) -> str:
    """What comes of a lesson."""
    return DIFFERENCES[level, name][0] if (level, name) in DIFFERENCES else LESSONS[name].prints


def came_of(outcome: Outcome) -> str:
    """What a cell has printed, or the error that it has ended with."""
    if outcome.reply["status"] == "ok":
        return outcome.text.strip()
    return f"{outcome.reply['ename']}: {outcome.reply['evalue']}"
