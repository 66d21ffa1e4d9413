"""One kernel as its owner holds it: the wires to its process, its life cycle, its backlog, its clients' seats.

Owns everything between a client's frame and the kernel's socket. Knows neither WebSockets nor other workers: whoever
serves a client, near or far, takes a `Seat` and reads it. A message goes client -> `Seat.send` -> `Wires.send` ->
kernel, and back kernel -> `_receive` -> `Backlog` -> `Seat.frames` -> client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
import structlog
import zmq

from kernels import activity, framing, words
from kernels.adoption import Adoption, AlreadyHeard, Skipped
from kernels.backlog import Backlog
from kernels.cell_clock import CellClock
from kernels.doors import Doors
from kernels.endings import Endings
from kernels.errors import KernelGone, KernelMoved, KernelsError, PortLost
from kernels.framing import Number
from kernels.lifecycle import HOPELESS, Action, Fail, Lifecycle, Request, Restart, Tell
from kernels.recorded import Recorded
from kernels.resume import Resume
from kernels.seat import Seat
from kernels.seating import Seating
from kernels.unsettled import MAX_MESSAGES, OVERRUN, Unsettled
from kernels.voice import Voice
from kernels.wires import Wires

log = structlog.get_logger(__name__)


class AttachedKernel:
    """A running kernel that this worker owns. Create, then `attach`; `release` when somebody else owns it."""

    def __init__(
        self,
        kernel_id: str,
        user: str,
        backlog_bytes: int,
        on_restart: Callable[[AttachedKernel], None],
        cell_s: float = 0.0,
        stop_cell: Callable[[AttachedKernel, str], None] = lambda _, __: None,
    ) -> None:
        self.kernel_id = kernel_id
        self.user = user
        self.life = Lifecycle()
        self.last_activity = datetime.now(UTC)  # when it was last used: see `activity`
        self._backlog = Backlog(backlog_bytes)
        self._on_restart = on_restart
        self._seating = Seating(self, self._backlog, self.life)
        self._endings = Endings(self._keep_up)
        self.voice = Voice(self._keep)
        self._clock = CellClock(cell_s, self.voice.say, partial(stop_cell, self))
        self._catching: asyncio.Task[None] | None = None
        self._wires: Wires | None = None
        self._way: Adoption | None = None
        self._doors = Doors()
        self._unsettled = Unsettled()
        self._overrun = False  # whether clients were told that the kernel can be given no more
        self.held_back = False
        self._last_words = False
        self.untold = ""  # why the process before this one ended, or this one, unless that was asked for

    # -- attaching ------------------------------------------------------------------------------------------------

    async def attach_new(
        self, context: zmq.Context[Any], info: dict[str, Any], way: Adoption, timeout_s: float, *, bound: bool = False
    ) -> None:
        """Connect to a new process (`bound`: its sockets are there); raise KernelSilent after `timeout_s`."""
        wires = self._wire(context, info, way)
        if not bound:
            await wires.first_answer(timeout_s)
        await way.join(wires, self._may_connect, running=False)
        if bound:
            await wires.begun(timeout_s)
        self.life.alive(time.monotonic())
        self.last_activity = datetime.now(UTC)
        self._open()

    async def attach_running(self, context: zmq.Context[Any], info: dict[str, Any], way: Adoption) -> None:
        """Connect to a process that another owner serves or served."""
        wires = self._wire(context, info, way)
        self._clock.adopted()  # a cell may keep the kernel from answering
        await way.join(wires, self._may_connect, running=True)
        self.life.adopted(time.monotonic())
        wires.probe("shell", self._probe_answered)
        self._open()

    def _wire(self, context: zmq.Context[Any], info: dict[str, Any], way: Adoption) -> Wires:
        if self._doors.closed:  # deleted or moved while it started
            raise self._doors.closed
        self._cut()
        self._way = way
        self._wires = Wires(context, info, self._receive)
        self._wires.lags = self._seating.lags
        return self._wires

    def _may_connect(self) -> None:
        if self.held_back:  # while we waited for the kernel another worker asked for it: it must not find us after it
            raise KernelMoved("another worker is taking the kernel")

    def _probe_answered(self) -> None:
        self.life.probe_answered()
        self._clock.known()

    def waits(self, why: str) -> None:
        """There is no process yet, and `why` is said: clients may come in to read that, and what they send waits."""
        if self._doors.let_wait(why):
            self.voice.tell(why, None, None)

    def _open(self) -> None:
        self._seating.open_since = datetime.now(UTC)
        if self._doors.why:  # the places of those who waited know nothing of this process: they take new ones
            self._doors.why = ""
            self.voice.tell(words.STARTED, None, None)
            self._seating.vacate(KernelMoved("the kernel has started"))
        self._doors.open()
        if self._wires and self._wires.holds:  # more has come meanwhile than can be held
            self._keep_up()

    @property
    def is_cut(self) -> bool:
        """Whether the process that was connected to, or about to be, is known to have ended or gone elsewhere."""
        return self._wires is None

    # -- clients --------------------------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return self._seating.connections

    async def left_by_clients(self) -> None:
        """Return when none is connected."""
        await self._seating.empty()

    async def take_seat(self, resume: Resume, *, own: bool = False) -> Seat:
        """Return the seat of a client; an older connection of the same client loses it. `own`: it is the server's.

        Waits until the kernel is attached, or there is something to say meanwhile. Raises KernelGone or KernelMoved.
        """
        # What it had asked is asked of the process again; only then is it known whether that has run.
        await self._doors.passed(to_send=own or bool(resume.pending))
        seat = self._seating.take(resume, self._way, own=own)
        if self._doors.why and not self._doors.are_passing:
            self.voice.tell(self._doors.why, None, seat.client)
        return seat

    async def attached(self) -> None:
        """Return when messages can be sent to the kernel; raise KernelGone or KernelMoved when they never can."""
        await self._doors.passed(to_send=True)

    def send(self, client: str, message: framing.Message, header: dict[str, Any]) -> None:
        """Write a client's message to the kernel. Raises KernelMoved when another worker owns it now."""
        if self.held_back:
            raise KernelMoved("another worker is taking the kernel")
        is_request = message.channel != "stdin" and header["msg_type"].endswith("_request")
        if self._wires is None:
            if is_request:
                self.voice.fail(Request(header, message.channel, client), f"The kernel has ended. {HOPELESS}")
            return
        waiting = len(self.life.pending) if message.channel == "shell" else 0
        if self._unsettled.full(message.channel) or waiting >= MAX_MESSAGES:
            self._refuse(Request(header, message.channel, client), is_request=is_request)
            return
        try:
            self._wires.send(message.channel, message.parts)
        except PortLost as error:
            raise KernelMoved(str(error)) from error
        if activity.is_use(header["msg_type"], message.parts[3]):
            self.last_activity = datetime.now(UTC)
        self._unsettled.sent(message.channel, header["msg_id"], sum(map(len, message.parts)))
        if is_request:
            self.life.sent(header["msg_id"], Request(header, message.channel, client))

    def _refuse(self, request: Request, *, is_request: bool) -> None:
        """Say that the kernel has more to do than it can be given. A message that has no reply is told of once."""
        if is_request:
            self.voice.fail(request, OVERRUN)
        elif not self._overrun:
            self.voice.say("iopub", "stream", words.in_words(OVERRUN), request.header, request.client)
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
        await self._doors.settled()  # were we connecting at this moment, we could take the identity back from the other
        if self._wires:
            await self._wires.settle()

    def probe(self, channel: str, on_reply: Callable[[], None], subshell: str | None) -> None:
        """Call `on_reply` when the kernel has come to all that is queued on `channel`; at once if it is dead."""
        if self._wires is None:
            on_reply()
        else:
            self._wires.probe(channel, on_reply, subshell)

    def acknowledge(self, client: str, number: Number, replies: Iterable[str] = ()) -> None:
        """A client has got the output up to `number`, and the replies to these requests."""
        if isinstance(self._way, Recorded) and self._wires and number[0] == self._way.last[0]:
            self._way.acknowledge(client, number, replies, self._wires)

    # -- from the kernel ------------------------------------------------------------------------------------------

    def _receive(self, channel: str, parts: list[bytes]) -> None:
        if channel in ("iopub", "probe"):
            with suppress(AlreadyHeard):
                self._hear_output(channel, parts)
            return
        frame = framing.pack(channel, parts)
        asked = framing.msg_id_of(parts[1])
        # An input request (stdin) goes to whoever sent the cell that asks, which goes on.
        request = self.life.pending.get(asked) if channel == "stdin" else self.life.replied(asked)
        if channel == "stdin":
            self._unsettled.asked()
        elif request and isinstance(self._way, Recorded):
            self._endings.replied(asked)
        self._heard_of(asked)
        if request:
            self._keep(frame, request.client)
            if channel != "stdin":
                self._backlog.note_reply(asked, request.client)
        else:
            self._keep_for_asker(frame, asked, parts[1])

    def _hear_output(self, channel: str, parts: list[bytes]) -> None:
        """Output, unless some is missing before it."""
        assert self._way
        try:
            number = self._way.number(parts[2])
        except Skipped:
            assert self._wires
            assert isinstance(self._way, Recorded)
            if not self._last_words:
                self._wires.hold((channel, parts))
                return self._keep_up()
            number, missed = self._way.skip_to(parts[2])
            self._tell_missed(missed)
        if channel == "iopub":
            if b'"status"' in parts[0]:
                self._note_status(parts)
            elif self._wires and not self._wires.holds and b'"comm_' not in parts[0]:  # live, and not replayed
                self.last_activity = datetime.now(UTC)
            self._keep(framing.pack(channel, parts), number=number)
        return None

    def _keep_up(self) -> None:
        """Ask the recorder for output that was dropped on its way here; what comes behind it waits."""
        if self._catching is None or self._catching.done():
            self._catching = asyncio.create_task(self._catch_up(), name="catch_up")

    async def _catch_up(self) -> None:
        way, wires = self._way, self._wires
        if wires is None or not isinstance(way, Recorded):
            return
        before = way.last
        with suppress(KernelsError):  # the kernel is gone, or somebody else's: whoever has it next asks again
            await way.catch_up(wires, self._tell_missed, self.life.pending.__contains__)
            self._endings.forget()
            log.info("caught_up", kernel=self.kernel_id, user=self.user, after=before, until=way.last)

    def _tell_missed(self, missed: int) -> None:
        self.voice.tell(
            f"{missed} messages of output are missing here: the kernel printed more than is kept.", None, None
        )

    def _keep_for_asker(self, frame: bytes, asked: str, parent: bytes) -> None:
        """It was asked through an owner before us: kept until that client takes its seat here, if it has none yet."""
        session = framing.session_of(parent)
        if isinstance(self._way, Recorded):
            if session in self._seating:
                self._keep(frame, session)
                return self._backlog.note_reply(asked, session)
            self._way.unclaimed(asked, session)
        return self._keep(frame, "", answers=asked)

    def _note_status(self, parts: list[bytes]) -> None:
        with suppress(ValueError, TypeError, KeyError):
            parent, state = framing.msg_id_of(parts[1]), orjson.loads(parts[3])["execution_state"]
            self.life.status(parent, state)
            self._heard_of(parent)
            if state == "idle":
                self._endings.idle(parent)
            self._clock.heard(state, parts[0], parts[1])
        if said := activity.said_at(parts[0], parts[1], datetime.now(UTC)):
            self.last_activity = max(self.last_activity, said)

    def _keep(
        self, frame: bytes, to: str | None = None, answers: str | None = None, number: Number | None = None
    ) -> None:
        self._backlog.append(frame, to, answers, number)
        self._seating.wake()

    # -- ends -----------------------------------------------------------------------------------------------------

    def process_exited(self, reason: str) -> None:
        """The kernel's process ended by itself: pass on its last words, then why."""
        if self._wires:
            self._last_words = True  # nobody can be asked for what is missing among them
            self._wires.drain()
            self._last_words = False
        self._cut()
        self.act(self.life.exited(reason, time.monotonic()))
        if self.life.phase == "dead":
            self._doors.open()

    def restarting(self, reason: str) -> None:
        """A restart was asked for; until `attach_new` clients wait."""
        self._cut()
        self.act(self.life.restarting(reason))
        self.untold = ""

    def gave_up(self, reason: str) -> None:
        """The kernel could not be started (again)."""
        self._cut()
        self.act(self.life.gave_up(reason))
        self._doors.open()

    def moved(self, why: str) -> None:
        """Another worker has connected to the kernel: pass on what came until now, and let the clients follow.

        What waits behind output that is missing here is not passed on: the next owner has both.
        """
        if self._wires:
            if not self._wires.holds:
                self._wires.drain()
            if isinstance(self._way, Recorded):
                self._way.tell_acks(self._wires)
        self._close(KernelMoved(why))

    def ended(self, why: str, words: str = "") -> None:
        """The kernel was deleted. `words`: why, for clients to whom that is news."""
        if words and self.life.phase != "dead":
            self.act(self.life.ended(words))
        self._close(KernelGone(why))

    @contextmanager
    def nothing_new(self) -> Iterator[None]:
        """Within, what clients send waits, until it is known whether the kernel ends."""
        wires = self._wires
        self._doors.hold()
        try:
            yield
        finally:
            if self._doors.closed or (self._wires is wires and (wires is not None or self.life.phase == "dead")):
                self._doors.open()

    @property
    def is_attached(self) -> bool:
        """Whether messages can be sent to the kernel, and it is ours alone."""
        return self._doors.are_passing and not self._doors.closed and not self.held_back

    def _close(self, error: Exception) -> None:
        self._cut()
        self._doors.close(error)
        self._seating.close(error)

    def _cut(self) -> None:
        self._doors.shut()
        if self._wires:
            self._wires.close()
            self._wires = None
        self._endings.forget()
        self._clock.clear()
        self._unsettled, self._overrun = Unsettled(), False

    # -- the machine's orders ---------------------------------------------------------------------------------------

    def act(self, actions: list[Action]) -> None:
        """Carry them out."""
        for action in actions:
            match action:
                case Fail(request, reason):
                    self.voice.fail(request, reason)
                case Tell(state, reason):
                    log.info("kernel_state", kernel=self.kernel_id, user=self.user, state=state, reason=reason)
                    self.voice.tell(reason, state, None)
                    self.untold = reason
                    self._seating.ended()
                case Restart():
                    self._on_restart(self)
