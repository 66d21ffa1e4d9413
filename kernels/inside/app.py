"""ipykernel's application, with our session, kernel and iopub socket in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import zmq
from ipykernel import kernelapp
from ipykernel.kernelapp import IPKernelApp
from traitlets.traitlets import Float, Integer, default

from kernels.inside import first, narrow, paced, sockets
from kernels.inside.kernel import RingKernel
from kernels.inside.output import Publisher
from kernels.inside.recorder import Recorder
from kernels.inside.session import NumberedSocket, RecordingSession


class RingApp(IPKernelApp):
    """Configured as IPKernelApp is, from the same files and arguments."""

    classes = [RingKernel, *IPKernelApp.classes]  # noqa: RUF012 (as traitlets wants it)
    incarnation = Integer(1, help="How often this kernel was started.").tag(config=True)
    send_messages = Integer(20_000, help="How many of them may wait for an owner who does not read.").tag(config=True)
    born_with: dict[int, int]  # descriptors by the numbers of the sockets
    recorder_mib = Float(4.0, help="How much of its output the kernel remembers.").tag(config=True)

    @default("kernel_class")
    def _default_kernel_class(self) -> type[RingKernel]:
        return RingKernel

    @default("session")
    def _default_recording_session(self) -> RecordingSession:
        session = RecordingSession(parent=self)
        session.recorder = Recorder(self.incarnation, int(self.recorder_mib * 2**20))
        return session

    def initialize(self, argv: Any = None) -> None:
        """As ipykernel's. All that is the user's own comes later."""
        self.born_with = sockets.given()
        first.heed_signals()
        if narrow.narrows():
            narrow.narrow()
        super().initialize(argv)  # type: ignore[no-untyped-call]

    def _try_bind_socket(self, s: Any, port: int) -> int:
        return sockets.bind(s, self.ip, port, self.born_with) or super()._try_bind_socket(s, port)  # type: ignore[no-untyped-call]

    def init_control(self, context: Any) -> None:
        """As ipykernel's. A kernel that may make no sockets cannot connect to itself either, for the debugger."""
        super().init_control(context)  # type: ignore[no-untyped-call]
        if self.born_with:
            self.debug_shell_socket.disconnect(self.shell_socket.getsockopt(zmq.LAST_ENDPOINT))

    def init_heartbeat(self) -> None:
        """As ipykernel's, on the socket that the kernel was born with."""
        with in_place_of("Heartbeat", partial(sockets.Heart, born_with=self.born_with)):
            super().init_heartbeat()  # type: ignore[no-untyped-call]

    def init_iopub(self, context: Any) -> None:
        """As ipykernel's; nothing has been sent yet when it returns."""
        # ipykernel leaves it at 1,000 messages, and what is more is dropped without a word (seen on a busy machine).
        # The owner notices, and asks for it again; but the recorder has less of it than can wait here.
        context.setsockopt(zmq.SNDHWM, self.send_messages)
        with in_place_of("IOPubThread", Publisher):
            super().init_iopub(context)  # type: ignore[no-untyped-call]
        del context.sockopts[zmq.SNDHWM]  # for the sockets made after it
        socket = self.iopub_thread.socket
        # Without it XPUB tells only of the first subscriber, and the next owner is not welcomed beside the one before.
        self.iopub_thread.schedule(lambda: socket.setsockopt(zmq.XPUB_VERBOSE, 1))
        self.iopub_thread.socket = NumberedSocket(socket, self.session)
        self.iopub_socket = paced.PacedSocket(self.iopub_thread, self.session)

    def init_io(self) -> None:
        """As ipykernel's, which imports the class of the streams by its name: for that long the name is there again."""
        self.outstream_class = f"{paced.__name__}.PacedStream"
        sys.modules[paced.__name__] = paced
        super().init_io()  # type: ignore[no-untyped-call]
        del sys.modules[paced.__name__]

    def start(self) -> None:
        """As ipykernel's; it returns when the kernel was shut down.

        A shutdown asked for on control ends the main thread's loop before the control thread has flushed stdout and
        said that it is idle. At exit ipykernel 7.4 ends the IOPub thread first, under the control thread's hands, which
        then waits for it, ten seconds or for ever, and is waited for (seen once in ten ends).
        """
        # traitlets has records of all levels made and lets the handlers refuse them: a twentieth of a small cell.
        self.log.setLevel(max(self.log.level, min((handler.level for handler in self.log.handlers), default=0)))
        super().start()  # type: ignore[no-untyped-call]
        for thread in (self.control_thread, self.shell_channel_thread):
            if thread and thread.is_alive():
                thread.stop()
                thread.join()


@contextmanager
def in_place_of(name: str, ours: Any) -> Iterator[None]:
    """ipykernel's application names some classes in its code."""
    theirs = getattr(kernelapp, name)
    setattr(kernelapp, name, ours)
    try:
        yield
    finally:
        setattr(kernelapp, name, theirs)


def forget_package() -> None:
    """Let `import kernels` in a cell find a student's own module of that name. This package needs no more imports."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "kernels"]:
        del sys.modules[name]
