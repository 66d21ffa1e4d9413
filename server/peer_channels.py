"""The owner's end of a link: a client of another worker at a kernel's seat here.

Reached only over this worker's internal socket. See `server/links.py` for what goes over it.
"""

from __future__ import annotations

import asyncio

import structlog
from aiohttp import WSMsgType, web

from kernels import framing
from kernels.errors import KernelGone, KernelMoved
from kernels.seat import Seat
from server import app_keys
from server.links import CLOSE_GONE, CLOSE_MOVED, join, receive_resume
from server.request_keys import USER

log = structlog.get_logger(__name__)

MAX_FRAME_BYTES = 2**31 - 1  # what comes from a peer was bounded there


async def peer_channels(request: web.Request) -> web.WebSocketResponse:
    """`GET /api/kernels/{kernel_id}/channels` on the internal socket."""
    tenant = await request.app[app_keys.HOUSE].get(request[USER], request.match_info["kernel_id"])
    socket = web.WebSocketResponse(max_msg_size=MAX_FRAME_BYTES, compress=False)
    await socket.prepare(request)
    try:
        seat = await tenant.kernel.take_seat(await receive_resume(socket))
    except (KernelGone, KernelMoved) as error:
        await _say_goodbye(socket, error)
        return socket
    try:
        await _serve(socket, seat)
    finally:
        seat.leave()
    return socket


async def _serve(socket: web.WebSocketResponse, seat: Seat) -> None:
    inward = asyncio.create_task(_from_peer(socket, seat), name="from_peer")
    outward = asyncio.create_task(_to_peer(socket, seat), name="to_peer")
    await asyncio.wait((inward, outward), return_when=asyncio.FIRST_COMPLETED)
    for task in (inward, outward):
        task.cancel()
    for outcome in await asyncio.gather(inward, outward, return_exceptions=True):
        if isinstance(outcome, KernelGone | KernelMoved):
            await _say_goodbye(socket, outcome)
        elif isinstance(outcome, Exception) and not isinstance(outcome, ConnectionError):
            raise outcome


async def _from_peer(socket: web.WebSocketResponse, seat: Seat) -> None:
    async for received in socket:
        if received.type is not WSMsgType.BINARY:
            return
        message, header = framing.trusted(received.data)
        await seat.send(message, header)


async def _to_peer(socket: web.WebSocketResponse, seat: Seat) -> None:
    while True:
        await socket.send_bytes(join(await seat.frames()))


async def _say_goodbye(socket: web.WebSocketResponse, error: Exception) -> None:
    code = CLOSE_MOVED if isinstance(error, KernelMoved) else CLOSE_GONE
    await socket.close(code=code, message=str(error).encode()[:120])
