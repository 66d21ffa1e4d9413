"""A worker's line to the nursery.

Owns the connection: it comes back by itself, and a call that was under way when it broke is sent again
(the nursery's operations may all be repeated). It knows no kernel manager and starts nothing by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from kernels.errors import KernelsError, NurseryUnavailable
from kernels.nursery_link import Link, LinkLost
from kernels.records import KernelRecord, SpawnOrder

RESENDS = 3
"""How often a call is sent that broke the connection each time: one that kills the nursery must end."""

_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.5

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KernelExited:
    """A kernel has exited; `record.exit` says how. Every worker is told."""

    record: KernelRecord


@dataclass(frozen=True, slots=True)
class ClaimLost:
    """Another owner has claimed a kernel that this worker had claimed over this connection."""

    kernel_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ClaimWanted:
    """Another owner is about to take a kernel of this worker's: write no more to it, then call `yielded`."""

    kernel_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class NurseryBack:
    """The connection is there again. What happened meanwhile was not told: claim and list again."""


Event = KernelExited | ClaimLost | ClaimWanted | NurseryBack
Watcher = Callable[[KernelRecord | None], None]


class NurseryClient:
    """One for each worker. `on_event` is called on the event loop, in order, and must not block.

    `wait_s`: how long a call waits for a nursery that is away; `answer_s`: how long for its answer.
    Every call raises NurseryUnavailable when one of them has passed.
    """

    def __init__(
        self,
        socket_path: Path,
        who: str,
        on_event: Callable[[Event], None],
        *,
        wait_s: float = 5.0,
        answer_s: float = 10.0,
    ) -> None:
        self._socket_path = socket_path
        self._who = who
        self._on_event = on_event
        self._wait_s = wait_s
        self._answer_s = answer_s
        self._link: Link | None = None
        self._linked = asyncio.Event()
        self._tried = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._watchers: dict[str, list[Watcher]] = {}
        self.confinement = ""
        """How kernels are confined, in one word; empty before the nursery was there for the first time."""

    @property
    def connected(self) -> bool:
        """Whether the nursery is there at the moment."""
        return self._linked.is_set()

    @property
    def kernels_dir(self) -> Path:
        """The folder that holds the directories of all kernels of this nursery."""
        return self._socket_path.parent / "k"

    async def start(self) -> None:
        """Begins to connect. Returns after the first try, connected or not; never raises."""
        self._keeper = asyncio.create_task(self._keep_linked())
        await self._tried.wait()

    async def close(self) -> None:
        """Ends the connection. Calls under way raise NurseryUnavailable."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._linked.clear()
        if self._link is not None:
            await self._link.close()

    async def spawn(self, order: SpawnOrder) -> KernelRecord:
        """Starts a kernel, and claims it when the order says so; returns the record.

        The same order again changes nothing. Raises SpawnRefused.
        """
        return await self._record("spawn", order=order.to_json())

    async def kernels(self, user: str | None = None) -> list[KernelRecord]:
        """All kernels of this host, or those of one user, exited ones included."""
        reply = await self._call("list", user=user)
        return [KernelRecord.from_json(record) for record in reply["records"]]

    async def get(self, kernel_id: str) -> KernelRecord:
        """Raises UnknownKernel."""
        return await self._record("get", kernel_id=kernel_id)

    async def settled(self, kernel_id: str) -> KernelRecord:
        """As `get`, once a kernel that can say so has said that its sockets are there, or has ended.

        One that waits for room on this host is told of as "waiting" after two seconds.
        """
        return await self._record("settled", kernel_id=kernel_id)

    async def place(self, kernel_id: str) -> int:
        """Which one it is of those that wait to be started; 0: it does not wait. Raises UnknownKernel."""
        return int((await self._call("place", kernel_id=kernel_id))["place"])

    async def signal(self, kernel_id: str, signum: int) -> bool:
        """Signals the kernel's process group. False if it has exited. Raises UnknownKernel."""
        reply = await self._call("signal", kernel_id=kernel_id, signum=signum)
        return bool(reply["delivered"])

    async def claim(self, kernel_id: str, epoch: int, boot: str, *, quiet: bool = False) -> KernelRecord:
        """Makes this worker the kernel's owner; the former one gets ClaimLost.

        `quiet`: not yet. The former owner gets ClaimWanted, and passes on what the kernel sends while this one
        connects; a second claim, not quiet, ends that. Returns when the former owner has yielded (2 s at most).
        Raises UnknownKernel, and ClaimRefused for an epoch below the highest seen or for that epoch from another boot.
        """
        return await self._record("claim", kernel_id=kernel_id, epoch=epoch, boot=boot, quiet=quiet)

    async def yielded(self, kernel_id: str) -> None:
        """Answers ClaimWanted: this worker writes no more to the kernel."""
        await self._call("yielded", kernel_id=kernel_id)

    async def note(self, kernel_id: str, notes: dict[str, Any]) -> KernelRecord:
        """Replaces the notes kept with the kernel (at most 64 KiB). Raises UnknownKernel, BadRequest."""
        return await self._record("note", kernel_id=kernel_id, notes=notes)

    async def end(self, kernel_id: str, reason: str) -> None:
        """Ends the kernel with SIGKILL and removes all that is left of it. Nothing to end is fine.

        Raises KernelStuck if a process is still there after seconds.
        """
        await self._call("end", kernel_id=kernel_id, reason=reason)

    async def retire(self, kernel_id: str, boot: str, reason: str) -> None:
        """Settles that this worker, `boot`, ends the kernel soon: it is nobody's to adopt any more.

        If the worker dies meanwhile, the nursery ends it. Raises ClaimRefused when another owner has claimed it.
        """
        await self._call("retire", kernel_id=kernel_id, boot=boot, reason=reason)

    async def bid_farewell(self, user: str, kernel_id: str, words: str) -> None:
        """Keeps the words for whoever asks why the kernel is gone; "" when its user has ended it."""
        await self._call("bid_farewell", user=user, kernel_id=kernel_id, words=words)

    async def farewell(self, user: str, kernel_id: str) -> str | None:
        """Why a kernel of the user's has ended; None when that is not known."""
        words: str | None = (await self._call("farewell", user=user, kernel_id=kernel_id))["words"]
        return words

    async def status(self) -> dict[str, Any]:
        """pid, up_s, grace_s, workers (their names), kernels (how many)."""
        return await self._call("status")

    def watch(self, kernel_id: str, watcher: Watcher) -> Callable[[], None]:
        """Calls `watcher` when a kernel has exited (with its record) or is not known any more (with None).

        Also for what happened while the nursery was away. It may be called twice.
        Returns a function that ends the watch.
        """
        self._watchers.setdefault(kernel_id, []).append(watcher)

        def stop() -> None:
            with contextlib.suppress(KeyError, ValueError):
                self._watchers[kernel_id].remove(watcher)
                if not self._watchers[kernel_id]:
                    del self._watchers[kernel_id]

        return stop

    async def _record(self, op: str, **fields: Any) -> KernelRecord:
        reply = await self._call(op, **fields)
        return KernelRecord.from_json(reply["record"])

    async def _call(self, op: str, **fields: Any) -> dict[str, Any]:
        for _ in range(RESENDS):
            link = await self._wait_linked(op)
            try:
                return await link.ask(op, fields, self._answer_s)
            except LinkLost:
                # The keeper clears `_linked` when it sees the same loss: do not take the dead link again.
                if self._link is link:
                    self._linked.clear()
        raise NurseryUnavailable(f"the connection to the nursery broke {RESENDS} times during {op}")

    async def _wait_linked(self, op: str) -> Link:
        if self._keeper is None or self._keeper.done():
            raise NurseryUnavailable(f"{op}: this client is closed")
        if self._link is not None and self._linked.is_set():
            return self._link
        closing = asyncio.ensure_future(self._linked.wait())
        await asyncio.wait({closing, self._keeper}, timeout=self._wait_s, return_when=asyncio.FIRST_COMPLETED)
        closing.cancel()
        if self._link is None or not self._linked.is_set():
            raise NurseryUnavailable(f"{op}: no nursery at {self._socket_path} for {self._wait_s:g} s")
        return self._link

    async def _keep_linked(self) -> None:
        pause_s, told, back = _PAUSE_S, False, False
        while True:
            try:
                link = await self._greet()
            except (OSError, LinkLost, KernelsError) as error:
                if not told:
                    log.warning("nursery_away", who=self._who, error=str(error) or type(error).__name__)
                told = True
                self._tried.set()
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                continue
            pause_s, told = _PAUSE_S, False
            self._take(link)
            await self._stay(link, back=back)
            back = True

    async def _greet(self) -> Link:
        link = await Link.open(self._socket_path, self._heard)
        try:
            told = await link.ask("hello", {"who": self._who}, self._wait_s)
            self.confinement = str(told.get("confinement", "none"))
        except BaseException:
            await link.close()
            raise
        return link

    def _take(self, link: Link) -> None:
        self._link = link
        self._linked.set()
        self._tried.set()

    async def _stay(self, link: Link, *, back: bool) -> None:
        """Until the link is lost. After a gap: first what the watchers have missed, then NurseryBack."""
        if back:
            log.info("nursery_back", who=self._who)
            with contextlib.suppress(LinkLost, KernelsError):
                await self._tell_watchers(link)
                self._emit(NurseryBack())
        await asyncio.wait([link.lost])
        self._linked.clear()

    async def _tell_watchers(self, link: Link) -> None:
        reply = await link.ask("list", {"user": None}, self._answer_s)
        known = {found["kernel_id"]: KernelRecord.from_json(found) for found in reply["records"]}
        for kernel_id in list(self._watchers):
            record = known.get(kernel_id)
            if record is None or record.state == "exited":
                self._wake(kernel_id, record)

    def _heard(self, message: dict[str, Any]) -> None:
        if message["event"] == "exited":
            record = KernelRecord.from_json(message["record"])
            self._wake(record.kernel_id, record)
            self._emit(KernelExited(record))
        elif message["event"] == "claim_lost":
            self._emit(ClaimLost(message["kernel_id"], message["epoch"]))
        elif message["event"] == "claim_wanted":
            self._emit(ClaimWanted(message["kernel_id"], message["epoch"]))

    def _wake(self, kernel_id: str, record: KernelRecord | None) -> None:
        for watcher in list(self._watchers.get(kernel_id, ())):
            try:
                watcher(record)
            except Exception:
                log.exception("nursery_watcher_failed", kernel=kernel_id)

    def _emit(self, event: Event) -> None:
        try:
            self._on_event(event)
        except Exception:  # a listener's fault must not end the reading of replies
            log.exception("nursery_listener_failed", nursery_event=type(event).__name__)
