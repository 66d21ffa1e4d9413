"""The owner's end of a link: a client of another worker at a kernel's seat here.

Reached only over this worker's internal socket. See `server/links.py` for what goes over it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import orjson
import structlog
from aiohttp import WSMsgType, web

from kernels import framing
from kernels.attached import AttachedKernel
from kernels.errors import KernelGone, KernelMoved, UnknownKernel
from kernels.seat import Seat
from server import app_keys
from server.links import (
    CLOSE_GONE,
    CLOSE_MOVED,
    MAX_REASON,
    dump_number,
    join,
    moved,
    number_in,
    receive_resume,
    size_of,
)
from server.request_keys import USER

log = structlog.get_logger(__name__)

SAY_BYTES = 256 * 1024
READ_ON_S = 2.0
MAX_FRAME_BYTES = 2**31 - 1  # what comes from a peer was bounded there


async def peer_channels(request: web.Request) -> web.StreamResponse:
    """`GET /api/kernels/{kernel_id}/channels` on the internal socket."""
    try:
        tenant = await request.app[app_keys.HOUSE].get(request[USER], request.match_info["kernel_id"])
    except UnknownKernel:
        return web.Response(status=404)  # the entry worker tells the client, and the log
    socket = web.WebSocketResponse(max_msg_size=MAX_FRAME_BYTES, compress=False)
    try:
        await socket.prepare(request)
    except ConnectionError:  # the peer has gone again, and with it whoever could be told
        return web.Response()
    await _Place(socket, tenant.kernel).serve()
    return socket


class _Place:
    """One peer's client at the kernel. `taken` counts the client's messages that the kernel was given."""

    def __init__(self, socket: web.WebSocketResponse, kernel: AttachedKernel) -> None:
        self._socket = socket
        self._kernel = kernel
        self._taken = 0
        self._unsaid_bytes = 0  # of the messages taken since the peer was last told

    async def serve(self) -> None:
        """Until the peer has gone, or the kernel has; then the close code says which."""
        seat = await self._seat()
        if seat is None:
            return
        inward = asyncio.create_task(self._from_peer(seat), name="from_peer")
        outward = asyncio.create_task(self._to_peer(seat), name="to_peer")
        await asyncio.wait((inward, outward), return_when=asyncio.FIRST_COMPLETED)
        if outward.done() and isinstance(outward.exception(), ConnectionError):
            # The peer has closed, which `_to_peer` saw first; what its client had sent before lies here unread.
            await asyncio.wait((inward,), timeout=READ_ON_S)
        for task in (inward, outward):
            task.cancel()
        seat.leave()
        for outcome in await asyncio.gather(inward, outward, return_exceptions=True):
            if isinstance(outcome, KernelGone | KernelMoved):
                await self._say_goodbye(outcome)
            elif isinstance(outcome, Exception) and not isinstance(outcome, ConnectionError):
                raise outcome

    async def _seat(self) -> Seat | None:
        """The seat, once the peer has been told of it; None when there is none, or the peer has gone meanwhile."""
        try:
            seat = await self._awaited(self._kernel.take_seat(await receive_resume(self._socket)))
        except ConnectionError:
            return None
        except (KernelGone, KernelMoved) as error:
            await self._say_goodbye(error)
            return None
        try:
            await self._socket.send_str(dump_number(seat.number))
        except ConnectionError:
            seat.leave()
            return None
        return seat

    async def _awaited(self, seat: Coroutine[Any, Any, Seat]) -> Seat:
        """The seat of a kernel that may take long to start. Raises ConnectionResetError when the peer goes meanwhile.

        Only who reads answers pings: the peer took an owner that did not for dead after 15 s.
        """
        taking, reading = asyncio.create_task(seat), asyncio.create_task(self._socket.receive())
        try:
            await asyncio.wait((taking, reading), return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():  # nothing is sent before the seat is given
                raise ConnectionResetError("the peer has gone")
            return taking.result()
        finally:
            for task in (taking, reading):
                task.cancel()
            await asyncio.gather(taking, reading, return_exceptions=True)

    async def _from_peer(self, seat: Seat) -> None:
        async for received in self._socket:
            if received.type is WSMsgType.TEXT:
                told = orjson.loads(received.data)
                if number := number_in(told["number"]):
                    seat.acknowledge(number, told["unnumbered"])
                continue
            if received.type is not WSMsgType.BINARY:
                return
            message, header = framing.trusted(received.data)
            try:
                await seat.send(message, header)
            except KernelMoved:
                # Neither this message nor those behind it are taken; the peer sends them again, to the next owner.
                # It hears of that when `_to_peer` has passed on all that the kernel still sends here, and ends this.
                await asyncio.get_running_loop().create_future()
            self._taken += 1
            self._unsaid_bytes += size_of(message)
            if self._unsaid_bytes >= SAY_BYTES:  # the kernel may be silent, and the peer keeps a copy until it knows
                await self._socket.send_bytes(self._batch([]))

    async def _to_peer(self, seat: Seat) -> None:
        while True:
            frames = await seat.frames()
            await self._socket.send_bytes(self._batch(frames))

    def _batch(self, frames: list[bytes]) -> bytes:
        self._unsaid_bytes = 0
        return join(self._taken, frames)

    async def _say_goodbye(self, error: Exception) -> None:
        if isinstance(error, KernelMoved):
            await self._socket.close(code=CLOSE_MOVED, message=moved(self._taken, str(error)))
        else:
            await self._socket.close(code=CLOSE_GONE, message=str(error).encode()[:MAX_REASON])
