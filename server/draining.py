"""How a worker stops, so that nobody notices: in which order, and while its clients can still be heard.

Owns the order alone; each step is a method of whoever it is about.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

import structlog
from aiohttp import web

from server import app_keys
from server.arbiter import ARBITER
from server.channels import close_sockets
from server.frontend.events import close_events
from sharding.membership import Membership

log = structlog.get_logger(__name__)

KEEPALIVE_S: Final = 75.0  # longer than the 60 s after which common proxies drop an idle connection
SUPERSEDED_S: Final = 8.0  # how long a worker waits in a reload for the one that takes its place
CLIENTS_S: Final = 2.0  # how long the last owner waits for the entry workers of its clients
HAND_OVER_S: Final = 3.0  # how long a stopping worker waits for the others to take its kernels


class DrainingRunner(web.AppRunner):
    """An application that drains while its clients can still be heard.

    aiohttp's own `cleanup` first marks every connection as closing, drops unread what comes on it from then on
    (`RequestHandler.data_received`, 3.14), and runs `on_shutdown` after that: what clients send then would be lost.
    """

    def __init__(self, app: web.Application, *, generation: int, graceful_s: float) -> None:
        self._generation = generation  # of this worker
        super().__init__(
            app,
            logger=logging.getLogger("gunicorn.error"),
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            shutdown_timeout=graceful_s / 2,  # aiohttp waits twice for so long
        )

    async def cleanup(self) -> None:
        """Accept no more, drain, and then as aiohttp does."""
        for site in list(self.sites):
            await site.stop()
        if self.server:
            await drain(self.app, self._generation)
        await super().cleanup()


async def drain(app: web.Application, generation: int) -> None:
    """Say that we stop, leave the ring, hand the kernels over, send the clients away.

    In a reload the ring is left by being replaced: a worker that went before its successor is there would move its
    users to others, and then once more. When nobody is left to take the kernels, the clients go first: how far each has
    come is told to the kernels, by the owner, who therefore waits for the entry workers that stop with it. Ends within
    `SUPERSEDED_S + HAND_OVER_S` and what `close_sockets` takes (8.5 s at the most), below gunicorn's graceful timeout:
    a stream still open then would be cut with SIGKILL, and nothing after it would run.
    """
    app[app_keys.STATUS].draining = True
    membership, house = app[app_keys.MEMBERSHIP], app[app_keys.HOUSE]
    if ARBITER.generation > generation:
        await _superseded(membership)
    await membership.leave()
    await house.handed_over(HAND_OVER_S, lambda: bool(membership.ring.members))
    if not membership.ring.members:
        await close_sockets(app)
        await house.left_by_clients(CLIENTS_S)
    house.drop_all("this worker stops")
    await close_sockets(app)
    await close_events(app)
    log.info("worker_drained", kernels_left=house.holding)


async def _superseded(membership: Membership) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(SUPERSEDED_S):
            while (me := membership.me) is not None:
                newer = sum(member.generation > me.generation for member in membership.ring.members)
                if newer >= ARBITER.n_slots:  # all are there, and have taken other places than this one's
                    return
                await membership.wait_newer(membership.ring.epoch, SUPERSEDED_S)
