"""What an owner knows of one kernel, as a pure machine: events in, things to do out.

Owns the phase (starting, alive, restarting, dead), which requests run or wait for their reply, and the policy of
automatic restarts. Never touches sockets, processes or the clock (times are given in), so that every order of events
can be tested in microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

Phase = Literal["starting", "alive", "restarting", "dead"]

RESTART_LIMIT: Final = 5  # as jupyter_client's KernelRestarter: give up after so many deaths in a row
STABLE_S: Final = 10.0  # and forget earlier deaths after so long a life
FRESH: Final = "A new one takes its place; variables are lost."
HOPELESS: Final = "It is not started again by itself. Start a new one, or restart it, to go on."
LOST_PROBE: Final = "probe"  # the busy mark of an adopted kernel whose state is not known yet


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request that the kernel has not answered yet."""

    header: dict[str, Any]
    channel: str
    client: str


@dataclass(frozen=True, slots=True)
class Fail:
    """Answer `request` with an error: it will get no reply from the kernel."""

    request: Request
    reason: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell every client the kernel's new state (iopub `status`), and why in words (iopub `stream`, stderr)."""

    state: Literal["restarting", "dead"]
    reason: str


@dataclass(frozen=True, slots=True)
class Restart:
    """Start the kernel again in its place."""


Action = Fail | Tell | Restart


@dataclass(slots=True)
class Lifecycle:
    """One kernel's life. `phase` and `execution_state` are what the kernel's model shows."""

    phase: Phase = "starting"
    pending: dict[str, Request] = field(default_factory=dict)
    _busy: set[str] = field(default_factory=set)
    _deaths: int = 0
    _born_s: float = 0.0

    @property
    def execution_state(self) -> str:
        """`starting`, `idle`, `busy`, `restarting` or `dead`."""
        if self.phase != "alive":
            return self.phase
        return "busy" if self._busy else "idle"

    def alive(self, now_s: float) -> None:
        """The kernel has answered for the first time, or an adopter has attached to it."""
        self.phase = "alive"
        self._born_s = now_s

    def adopted(self, now_s: float) -> None:
        """Attached to a running kernel: taken for busy until it has answered a probe in its queue."""
        self.alive(now_s)
        self._busy.add(LOST_PROBE)

    def probe_answered(self) -> None:
        """What was in the kernel's queue before the probe has run."""
        self._busy.discard(LOST_PROBE)

    def sent(self, msg_id: str, request: Request) -> None:
        """A request was written to the kernel's socket (or was written by an owner before this one)."""
        self.pending[msg_id] = request

    def replied(self, msg_id: str) -> Request | None:
        """The kernel's reply has come; return the request that it answers, if it is known."""
        return self.pending.pop(msg_id, None)

    def status(self, msg_id: str, state: str) -> None:
        """An iopub `status` message about the request `msg_id`."""
        if state == "busy":
            self._busy.add(msg_id)
        elif state == "idle":
            self._busy.discard(msg_id)

    def unknown_fate(self, msg_ids: list[str], reason: str) -> list[Action]:
        """These requests can get no reply any more: whether they ran is not known. They are not run again."""
        lost = [self.pending.pop(msg_id) for msg_id in msg_ids if msg_id in self.pending]
        return [Fail(request, reason) for request in lost]

    def restarting(self, reason: str) -> list[Action]:
        """Somebody asked for a restart: requests in flight end with the old process; earlier deaths are forgotten."""
        self._deaths = 0
        return [*self._fail_all(reason), *self._enter("restarting", reason)]

    def exited(self, reason: str, now_s: float) -> list[Action]:
        """The process ended by itself: answer what waits, then start again, unless it keeps dying.

        Of one that was given up the end is no news: everybody was told that it is dead, and it stays so.
        """
        if self.phase == "dead":
            return self._fail_all(reason)
        was_stable = self.phase == "alive" and now_s - self._born_s > STABLE_S
        self._deaths = 1 if was_stable else self._deaths + 1
        hopeless = self.phase == "starting" or self._deaths > RESTART_LIMIT
        failed = self._fail_all(reason)
        if hopeless:
            return [*failed, *self._enter("dead", f"{reason} {HOPELESS}")]
        return [*failed, *self._enter("restarting", f"{reason} {FRESH}"), Restart()]

    def gave_up(self, reason: str) -> list[Action]:
        """The kernel could not be started again."""
        return [*self._fail_all(reason), *self._enter("dead", f"{reason} {HOPELESS}")]

    def ended(self, reason: str) -> list[Action]:
        """It is ended for good, by somebody other than its user."""
        return [*self._fail_all(reason), *self._enter("dead", reason)]

    @property
    def runs_cell(self) -> bool:
        """Whether a cell runs or waits, or the kernel is in the midst of something. A request of another kind may never
        be answered by a kernel that does not know it, and tells nothing."""
        is_asked = any(request.header.get("msg_type") == "execute_request" for request in self.pending.values())
        return is_asked or self.execution_state not in ("idle", "dead")

    def _enter(self, phase: Literal["restarting", "dead"], reason: str) -> list[Action]:
        self.phase = phase
        self._busy.clear()
        return [Tell(phase, reason)]

    def _fail_all(self, reason: str) -> list[Action]:
        failed: list[Action] = [Fail(request, reason) for request in self.pending.values()]
        self.pending.clear()
        return failed
