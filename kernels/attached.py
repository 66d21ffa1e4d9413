"""One kernel as its owner holds it: the wires to its process, its life cycle, its backlog, its clients' seats.

Owns everything between a client's frame and the kernel's socket. Knows neither WebSockets nor other workers: whoever
serves a client, near or far, takes a `Seat` and reads it. A message goes client -> `Seat.send` -> `Wires.send` ->
kernel, and back kernel -> `_receive` -> `Backlog` -> `Seat.frames` -> client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import orjson
import structlog
import zmq

from kernels import framing
from kernels.adoption import Adoption, AlreadyHeard, Recorded
from kernels.backlog import Backlog
from kernels.errors import KernelGone, KernelMoved, PortLost
from kernels.framing import Number
from kernels.lifecycle import Action, Fail, Lifecycle, Request, Restart, Tell
from kernels.resume import Resume
from kernels.seat import Seat
from kernels.unsettled import MAX_MESSAGES, OVERRUN, Unsettled
from kernels.wires import Wires

log = structlog.get_logger(__name__)

# A client that went away keeps its place for so long. JupyterLab's seven tries to reconnect take about two minutes.
SEAT_KEPT_S: Final = 300.0


class AttachedKernel:
    """A running kernel that this worker owns. Create, then `attach`; `release` when somebody else owns it."""

    def __init__(
        self,
        kernel_id: str,
        user: str,
        backlog_bytes: int,
        on_restart: Callable[[AttachedKernel], None],
    ) -> None:
        self.kernel_id = kernel_id
        self.user = user
        self.life = Lifecycle()
        self.last_activity = datetime.now(UTC)
        self._backlog = Backlog(backlog_bytes)
        self._on_restart = on_restart
        self._seats: dict[str, Seat] = {}
        self._wires: Wires | None = None
        self._way: Adoption | None = None
        self._attached = asyncio.Event()
        self._attached_at = datetime.now(UTC)
        self._closed: Exception | None = None
        self._unsettled = Unsettled()
        self._overrun = False  # whether clients were told that the kernel can be given no more
        self.held_back = False

    # -- attaching ------------------------------------------------------------------------------------------------

    async def attach_new(
        self, context: zmq.Context[Any], info: dict[str, Any], way: Adoption, timeout_s: float
    ) -> None:
        """Connect to a process that was just started; raise KernelSilent when it does not answer in `timeout_s`."""
        wires = self._wire(context, info, way)
        await wires.first_answer(timeout_s)
        await way.join(wires, self._may_connect, running=False)
        self.life.alive(time.monotonic())
        self._open()

    async def attach_running(self, context: zmq.Context[Any], info: dict[str, Any], way: Adoption) -> None:
        """Connect to a process that another owner serves or served."""
        wires = self._wire(context, info, way)
        await way.join(wires, self._may_connect, running=True)
        self.life.adopted(time.monotonic())
        wires.probe("shell", self.life.probe_answered)
        self._open()

    def _wire(self, context: zmq.Context[Any], info: dict[str, Any], way: Adoption) -> Wires:
        if self._closed:  # deleted or moved while it started
            raise self._closed
        self._cut()
        self._way = way
        self._wires = Wires(context, info, self._receive)
        self._wires.lags = self._lags
        return self._wires

    def _lags(self) -> bool:
        """Whether not even the fastest client keeps up with what the kernel sends."""
        cursors = [seat.cursor for seat in self._seats.values() if seat.occupied]
        return bool(cursors) and self._backlog.runs_away_from(max(cursors))

    def _may_connect(self) -> None:
        if self.held_back:  # while we waited for the kernel another worker asked for it: it must not find us after it
            raise KernelMoved("another worker is taking the kernel")

    def _open(self) -> None:
        self._attached_at = datetime.now(UTC)
        self._attached.set()

    @property
    def is_cut(self) -> bool:
        """Whether the process that was connected to, or about to be, is known to have ended or gone elsewhere."""
        return self._wires is None

    # -- clients --------------------------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return sum(seat.occupied for seat in self._seats.values())

    async def take_seat(self, resume: Resume) -> Seat:
        """Return the seat of a client; an older connection of the same client loses it.

        Waits until the kernel is attached. Raises KernelGone or KernelMoved.
        """
        await self.attached()
        self._forget_empty_seats()
        before = self._seats.pop(resume.client, None)
        way = self._way
        seat = self._resume_recorded(way, resume, before) if isinstance(way, Recorded) else self._resume(resume, before)
        self._seats[resume.client] = seat
        if before:
            before.close(KernelGone("replaced by a newer connection of the same client"))
        return seat

    async def attached(self) -> None:
        """Return when messages can be sent to the kernel; raise KernelGone or KernelMoved when they never can."""
        await self._attached.wait()
        if self._closed:
            raise self._closed

    def send(self, client: str, message: framing.Message, header: dict[str, Any]) -> None:
        """Write a client's message to the kernel. Raises KernelMoved when another worker owns it now."""
        if self.held_back:
            raise KernelMoved("another worker is taking the kernel")
        is_request = message.channel != "stdin" and header["msg_type"].endswith("_request")
        if self._wires is None:
            if is_request:
                self._fail(Request(header, message.channel, client), "The kernel is dead. Restart it to go on.")
            return
        waiting = len(self.life.pending) if message.channel == "shell" else 0
        if self._unsettled.full(message.channel) or waiting >= MAX_MESSAGES:
            self._refuse(Request(header, message.channel, client), is_request=is_request)
            return
        try:
            self._wires.send(message.channel, message.parts)
        except PortLost as error:
            raise KernelMoved(str(error)) from error
        self.last_activity = datetime.now(UTC)
        self._unsettled.sent(message.channel, header["msg_id"], sum(map(len, message.parts)))
        if is_request:
            self.life.sent(header["msg_id"], Request(header, message.channel, client))

    def _refuse(self, request: Request, *, is_request: bool) -> None:
        """Say that the kernel has more to do than it can be given. A message that has no reply is told of once."""
        if is_request:
            self._fail(request, OVERRUN)
        elif not self._overrun:
            told = {"name": "stderr", "text": f"[kernelring] {OVERRUN}\n"}
            self._say("iopub", "stream", told, request.header, request.client)
        if not self._overrun:
            self._overrun = True
            log.warning("kernel_overrun", kernel=self.kernel_id, user=self.user)

    def _heard_of(self, msg_id: str) -> None:
        self._unsettled.heard(msg_id)
        if self._overrun and self._unsettled.empty and not self.life.pending:
            self._overrun = False

    async def hold_back(self) -> None:
        """Write no more to the kernel, because another worker takes it; return when all that was written has left."""
        self.held_back = True
        await self._attached.wait()  # were we connecting at this moment, we could take the identity back from the other
        if self._wires:
            await self._wires.settle()

    # With a recorder: places are numbers, requests are sent again by who waits for them.

    def _resume_recorded(self, way: Recorded, resume: Resume, before: Seat | None) -> Seat:
        known = resume.number or (before and before.number) or way.acks.get(resume.client)
        number = known or way.last
        cursor = self._backlog.after(number)
        kept = max(self._backlog.dropped, (way.first[0], way.first[1] - 1))
        missed = kept[1] - number[1] if kept[0] == number[0] and kept > number else 0
        seat = Seat(self, self._backlog, resume.client, cursor, number, missed)
        if number[0] != way.last[0]:
            self._end_pending(resume, seat)
        else:  # if its entry worker has gone, nobody else knows what it waits for
            for asked in way.claimable(resume.client, number):
                self._backlog.claim_answer(asked, resume.client)
        self._adopt_pending(resume)
        if resume.client not in way.acks:
            self.acknowledge(resume.client, number)
        return seat

    def _end_pending(self, resume: Resume, seat: Seat) -> None:
        """Requests of a process that has ended meanwhile are not for the next one."""
        for channel, header in resume.pending:
            if not self._backlog.claim_answer(header["msg_id"], resume.client):
                self._fail(Request(header, channel, resume.client), "The kernel ended while it handled this request.")
            seat.refused.add(header["msg_id"])
        resume.pending.clear()

    def acknowledge(self, client: str, number: Number) -> None:
        """A client has got the output up to `number`."""
        if isinstance(self._way, Recorded) and self._wires and number[0] == self._way.last[0]:
            self._way.acknowledge(client, number, self._wires)

    # Without: places are message ids, and what became of a request is found out.

    def _resume(self, resume: Resume, before: Seat | None) -> Seat:
        seat = Seat(self, self._backlog, resume.client, self._place(resume, before))
        unknown = self._adopt_pending(resume)
        if unknown and resume.since:
            self._tell_gap(unknown[0].header, resume)
        self._settle(unknown)
        return seat

    def _place(self, resume: Resume, before: Seat | None) -> int:
        """Where in the backlog a client goes on: after its last message; else where it left; else at the end."""
        if resume.after is not None:
            found = self._backlog.find(resume.after)
            # Not here: the message is older than this owner, and all that this owner has came after it.
            return found if found is not None else 0
        return before.cursor if before else self._backlog.last

    def _adopt_pending(self, resume: Resume) -> list[Request]:
        """Take over what the client still waits for; return the requests whose fate is not known yet."""
        unknown = []
        for channel, header in resume.pending:
            msg_id = header["msg_id"]
            if msg_id in self.life.pending or self._backlog.claim_answer(msg_id, resume.client):
                continue
            request = Request(header, channel, resume.client)
            self.life.sent(msg_id, request)
            unknown.append(request)
        return unknown

    def _settle(self, requests: list[Request]) -> None:
        """Find out what became of requests that an owner before us may or may not have written to the kernel.

        A probe is queued behind them. When its reply comes and theirs did not, they have no reply to come: either
        they never reached the kernel, or they ran and the reply fell between two owners. Said so, never run again.
        """
        places: dict[tuple[str, str | None], list[str]] = {}
        for request in requests:
            place = (request.channel, request.header.get("subshell_id"))
            places.setdefault(place, []).append(request.header["msg_id"])
        for (channel, subshell), msg_ids in places.items():
            if self._wires is None:  # dead: nothing will answer
                self._lost(msg_ids)
            else:
                self._wires.probe(channel, partial(self._lost, msg_ids), subshell)

    def _lost(self, msg_ids: list[str]) -> None:
        reason = (
            "The worker that served this kernel ended while it handled this request, "
            "and whether the request ran is not known. It was not run again. Variables are kept."
        )
        self._act(self.life.unknown_fate(msg_ids, reason))

    def _tell_gap(self, parent: dict[str, Any], resume: Resume) -> None:
        if resume.after is not None and self._backlog.find(resume.after) is not None:
            return
        text = (
            f"[kernelring] This kernel moved to another worker. Output between {resume.since} and "
            f"{_iso(self._attached_at)} may be missing here.\n"
        )
        self._say("iopub", "stream", {"name": "stderr", "text": text}, parent, resume.client)

    def _forget_empty_seats(self) -> None:
        now = time.monotonic()
        for client, seat in list(self._seats.items()):
            if not seat.occupied and now - seat.left_s > SEAT_KEPT_S:
                del self._seats[client]

    # -- from the kernel ------------------------------------------------------------------------------------------

    def _receive(self, channel: str, parts: list[bytes]) -> None:
        frame = framing.pack(channel, parts)
        if channel == "iopub":
            assert self._way
            with suppress(AlreadyHeard):
                number = self._way.number(parts[2])
                if b'"status"' in parts[0]:
                    self._note_status(parts)
                self._keep(frame, number=number)
            return
        asked = framing.msg_id_of(parts[1])
        # An input request (stdin) goes to whoever sent the cell that asks, which goes on.
        request = self.life.pending.get(asked) if channel == "stdin" else self.life.replied(asked)
        if channel == "stdin":
            self._unsettled.asked()
        self._heard_of(asked)
        if request:
            self._keep(frame, request.client)
        else:
            self._keep_for_asker(frame, asked, parts[1])

    def _keep_for_asker(self, frame: bytes, asked: str, parent: bytes) -> None:
        """It was asked through an owner before us: kept until that client takes its seat here, if it has none yet."""
        session = framing.session_of(parent)
        if isinstance(self._way, Recorded):
            if session in self._seats:
                return self._keep(frame, session)
            self._way.unclaimed(asked, session)
        return self._keep(frame, "", answers=asked)

    def _note_status(self, parts: list[bytes]) -> None:
        with suppress(ValueError, TypeError, KeyError):
            self.life.status(framing.msg_id_of(parts[1]), orjson.loads(parts[3])["execution_state"])
            self._heard_of(framing.msg_id_of(parts[1]))
        self.last_activity = datetime.now(UTC)

    def _keep(
        self, frame: bytes, to: str | None = None, answers: str | None = None, number: Number | None = None
    ) -> None:
        self._backlog.append(frame, to, answers, number)
        for seat in self._seats.values():
            seat.wake()

    # -- ends -----------------------------------------------------------------------------------------------------

    def process_exited(self, reason: str) -> None:
        """The kernel's process ended by itself: pass on its last words, then why."""
        if self._wires:
            self._wires.drain()
        self._cut()
        self._act(self.life.exited(reason, time.monotonic()))
        if self.life.phase == "dead":
            self._attached.set()

    def restarting(self, reason: str) -> None:
        """A restart was asked for; until `attach_new` clients wait."""
        self._cut()
        self._act(self.life.restarting(reason))

    def gave_up(self, reason: str) -> None:
        """The kernel could not be started (again)."""
        self._cut()
        self._act(self.life.gave_up(reason))
        self._attached.set()

    def moved(self, why: str) -> None:
        """Another worker has connected to the kernel: pass on what came until now, and let the clients follow."""
        if self._wires:
            self._wires.drain()
        self._close(KernelMoved(why))

    def ended(self, why: str) -> None:
        """The kernel was deleted."""
        self._close(KernelGone(why))

    def _close(self, error: Exception) -> None:
        self._cut()
        self._closed = error
        self._attached.set()
        for seat in self._seats.values():
            seat.close(error)

    def _cut(self) -> None:
        self._attached.clear()
        if self._wires:
            self._wires.close()
            self._wires = None
        self._unsettled, self._overrun = Unsettled(), False

    # -- the machine's orders ---------------------------------------------------------------------------------------

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Fail(request, reason):
                    self._fail(request, reason)
                case Tell(state, reason):
                    log.info("kernel_state", kernel=self.kernel_id, user=self.user, state=state, reason=reason)
                    self._say("iopub", "stream", {"name": "stderr", "text": f"[kernelring] {reason}\n"}, {}, None)
                    self._say("iopub", "status", {"execution_state": state}, {}, None)
                case Restart():
                    self._on_restart(self)

    def _fail(self, request: Request, reason: str) -> None:
        error = {"ename": "KernelRequestLost", "evalue": reason, "traceback": [reason]}
        kind = request.header["msg_type"]
        if kind == "execute_request":
            self._say("iopub", "error", error, request.header, None)
        reply = {"status": "error", "execution_count": None, **error}
        self._say(request.channel, kind.removesuffix("_request") + "_reply", reply, request.header, request.client)
        self._say("iopub", "status", {"execution_state": "idle"}, request.header, None)

    def _say(self, channel: str, kind: str, content: dict[str, Any], parent: dict[str, Any], to: str | None) -> None:
        """Put a message of the server's own into the backlog."""
        self._keep(framing.server_message(channel, kind, content, parent), to)


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
