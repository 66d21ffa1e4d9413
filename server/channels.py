"""The channels WebSocket of a client, as its entry worker serves it.

Owns the way between the client's socket and the kernel's owner, the id of the last message that the client was sent and
the requests that wait for a reply: what is needed to carry on with another owner while the client's socket stays open.
Never looks at what cells do.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import structlog
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web
from aiohttp.http import WebSocketError

from kernels import framing
from kernels.errors import KernelGone, KernelMoved, MalformedFrame, UnknownKernel
from kernels.resume import Resume
from server import app_keys
from server.api_errors import ApiError, api_error, request_id
from server.arbiter import ARBITER
from server.client_socket import CLOSE_S, ClientSocket
from server.links import MAX_REASON, Link, LocalLink, Outgoing, PeerLink
from server.outbox import Outbox
from server.owned import ENTRY_HEADER, OWNER_HEADER
from server.ownership import unavailable
from server.receipts import Receipts, number_said
from server.request_keys import USER
from server.unread import READS_NOTHING
from sharding.errors import PeerLost, PeerRefused
from sharding.member import Member

log = structlog.get_logger(__name__)

# How long a stopping worker waits for the next owner of a client's kernel. If it closes before, a cell that was sent
# meanwhile is with nobody (seen: 24 students on a machine with more work than processors, 5.6 s).
HEIR_S: Final = 7.0
MAX_CLIENT_ID: Final = 128
SETTLE_S: Final = 0.5  # how long a stopping worker waits for a client to say how far it has come
MAX_UNTAKEN_BYTES: Final = 16 * 2**20  # what the owner has not taken; until it has, nothing more is read
CLOSE_RESTARTING: Final = WSCloseCode.SERVICE_RESTART
GOODBYE: Final = int(CLOSE_RESTARTING).to_bytes(2, "big") + b"This worker is being replaced"
CLOSE_LATER: Final = WSCloseCode.TRY_AGAIN_LATER


async def channels(request: web.Request) -> web.WebSocketResponse:
    """`GET /api/kernels/{kernel_id}/channels?session_id=…`, upgraded once the kernel's owner has given a seat."""
    user, kernel_id = request[USER], request.match_info["kernel_id"]
    client = request.query.get("session_id", "")[:MAX_CLIENT_ID] or uuid.uuid4().hex
    conversation = Conversation(request, user, kernel_id, client)
    await conversation.link_up()
    try:
        return await conversation.run()
    finally:
        await conversation.close()


class Conversation:
    """One client's socket and its link to the kernel's owner, which may be replaced while the socket stays."""

    def __init__(self, request: web.Request, user: str, kernel_id: str, client: str) -> None:
        self._request = request
        self._user, self._kernel_id, self._client = user, kernel_id, client
        self._socket = ClientSocket(request.app[app_keys.SETTINGS].max_message_mib * 2**20)
        self._link: Link | None = None
        self._linked = asyncio.Event()
        # Held while a message is handed on and while the link is replaced. Without it: a message is on its way to the
        # old owner, the link is renewed and tells the new owner of it, the old one refuses it, and it is sent again to
        # the new one, which has declared it lost.
        self._switch = asyncio.Lock()
        self._passing = asyncio.Lock()
        self._leaving = False
        self._parting = False  # we close, and the client is to hear why: it answers our close
        self._owner_generation = 0
        self._ended = asyncio.Event()
        self._heard_out = asyncio.Event()  # the client has closed, and all that it had sent before was read
        self._inward: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._progress = asyncio.Event()  # set whenever something has come over the link, or the link is a new one
        self._again: list[Outgoing] = []
        self._outbox = Outbox()
        self._last: bytes | None = None
        self._number = number_said(request.query.get("last_seq", ""))
        self._receipts = Receipts(self._socket.ping, self._number)
        self._heard_at = datetime.now(UTC)

    async def run(self) -> web.WebSocketResponse:
        """Serve until either side ends; return the socket, closed."""
        await self._socket.prepare(self._request)
        others = self._request.app[app_keys.CONVERSATIONS]
        others.add(self)
        inward = self._inward = asyncio.create_task(self._from_client(), name="from_client")
        outward = asyncio.create_task(self._to_client(), name="to_client")
        asking = self._asking = asyncio.create_task(self._receipts.ask(), name="ask_how_far")
        deaf = asyncio.create_task(self._socket.until_deaf(), name="until_deaf")
        try:
            await asyncio.wait((inward, outward, deaf), return_when=asyncio.FIRST_COMPLETED)
            if self._parting:  # with what it sends meanwhile unread, a socket that is dropped takes our words with it
                await asyncio.wait((outward, deaf), timeout=2 * CLOSE_S, return_when=asyncio.FIRST_COMPLETED)
            if self._leaving and not outward.done():
                await self._all_taken()
        finally:
            others.discard(self)
            for task in (inward, outward, asking, deaf):
                task.cancel()
            outcomes = await asyncio.gather(inward, outward, asking, deaf, return_exceptions=True)
            if is_deaf := not deaf.cancelled() and not deaf.exception():
                log.warning("client_reads_nothing", user=self._user, kernel=self._kernel_id)
                await self._socket.dismiss(CLOSE_LATER, READS_NOTHING)
            self._socket.let_go(at_once=is_deaf or self._leaving)
        self._ended.set()
        for problem in outcomes:
            if isinstance(problem, Exception) and not isinstance(problem, ConnectionError):
                raise problem
        return self._socket

    def wake(self) -> None:
        """There may be something new to find out, although nothing has come over the link."""
        self._progress.set()

    async def send_away(self, heirs: Callable[[], bool]) -> None:
        """Close with a code on which Jupyter's clients come back, and hear the client out.

        What it has sent before it reads our close is still handed on. A client that answers nothing is waited for
        `CLOSE_S`, or it would keep this worker for ever. While there are `heirs` (other workers), the kernel's next
        owner is first told of the client's place, which it keeps until the client comes back through another entry
        worker.
        And nothing is to come again there: the client says how far it has come, and the owner hears that, before the
        close (our text lies in the owner's socket before the client can be back).
        """
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(HEIR_S + 2 * SETTLE_S + 3 * CLOSE_S):
                await self._linked_anew(heirs)
                with suppress(TimeoutError):  # a client that reads nothing is in the midst of a batch for ever
                    # Between two batches: what was read from the owner is also passed on.
                    async with asyncio.timeout(CLOSE_S + SETTLE_S), self._passing:
                        if self._asking:
                            self._asking.cancel()
                        await self._receipts.settle(SETTLE_S)
                        self._leaving = True
                        await self._socket.send_frame(GOODBYE, WSMsgType.CLOSE)
                self._leaving = True
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_S):
                        await self._heard_out.wait()
                if self._inward:
                    self._inward.cancel()
                await self._ended.wait()

    async def _all_taken(self) -> None:
        """Return when an owner has taken all that the client has sent, or after CLOSE_S.

        The link is followed until then: the client sent a cell, read our close, and the kernel moved before its owner
        had read that cell. The client does not send it again.
        """
        self._heard_out.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                while not self._linked.is_set() or (self._link and self._link.untaken_bytes):
                    self._progress.clear()
                    await self._progress.wait()

    async def _linked_anew(self, heirs: Callable[[], bool]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(HEIR_S):
                while heirs() and not self._well_linked:
                    self._progress.clear()
                    await self._progress.wait()

    @property
    def _well_linked(self) -> bool:
        """Whether we have an owner that is not about to be replaced, too: a reload replaces all."""
        is_linked = self._linked.is_set() and self._link is not None and not self._link.ended
        return is_linked and self._owner_generation >= ARBITER.generation

    async def close(self) -> None:
        """Give the seat up."""
        if self._link:
            with suppress(ConnectionError):
                await self._link.close()

    # -- the link -------------------------------------------------------------------------------------------------

    async def link_up(self) -> None:
        """Find the owner and take a seat there; send what the owner before was sent and has not taken.

        Raises ApiError (404, 503); KernelMoved or PeerLost when the new link ends at once.
        """
        self._linked.clear()
        async with self._switch:
            if self._link:
                self._again[:0] = self._link.leftover()
            if not self._outbox.recorded:
                for _, header in self._again:
                    self._outbox.take_back(header["msg_id"])
            await self.close()
            ownership = self._request.app[app_keys.OWNERSHIP]
            self._link = await ownership.at_owner(self._user, self._seat_here, self._seat_there)
            self._outbox.recorded = self._link.number is not None
            self._number = self._number or self._link.number
            self._receipts.begin(self._number)
            if self._receipts.got:  # also what it has said while the seat was being taken, to nobody
                await self._link.acknowledge(self._receipts.got, [*self._receipts.got_unnumbered])
            self._again = self._outbox.to_send(self._again)
            while self._again:
                await self._give(self._link, *self._again[0])
                del self._again[0]
            self._linked.set()
            self._progress.set()

    def _resume(self) -> Resume:
        pending = self._outbox.pending
        got, unnumbered = self._receipts.got, [*self._receipts.got_unnumbered]
        if self._last is None and not pending:
            return Resume(self._client, number=self._number, got=got, unnumbered=unnumbered)
        after = orjson.loads(framing.part_of(self._last, 0))["msg_id"] if self._last else None
        since = self._heard_at.isoformat().replace("+00:00", "Z")
        return Resume(self._client, after, self._number, pending, since, got, unnumbered)

    async def _seat_here(self) -> Link:
        try:
            tenant = await self._request.app[app_keys.HOUSE].get(self._user, self._kernel_id)
            seat = await tenant.kernel.take_seat(self._resume())
        except (UnknownKernel, KernelGone) as gone:
            raise self._unknown() from gone
        self._name_workers(self._request.app[app_keys.MEMBERSHIP].me)
        return LocalLink(seat)

    async def _seat_there(self, owner: Member, epoch: int) -> Link:
        peers = self._request.app[app_keys.PEERS]
        path = self._request.rel_url.raw_path  # percent-encoded: an id may be any letters
        named = request_id(self._request)
        try:
            socket = await peers.websocket(owner, path, user=self._user, request_id=named, epoch=epoch)
        except PeerRefused as refused:
            raise (self._unknown() if refused.status == 404 else unavailable(refused)) from refused
        try:
            link = await PeerLink.seated(socket, self._resume())
        except KernelGone as gone:
            raise self._unknown() from gone
        self._name_workers(owner)
        return link

    def _name_workers(self, owner: Member | None) -> None:
        """Have the answer to the client's handshake say who serves it; it has gone out before any later owner."""
        self._owner_generation = owner.generation if owner else 0
        me = self._request.app[app_keys.MEMBERSHIP].me
        self._socket.headers[ENTRY_HEADER] = me.name if me else "none"
        self._socket.headers[OWNER_HEADER] = owner.name if owner else "none"

    def _unknown(self) -> ApiError:
        return api_error(404, f"Kernel does not exist: {self._kernel_id}")

    # -- from the client ------------------------------------------------------------------------------------------

    async def _from_client(self) -> None:
        async for received in self._socket:
            if received.type is WSMsgType.ERROR:  # no WebSocket frame at all; aiohttp has closed
                if isinstance(received.data, WebSocketError):
                    self._log_refusal(received.data)
                return
            if received.type in (WSMsgType.PING, WSMsgType.PONG):
                await self._pinged(received)
                continue
            try:
                message, header = self._socket.checked(received.data)
            except MalformedFrame as error:
                self._log_refusal(error)
                await self._socket.dismiss(WSCloseCode.INVALID_TEXT, f"Malformed message: {error}")
                return
            await self._hand_on(message, header)
            self._progress.set()
            while self._link and self._link.untaken_bytes > MAX_UNTAKEN_BYTES:
                self._progress.clear()
                await self._progress.wait()

    async def _pinged(self, received: WSMessage) -> None:
        if received.type is WSMsgType.PING:
            await self._socket.pong(received.data)
        elif (got := self._receipts.heard(bytes(received.data))) and self._link:
            await self._link.acknowledge(*got)

    def _log_refusal(self, error: Exception) -> None:
        log.warning("frame_refused", user=self._user, kernel=self._kernel_id, why=str(error))

    async def _hand_on(self, message: framing.Message, header: dict[str, Any]) -> None:
        """Give a message to the owner; one that no owner was given yet waits for the next one."""
        while True:
            async with self._switch:
                assert self._link is not None
                try:
                    return await self._give(self._link, message, header)
                except (KernelMoved, PeerLost):
                    self._linked.clear()
            await self._linked.wait()

    async def _give(self, link: Link, message: framing.Message, header: dict[str, Any]) -> None:
        msg_id = header["msg_id"]
        self._outbox.add(message, header)
        try:
            await link.send(message, header)
        except KernelGone:
            return  # `_to_client` hears of it too, and tells the client
        except (KernelMoved, PeerLost):
            self._outbox.take_back(msg_id)
            raise

    # -- to the client --------------------------------------------------------------------------------------------

    async def _to_client(self) -> None:
        while self._leaving or not self._socket.closed:
            assert self._link is not None
            try:
                frames = await self._link.frames()
                self._progress.set()
            except KernelGone as gone:
                await self._part(WSCloseCode.OK, str(gone))
                return
            except (KernelMoved, PeerLost) as moved:
                log.info("link_lost", user=self._user, kernel=self._kernel_id, why=str(moved))
                if not await self._follow():
                    return
                continue
            async with self._passing:
                if not self._leaving:  # else the client gets them through its next entry worker
                    for frame in frames:
                        await self._pass_on(frame)

    async def _follow(self) -> bool:
        """Carry on with the next owner; False when there is none in time, and the client was told to come back."""
        while True:
            try:
                await self.link_up()
                break
            except (KernelMoved, PeerLost):
                continue
            except ApiError as error:
                await self._give_up(error)
                return False
        log.info("link_renewed", user=self._user, kernel=self._kernel_id)
        return True

    async def _give_up(self, error: ApiError) -> None:
        gone = error.status == 404
        if gone:
            await self._pass_on(framing.server_message("iopub", "status", {"execution_state": "dead"}))
        await self._part(WSCloseCode.OK if gone else CLOSE_LATER, error.message)

    async def _part(self, code: int, why: str) -> None:
        self._parting = True
        if self._inward:  # while somebody reads, aiohttp does not wait for the answer to a close
            self._inward.cancel()
            await asyncio.wait((self._inward,))
        await self._socket.close(code=code, message=why.encode()[:MAX_REASON])

    async def _pass_on(self, frame: bytes) -> None:
        channel = framing.channel_of(frame)
        if channel in ("shell", "control"):  # one that it has already, too: this owner does not know that
            self._receipts.sent_unnumbered(framing.msg_id_of(framing.part_of(frame, 1)))
        if not self._outbox.heard(channel, frame):
            return
        try:
            await self._socket.pass_on(frame)
        except MalformedFrame as error:  # a kernel that sends what cannot be said in JSON
            log.warning("frame_not_passed_on", user=self._user, kernel=self._kernel_id, why=str(error))
        if channel == "iopub":
            self._note_sent(frame)
        self._heard_at = datetime.now(UTC)

    def _note_sent(self, output: bytes) -> None:
        if framing.is_servers_own(output):
            self._receipts.sent_unnumbered(framing.msg_id_of(framing.part_of(output, 0)))
            return
        self._last = output  # the next owner has heard it, too
        if number := framing.number_of(framing.part_of(output, 2)):
            self._number = number
            self._receipts.sent(number)


async def close_sockets(app: web.Application) -> None:
    """End every client's socket; its client comes back, to another worker."""
    membership, conversations = app[app_keys.MEMBERSHIP], [*app[app_keys.CONVERSATIONS]]

    async def tell_when_alone() -> None:
        while membership.ring.members:
            await membership.wait_newer(membership.ring.epoch, HEIR_S)
        for each in conversations:
            each.wake()

    watch = asyncio.create_task(tell_when_alone(), name="tell_when_alone")
    going = [each.send_away(lambda: bool(membership.ring.members)) for each in conversations]
    await asyncio.gather(*going, return_exceptions=True)
    watch.cancel()
