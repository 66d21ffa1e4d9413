"""What mallory's cells have at hand. This file's text is run in her kernel; `at` is told there what to aim at.

Each of these ends with the error that the attack met, and takes away what it has made. None goes on without end: at
most 200 processes or threads, 1 GiB, 2,000 descriptors.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

at = types.SimpleNamespace()
_libc = ctypes.CDLL(None, use_errno=True)
_libc.malloc.restype, _libc.malloc.argtypes, _libc.free.argtypes = (
    ctypes.c_void_p,
    [ctypes.c_size_t],
    [ctypes.c_void_p],
)

FORKS = """
import os
read, write = os.pipe()
said = "not refused"
for _ in range(100):
    try:
        pid = os.fork()
    except OSError as error:
        said = error.errno
        break
    if pid == 0:
        os.close(write)
        try:
            os.fork()
        except OSError:
            pass
        os.read(read, 1)
        os._exit(0)
print(said)
"""


def libc(name: str, *arguments: Any) -> int:
    """A call that Python does not have."""
    result: int = getattr(_libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def room() -> Any:
    """Where a call may put what it tells."""
    return ctypes.create_string_buffer(8)


def connect(path: str) -> None:
    """To a Unix socket."""
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(path)


def datagrams_to(path: str) -> None:
    """By one of a pair, which needs no socket to be made alone."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.connect(path)


def signal_by_pipe(pid: int) -> None:
    """SIGKILL to who is said to read it. Nothing tells the writer whether it was sent."""
    read, write = os.pipe()
    try:
        fcntl.fcntl(read, fcntl.F_SETOWN, pid)
        fcntl.fcntl(read, 10, signal.SIGKILL)  # F_SETSIG
        fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        os.write(write, b"x")
        raise TimeoutError("it was written, and nothing is told")
    finally:
        os.close(read)
        os.close(write)


def change_mode(path: str, mode: int) -> None:
    """A call that is said to be done, and is not, has met an error, too."""
    target = Path(path)
    before = target.stat().st_mode
    target.chmod(mode)
    if target.stat().st_mode == before:
        raise PermissionError(1, "it stays as it was")


def give_away(path: str) -> None:
    """As with `change_mode`."""
    before = Path(path).stat().st_uid
    os.chown(path, 65534, 65534)
    if Path(path).stat().st_uid == before:
        raise PermissionError(1, "it stays whose it was")


def change_times(path: str) -> None:
    """As with `change_mode`."""
    before = Path(path).stat().st_mtime_ns
    os.utime(path, (0, 0))
    if Path(path).stat().st_mtime_ns == before:
        raise PermissionError(1, "they stay as they were")


def listen(port: int) -> None:
    """Where somebody else listens."""
    with socket.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(("127.0.0.1", port))
        made.listen()


def redis(command: str) -> str:
    """What Redis says to it."""
    with socket.create_connection(("127.0.0.1", at.redis_port), timeout=10) as line:
        line.sendall(command.encode() + b"\r\n")
        said = line.recv(100).decode()
    if said.startswith("-"):
        raise PermissionError(said.strip())
    return said


def forged_connection() -> Any:
    """What a client hears by a connection file of one's own that names ada's sockets."""
    from jupyter_client.blocking.client import BlockingKernelClient

    names = ("shell", "iopub", "stdin", "hb", "control")
    told = {f"{name}_port": number for number, name in enumerate(names, 1)}
    forged = told | {"transport": "ipc", "ip": f"{at.k}/s/s", "key": "", "signature_scheme": "hmac-sha256"}
    Path("forged.json").write_text(json.dumps(forged))
    client = BlockingKernelClient(connection_file="forged.json")
    client.load_connection_file()
    client.start_channels()
    try:
        return client.get_iopub_msg(timeout=3)
    finally:
        client.stop_channels()


def fork_bomb() -> str:
    """Children that have children. All of them end with the pipe that they read."""
    found = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60)
    said = found.stdout.splitlines()[0]
    if said.isdigit():
        raise OSError(int(said), os.strerror(int(said)))
    return said


def thread_bomb() -> None:
    """Threads that wait."""
    over = threading.Event()
    try:
        for _ in range(200):
            threading.Thread(target=over.wait).start()
    finally:
        over.set()


def memory_bomb(piece: int = 16 << 20) -> None:
    """Objects of Python's."""
    kept: list[bytearray] = []
    while len(kept) * piece < 1 << 30:
        kept.append(bytearray(piece))


def malloc_bomb(piece: int = 16 << 20) -> None:
    """As a library in C has its memory."""
    kept: list[int | None] = []
    try:
        while len(kept) * piece < 1 << 30:
            kept.append(_libc.malloc(piece))
            if not kept[-1]:
                raise MemoryError("malloc")
    finally:
        for each in kept:
            _libc.free(each)


def hold_memory(size: int = 96 << 20) -> None:
    """Memory that may not be swapped out."""
    with mmap.mmap(-1, size) as memory:
        start = ctypes.c_char.from_buffer(memory)
        try:
            libc("mlock", ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size))
        finally:
            del start


def disk_bomb(path: str) -> None:
    """One file, as large as it can be."""
    try:
        with open(path, "wb", buffering=0) as file:  # noqa: PTH123
            file.writelines(bytes(1 << 20) for _ in range(1024))
    finally:
        Path(path).unlink(missing_ok=True)


def descriptor_bomb(opened: Callable[[], Any]) -> None:
    """Files or sockets that stay open."""
    kept: list[Any] = []
    try:
        for _ in range(2000):
            kept.append(opened())  # noqa: PERF401 (what was opened before it failed is to be closed)
    finally:
        for each in kept:
            each.close()


def descriptors_under_way() -> None:
    """Sent and never received: they are nobody's."""
    one, other = socket.socketpair()
    one.settimeout(10)
    with one, other, Path(os.devnull).open() as file:
        for _ in range(10):
            socket.send_fds(one, [b"x"], [file.fileno()] * 200)


def run(*command: str) -> str:
    """What a program of the machine's says."""
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    if found.returncode:
        raise PermissionError(found.stderr.strip() or found.returncode)
    return found.stdout
