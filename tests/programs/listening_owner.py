"""An owner of one kernel that can be stopped: runs a cell and prints what its one client is handed, a JSON line each.

`python listening_owner.py DIRECTORY CELL`; ends when the cell has.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from pathlib import Path

import structlog
import zmq

from kernels import framing
from kernels.attached import AttachedKernel
from kernels.recorded import Recorded
from kernels.resume import Resume

BACKLOG_BYTES = 64 * 2**20
START_S = 30.0


async def granted() -> None:
    """There is nobody to ask."""


async def listen(directory: Path, code: str) -> None:
    """Until the cell's reply and its idle status."""
    kernel = AttachedKernel("kernel", "ann", BACKLOG_BYTES, lambda kernel: None)
    info = json.loads((directory / "connection.json").read_text())
    info["key"] = info["key"].encode()
    await kernel.attach_new(zmq.Context(), info, Recorded(1, "boot", granted), START_S)
    seat = await kernel.take_seat(Resume("client"))
    await seat.send(*framing.checked(cell(code)))
    wanted = {"idle", "execute_reply"}
    while wanted:
        for frame in await seat.frames():
            wanted -= tell(frame)


def tell(frame: bytes) -> set[str]:
    """Print it; return what it ends."""
    kind, content = (json.loads(framing.part_of(frame, at)) for at in (0, 3))
    number = framing.number_of(framing.part_of(frame, 2))
    found = {"kind": kind["msg_type"], "text": content.get("text", ""), "n": number and number[1]}
    print(json.dumps(found), flush=True)
    return {kind["msg_type"], content.get("execution_state", "")}


def cell(code: str) -> bytes:
    """The frame of an execute_request."""
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": "client", "username": ""}
    header |= {"version": framing.PROTOCOL_VERSION}
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    return framing.pack("shell", [json.dumps(part).encode() for part in (header, {}, {}, content)])


structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
asyncio.run(listen(Path(sys.argv[1]), sys.argv[2]))
