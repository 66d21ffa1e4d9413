"""Forwarding to the other workers of this host: requests and WebSockets over their Unix sockets.

It owns the connections, and the inner request, which it builds anew: nothing that a client sent becomes a
header here. It never resends and never picks another peer; its errors say by phase what the caller may do.
"""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import quote

import aiohttp

from sharding import process
from sharding.ending import end
from sharding.errors import NotOwner, PeerError, PeerLost, PeerRefused, PeerUnreachable
from sharding.hop import (
    BEHALF_HEADER,
    EPOCH_HEADER,
    PING_PATH,
    REFUSED_HEADER,
    REQUEST_HEADER,
    SECRET_HEADER,
    USER_HEADER,
)
from sharding.member import Member
from sharding.ring import Ring
from sharding.wire import PeerReply, Wires

PROBE_S = 0.5
REQUEST_S = 30.0
HANDSHAKE_S = 5.0
HEARTBEAT_S = 10.0
"""Pings on a WebSocket to a peer: one that hangs is noticed after this and half of it again. A last resort: a worker
that hangs loses its lease and is killed long before, and a shorter one would cut links to one that is merely busy."""
LINGER_S = 5.0
"""How long WebSockets to a member that has left the ring may end in order."""
WEBSOCKET_MAX = 1 << 30
"""No limit of our own on messages between workers: the site for clients has one."""

_TARGET: Final = re.compile(r"/[!-~]*\Z")
_TOKEN: Final = re.compile(r"[A-Za-z]+\Z")
_FIELD: Final = re.compile(r"[ -~]*\Z")


class Peers:
    """All connections of this worker to others.

    secret: the per-host secret. on_refused: awaited when a member's socket has refused, before
    PeerUnreachable is raised, so that the ring is already a new one (`Membership.suspect`).
    """

    def __init__(self, secret: str, on_refused: Callable[[Member], Awaitable[None]]) -> None:
        self._secret = secret
        self._on_refused = on_refused
        self._wires: dict[str, Wires] = {}
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._lingering: dict[aiohttp.ClientSession, asyncio.Task[None]] = {}

    async def request(
        self,
        member: Member,
        method: str,
        path_qs: str,
        *,
        user: str,
        request_id: str,
        epoch: int,
        body: bytes | None = None,
        content_type: str | None = None,
        behalf: str = "",
        timeout_s: float = REQUEST_S,
    ) -> PeerReply:
        """Forward one request and return the whole answer, whatever its status.

        path_qs: percent-encoded, as on the wire. Raises PeerUnreachable, PeerLost (also when `timeout_s`
        is over), NotOwner, PeerRefused; ValueError for what cannot stand in a request's head.
        """
        head = self._head(method, path_qs, user, request_id, epoch, body, content_type, behalf)
        reply = await self._exchange(member, head, body, method != "HEAD", timeout_s)
        if reply.status in (421, 403, 400):
            _raise_refusal(reply)
        return reply

    async def probe(self, member: Member) -> bool:
        """Does the member's process answer on its socket within PROBE_S? Any answer counts. Never raises."""
        head = f"GET {PING_PATH} HTTP/1.1\r\nHost: peer\r\n{SECRET_HEADER}: {self._secret}\r\n\r\n"
        try:
            async with asyncio.timeout(PROBE_S):
                await self._exchange(member, head.encode(), None, True, PROBE_S)
        except (PeerError, TimeoutError):
            return False
        return True

    async def websocket(
        self,
        member: Member,
        path_qs: str,
        *,
        user: str,
        request_id: str,
        epoch: int,
        timeout_s: float = HANDSHAKE_S,
    ) -> aiohttp.ClientWebSocketResponse:
        """Open a WebSocket at the peer. The caller closes it.

        Raises as `request`; PeerRefused with the status when the peer answers the handshake otherwise.
        """
        _check(_TARGET, path_qs)
        session = self._session(member)
        try:
            async with asyncio.timeout(timeout_s):
                return await session.ws_connect(
                    f"http://peer{path_qs}",
                    headers=self._hop(user, request_id, epoch),
                    compress=0,
                    max_msg_size=WEBSOCKET_MAX,
                    heartbeat=HEARTBEAT_S,
                )
        except aiohttp.WSServerHandshakeError as error:
            raise _handshake_refusal(error) from error
        except aiohttp.ClientConnectorError as error:
            raise await self._unreachable(member, error.os_error) from error
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            raise PeerLost(f"no WebSocket at {member.name}: {error or 'timeout'}") from error

    def follow(self, _old: Ring, new: Ring) -> None:
        """Let go of members that have left the ring. To be given to `Membership.listen`."""
        for boot in [boot for boot in self._wires if new.member(boot) is None]:
            self._wires.pop(boot).close()
        for boot in [boot for boot in self._sessions if new.member(boot) is None]:
            session = self._sessions.pop(boot)
            self._lingering[session] = asyncio.create_task(self._close_later(session))

    async def close(self) -> None:
        """Close everything."""
        for wires in self._wires.values():
            wires.close()
        await end(list(self._lingering.values()))
        for session in [*self._sessions.values(), *self._lingering]:
            await session.close()
        self._wires.clear()
        self._sessions.clear()
        self._lingering.clear()

    async def _close_later(self, session: aiohttp.ClientSession) -> None:
        await asyncio.sleep(LINGER_S)
        await session.close()
        del self._lingering[session]

    async def _exchange(
        self, member: Member, head: bytes, body: bytes | None, with_body: bool, timeout_s: float
    ) -> PeerReply:
        wires = self._wires.get(member.boot)
        if wires is None:
            wires = self._wires[member.boot] = Wires(member.address)
        try:
            return await wires.exchange(head, body, with_body, timeout_s)
        except OSError as error:
            raise await self._unreachable(member, error) from error

    async def _unreachable(self, member: Member, error: OSError) -> PeerUnreachable:
        """The error to raise when connecting failed. First reports a death that it proves.

        A refusal proves it. A missing socket file does not (a cleaner of temporary files may have taken
        it from a worker that lives), unless the process is gone too. A full backlog proves nothing.
        """
        dead = error.errno == errno.ECONNREFUSED
        if error.errno == errno.ENOENT:
            dead = not await asyncio.to_thread(process.runs, member.pid, member.pid_started)
        if dead:
            await self._on_refused(member)
        return PeerUnreachable(f"no connection to {member.name}: {error.strerror or error}")

    def _session(self, member: Member) -> aiohttp.ClientSession:
        session = self._sessions.get(member.boot)
        if session is None:
            # force_close: aiohttp resends a GET by itself when a kept connection turns out to be dead.
            connector = aiohttp.UnixConnector(path=member.address, limit=0, force_close=True)
            session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
            self._sessions[member.boot] = session
        return session

    def _hop(self, user: str, request_id: str, epoch: int) -> dict[str, str]:
        return {
            SECRET_HEADER: self._secret,
            USER_HEADER: quote(user),
            REQUEST_HEADER: quote(request_id),
            EPOCH_HEADER: str(epoch),
        }

    def _head(
        self,
        method: str,
        path_qs: str,
        user: str,
        request_id: str,
        epoch: int,
        body: bytes | None,
        content_type: str | None,
        behalf: str,
    ) -> bytes:
        _check(_TOKEN, method)
        _check(_TARGET, path_qs)
        head = (
            f"{method} {path_qs} HTTP/1.1\r\nHost: peer\r\n{SECRET_HEADER}: {self._secret}\r\n"
            f"{USER_HEADER}: {quote(user)}\r\n{REQUEST_HEADER}: {quote(request_id)}\r\n"
            f"{EPOCH_HEADER}: {epoch}\r\n"
        )
        if behalf:
            head += f"{BEHALF_HEADER}: {quote(behalf)}\r\n"
        if content_type is not None:
            _check(_FIELD, content_type)
            head += f"Content-Type: {content_type}\r\n"
        if body is not None or method in ("POST", "PUT", "PATCH"):
            head += f"Content-Length: {len(body or b'')}\r\n"
        return (head + "\r\n").encode("ascii")


def _check(form: re.Pattern[str], text: str) -> None:
    """Nothing that could end a header line gets into a head."""
    if form.match(text) is None:
        raise ValueError(f"not fit for the head of a request: {text!r}")


def _raise_refusal(reply: PeerReply) -> None:
    """Raise when it was the peer's guard that answered. A handler's own 400 or 403 is an answer."""
    epoch = reply.headers.get(EPOCH_HEADER)
    if reply.status == 421 and epoch is not None:
        raise NotOwner(int(epoch))
    if REFUSED_HEADER in reply.headers:
        raise PeerRefused(reply.status, reply.body.decode(errors="replace"))


def _handshake_refusal(error: aiohttp.WSServerHandshakeError) -> PeerError:
    epoch = error.headers.get(EPOCH_HEADER) if error.headers is not None else None
    if error.status == 421 and epoch is not None:
        return NotOwner(int(epoch))
    return PeerRefused(error.status, error.message)
