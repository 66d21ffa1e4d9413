"""The rehearsal: a kernel that lives for a moment, to learn what a kernel imports.

Owns that kernel, in a child of the zygote, and the player that talks to it, in a child of that child. Only the
names of modules come out of it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from kernels import processes, zygote_kernel

PLAY_S: Final = 30.0
CELLS: Final = (
    "x = 1",
    "x",
    "print(x)",
    "1/0",
    "%who",
    "import os\nos.name",
    "[1, 2]\n{}",
    "await __import__('asyncio').sleep(0)",
)


def rehearse(folder: Path, tell: Callable[[Any], None]) -> None:
    """Is a kernel while the player plays; then tells the names of all modules."""
    connection = folder / "connection.json"
    ports = {f"{name}_port": at for at, name in enumerate(("shell", "iopub", "stdin", "hb", "control"), 1)}
    connection.write_text(
        json.dumps({"transport": "ipc", "ip": str(folder / "s"), "key": "rehearsal", "kernel_name": "", **ports}
                   | {"signature_scheme": "hmac-sha256"})
    )  # fmt: skip
    rehearsed = os.getpid()
    if os.fork() == 0:
        processes.die_with_parent(rehearsed)
        signal.alarm(int(PLAY_S))
        try:
            _play(connection)
        finally:
            os._exit(0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nowhere, fd)
    os.environ["HOME"] = str(folder)
    zygote_kernel.be_kernel(zygote_kernel.command(connection, 1, 1.0))
    tell(sorted(sys.modules))


def _play(connection: Path) -> None:
    """The first minute of a front end."""
    from jupyter_client.blocking.client import BlockingKernelClient

    client = BlockingKernelClient(connection_file=str(connection))
    client.load_connection_file()
    client.start_channels()
    client.wait_for_ready(timeout=PLAY_S)
    for code in CELLS:
        client.execute(code, reply=True, timeout=PLAY_S)
    client.complete("import o", reply=True, timeout=PLAY_S)
    client.complete("os.pa", reply=True, timeout=PLAY_S)
    client.inspect("os.path.join", reply=True, timeout=PLAY_S)
    client.is_complete("for i in x:")
    client.history(hist_access_type="tail", n=5, reply=True, timeout=PLAY_S)
    client.comm_info(reply=True, timeout=PLAY_S)
    client.shutdown(reply=True, timeout=PLAY_S)
