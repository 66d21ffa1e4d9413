"""The executions of one kernel, as its owner runs them: one after another, through a seat of the server's own.

Owns their order, and that each is given to the kernel once: its msg_id is made from its uid, and a kernel with a flight
recorder takes a msg_id once, so the next owner may send again what it finds running. What it has heard it keeps in the
journal, and asks the recorder for the rest. Knows no HTTP and no notebooks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import orjson
import structlog

from kernels import framing
from kernels.errors import KernelGone, KernelMoved, KernelsError
from kernels.framing import Message
from kernels.resume import Resume
from kernels.seat import OWN_SESSION, Seat
from kernels.tenant import Tenant
from server.execution import widgets
from server.execution.execution import AFTER_ERROR, CANCELLED, Execution, News, Order, Reply, header
from server.execution.journal import Journal
from server.execution.keeping import Keeper
from server.execution.messages import object_in

log = structlog.get_logger(__name__)

MAX_QUEUED: Final = 1024  # a notebook that is run at once has some hundred cells
KEEP_S: Final = 0.5  # between two times that what runs is written to the journal
KEEP_BYTES: Final = 2**20  # or as soon as so much has come: the recorder of the kernel has the last 4 MiB
IDLE_S: Final = 5.0  # after its reply an execution is over at the latest: the idle status may have been lost


class QueueFullError(KernelsError):
    """The kernel has more to run than is kept for it."""


class Table:
    """Made for an attached kernel, `open`ed once; gone when the kernel is, or when it moves."""

    def __init__(
        self,
        tenant: Tenant,
        journal: Journal,
        interrupt: Callable[[], Any],
        on_closed: Callable[[Table], None],
        *,
        adopted: bool,
    ) -> None:
        self._adopted = adopted
        self.kernel = tenant.kernel
        self.widgets = widgets.Widgets()
        self.widgets_version = 0
        self.news = News()  # whenever something changes that is not of one execution alone
        self.moved: Exception | None = None
        self.ended = False  # the kernel is gone
        self.seen_at = time.monotonic()  # when somebody was there last; after a move clients need a moment to follow
        self._session = OWN_SESSION + self.kernel.kernel_id
        self._keeper = Keeper(journal)
        self._interrupt = interrupt
        self._on_closed = on_closed
        self._rows: dict[str, Execution] = {}
        self._by_msg_id: dict[str, Execution] = {}
        self._kept_bytes = 0
        self._seat: Seat | None = None
        self._place: framing.Number | None = None  # of the kernel's output: heard up to here
        self._replies: set[asyncio.Task[None]] = set()
        self._loaded = asyncio.Event()
        self._work = asyncio.Event()
        self._heard = asyncio.Event()
        self._soon = asyncio.Event()
        self._gate = asyncio.Lock()  # held while one is sent, and while one is interrupted
        self._serving: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin."""
        self._serving = asyncio.create_task(self._serve(), name="executions")

    async def stop(self) -> None:
        """This worker stops: what goes on goes on at the next owner."""
        if self._serving:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
        self._close(KernelMoved("this worker stops"))

    async def ready(self) -> None:
        """Return when it knows what was run before. Raises KernelMoved."""
        await self._loaded.wait()
        if self.moved:
            raise self.moved

    # -- what requests ask -------------------------------------------------------------------------------------------

    @property
    def rows(self) -> list[Execution]:
        """All that are known, in their order."""
        return list(self._rows.values())

    def get(self, uid: str) -> Execution | None:
        """One of them."""
        return self._rows.get(uid)

    @property
    def running(self) -> Execution | None:
        """The one that the kernel has."""
        return next((row for row in self._rows.values() if row.state == "running"), None)

    @property
    def is_at_work(self) -> bool:
        """Whether one runs or waits, or what there was before is not read yet."""
        return not self._loaded.is_set() or any(row.state != "done" for row in self._rows.values())

    def note(self, row: Execution) -> None:
        """Who has got it has changed, and the journal is to say so."""
        self._keeper.note(row)
        self._heard.set()

    async def put(self, uid: str, code: str, **asked: Any) -> Execution:
        """Queue code to be run; of the same uid only once. It is kept when this returns. Raises QueueFullError."""
        if uid not in self._rows:
            if sum(row.state == "queued" for row in self._rows.values()) >= MAX_QUEUED:
                raise QueueFullError(f"{MAX_QUEUED} requests wait for this kernel already")
            number = max((row.order.number for row in self._rows.values()), default=0) + 1
            self._know(Execution(Order(uid, number, code, **asked), self._session, self.kernel.user))
        row = self._rows[uid]
        await self._keeper.keep(row)
        self._still_ours()
        self._work.set()
        return row

    async def cancel(self, row: Execution) -> None:
        """One that waits never runs; one that runs is interrupted."""
        if row.state == "running":
            async with self._gate:  # else the next could run by the time that the kernel is interrupted
                if row.state == "running" and not row.replied:
                    await self._interrupt()
            return
        if row.state == "queued":
            row.end("aborted", CANCELLED)
            await self._keeper.keep(row)
            self._still_ours()

    async def answer(self, row: Execution, value: str, by: str) -> bool:
        """Give the kernel what it asks for; False when it asks for nothing (any more). The same `by` counts once."""
        if row.reply and row.reply.by == by:
            return True
        question = row.question
        if question is None:
            return False
        row.answer(question, value, by)
        await self._keeper.keep(row)
        assert row.reply
        await self._send_reply(row.reply, question.header)
        return True

    def _still_ours(self) -> None:
        """Raise KernelMoved when what was just written to the journal may come too late for the next owner.

        That one reads the journal when it has the kernel, and by then we have been told to hold back.
        """
        if self.moved or self.kernel.held_back:
            raise KernelMoved("another worker is taking the kernel")

    # -- running -----------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        try:
            await self._load()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen())
                group.create_task(self._feed())
                group.create_task(self._keep_up())
        except* KernelMoved as moved:
            self._close(KernelMoved(str(moved.exceptions[0])))
        except* KernelGone as gone:
            await self._end_all(str(gone.exceptions[0]))
            self._close(KernelMoved("the kernel has ended"))
        except* Exception as errors:
            log.exception("executions_failed", kernel=self.kernel.kernel_id, exc_info=errors)
            self._close(KernelMoved("the executions of this kernel are read anew"))

    async def _load(self) -> None:
        if self._adopted:
            await self.kernel.attached()  # from now on the owner before keeps nothing that counts
        rows, models = await self._keeper.load(self._session, self.kernel.user)
        self.widgets = widgets.Widgets.from_json(models)
        for row in rows:
            self._know(row)
            self._keeper.kept(row)
        if rows:
            unfinished = [row.order.uid for row in rows if row.state != "done"]
            log.info("executions_resumed", kernel=self.kernel.kernel_id, user=self.kernel.user, unfinished=unfinished)
        self._loaded.set()

    def _know(self, row: Execution) -> None:
        self._rows[row.order.uid] = row
        self._by_msg_id[row.msg_id] = row
        self._work.set()
        self.news.tell()

    async def _listen(self) -> None:
        """Take the seat where the owner before has left it, and hear all that the kernel says."""
        row = self.running
        seat = await self._take_seat(row)
        if row:
            await self._again(row, seat)
        self._seat, self._place = seat, seat.number
        self._work.set()
        try:
            while True:
                for frame in await seat.frames():
                    self._hear(frame)
                await asyncio.sleep(0)
        finally:
            self._seat = None
            seat.leave()

    async def _take_seat(self, row: Execution | None) -> Seat:
        waits = row is not None and not row.replied
        resume = Resume(self._session)
        if row:
            pending = [("shell", row.header)] if waits else []
            resume = Resume(self._session, row.after, row.number, pending, row.since)
        seat = await self.kernel.take_seat(resume, own=True)
        if row and row.replied:
            self._end_later(row)
        return seat

    async def _again(self, row: Execution, seat: Seat) -> None:
        """It may not have reached the kernel. Without a recorder that is found out otherwise (`Seating._settle`)."""
        if seat.number is not None and not row.replied:
            await seat.send(Message("shell", row.request_parts), row.header)

    async def _feed(self) -> None:
        """Give the kernel one after another."""
        while True:
            waiting = next((row for row in self._rows.values() if row.state == "queued"), None)
            if waiting is None or self.running or self._seat is None:
                self._work.clear()
                await self._work.wait()
                continue
            await self._begin(waiting, self._seat)

    async def _begin(self, row: Execution, seat: Seat) -> None:
        async with self._gate:
            row.number = self._place
            row.state = "running"
            row.changed()
            self.news.tell()
            # First it is noted that the kernel may have it, and from where its output is to be heard.
            await self._keeper.keep(row)
            if row.state == "running":
                await seat.send(Message("shell", row.request_parts), row.header)

    # -- hearing -----------------------------------------------------------------------------------------------------

    def _hear(self, frame: bytes) -> None:
        channel, parts = framing.unpack(frame)
        number = framing.number_of(parts[2])
        self._place = number or self._place
        row = self._by_msg_id.get(framing.msg_id_of(parts[1]))
        if b'"comm_' in parts[0]:
            self._hear_comm(parts)
        elif row is None and channel == "iopub" and framing.is_servers_own(frame):
            self._hear_server(parts)
        elif row and row.state == "running":
            self._hear_of(row, channel, parts, number)

    def _hear_of(self, row: Execution, channel: str, parts: list[bytes], number: framing.Number | None) -> None:
        said, content = object_in(parts[0]), object_in(parts[3])
        if channel == "stdin" and row.reply and row.reply.to == said.get("msg_id"):
            # An owner before has answered it, and may have ended before the kernel had that: it takes it once.
            task = asyncio.create_task(self._send_reply(row.reply, said), name="input_reply")
            self._replies.add(task)
            task.add_done_callback(self._replies.discard)
            return
        size = len(parts[3])
        row.hear(channel, said, content, number, size)
        self._note_heard(size)
        if row.state == "done":
            self._ended(row)
        elif row.replied:
            self._end_later(row)

    def _hear_comm(self, parts: list[bytes]) -> None:
        said, content = object_in(parts[0]), object_in(parts[3])
        size = len(parts[3]) + sum(map(len, parts[4:]))
        if self.widgets.hear(str(said.get("msg_type")), content, parts[4:], size):
            self.widgets_version += 1
            self._note_heard(size)

    def _hear_server(self, parts: list[bytes]) -> None:
        """What the server itself says of the kernel belongs to the cell that runs."""
        said, content = object_in(parts[0]), object_in(parts[3])
        row = self.running
        if said.get("msg_type") == "stream" and row:
            row.put_out("stream", content, len(parts[3]))
            row.changed()
            self._note_heard(len(parts[3]))
        elif content.get("execution_state") in ("restarting", "dead"):
            self.widgets.clear()
            self.widgets_version += 1

    def _note_heard(self, size: int) -> None:
        self._kept_bytes += size
        self._heard.set()
        if self._kept_bytes >= KEEP_BYTES:
            self._soon.set()

    def _end_later(self, row: Execution) -> None:
        def end() -> None:
            if row.state == "running":
                row.finish()
                row.changed()
                self._ended(row)

        asyncio.get_running_loop().call_later(IDLE_S, end)

    def _ended(self, row: Execution) -> None:
        """What waited behind it goes on, unless it was to stop at an error, or the kernel itself has ended."""
        lost = row.reason is not None
        if lost or (row.status == "error" and row.order.stop_on_error):
            for waiting in [one for one in self._rows.values() if one.state == "queued"]:
                if lost:
                    waiting.end("error", row.reason or "")
                elif waiting.order.stop_on_error:
                    waiting.end("aborted", AFTER_ERROR)
        self._soon.set()
        self._heard.set()
        self._work.set()
        self.news.tell()

    async def _send_reply(self, reply: Reply, asked: dict[str, Any]) -> None:
        seat = self._seat
        if seat is None:
            raise KernelMoved("the kernel is being taken over")
        told = header(f"{reply.by}_input", "input_reply", self.kernel.user, self._session)
        parts = [orjson.dumps(part) for part in (told, asked, {}, {"status": "ok", "value": reply.value})]
        with suppress(KernelGone):
            await seat.send(Message("stdin", parts), told)

    # -- keeping -----------------------------------------------------------------------------------------------------

    async def _keep_up(self) -> None:
        """Write what has changed to the journal, and tell the kernel that we have it."""
        while True:
            await self._heard.wait()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._soon.wait(), KEEP_S)
            self._heard.clear()
            self._soon.clear()
            self._kept_bytes = 0
            seat, number = self._seat, self._place
            changed = [row for row in self._rows.values() if not self._keeper.has(row)]
            replied = [row.msg_id for row in changed if row.replied]
            for row in changed:
                await self._keeper.keep(row)
            await self._keeper.keep_widgets(self.widgets, self.widgets_version)
            if seat and number:
                seat.acknowledge(number, replied)
            for row in await self._keeper.forget(self.rows):
                del self._rows[row.order.uid], self._by_msg_id[row.msg_id]

    # -- ends --------------------------------------------------------------------------------------------------------

    async def _end_all(self, why: str) -> None:
        self.ended = True
        for row in [row for row in self._rows.values() if row.state != "done"]:
            row.put_out("error", {"ename": "KernelRequestLost", "evalue": why, "traceback": [why]}, len(why))
            row.end("error", why)

    def _close(self, moved: Exception) -> None:
        self.moved = moved
        self._loaded.set()
        self._on_closed(self)
        for row in self._rows.values():
            row.news.tell()
        self.news.tell()
