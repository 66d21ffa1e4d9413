"""One student of a chaos run: runs cell after cell, comes back when the connection breaks, and enters what came of it.

Owns the student's connection, its kernel and its ledger. Behaves as a front end: it sends a request once, waits for
reply and idle, answers prompts, reconnects with the same session_id. Only a `numbered` one, that has seen numbers, says
what it has got and sends a request again of which it has heard nothing. It never decides what is a fault of whom.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import aiohttp

from local import chaos_cells as cells
from local.chaos_cells import Cell
from local.chaos_ledger import Connection, Ledger, Sheet, first_few
from local.chaos_table import Row
from local.student import Said, SocketClosed, Student, cell

HUNG_S: Final = 20.0  # a student who hears nothing of a running cell for so long was left hanging
IDLE_S: Final = 20.0  # and so long does one wait after the reply for what is missing: what comes late is not lost
CONNECT_S: Final = 10.0  # for one try
CALM_TRIES: Final = 5
FIRST_RETRY_S: Final = 0.05
LAST_RETRY_S: Final = 1.0
START_S: Final = 90.0


class KernelLost(Exception):  # noqa: N818 - it is an event more than an error
    """The server does not know the student's kernel any more."""


@dataclass(slots=True)
class Book:
    """The rows of the run; `row` is that of the fault that struck last."""

    rows: dict[str, Row] = field(default_factory=dict)
    row: Row = field(default_factory=lambda: Row("none"))

    def turn_to(self, name: str, bound_s: float | None) -> Row:
        """From now on everything is entered under `name`."""
        self.row = self.rows.setdefault(name, Row(name, bound_s))
        return self.row


class Pupil:
    """`folder` is the student's directory, where the cells count themselves. Call `begin`, then `work`."""

    def __init__(
        self, student: Student, name: str, generator: random.Random, folder: Path, book: Book, *, numbered: bool
    ) -> None:
        self.student, self.name, self.book, self.folder = student, name, book, folder
        self.next: list[Cell] = []  # to be run before any other
        self.kernel_ends = ""  # how the kernel is being ended on purpose, in the words that the student must be told
        self.finished = 0
        self.sheet: Sheet | None = None
        self._info = ""
        self._generator = generator
        self._numbered = numbered
        self._ledger = Ledger(numbered=numbered)
        self._connection = Connection()
        self._count = 0
        self._gate: tuple[str, float, asyncio.Future[None]] | None = None
        self._progress = asyncio.Condition()
        self._verdicts: dict[str, int] = {}

    async def begin(self) -> None:
        """Start a kernel and make it ready for cells."""
        async with asyncio.timeout(START_S):
            await self._new_kernel()

    async def work(self, stop: asyncio.Event) -> None:
        """Run cells until `stop` is set."""
        while not stop.is_set():
            self._count += 1
            name = f"{self.name}-{self._count}"
            ready = self.next.pop(0) if self.next else cells.deal(name, self._generator)
            try:
                await self._run(ready)
            except KernelLost:
                if not self.kernel_ends:
                    self.book.row.variables += 1
                    self._remark("its kernel is unknown to the server")
                await self._new_kernel()
            async with self._progress:
                self.finished += 1
                self._progress.notify_all()

    # -- for those who strike -------------------------------------------------------------------------------------

    async def printed(self, part: float, kind: str = "") -> None:
        """Return when a cell (of this kind) has shown this part of its lines, and has not ended."""
        self._gate = kind, part, asyncio.get_running_loop().create_future()
        await self._gate[2]

    async def past(self, finished: int) -> None:
        """Return when so many cells have ended."""
        async with self._progress:
            await self._progress.wait_for(lambda: self.finished >= finished)

    def audit(self) -> None:
        """At the end of all: has anything come, or any cell run, again after it was judged?"""
        self._take_counts()
        for name, times in self._ran().items():
            if times > self._verdicts.get(name, times):
                self.book.row.twice += 1
                self._remark(f"cell {name} ran again after its end")

    # -- the kernel -----------------------------------------------------------------------------------------------

    async def _new_kernel(self) -> None:
        while True:
            with suppress(aiohttp.ClientError, OSError, RuntimeError):
                await self.student.start()
                break
            await asyncio.sleep(LAST_RETRY_S)  # as a person would before pressing the button again
        await self._connect(time.monotonic())
        await self._set_up()

    async def _set_up(self) -> None:
        """A fresh kernel needs the functions that the cells call."""
        self.kernel_ends = ""
        outcome = await self._follow(self._count_setup(), cells.SETUP)
        if not outcome.ended:
            raise KernelLost("the first cell did not end")

    def _count_setup(self) -> Cell:
        self._count += 1
        return Cell(f"{self.name}-{self._count}", "setup", cells.SETUP, ())

    # -- the connection -------------------------------------------------------------------------------------------

    async def _connect(self, lost_s: float) -> None:
        """Connect again and again. Raises KernelLost when the server says that there is no such kernel."""
        delay_s, told = FIRST_RETRY_S, False
        while True:
            try:
                async with asyncio.timeout(CONNECT_S):
                    await self.student.open()
                break
            except aiohttp.WSServerHandshakeError as refused:
                if refused.status == 404:
                    raise KernelLost from refused
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass
            if not told and time.monotonic() - lost_s > HUNG_S:
                told = True
                self.book.row.hung += 1
                self._remark(f"could not connect for {HUNG_S:g} s")
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 1.5, LAST_RETRY_S)
        now_s = time.monotonic()
        if self._connection.number:
            self.book.row.away_s = max(self.book.row.away_s, now_s - lost_s)
        self._connection = Connection(self._connection.number + 1, now_s)

    async def _send(self, frame: bytes) -> None:
        while True:
            try:
                return await self.student.send_raw(frame)
            except SocketClosed:
                await self._connect(time.monotonic())

    # -- a cell ---------------------------------------------------------------------------------------------------

    async def _run(self, ready: Cell) -> None:
        try:
            sheet = await self._follow(ready, ready.code)
        except KernelLost:
            if self.sheet:
                self._judge(self.sheet)
            raise
        self._judge(sheet)
        if self._struck(sheet) or (sheet.reply or {}).get("ename") == "NameError":
            await self._set_up()

    async def _follow(self, ready: Cell, code: str) -> Sheet:
        """Send a cell and hear all that is said until it ends, or until nobody can hope for that any more."""
        content = cell(code, allow_stdin=bool(ready.prompts))
        msg_id, frame = self.student.message("execute_request", content)
        sheet = self.sheet = self._ledger.open(msg_id, ready, time.monotonic())
        await self._send(frame)
        while not sheet.ended:
            try:
                said = await self.student.receive(IDLE_S if sheet.reply else HUNG_S)
            except TimeoutError:
                await self._give_up(sheet, msg_id)
                break
            except SocketClosed as closed:
                await self._come_back(closed, sheet, frame)
                continue
            await self._enter(said, sheet)
            if said.kind == "kernel_info_reply" and said.parent.get("msg_id") == self._info:
                await self._seek(sheet, frame)
        return sheet

    async def _come_back(self, closed: SocketClosed, sheet: Sheet, frame: bytes) -> None:
        if self.kernel_ends and closed.reason:
            sheet.notices.append(closed.reason)
        if not sheet.heard:
            sheet.remarks.append(f"the connection ended at {_clock(time.monotonic())} before anything was said of it")
        await self._connect(time.monotonic())
        if sheet.heard:
            return
        if self._numbered and self.student.last_seq:
            await self._send(frame)
        else:
            self._info, info = self.student.message("kernel_info_request", {})
            await self._send(info)

    async def _seek(self, sheet: Sheet, frame: bytes) -> None:
        """The kernel has answered what every front end asks when it has connected again.

        It answers in order, so a cell of which nothing was said by then has never reached it: it lay unread in a worker
        that was killed. No server can know of it; a person sees that nothing happens, and runs it again.
        """
        if not sheet.heard:
            self.book.row.unread += 1
            sheet.remarks.append("it had ended unread with its worker, and was sent again")
            await self._send(frame)

    async def _enter(self, said: Said, sheet: Sheet) -> None:
        fresh = self._ledger.hear(said, self._connection, time.monotonic())
        if said.kind == "input_request" and fresh:
            sheet.answered_s = time.monotonic()
            value = {"value": sheet.cell.answer(said.content["prompt"])}
            # Lost with a connection that is breaking, it is asked for again on the next one.
            with suppress(SocketClosed):
                await self.student.send_raw(self.student.message("input_reply", value, "stdin", said.header)[1])
        self._open_gate(sheet)

    def _open_gate(self, sheet: Sheet) -> None:
        if self._gate is None or sheet.ended:
            return
        kind, part, passed = self._gate
        of = 20 if sheet.cell.kind == "burst" else len(sheet.cell.texts)
        if kind in ("", sheet.cell.kind) and part * of <= sheet.shown < len(sheet.cell.texts) and not passed.done():
            passed.set_result(None)
            self._gate = None

    async def _give_up(self, sheet: Sheet, msg_id: str) -> None:
        """Nothing has come for very long: interrupt the kernel, and go on with another connection."""
        if sheet.reply:
            return  # only the idle status is missing
        self.book.row.hung += 1
        sent = f"sent at {_clock(sheet.sent_s)}"
        self._remark(f"cell {sheet.cell.name} ({sheet.cell.kind}), {sent}: no end, after {sheet.shown} lines")
        self._ledger.forget(msg_id)
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            await self.student.call("POST", f"/api/kernels/{self.student.kernel_id}/interrupt", within_s=CONNECT_S)
        await self._connect(time.monotonic())
        await self._calm_down()

    async def _calm_down(self) -> None:
        """Until it has answered all of what was queued a kernel that was interrupted aborts what is sent to it."""
        for _ in range(CALM_TRIES):
            try:
                outcome = await self.student.run("None", CONNECT_S)
                if outcome.reply["status"] == "ok":
                    return
            except SocketClosed:
                await self._connect(time.monotonic())
            except TimeoutError:
                self._remark("its kernel does not answer, though it was interrupted")

    # -- the judgement --------------------------------------------------------------------------------------------

    def _judge(self, sheet: Sheet) -> None:
        row, ready = self.book.row, sheet.cell
        sheet.closed = True
        times = self._verdicts[ready.name] = self._ran()[ready.name]
        row.cells += 1
        row.lines += len(ready.texts) + 4 + len(ready.prompts) + (ready.end != "ok")
        row.gaps += len(sheet.gaps)
        row.pause_s = max(row.pause_s, sheet.pause_s)
        self._take_counts(sheet)  # which the ledger has forgotten if it was given up
        if self._struck(sheet):
            self._judge_ended(sheet, row)
            return
        row.twice += times > 1
        if (sheet.reply or {}).get("ename") == "NameError":
            row.variables += 1
        else:
            row.never += times == 0
            self._judge_reply(sheet, row)
        self._judge_missing(sheet, row)
        if times != 1:
            self._remark(f"cell {ready.name} ({ready.kind}) ran {times} times; sent at {_clock(sheet.sent_s)}")

    def _take_counts(self, *others: Sheet) -> None:
        row = self.book.row
        for sheet in (*self._ledger.sheets(), *others):
            counts = sheet.take()
            row.repeated += counts.repeated
            row.doubled += counts.doubled
            row.disordered += counts.disordered
            for remark in counts.remarks:
                self._remark(f"cell {sheet.cell.name} ({sheet.cell.kind}): {remark}")

    def _judge_reply(self, sheet: Sheet, row: Row) -> None:
        wanted = "error" if sheet.cell.end == "error" else "ok"
        if sheet.reply and not sheet.told_lost and sheet.reply["status"] != wanted:
            row.broken.append(f"cell {sheet.cell.name} ({sheet.cell.kind}) was answered with {sheet.reply}")

    def _judge_missing(self, sheet: Sheet, row: Row) -> None:
        lines, parts = sheet.missing_lines(), sheet.missing_parts()
        if sheet.cell.kind == "burst" and row.name != "none":
            in_one_piece = bool(lines) and lines[-1] - lines[0] == len(lines) - 1
            if len(sheet.gaps) == 1 and in_one_piece and not parts:
                row.cut += len(lines)
                self._remark(f"lines {first_few(lines)} cut, and told: {sheet.gaps[0]}")
                return
            row.broken.append(
                f"told of {len(sheet.gaps)} gaps instead of one, {'' if in_one_piece else 'not '}in one piece"
            )
        row.lost += len(lines) + len(parts)
        if lines or parts:
            what = [f"{len(lines)} lines ({first_few(lines)})"] * bool(lines) + parts
            told = "; ".join(sheet.notices) or ("told that the request is lost" if sheet.told_lost else "not told")
            self._remark(f"cell {sheet.cell.name} ({sheet.cell.kind}) lost {', '.join(what)}: {told}")

    def _struck(self, sheet: Sheet) -> bool:
        """Whether its kernel was ended on purpose while it ran. If it was just through, the next one is struck."""
        if not self.kernel_ends:
            return False
        told = any(self.kernel_ends in text for text in sheet.notices)
        return told or bool(sheet.missing_lines() or sheet.missing_parts())

    def _judge_ended(self, sheet: Sheet, row: Row) -> None:
        """Its kernel was ended on purpose: what is missing is accounted for, if one message says why."""
        row.cut += len(sheet.missing_lines()) + len(sheet.missing_parts())
        why = [text for text in sheet.notices if self.kernel_ends in text]
        self._remark(f"told of its kernel's end: {why}")
        if len(why) != 1:
            row.broken.append(f"told {len(why)} times why its kernel ended, instead of once")

    def _ran(self) -> Counter[str]:
        """How often each cell has run, by the file that they write."""
        with suppress(FileNotFoundError):
            return Counter(line.split()[0] for line in (self.folder / cells.RAN_FILE).read_text().splitlines())
        return Counter()

    def _remark(self, text: str) -> None:
        self.book.row.remark(f"{self.name}: {text}")


def _clock(moment_s: float) -> str:
    """A monotonic moment as the server's log writes it."""
    return datetime.fromtimestamp(time.time() - time.monotonic() + moment_s, UTC).strftime("%H:%M:%S.%f")[:-3]
