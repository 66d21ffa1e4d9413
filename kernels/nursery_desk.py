"""The nursery's desk: who may speak, what is asked and answered, and who is told.

Owns the Unix socket of one runtime directory, its visitors and the order in which everything stops. The
kernels are in `kernels.nursery_state`, the process around both in `kernels.nursery`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog

from kernels import nursery_wire
from kernels.confine.host import Report
from kernels.confine.warden import Warden
from kernels.errors import BadRequest, ClaimRefused, KernelsError, SpawnRefused
from kernels.farewells import Farewells
from kernels.nursery_state import Kernels
from kernels.nursery_zygote import LOOK_S, Nest
from kernels.records import KernelRecord, SpawnOrder, checked_kernel_id, checked_notes, number_of, text_of
from kernels.warmth import Warmth

YIELD_S = 2.0
"""How long a new owner waits for the former one to write no more. One that lives needs
milliseconds; one that hangs is killed by the others when its lease has run out, and its end is seen here."""

UNSENT_BYTES = 64 * 1024 * 1024
"""A worker that lets more than this pile up unread is disconnected. It comes back and lists anew."""

TRIM_S, SWEEP_S = 0.5, 60.0

log = structlog.get_logger(__name__)

Answer = dict[str, Any]
Handler = Callable[["Visitor", Answer], Awaitable[Answer]]


class Visitor:
    """One connection. It counts as a worker from its `hello` on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.who = ""

    def tell(self, message: Answer) -> None:
        """Sends a line without waiting; never raises."""
        if self.writer.is_closing():
            return
        self.writer.write(nursery_wire.line(message))
        if self.writer.transport.get_write_buffer_size() > UNSENT_BYTES:
            log.warning("nursery_visitor_too_slow", who=self.who)
            self.writer.transport.abort()


class Desk:
    """Serves one runtime directory until it is told to stop or nobody has come for `grace_s`."""

    def __init__(
        self, runtime: Path, grace_s: float, warmth: Warmth | None = None, warden: Warden | None = None
    ) -> None:
        self._report = warden.report if warden else Report("none")
        confining = warden if warden and warden.confines else None
        self._nest = Nest(runtime, warmth, confining.walls if confining else None) if warmth else None
        self._socket = nursery_wire.socket_path(runtime)
        self._grace_s = grace_s
        self._began = time.monotonic()
        self._kernels = Kernels(runtime / "k", self._kernel_exited, self._nest, confining)
        self._farewells = Farewells()
        self._visitors: set[Visitor] = set()
        self._holders: dict[str, tuple[str, Visitor]] = {}
        self._strangers: set[str] = set()  # kernels that somebody has claimed who is not here (any more)
        self._claimants: dict[str, tuple[str, Visitor]] = {}  # who has claimed a kernel and is not its holder yet
        self._yields: dict[tuple[str, Visitor], asyncio.Event] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self._grace: asyncio.TimerHandle | None = None
        self._stop = asyncio.Event()
        self._stopped = asyncio.Event()
        self._handlers: dict[str, Handler] = {
            "hello": self._hello,
            "spawn": self._spawn,
            "list": self._list,
            "get": self._get,
            "settled": self._settled,
            "place": self._place,
            "signal": self._signal,
            "claim": self._claim,
            "yielded": self._yielded,
            "note": self._note,
            "end": self._end,
            "retire": self._retire,
            "bid_farewell": self._bid_farewell,
            "farewell": self._farewell,
            "status": self._status,
            "rewarm": self._rewarm,
            "shutdown": self._shutdown,
        }

    async def run(self) -> None:
        """Returns once everything has been ended and removed."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop.set)
        loop.add_signal_handler(signal.SIGCHLD, self._kernels.reap)
        # The supervisor has us start with SIGTERM held back: from here on it stops us in good order.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._kernels.recover()
        if self._nest is not None:
            self._nest.start()
        server = await asyncio.start_unix_server(self._visit, self._socket, limit=nursery_wire.LINE_BYTES)
        log.info("nursery_up", pid=os.getpid(), kernels=len(self._kernels.records()), grace_s=self._grace_s)
        tending = [asyncio.create_task(_every(TRIM_S, self._kernels.trim_logs))]
        tending.append(asyncio.create_task(_every(TRIM_S, self._kernels.oom.look)))
        tending.append(asyncio.create_task(_every(SWEEP_S, self._kernels.sweep)))
        tending.append(asyncio.create_task(self._kernels.watch.run()))
        if self._nest is not None:
            tending.append(asyncio.create_task(_every(LOOK_S, self._nest.look)))
        self._count_workers()
        await self._stop.wait()
        await self._close(server, tending)

    async def _close(self, server: asyncio.Server, tending: list[asyncio.Task[None]]) -> None:
        """In this order: nobody new can come; every kernel ends; whoever asked is answered; we go."""
        for task in tending:
            task.cancel()
        server.close()
        self._socket.unlink(missing_ok=True)
        ids = [record.kernel_id for record in self._kernels.records()]
        ended = (self._kernels.end(kernel_id, "the nursery was stopped") for kernel_id in ids)
        for result in await asyncio.gather(*ended, return_exceptions=True):
            if isinstance(result, BaseException):
                log.error("kernel_not_ended", error=str(result))
        self._kernels.sweep(older_than_s=0)
        if self._nest is not None:
            self._nest.close()
        log.info("nursery_stopped", kernels=len(ids))
        self._stopped.set()
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=1)
        for visitor in self._visitors:
            visitor.writer.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), 1)

    # -- visitors

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = _peer_uid(writer.get_extra_info("socket"))
        if uid not in (os.getuid(), 0):
            log.warning("nursery_visitor_refused", uid=uid)
            writer.close()
            return
        visitor = Visitor(reader, writer)
        self._visitors.add(visitor)
        try:
            await self._listen(visitor)
        except BadRequest as error:
            log.warning("nursery_bad_line", who=visitor.who, error=str(error))
            visitor.tell({"id": None, "error": nursery_wire.error_to_json(error)})
        except OSError as error:
            log.info("nursery_visitor_lost", who=visitor.who, error=str(error))
        finally:
            self._visitors.discard(visitor)
            for (_, other), yielded in self._yields.items():
                if other is visitor:  # it has gone, and writes no more
                    yielded.set()
            writer.close()
            self._count_workers()

    async def _listen(self, visitor: Visitor) -> None:
        while text := await _next_line(visitor.reader):
            request = nursery_wire.message_of(text)
            job = asyncio.create_task(self._answer(visitor, request))
            self._jobs.add(job)
            job.add_done_callback(self._jobs.discard)
            await visitor.writer.drain()

    async def _answer(self, visitor: Visitor, request: Answer) -> None:
        answer: Answer = {"id": request.get("id")}
        try:
            handler = self._handlers.get(str(request.get("op")), _unknown)
            answer["reply"] = await handler(visitor, request)
        except KernelsError as error:
            if isinstance(error, BadRequest):
                log.warning("nursery_bad_request", who=visitor.who, error=str(error))
            answer["error"] = nursery_wire.error_to_json(error)
        except Exception as error:
            log.exception("nursery_failed", op=request.get("op"))
            answer["error"] = nursery_wire.error_to_json(KernelsError(f"the nursery failed: {error!r}"))
        visitor.tell(answer)

    def _count_workers(self) -> None:
        """Starts the grace time when the last worker has gone, and ends it when one has come."""
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        if not any(visitor.who for visitor in self._visitors):
            self._grace = asyncio.get_running_loop().call_later(self._grace_s, self._grace_over)

    def _grace_over(self) -> None:
        log.info("nursery_grace_over", grace_s=self._grace_s)
        self._stop.set()

    def _tell_workers(self, event: Answer) -> None:
        for visitor in list(self._visitors):
            if visitor.who:
                visitor.tell(event)

    def _kernel_exited(self, record: KernelRecord) -> None:
        reason = record.exit.reason if record.exit else ""
        log.info("kernel_exited", kernel=record.kernel_id, user=record.user, pid=record.pid, reason=reason)
        self._tell_workers({"event": "exited", "record": record.to_json()})

    # -- operations

    async def _hello(self, visitor: Visitor, request: Answer) -> Answer:
        visitor.who = text_of(request, "who")
        self._count_workers()
        return {"pid": os.getpid(), "confinement": self._report.name}

    async def _spawn(self, visitor: Visitor, request: Answer) -> Answer:
        order = SpawnOrder.from_json(request.get("order"))
        if self._stop.is_set():
            raise SpawnRefused("the nursery is stopping")
        record = self._kernels.spawn(order)
        if order.claim_boot and record.is_held_by(order.claim_epoch, order.claim_boot):
            self._holders[order.kernel_id] = (order.claim_boot, visitor)
        log.info("kernel_spawned", kernel=record.kernel_id, user=record.user, pid=record.pid, who=visitor.who)
        return {"record": record.to_json()}

    async def _list(self, visitor: Visitor, request: Answer) -> Answer:
        user = None if request.get("user") is None else text_of(request, "user")
        return {"records": [record.to_json() for record in self._kernels.in_use(user)]}

    async def _get(self, visitor: Visitor, request: Answer) -> Answer:
        return {"record": self._kernels.record(_kernel_id(request)).to_json()}

    async def _settled(self, visitor: Visitor, request: Answer) -> Answer:
        return {"record": (await self._kernels.settled(_kernel_id(request))).to_json()}

    async def _place(self, visitor: Visitor, request: Answer) -> Answer:
        return {"place": self._kernels.place(_kernel_id(request))}

    async def _signal(self, visitor: Visitor, request: Answer) -> Answer:
        signum = number_of(request, "signum", least=1)
        if signum not in signal.valid_signals():
            raise BadRequest(f"there is no signal {signum}")
        return {"delivered": self._kernels.signal(_kernel_id(request), signum)}

    async def _claim(self, visitor: Visitor, request: Answer) -> Answer:
        kernel_id, epoch, boot = _kernel_id(request), number_of(request, "epoch"), text_of(request, "boot")
        holder = self._kernels.record(kernel_id).claim_boot
        record = self._kernels.claim(kernel_id, epoch, boot)
        if holder not in ("", boot, self._holder_here(kernel_id)):
            self._strangers.add(kernel_id)
        if request.get("quiet") is True:
            before = (self._holders.get(kernel_id), self._claimants.get(kernel_id))
            claimant = self._claimants[kernel_id] = (boot, visitor)
            for other in {who for who in before if who and who[0] != boot}:
                await self._ask_to_yield(kernel_id, epoch, other[1])
            if self._claimants.get(kernel_id) != claimant:
                raise ClaimRefused(f"kernel {kernel_id} was claimed by another worker meanwhile", record.claim_epoch)
        else:
            for former in self._formers(kernel_id, boot, visitor):
                former.tell({"event": "claim_lost", "kernel_id": kernel_id, "epoch": epoch})
            self._holders[kernel_id] = (boot, visitor)
            self._claimants.pop(kernel_id, None)
        return {"record": record.to_json()}

    def _holder_here(self, kernel_id: str) -> str:
        """The boot id of its holder, if that is connected."""
        boot, visitor = self._holders.get(kernel_id, ("", None))
        return boot if visitor in self._visitors else ""

    def _formers(self, kernel_id: str, boot: str, claimant: Visitor) -> list[Visitor]:
        """Who may have held the kernel until now: all others, when it is not known who.

        A: claims from a nursery that then dies, loses the user, and so does not claim again ... B: claims from this
        one, which has never heard of A ... A: goes on serving its clients, whose replies come to B (seen in 2 of 11,590
        cells of a chaos run).
        """
        if kernel_id in self._strangers:
            self._strangers.discard(kernel_id)
            return [each for each in self._visitors if each is not claimant]
        held = self._holders.get(kernel_id)
        return [held[1]] if held and held[0] != boot else []

    async def _ask_to_yield(self, kernel_id: str, epoch: int, other: Visitor) -> None:
        """Returns once `other` neither writes to the kernel nor connects to it, or is too slow (hung) to say so.

        Asked is the owner that serves, and also one that has claimed and not connected yet. Without the latter:
            A: claims at epoch 1 ... B: claims at 2, connects ... A: connects, and has the identity that B believes in.
        """
        if other not in self._visitors:
            return
        yielded = self._yields[kernel_id, other] = asyncio.Event()
        other.tell({"event": "claim_wanted", "kernel_id": kernel_id, "epoch": epoch})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(yielded.wait(), YIELD_S)
        self._yields.pop((kernel_id, other), None)

    async def _yielded(self, visitor: Visitor, request: Answer) -> Answer:
        if waiting := self._yields.get((_kernel_id(request), visitor)):
            waiting.set()
        return {}

    async def _note(self, visitor: Visitor, request: Answer) -> Answer:
        record = self._kernels.note(_kernel_id(request), checked_notes(request.get("notes")))
        return {"record": record.to_json()}

    async def _end(self, visitor: Visitor, request: Answer) -> Answer:
        kernel_id = _kernel_id(request)
        await self._kernels.end(kernel_id, text_of(request, "reason"))
        self._holders.pop(kernel_id, None)
        self._claimants.pop(kernel_id, None)
        self._strangers.discard(kernel_id)
        log.info("kernel_ended", kernel=kernel_id, reason=request["reason"], who=visitor.who)
        return {}

    async def _retire(self, visitor: Visitor, request: Answer) -> Answer:
        kernel_id, boot, reason = _kernel_id(request), text_of(request, "boot"), text_of(request, "reason")
        record = self._kernels.retire(kernel_id, boot, reason)
        self._farewells.keep(record.user, kernel_id, reason)  # its owner may die before it can say so
        return {}

    async def _bid_farewell(self, visitor: Visitor, request: Answer) -> Answer:
        user, words = text_of(request, "user"), text_of(request, "words", empty=True)
        self._farewells.keep(user, _kernel_id(request), words)
        return {}

    async def _farewell(self, visitor: Visitor, request: Answer) -> Answer:
        return {"words": self._farewells.of(text_of(request, "user"), _kernel_id(request))}

    async def _status(self, visitor: Visitor, request: Answer) -> Answer:
        return {
            "pid": os.getpid(),
            "up_s": round(time.monotonic() - self._began, 3),
            "grace_s": self._grace_s,
            "workers": sorted(visitor.who for visitor in self._visitors if visitor.who),
            "kernels": len(self._kernels.records()),
            "zygote": self._nest.status() if self._nest is not None else None,
            "confinement": self._report.name,
            "missing": list(self._report.missing),
        }

    async def _rewarm(self, visitor: Visitor, request: Answer) -> Answer:
        if self._nest is None:
            raise BadRequest("this nursery forks no kernels")
        self._nest.start()
        return {}

    async def _shutdown(self, visitor: Visitor, request: Answer) -> Answer:
        self._stop.set()
        await self._stopped.wait()
        return {}


async def _unknown(visitor: Visitor, request: Answer) -> Answer:
    raise BadRequest(f"there is no operation {str(request.get('op'))[:80]!r}")


def _peer_uid(sock: socket.socket) -> int:
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", found)[1])


def _kernel_id(request: Answer) -> str:
    return checked_kernel_id(request.get("kernel_id"))


async def _next_line(reader: asyncio.StreamReader) -> bytes:
    """The next line; empty at the end. Raises BadRequest for half a line and for one that is too long."""
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise BadRequest(f"the connection ended within a line, after {len(error.partial)} bytes") from None
        return b""
    except asyncio.LimitOverrunError:
        raise BadRequest(f"a line of more than {nursery_wire.LINE_BYTES} bytes") from None


async def _every(pause_s: float, work: Callable[[], None]) -> None:
    while True:
        try:
            work()
        except OSError as error:
            log.warning("nursery_tending_failed", error=str(error))
        await asyncio.sleep(pause_s)
