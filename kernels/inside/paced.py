"""ipykernel's ways to iopub for code that a user runs, slowed to what the owner reads.

Owns where a thread that prints or displays waits (see `window.py`), and the size of what is sent at once. ipykernel
collects what is printed for 0.2 s, and what is displayed until its IOPub thread comes to it: either without bound.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from ipykernel.iostream import BackgroundSocket

from kernels.inside.output import OutStream
from kernels.inside.packed import size_of
from kernels.inside.session import RecordingSession

AT_ONCE: Final = 1_000_000  # characters or bytes that are collected before they are sent
THREAD_WAIT_S: Final = 10.0  # as OutStream waits for the IOPub thread


class PacedStream(OutStream):
    """stdout or stderr. Its session is a RecordingSession."""

    _collected = 0  # about: threads that print at the same moment may lose count of each other

    def write(self, string: str) -> int:
        """As OutStream's; what would be a very long message is sent before it is."""
        written = super().write(string)
        self._collected += len(string)
        if self._collected > AT_ONCE:
            self.flush()
        return written or 0  # ipykernel says None in a forked child

    def flush(self) -> None:
        """As OutStream's; returns when the owner has read enough of what was sent before."""
        self._collected = 0
        super().flush()
        self.session.recorder.window.wait()


class PacedSocket(BackgroundSocket):
    """Where everything but streams is put: displays, results, comms, statuses."""

    def __init__(self, io_thread: Any, session: RecordingSession) -> None:
        super().__init__(io_thread)  # type: ignore[no-untyped-call]
        self.__dict__["_session"] = session  # BackgroundSocket gives what is set to the socket behind it
        self.__dict__["_handed"] = 0

    def send_multipart(self, wire: list[Any], *args: Any, **kwargs: Any) -> None:
        """As BackgroundSocket's; returns when the IOPub thread has come to it, if it has much to do, and as `flush`."""
        super().send_multipart(wire, *args, **kwargs)  # type: ignore[no-untyped-call]
        handed = self.__dict__["_handed"] + size_of(wire)
        self.__dict__["_handed"] = handed if handed < AT_ONCE else 0
        if handed >= AT_ONCE:
            self._await_thread()
        self.__dict__["_session"].recorder.window.wait()

    def _await_thread(self) -> None:
        thread = self.io_thread
        assert thread
        if thread.thread.is_alive() and thread.thread is not threading.current_thread():
            reached = threading.Event()
            thread.schedule(reached.set)
            reached.wait(THREAD_WAIT_S)
