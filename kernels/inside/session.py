"""jupyter_client's Session with a recorder behind it.

Owns the two places where all that a kernel sends comes by: `serialize`, for replies and questions, and the iopub
socket of ipykernel's IOPub thread, for output. It changes nothing in what is said, but for the number in the metadata
of output and the address of replies.
"""

from __future__ import annotations

import os
from typing import Any, Final

import zmq
from ipykernel.iostream import BackgroundSocket, IOPubThread
from jupyter_client.session import DELIM, Session

from kernels.inside.packed import size_of
from kernels.inside.recorder import Recorder, owner_of
from kernels.inside.stream import send_parts

OWN_MESSAGES: Final = "kernelring_"
_IOPUB: Final = (BackgroundSocket, IOPubThread)
_PARTS: Final = ("header", "parent_header", "metadata", "content")
_WELCOME: Final = b'"iopub_welcome"'


class RecordingSession(Session):
    """`recorder` must be set before anything is sent."""

    recorder: Recorder

    def __init__(self, **kwargs: Any) -> None:
        # A request that is sent again has the same signature, which Session takes for an attack and drops. Here the
        # msg_id tells what has come before, and its reply is sent again.
        super().__init__(**{"digest_history_size": 0} | kwargs)

    def send(self, stream: Any, msg_or_type: Any, *args: Any, **kwargs: Any) -> Any:
        """As Session's. An output goes a shorter way, and is signed when it has its number, if there is nothing unusual
        about it."""
        if isinstance(stream, _IOPUB):
            return self._say(stream, msg_or_type, *args, **kwargs)
        return super().send(stream, msg_or_type, *args, **kwargs)

    def _say(
        self,
        iopub: Any,
        msg_or_type: Any,
        content: Any = None,
        parent: Any = None,
        ident: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        msg = self.msg(msg_or_type, content, parent) if isinstance(msg_or_type, str) else msg_or_type
        if args or kwargs or not isinstance(ident, bytes) or not self._is_usual(msg):
            return super().send(iopub, msg_or_type, content, parent, ident, *args, **kwargs)
        wire = [ident, DELIM, b"", *(self.pack(msg[name]) for name in _PARTS)]
        iopub.send_multipart(wire, copy=max(map(len, wire)) < self.copy_threshold)
        return msg

    def _is_usual(self, msg: dict[str, Any]) -> bool:
        if self.adapt_version or self.debug or (self.check_pid and os.getpid() != self.pid):
            return False
        return type(msg) is dict and isinstance(msg.get("content"), dict) and not msg.get("buffers")

    def serialize(self, msg: dict[str, Any], ident: list[bytes] | bytes | None = None) -> list[bytes]:
        """As Session's; what is for an owner is recorded, and goes to the one who is the owner now."""
        kind: str = msg["header"]["msg_type"]
        if kind.startswith(OWN_MESSAGES) or owner_of(ident) is None:
            return super().serialize(msg, ident)
        asked = msg["parent_header"].get("msg_id", "")
        with self.recorder.lock:
            wire = super().serialize(msg, [self.recorder.owner.identity])
            if kind == "input_request":
                self.recorder.asked(asked, msg["header"]["msg_id"], wire[2:])
            elif kind.endswith("_reply"):
                self.recorder.replied(asked, wire[2:])
        return wire

    def recv(self, socket: Any, mode: int = zmq.NOBLOCK, content: bool = True, copy: bool = True) -> Any:
        """As Session's (ipykernel reads stdin with it); an input_reply that came before, or too late, is none.

        JupyterLab, Notebook 7, VS Code and what else is made of @jupyterlab/services say in the parent_header which
        question they answer. jupyter_client and nbclassic leave it empty, and are believed.
        """
        idents, msg = super().recv(socket, mode, content, copy)
        owner = owner_of(idents)
        if msg and owner and msg["msg_type"] == "input_reply":
            parent = msg["parent_header"]
            answers = parent.get("msg_id", "") if parent.get("msg_type") == "input_request" else ""
            if not self.recorder.take_input(owner, msg["msg_id"], answers):
                return None, None
        return idents, msg

    def number(self, wire: list[bytes]) -> list[bytes]:
        """Give an iopub message its number and record it; return the parts to send.

        The number comes first in the metadata, which is how an owner tells it from what a user may put there.
        """
        at = wire.index(DELIM) + 2
        if _WELCOME in wire[at]:
            return wire
        metadata = wire[at + 2][1:].lstrip()
        head = b'{"kernelring":[%d,%d]' % (self.recorder.incarnation, self.recorder.next_number)
        parts = [*wire[at : at + 2], head + (b"" if metadata[:1] == b"}" else b",") + metadata, *wire[at + 3 :]]
        self.recorder.sent(parts)
        return [*wire[: at - 1], self.sign(parts[:4]), *parts]


class NumberedSocket:
    """The iopub socket of an IOPub thread. All that is put on iopub goes through `send_multipart`, on that thread.

    So does what a forked child prints, which comes to that thread by a pipe. Numbers therefore rise in the order in
    which messages leave, and no interrupt of a cell can come between a number and its message.
    """

    def __init__(self, socket: Any, session: RecordingSession) -> None:
        self._socket = socket
        self._session = session

    def send_multipart(self, wire: list[bytes], flags: int = 0, copy: bool = True, track: bool = False) -> Any:
        """Number, record, send. The last is left out while the owner does not read: the recorder has it."""
        numbered = self._session.number(wire)
        recorder = self._session.recorder
        if numbered is not wire and not recorder.window.sent(recorder.next_number - 1, size_of(numbered)):
            return None
        if flags or track:
            return self._socket.send_multipart(numbered, flags, copy=copy, track=track)
        return send_parts(self._socket, numbered, copy=copy)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)
