"""A real kernel with a recorder, as a process, and owners that talk to it over ZMQ as a worker would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import zmq
from jupyter_client.session import DELIM, Session

from kernels.inside import __main__ as launcher

ANSWER_S = 20.0
PORTS = {"shell": 1, "iopub": 2, "stdin": 3, "hb": 4, "control": 5}


class Said(NamedTuple):
    """A message: what it says, and its number (0: it has none)."""

    kind: str
    content: dict[str, Any]
    parent: str
    n: int
    header: dict[str, Any]
    metadata: dict[str, Any]
    buffers: list[bytes]


def said(session: Session, parts: list[bytes]) -> Said:
    """`parts` from the signature on; the signature is checked."""
    assert session.sign(parts[1:5]).decode() == parts[0].decode()
    header, parent, metadata, content = map(json.loads, parts[1:5])
    number = metadata.get("kernelring", [0, 0])[1]
    return Said(header["msg_type"], content, parent.get("msg_id", ""), number, header, metadata, parts[5:])


class Owner:
    """A worker that owns the kernel, or thinks so."""

    def __init__(self, directory: Path, epoch: int, boot: str = "b", link: int = 1) -> None:
        self.epoch, self.boot, self.link = epoch, boot, link
        self.session = Session(key=b"key-of-the-test")
        self._context = zmq.Context()
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        for channel in ("shell", "control", "stdin"):
            self._sockets[channel] = self._socket(zmq.DEALER, directory, channel)
        self._sockets["iopub"] = self._socket(zmq.SUB, directory, "iopub")
        for channel in ("shell", "control", "stdin"):  # what the kernel sends to a peer that is not there is dropped
            assert self._sockets[channel].poll(int(ANSWER_S * 1000), zmq.POLLOUT)

    def _socket(self, kind: int, directory: Path, channel: str) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        socket.linger = 0
        if kind == zmq.DEALER:
            socket.setsockopt(zmq.IDENTITY, f"kernelring:{self.epoch}:{self.boot}:{self.link}".encode())
            socket.setsockopt(zmq.IMMEDIATE, 1)  # so that it is writable when it is connected
        else:
            socket.setsockopt(zmq.RCVHWM, 0)
            socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(f"ipc://{directory}/s-{PORTS[channel]}")
        return socket

    def close(self) -> None:
        """As a killed worker: without a word."""
        self._context.destroy(linger=0)

    def die_having_written(self) -> None:
        """As a worker that was killed a moment later: all that it has sent still arrives."""
        self._context.destroy(linger=int(ANSWER_S * 1000))

    def send(self, channel: str, kind: str, content: dict[str, Any], msg_id: str = "", parent: Any = None) -> str:
        """Send a request; return its msg_id."""
        message = self.session.msg(kind, content, parent=parent)
        message["header"]["msg_id"] = msg_id or uuid.uuid4().hex
        self.session.send(self._sockets[channel], message)
        return str(message["header"]["msg_id"])

    def next(self, channel: str, within_s: float = ANSWER_S) -> Said | None:
        """The next message on a channel; None when none comes."""
        if not self._sockets[channel].poll(int(within_s * 1000)):
            return None
        wire = self._sockets[channel].recv_multipart()
        return said(self.session, wire[wire.index(DELIM) + 1 :])

    def wait(self, channel: str, kind: str, parent: str = "") -> Said:
        """The next message of this kind."""
        end = time.monotonic() + ANSWER_S
        while time.monotonic() < end:
            found = self.next(channel, end - time.monotonic())
            if found and found.kind == kind and parent in ("", found.parent):
                return found
        raise AssertionError(f"no {kind} came")

    def attach(self, since: list[int] | None = None) -> Attached:
        """Ask for the kernel."""
        owner = {"epoch": self.epoch, "boot": self.boot, "link": self.link}
        asked = self.send("control", "kernelring_attach_request", owner | {"since": since})
        reply = self.wait("control", "kernelring_attach_reply", asked)
        return Attached(self.session, reply)

    def subscribed(self) -> None:
        """Return when the subscription is in force."""
        self.wait("iopub", "iopub_welcome")

    def run(self, code: str, msg_id: str = "", **more: Any) -> str:
        """Send a cell."""
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": True}
        return self.send("shell", "execute_request", content | more, msg_id)

    def output_of(self, cell: str) -> list[Said]:
        """What the cell put on iopub, until it was idle."""
        found: list[Said] = []
        while True:
            message = self.next("iopub")
            assert message, "the cell is not idle"
            if message.parent == cell:
                found.append(message)
                if message.content.get("execution_state") == "idle":
                    return found


class Attached:
    """What the kernel answers to an attach request."""

    def __init__(self, session: Session, reply: Said) -> None:
        self.content = reply.content
        self.granted: bool = reply.content["granted"]
        buffers = iter(reply.buffers)

        def take(count: int) -> Said:
            return said(session, [next(buffers) for _ in range(count)])

        self.output = [take(count) for count in reply.content.get("output", [])]
        self.replies = [take(count) for _, count in reply.content.get("replies", [])]
        self.questions = [take(count) for count in reply.content.get("questions", [])]


def text_of(messages: list[Said]) -> str:
    """All that was printed."""
    return "".join(message.content["text"] for message in messages if message.kind == "stream")


WARM = """
import sys
from kernels import zygote_kernel

zygote_kernel.prepare()
zygote_kernel.warm_up()
zygote_kernel.be_kernel(sys.argv[1:])
"""


@contextmanager
def ring_kernel(directory: Path, *arguments: str, warm: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A kernel with its sockets in `directory`, ended afterwards. `warm`: as a zygote forks it, but for the fork."""
    info = {"ip": f"{directory}/s", "transport": "ipc", "key": "key-of-the-test", "signature_scheme": "hmac-sha256"}
    info |= {f"{channel}_port": port for channel, port in PORTS.items()}  # type: ignore[misc]
    (directory / "connection.json").write_text(json.dumps(info))
    program = ["-P", "-c", WARM] if warm else [launcher.__file__]
    command = [sys.executable, "-Xfrozen_modules=off", *program, "-f", f"{directory}/connection.json", *arguments]
    env = os.environ | {"IPYTHONDIR": f"{directory}/ipython"}
    process = subprocess.Popen(command, cwd=directory, env=env, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
