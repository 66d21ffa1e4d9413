"""IPython's kernel, which takes each message once and answers the owner's own requests.

Owns the moment at which a message arrives on shell or control: is its sender still the owner, has it come before?
All else is ipykernel's.

`kernelring_attach_request {epoch, boot, link, since, window}` on control: become the owner; see `Recorder.attach` for
the reply, and `window.py` for the last, which is in bytes and may be left out.
`kernelring_read_request {n}` on control: the owner has read all output up to number n. It has no reply.
`kernelring_ack_request {clients, replies}` on control: how far each client has got (its name: [incarnation, n]), and
the msg_ids of requests whose replies have been got. It has no reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextvars import Context, copy_context
from typing import Any

import zmq
from ipykernel.ipkernel import IPythonKernel
from jupyter_client.session import DELIM
from traitlets.traitlets import Type

from kernels.inside.confined import offered_features, refused_debugging
from kernels.inside.outputs import KeptOutputs
from kernels.inside.recorder import Owner, Recorder, owner_of
from kernels.inside.session import OWN_MESSAGES
from kernels.inside.shell import RingShell, without_dots

_LOST = "This request has run. Its reply was too large to be kept when the worker that waited for it ended."


class RingKernel(IPythonKernel):
    """Its session must be a RecordingSession."""

    shell_class = Type(RingShell)
    _started = False
    _cells_context: Context
    _gathered: list[list[Any]] | None = None  # while the fence goes up: what has arrived on shell by now

    @property
    def recorder(self) -> Recorder:
        """The session's."""
        recorder: Recorder = self.session.recorder  # type: ignore[union-attr]
        return recorder

    @property
    def kernel_info(self) -> dict[str, Any]:
        """As ipykernel's, with what a confined kernel has."""
        found: dict[str, Any] = super().kernel_info
        return found | {"supported_features": offered_features(found["supported_features"])}

    def do_complete(self, code: str, cursor_pos: int | None) -> dict[str, Any]:  # type: ignore[override]
        """As ipykernel's."""
        return without_dots(super().do_complete(code, cursor_pos), code)  # type: ignore[no-untyped-call]

    async def do_debug_request(self, msg: dict[str, Any]) -> Any:
        """As ipykernel's, where it may."""
        return refused_debugging(msg) or await super().do_debug_request(msg)  # type: ignore[no-untyped-call]

    # -- arrivals. Both are called by ZMQStream for every message, in order, and may return what to await.

    def dispatch_control(self, msg: list[Any]) -> Awaitable[None] | None:  # type: ignore[override]
        """On the control thread: our own requests, and what ipykernel serves."""
        idents, header = self._opened(msg)
        kind = header.get("msg_type", "")
        if kind.startswith(OWN_MESSAGES):
            self._serve_owner(kind, msg)
            return None
        if not self._is_new(self.control_stream, idents, header, self.recorder.owner.epoch):
            return None
        return super().dispatch_control(msg)  # type: ignore[no-untyped-call]

    def shell_channel_thread_main(self, msg: list[Any]) -> Awaitable[None] | None:  # type: ignore[override]
        """On the shell channel's thread, which reads also while a cell runs."""
        idents, header = self._opened(msg)
        if not self._is_new(self.shell_stream, idents, header, self.recorder.shell_epoch):
            return None
        return super().shell_channel_thread_main(msg)  # type: ignore[no-untyped-call]

    def start(self) -> None:
        """As ipykernel's. Without that thread it is the main thread that reads, between cells."""
        super().start()  # type: ignore[no-untyped-call]
        self.shell.history_manager.outputs = KeptOutputs()  # type: ignore[union-attr]
        assert self.shell_stream
        if not self.shell_channel_thread:
            # In one context for all cells, as ipykernel does it, so that what a cell sets in it is there in the next.
            self._cells_context = copy_context()
            self.shell_stream.on_recv(self._on_main, copy=False)
        # An owner may have attached already. What a stream flushes before it has its callback is thrown away.
        self._started = True
        self.shell_stream.io_loop.add_callback(self._fence_shell)

    def _on_main(self, msg: list[Any]) -> Awaitable[None] | None:
        if self._gathered is None:
            return self._arrives_on_main(msg)
        self._gathered.append(msg)
        return None

    def _arrives_on_main(self, msg: list[Any]) -> Awaitable[None] | None:
        idents, header = self._opened(msg)
        if not self._is_new(self.shell_stream, idents, header, self.recorder.shell_epoch):
            return None
        return asyncio.get_running_loop().create_task(self.shell_main(None, msg), context=self._cells_context)

    def _opened(self, msg: list[Any]) -> tuple[list[bytes], dict[str, Any]]:
        """(identities, header) of a message whose signature ipykernel checks later; ([], {}) if it is malformed."""
        try:
            idents, parts = self.session.feed_identities(msg, copy=False)  # type: ignore[union-attr]
            header = self.session.unpack(parts[1].bytes)  # type: ignore[union-attr]
            return idents, {**header, "msg_id": str(header["msg_id"]), "msg_type": str(header["msg_type"])}
        except Exception:  # whatever it is, ipykernel finds it too, and logs it
            return [], {}

    def _is_new(self, stream: Any, idents: list[bytes], header: dict[str, Any], epoch: int) -> bool:
        """Whether a message is to be handled. Called on the thread of `stream`."""
        owner = owner_of(idents)
        if owner is None or "msg_id" not in header:  # not of an owner: nobody sends it again
            return True
        if owner.epoch < epoch:
            return False
        if self.recorder.take(header["msg_id"], gets_reply=header["msg_type"].endswith("_request")):
            return True
        if again := self.recorder.answer(header["msg_id"]):
            identity, reply = again
            stream.send_multipart([identity, DELIM, *(reply or self._lost(header))])
        return False

    def _lost(self, header: dict[str, Any]) -> list[bytes]:
        """In the place of a reply that could not be kept."""
        content = {"status": "error", "ename": "KernelReplyLost", "evalue": _LOST, "traceback": [_LOST]}
        kind = header["msg_type"].removesuffix("_request") + "_reply"
        session = self.session
        assert session
        return session.serialize(session.msg(kind, content, parent={"header": header}))[1:]

    # -- the owner's own requests, on the control thread ----------------------------------------------------------

    def _serve_owner(self, kind: str, msg: list[Any]) -> None:
        session = self.session
        assert session
        idents, parts = session.feed_identities(msg, copy=False)
        try:
            request = session.deserialize(parts, copy=False)
            if kind == "kernelring_attach_request":
                self._attach(idents, request)
            elif kind == "kernelring_ack_request":
                self.recorder.acknowledge(request["content"]["clients"], request["content"]["replies"])
            elif kind == "kernelring_read_request" and owner_of(idents) == self.recorder.owner:
                self.recorder.window.read(int(request["content"]["n"]))
        except Exception:
            self.log.exception("an owner's request cannot be served")

    def _attach(self, idents: list[bytes], request: dict[str, Any]) -> None:
        session = self.session
        assert session
        asked = request["content"]
        owner = Owner(int(asked["epoch"]), str(asked["boot"]), int(asked["link"]))
        content, buffers = self.recorder.attach(owner, asked.get("since"), session.sign)
        if content["granted"]:
            self.recorder.window.open(int(asked.get("window", 0)))
        session.send(self.control_stream, "kernelring_attach_reply", content, request, idents, list(buffers))
        if content["granted"] and self._started:
            assert self.shell_stream
            self.shell_stream.io_loop.add_callback(self._fence_shell)

    def _fence_shell(self) -> None:
        """From here on shell takes nothing from owners before; what they had written by now is taken.

        The owner before wrote a cell and died; the kernel, busy, had not read it when the next owner attached. If the
        client's entry worker died as well, nobody sends that cell again. (Without the shell channel's thread that "now"
        is the end of the cell that runs, so an owner of before is heard that long: late, but never twice. A ROUTER
        takes from all its peers in turn, so by then the next cell, of the owner after, may come before that one.)
        """
        assert self.shell_stream
        epoch = self.recorder.owner.epoch
        if self.shell_channel_thread:
            self.shell_stream.flush(zmq.POLLIN)
        else:
            self._take_in_order()
        self.recorder.shell_epoch = epoch

    def _take_in_order(self) -> None:
        """Take what has arrived: first all from the owner before, then all from the next."""
        assert self.shell_stream
        self._gathered = []
        self.shell_stream.flush(zmq.POLLIN)
        gathered, self._gathered = self._gathered, None
        for msg in sorted(gathered, key=self._epoch_of):
            self._arrives_on_main(msg)

    def _epoch_of(self, msg: list[Any]) -> int:
        owner = owner_of(self._opened(msg)[0])
        return owner.epoch if owner else 0
