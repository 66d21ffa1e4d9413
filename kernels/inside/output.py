"""The way of what a kernel says on iopub, from the thread that says it to the IOPub thread.

Owns when that thread is woken and when somebody waits for it. Changes nothing in what is said, nor its order: all goes
through one queue, and the IOPub thread alone takes from it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import zmq
from ipykernel import iostream

from kernels.inside.relay import Relay, Sender

log = logging.getLogger(__name__)


class Publisher(iostream.IOPubThread):
    """ipykernel's, woken once for all that waits in the queue, and by its loop's own means: a ZMQ message costs more.

    No wake is lost. `schedule` appends and then reads `_woken`; `_run_events` clears `_woken` and then looks how long
    the queue is. So whoever reads True has appended before a look that is still to come. The interrupt of a cell may
    come anywhere between setting `_woken` and the wake itself: then the wake is sent all the same (twice does no harm),
    because others may have read True meanwhile.
    """

    def _setup_pipe_in(self) -> None:
        """As ipykernel's, without a port, which every user of the machine could connect to."""
        self._pipe_uuid = os.urandom(16)
        self._relay = Relay(self._handle_pipe_msg)
        self.io_loop.asyncio_loop.add_reader(self._relay, self._relay.read)  # type: ignore[attr-defined]

    def _setup_pipe_out(self) -> tuple[Sender, Sender]:
        """As ipykernel's. In a process that the kernel has forked."""
        sender = Sender(self._relay)
        return sender, sender

    def _setup_event_pipe(self) -> None:
        self._woken = False

    async def _run_event_pipe_gc(self) -> None:
        """There are no pipes."""

    @property
    def idle(self) -> bool:
        """Whether all that was scheduled has been done (an event leaves the queue when it has)."""
        return not self._events

    def schedule(self, f: Callable[[], Any]) -> None:
        """Call `f` on the IOPub thread, after all that was scheduled before; here and now when it does not run."""
        if not self.thread.is_alive():
            f()
            return
        self._events.append(f)
        if self._woken:
            return
        try:
            self._woken = True
            self._wake()
        except RuntimeError:  # the loop has been closed since the first line, and the thread is at its end
            self.thread.join()
            f()
        except BaseException:
            self._wake()
            raise

    def _wake(self) -> None:
        self.io_loop.asyncio_loop.call_soon_threadsafe(self._run_events)  # type: ignore[attr-defined]

    def _run_events(self) -> None:
        """Do what waits by now. What is scheduled meanwhile waits for the loop's next turn, so timers have theirs."""
        self._woken = False
        for _ in range(len(self._events)):
            try:
                self._events[0]()
            except Exception:
                log.exception("an event of the IOPub thread failed")
            finally:
                self._events.popleft()
        self._see_subscribers()

    def _see_subscribers(self) -> None:
        """libzmq's descriptor tells of an edge, and what was sent has swallowed it: an owner would not be welcomed."""
        if self.socket and self.socket.get(zmq.EVENTS) & zmq.POLLIN:
            self._xpub_stream.flush(zmq.POLLIN)


class OutStream(iostream.OutStream):
    """ipykernel's, whose `flush` does not wait for the IOPub thread when there is nothing to wait for.

    ipykernel flushes both streams twice after each cell. What `flush` promises: all that was written to the stream and
    all that was scheduled before it has left. That is so when, looked at in this order,

    1. the buffers are empty: whatever was written is in the hands of a `_flush`, or has been;
    2. no `_flush` is at work. It takes the buffers first and schedules their messages then. In between (the timer's,
       200 ms after a print, while a cell ends) the text is in neither place, and the cell's `idle` would overtake it;
    3. the thread has done all that was scheduled, those messages too.
    """

    _flushing = 0

    def flush(self) -> None:
        """As ipykernel's."""
        publisher = self.pub_thread
        nothing_here = not self._buffers and not self._flushing and not self.echo
        if nothing_here and isinstance(publisher, Publisher) and publisher.idle:
            return
        super().flush()  # type: ignore[no-untyped-call]

    def _flush(self) -> None:
        # On the IOPub thread alone, as long as there is one. (A hook may flush within it.)
        self._flushing += 1
        try:
            super()._flush()  # type: ignore[no-untyped-call]
        finally:
            self._flushing -= 1


# Libraries look whether this is ipykernel's.
OutStream.__module__ = iostream.OutStream.__module__
