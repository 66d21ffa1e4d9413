"""The internal site of a worker: a Unix socket for the other workers, and the guard in front of its handlers.

It owns the socket file and the decision who is let in. An identity is taken from a header only here, and only
when the kernel says that the caller has our uid, and the caller knows the per-host secret, which no client
and no Jupyter kernel can read. It never forwards: whoever is not the owner says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from sharding.hop import (
    BEHALF_HEADER,
    EPOCH_HEADER,
    HOP,
    PING_PATH,
    REFUSED_HEADER,
    REQUEST_HEADER,
    SECRET_HEADER,
    USER_HEADER,
    Hop,
)
from sharding.membership import Membership

BACKLOG = 1024
KEEPALIVE_S = 3600.0
"""Far longer than a caller uses an idle connection (wire.IDLE_S), so that it is never this side which closes
one in the moment of its use."""
ADDRESS_MAX = 107
"""Bytes of a Unix socket's path on Linux (unix(7): sun_path less its end)."""
USER_MAX = 255

_PEERCRED = struct.Struct("3i")


async def serve_peers(app: web.Application, address: Path, *, drain_s: float = 5.0) -> web.AppRunner:
    """Serve `app` on a Unix socket (0600, in a directory 0700, made if missing). Returns the runner.

    `await runner.cleanup()` ends it, after at most `drain_s` for handlers that still run, and removes the
    socket file. Raises ValueError when the path is too long.
    """
    if len(os.fsencode(address)) > ADDRESS_MAX:
        raise ValueError(f"the socket path is longer than {ADDRESS_MAX} bytes: {address}")
    listener = await asyncio.to_thread(_listener, address)

    async def remove(_: web.Application) -> None:
        await asyncio.to_thread(address.unlink, missing_ok=True)

    app.on_cleanup.append(remove)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=KEEPALIVE_S, shutdown_timeout=drain_s)
    await runner.setup()
    await web.SockSite(runner, listener, backlog=BACKLOG).start()
    return runner


def peer_guard(secret: str, membership: Membership) -> Middleware:
    """The middleware that lets peers in, and sets `request[HOP]`.

    403: another uid or a wrong secret. 400: no valid hop headers. 421 with the epoch: not the owner of
    this user, even after a look at the newest ring. `/peer/ping` needs no user.
    """
    uid, expected = os.geteuid(), secret.encode()
    uids: WeakKeyDictionary[object, int | None] = WeakKeyDictionary()  # of connections; they do not change

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get(SECRET_HEADER, "").encode("utf-8", "surrogateescape")
        if _uid_of(request.transport, uids) != uid or not hmac.compare_digest(given, expected):
            return _refusal(403, "not a peer")
        if request.path == PING_PATH:
            me = membership.me
            return web.json_response({"boot": me.boot if me else None, "epoch": membership.ring.epoch})
        hop = _read_hop(request.headers)
        if hop is None:
            return _refusal(400, "no valid hop headers")
        if hop.epoch > membership.ring.epoch:
            await membership.refresh(at_least=hop.epoch)
        if not membership.owns(hop.user):
            return not_owner(membership.ring.epoch)
        request[HOP] = hop
        return await handler(request)

    return guard


def _listener(address: Path) -> socket.socket:
    address.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    address.parent.chmod(0o700)
    # The name is this process's own, so what lies there was left by a dead one.
    address.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(address))
        address.chmod(0o600)  # nobody else gets into the directory before this either
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _uid_of(transport: asyncio.BaseTransport | None, known: WeakKeyDictionary[object, int | None]) -> int | None:
    """As `_peer_uid`, but each connection is asked about once: it is asked for with every request."""
    if transport is None:
        return None
    if transport not in known:
        known[transport] = _peer_uid(transport)
    return known[transport]


def _peer_uid(transport: asyncio.BaseTransport) -> int | None:
    """Whom the kernel saw connecting; None when the connection is not a Unix socket (any more)."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family != socket.AF_UNIX:
        return None
    with contextlib.suppress(OSError):
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
        return int(_PEERCRED.unpack(credentials)[1])
    return None


def _read_hop(headers: Mapping[str, str]) -> Hop | None:
    try:
        user = unquote(headers[USER_HEADER], errors="strict")
        request_id = unquote(headers[REQUEST_HEADER], errors="strict")
        behalf = unquote(headers.get(BEHALF_HEADER, ""), errors="strict")
        epoch = int(headers[EPOCH_HEADER])
    except (KeyError, ValueError):
        return None
    return Hop(user, request_id, epoch, behalf) if 0 < len(user) <= USER_MAX else None


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status, headers={REFUSED_HEADER: "1"})


def not_owner(epoch: int) -> web.Response:
    """The answer that makes the caller resolve again, at `epoch` or later."""
    body = {"message": "this worker does not own the user", "reason": "not owner"}
    return web.json_response(body, status=421, headers={EPOCH_HEADER: str(epoch)})
