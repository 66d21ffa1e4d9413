"""The application of one worker: what it is made of, in the order in which it starts and stops.

`create_app` is the factory that gunicorn calls in each worker. Reading top to bottom is starting; stopping is bottom to
top, after `server/draining.py`, which comes first.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from typing import Any, Final

import structlog
import zmq
from aiohttp import web
from redis.asyncio import Redis

from kernels.culling import Culler, Limits
from kernels.errors import ClaimRefused, KernelMoved, NurseryUnavailable
from kernels.house import House
from kernels.house_rules import HouseOptions
from kernels.nursery_client import NurseryClient
from server import about_api, app_keys, home, kernels_api, kernelspecs, sessions_api, status, users_api
from server.api_errors import json_errors
from server.arbiter import ARBITER, heed_signals
from server.channels import channels
from server.confinement import Identities
from server.contents import routes as contents_routes
from server.contents.contents import Contents, Places
from server.cross_origin import setup_cross_origin
from server.disk_watch import DiskWatch
from server.draining import DrainingRunner
from server.execution import api as execution_api
from server.execution.executions import Executions
from server.execution.following import followed, peer_events
from server.frontend import ahead, events, nbconvert
from server.frontend.frontend import FRONTEND, Frontend, front_ends
from server.frontend.routes import ROUTES
from server.host import Host
from server.identity import setup_identity
from server.limits import bounds_of
from server.login_session import derive_session_key
from server.owned import Handler, local, owned
from server.ownership import Ownership, unavailable
from server.peer_channels import peer_channels
from server.request_keys import ACTOR, REQUEST_ID, USER
from server.roles import Claims
from server.settings import Settings
from server.tokens import TokenVerifier
from server.users_api import OTHERS, for_others, for_peers
from sharding.hop import HOP
from sharding.member import Candidate
from sharding.membership import Membership
from sharding.peer_site import not_owner, peer_guard, serve_peers
from sharding.peers import Peers
from sharding.registry import Registry

log = structlog.get_logger(__name__)

ZMQ_SOCKETS: Final = 16_384  # 4 for each kernel; libzmq's default of 1023 ends at about 200 kernels

# What a user's owner answers, for clients and for peers alike.
KERNEL: Final = f"/api/kernels/{kernels_api.KERNEL_ID}"
SESSION: Final = f"/api/sessions/{sessions_api.SESSION_ID}"
OWNED: Final[list[tuple[str, str, Handler]]] = [
    ("GET", "/api/status", about_api.status),
    ("GET", "/api/kernels", kernels_api.list_kernels),
    ("POST", "/api/kernels", kernels_api.start_kernel),
    ("GET", KERNEL, kernels_api.get_kernel),
    ("DELETE", KERNEL, kernels_api.delete_kernel),
    ("POST", f"{KERNEL}/interrupt", kernels_api.interrupt_kernel),
    ("POST", f"{KERNEL}/restart", kernels_api.restart_kernel),
    ("GET", f"{KERNEL}/execute", execution_api.list_requests),
    ("DELETE", f"{KERNEL}/requests/{execution_api.REQUEST_ID}", execution_api.cancel_request),
    ("POST", f"{KERNEL}/input", execution_api.give_input),
    ("GET", "/api/sessions", sessions_api.list_sessions),
    ("POST", "/api/sessions", sessions_api.create_session),
    ("GET", SESSION, sessions_api.get_session),
    ("PATCH", SESSION, sessions_api.patch_session),
    ("DELETE", SESSION, sessions_api.delete_session),
    *contents_routes.OWNED,
]

# Of these the entry worker follows what becomes of them, if it is asked to.
REQUEST: Final = f"{KERNEL}/requests/{execution_api.REQUEST_ID}"
FOLLOWED: Final[list[tuple[str, str, Handler]]] = [
    ("POST", f"{KERNEL}/execute", execution_api.execute),
    ("GET", REQUEST, execution_api.get_request),
]

# What any worker answers by itself.
ANYWHERE: Final[list[tuple[str, str, Handler]]] = [
    ("GET", "/", home.home),
    ("GET", "/healthz", status.healthz),
    ("GET", "/readyz", status.readyz),
    ("GET", "/api", about_api.version),
    ("GET", "/api/me", about_api.me),
    ("GET", "/api/users", users_api.list_users),
    ("GET", "/api/kernelspecs", kernelspecs.list_kernelspecs),
    ("GET", f"/api/kernelspecs/{kernelspecs.NAME}", kernelspecs.get_kernelspec),
    ("GET", f"/kernelspecs/{kernelspecs.NAME}/{{file:.+}}", kernelspecs.kernelspec_file),
    ("GET", f"{KERNEL}/channels", channels),
    *ROUTES,
]


async def create_app() -> web.AppRunner:
    """Return the application of this worker, configured from the environment, in a runner that stops it in order."""
    heed_signals()
    settings = Settings.from_environ(os.environ)
    generation = ARBITER.generation
    app = build_app(settings, Host.open(settings.runtime_dir), generation)
    return DrainingRunner(app, generation=generation, graceful_s=settings.graceful_s)


def build_app(settings: Settings, host: Host, generation: int) -> web.Application:
    """Put the application together. Nothing is connected before it starts. `generation`: of this worker."""
    # No timeout of its own: with one, redis-py drops a cancel now and then (before Python 3.12, cpython gh-86296), and
    # a stopping worker would wait for ever. Whoever calls bounds the call.
    redis = Redis.from_url(settings.redis_url, socket_timeout=None, socket_connect_timeout=None)
    app = web.Application(client_max_size=settings.max_body_mib * 2**20)
    app[app_keys.SETTINGS] = settings
    app[app_keys.STATUS] = status.Status()
    app[app_keys.KERNELSPECS] = kernelspecs.Kernelspecs()
    app[app_keys.CONVERSATIONS] = set()
    app[FRONTEND] = Frontend(settings.notebooks, host.runtime / "static")
    app[events.EVENTS], app[nbconvert.EXPORTS] = {}, nbconvert.Exports()
    app[ahead.STARTING] = set()

    address = host.workers_dir / f"{os.getpid()}-{secrets.token_hex(4)}.sock"
    candidate = Candidate(host.id, str(address), generation, ARBITER.n_slots, os.getpid())
    peers = Peers(host.secret, lambda member: membership.suspect(member))  # noqa: PLW0108 - it is made below
    membership = Membership(
        Registry(redis, host.id, settings.lease_s), candidate, settings.beat_s, settings.lease_s, peers.probe
    )
    ownership = Ownership(membership)
    nursery = NurseryClient(
        host.nursery_socket,
        f"worker-{os.getpid()}",
        lambda event: house.on_event(event),  # noqa: PLW0108 - it is made below
    )
    context: zmq.Context[Any] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, ZMQ_SOCKETS)
    options = HouseOptions(
        host.kernels_dir,
        settings.backlog_mib * 2**20,
        settings.kernel_start_s,
        settings.recorder_mib,
        bounds_of(settings),
        settings.cell_minutes * 60,
    )
    house = House(nursery, context, ownership, options)
    app[app_keys.MEMBERSHIP], app[app_keys.OWNERSHIP], app[app_keys.PEERS] = membership, ownership, peers
    app[app_keys.NURSERY], app[app_keys.HOUSE] = nursery, house
    app[app_keys.IDENTITIES] = identities = Identities(settings, lambda: nursery.confinement)
    app[nbconvert.EXPORTS].walls = identities.walls
    places = Places(settings.notebooks, host.runtime / "c", settings.quota_mib, settings.course)
    app[app_keys.CONTENTS] = contents = Contents(places, lambda: membership.ring.epoch, identities.home)
    app[app_keys.EXECUTIONS] = Executions(house, lambda: membership.ring.epoch, contents)
    limits = Limits(settings.idle_minutes * 60, settings.life_hours * 3600)
    culler = Culler(house, nursery, lambda: ownership.claim()[1], limits, app[app_keys.EXECUTIONS])
    disk_watch = DiskWatch(house, identities.home, settings.notebooks, settings.quota_mib)
    app[app_keys.STOPPING] = asyncio.Event()

    async def redis_connection(_: web.Application) -> AsyncIterator[None]:
        yield
        await redis.aclose()

    async def peer_connections(_: web.Application) -> AsyncIterator[None]:
        membership.listen(peers.follow)
        yield
        await peers.close()

    async def kernels_of_mine(_: web.Application) -> AsyncIterator[None]:
        await nursery.start()
        ownership.follow(house)
        house.start()
        culler.start()
        disk_watch.start()
        yield
        await disk_watch.stop()
        await culler.stop()
        await app[app_keys.EXECUTIONS].stop()
        await house.stop()
        await nursery.close()
        context.destroy(linger=0)

    async def files(_: web.Application) -> AsyncIterator[None]:
        yield
        await contents.close()

    async def internal_socket(_: web.Application) -> AsyncIterator[None]:
        runner = await serve_peers(_peer_app(app, membership, host.secret), address)
        try:
            yield
        finally:  # also when the rest of the start fails: its file is nobody else's to remove
            await runner.cleanup()

    async def place_in_the_ring(_: web.Application) -> AsyncIterator[None]:
        await membership.start()
        yield
        await membership.stop()

    setup_cross_origin(app, settings.allow_origin)
    setup_identity(
        app,
        verifier=TokenVerifier(
            secret=settings.jwt_secret,
            jwks_url=settings.jwks_url,
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
            claims=Claims(settings.role_claim, settings.students_claim),
        ),
        redis=redis,
        session_key=derive_session_key(settings.session_secret or settings.jwt_secret or host.secret),
        hours=settings.session_hours,
        guests=settings.guests,
        behind_tls=settings.behind_tls,
    )
    home.add_static(app)
    app.router.add_routes([web.route(method, path, handler) for method, path, handler in ANYWHERE])
    app.router.add_routes([web.route(method, path, owned(handler)) for method, path, handler in OWNED])
    app.router.add_routes([web.route(method, path, for_others(handler)) for method, path, handler in OTHERS])
    app.router.add_routes([web.route(method, path, followed(owned(handler))) for method, path, handler in FOLLOWED])
    app.on_shutdown.append(_end_streams)
    app.cleanup_ctx.append(redis_connection)
    app.cleanup_ctx.append(peer_connections)
    app.cleanup_ctx.append(files)
    app.cleanup_ctx.append(kernels_of_mine)
    app.cleanup_ctx.append(front_ends)
    app.cleanup_ctx.append(ahead.starts_ahead)
    app.cleanup_ctx.append(internal_socket)
    app.cleanup_ctx.append(place_in_the_ring)  # last: a member whose socket refuses counts as dead
    return app


def _peer_app(app: web.Application, membership: Membership, secret: str) -> web.Application:
    """The application on this worker's internal socket: the owner's handlers, for peers only."""
    guard = peer_guard(secret, membership)
    max_body = app[app_keys.SETTINGS].max_body_mib * 2**20
    inner = web.Application(middlewares=[json_errors, guard, _hop_identity], client_max_size=max_body)
    inner[app_keys.SETTINGS], inner[app_keys.STATUS] = app[app_keys.SETTINGS], app[app_keys.STATUS]
    inner[app_keys.KERNELSPECS], inner[app_keys.HOUSE] = app[app_keys.KERNELSPECS], app[app_keys.HOUSE]
    inner[app_keys.IDENTITIES] = app[app_keys.IDENTITIES]
    inner[app_keys.CONTENTS], inner[app_keys.EXECUTIONS] = app[app_keys.CONTENTS], app[app_keys.EXECUTIONS]
    inner.router.add_routes([web.route(method, path, _answered(handler)) for method, path, handler in OWNED + FOLLOWED])
    others = [web.route(method, path, _answered(for_peers(handler))) for method, path, handler in OTHERS]
    inner.router.add_routes(others)
    inner.router.add_get(f"{REQUEST}/events", _answered(peer_events))
    inner.router.add_get(f"{KERNEL}/channels", _answered(peer_channels))
    return inner


async def _end_streams(app: web.Application) -> None:
    app[app_keys.STOPPING].set()


def _answered(handler: Handler) -> Handler:
    """A handler for peers: what makes the entry worker resolve again is said in the hop's own words."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await local(request, handler)
        except (ClaimRefused, KernelMoved) as error:
            epoch = error.epoch if isinstance(error, ClaimRefused) else request[HOP].epoch
            return not_owner(epoch)
        except NurseryUnavailable as error:
            raise unavailable(error) from error

    return answer


@web.middleware
async def _hop_identity(request: web.Request, handler: Handler) -> web.StreamResponse:
    """On the internal socket a request is for whom the hop says; the guard has checked who sent it."""
    if hop := request.get(HOP):
        request[USER], request[REQUEST_ID], request[ACTOR] = hop.user, hop.request_id, hop.behalf
    return await handler(request)
