"""The clients of one kernel here, and where each of them goes on when it comes (back).

Owns the seats. Of a kernel with a recorder a place is a number, and requests are sent again by who waits for them. Of
others it is a message id, and what became of a request is found out. Writes nothing to the kernel but probes.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kernels.backlog import Backlog
from kernels.errors import KernelGone
from kernels.lifecycle import HOPELESS, Lifecycle, Request
from kernels.recorded import Recorded
from kernels.resume import Resume
from kernels.seat import OWN_SESSION, Seat

if TYPE_CHECKING:
    from kernels.adoption import Adoption
    from kernels.attached import AttachedKernel

# A client that went away keeps its place for so long. JupyterLab's seven tries to reconnect take about two minutes.
SEAT_KEPT_S: Final = 300.0
ONE_PAGE_S: Final = 10.0  # within which a page has made all of its connections


class Seating:
    """Made by the kernel that it is for."""

    def __init__(self, kernel: AttachedKernel, backlog: Backlog, life: Lifecycle) -> None:
        self._kernel = kernel
        self._backlog = backlog
        self._life = life
        self._seats: dict[str, Seat] = {}
        self._told_s: float | None = None  # when the first newcomer was told what has become of the kernel
        self.open_since = datetime.now(UTC)  # when the kernel was attached here

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return sum(seat.occupied and not seat.own for seat in self._seats.values())

    def lags(self) -> bool:
        """Whether not even the fastest client keeps up with what the kernel sends."""
        cursors = [seat.cursor for seat in self._seats.values() if seat.occupied and not seat.own]
        return bool(cursors) and self._backlog.runs_away_from(max(cursors))

    async def empty(self) -> None:
        """Return when there are none."""
        while taken := [seat for seat in self._seats.values() if seat.occupied and not seat.own]:
            await taken[0].left.wait()

    def __contains__(self, client: str) -> bool:
        return client in self._seats

    def take(self, resume: Resume, way: Adoption | None, *, own: bool = False) -> Seat:
        """Return the seat of a client; an older connection of the same client loses it. `own`: it is the server's."""
        self._forget_empty()
        before = self._seats.pop(resume.client, None)
        is_new, is_heard = before is None and resume.is_new, self._is_heard(way)
        seat = self._resume_recorded(way, resume, before) if isinstance(way, Recorded) else self._resume(resume, before)
        self._seats[resume.client] = seat
        seat.own = own
        if is_new and not own:
            self._tell_newcomer(seat, is_heard=is_heard)
        if before:
            before.close(KernelGone("replaced by a newer connection of the same client"))
        return seat

    def _is_heard(self, way: Adoption | None) -> bool:
        """Whether somebody has been at this process before, who was then told why the one before it ended.

        A socket that was open proves nothing: the laptop may be closed. Whoever was told comes back to the new process,
        and with a recorder that is known for as long as it runs. All connections of one page are newcomers. The
        server's own seat, which hears everything, is nobody.
        """
        if self._told_s is not None:
            return time.monotonic() - self._told_s > ONE_PAGE_S
        if not isinstance(way, Recorded):
            return self.connections > 0
        return any(not client.startswith(OWN_SESSION) for client in way.acks)

    def _tell_newcomer(self, seat: Seat, *, is_heard: bool) -> None:
        """Say what became of the kernel while nobody was here."""
        why = self._kernel.untold
        if self._life.phase == "dead":
            seat.cursor = self._backlog.last  # what was said when it ended is said here
            self._kernel.voice.tell(why or f"The kernel has ended. {HOPELESS}", "dead", seat.client)
        elif why and not is_heard:
            self._told_s = self._told_s or time.monotonic()
            self._kernel.voice.tell(why, None, seat.client)

    def ended(self) -> None:
        """The process has ended: there will be something new to tell."""
        self._told_s = None

    def wake(self) -> None:
        """There may be something to read."""
        for seat in self._seats.values():
            seat.wake()

    def close(self, error: Exception) -> None:
        """Let all go, each after what is left to read."""
        for seat in self._seats.values():
            seat.close(error)

    def vacate(self, error: Exception) -> None:
        """Let all go as `close` does, and remember none of them."""
        self.close(error)
        self._seats.clear()

    def _forget_empty(self) -> None:
        now = time.monotonic()
        for client, seat in list(self._seats.items()):
            if not seat.occupied and now - seat.left_s > SEAT_KEPT_S:
                del self._seats[client]

    # With a recorder

    def _resume_recorded(self, way: Recorded, resume: Resume, before: Seat | None) -> Seat:
        """The client goes on after what it was sent; it is known to have got only what it has said itself."""
        said = [number for number in (resume.got, before and before.number, way.acks.get(resume.client)) if number]
        got = max(said, default=None)
        number = resume.number or got or way.last
        reached = before.reached if before else 0
        cursor = max(self._backlog.after(number), reached)
        kept = max(self._backlog.dropped, (way.first[0], way.first[1] - 1))
        missed = kept[1] - number[1] if kept[0] == number[0] and kept > number else 0
        seat = Seat(self._kernel, self._backlog, resume.client, cursor, got or number, missed, past=number)
        seat.reached = reached
        if number[0] != way.last[0]:
            self._end_pending(resume, seat)
        else:  # if its entry worker has gone, nobody else knows what it waits for
            way.claimed(resume.unnumbered)
            for asked in way.claimable(resume.client, number):
                self._backlog.claim_answer(asked, resume.client)
        self._adopt_pending(resume)
        if way.acks.get(resume.client) != (got or number):
            self._kernel.acknowledge(resume.client, got or number)
        return seat

    def _end_pending(self, resume: Resume, seat: Seat) -> None:
        """Requests of a process that has ended meanwhile are not for the next one."""
        for channel, header in resume.pending:
            if not self._backlog.claim_answer(header["msg_id"], resume.client):
                request = Request(header, channel, resume.client)
                self._kernel.voice.fail(request, "The kernel ended while it handled this request.")
            seat.refused.add(header["msg_id"])
        resume.pending.clear()

    # Without

    def _resume(self, resume: Resume, before: Seat | None) -> Seat:
        seat = Seat(self._kernel, self._backlog, resume.client, self._place(resume, before))
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
            if msg_id in self._life.pending or self._backlog.claim_answer(msg_id, resume.client):
                continue
            request = Request(header, channel, resume.client)
            self._life.sent(msg_id, request)
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
            self._kernel.probe(channel, partial(self._lost, msg_ids), subshell)

    def _lost(self, msg_ids: list[str]) -> None:
        reason = (
            "The worker that served this kernel ended while it handled this request, "
            "and whether the request ran is not known. It was not run again. Variables are kept."
        )
        self._kernel.act(self._life.unknown_fate(msg_ids, reason))

    def _tell_gap(self, parent: dict[str, Any], resume: Resume) -> None:
        if resume.after is not None and self._backlog.find(resume.after) is not None:
            return
        text = (
            f"[kernelring] This kernel moved to another worker. Output between {resume.since} and "
            f"{_iso(self.open_since)} may be missing here.\n"
        )
        self._kernel.voice.say("iopub", "stream", {"name": "stderr", "text": text}, parent, resume.client)


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
