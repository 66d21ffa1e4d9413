"""Whether this worker is well, for platforms and people: `/healthz` and `/readyz`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from aiohttp import web

from kernels.nursery_client import NurseryClient
from server import app_keys
from sharding.membership import Membership


@dataclass(slots=True)
class Status:
    """When this worker started, and whether it is on its way out."""

    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    draining: bool = False


async def healthz(request: web.Request) -> web.Response:
    """200 as long as the process answers at all."""
    del request
    return web.json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """200 when this worker can serve; 503 when it cannot. The JSON says what is and what is not in order.

    `status` is `ready`, `degraded` (serves, on the last ring, while Redis is away), `starting` or `draining`.
    """
    membership, nursery = request.app[app_keys.MEMBERSHIP], request.app[app_keys.NURSERY]
    checks = _checks(membership, nursery)
    status = _status(checks, draining=request.app[app_keys.STATUS].draining)
    ring = membership.ring
    body = {
        "status": status,
        "checks": checks,
        "worker": membership.me.name if membership.me else None,
        "epoch": ring.epoch,
        "members": [member.name for member in ring.members],
        "kernels": request.app[app_keys.HOUSE].holding,
        "confinement": nursery.confinement or "unknown",
    }
    return web.json_response(body, status=200 if status in ("ready", "degraded") else 503)


def _checks(membership: Membership, nursery: NurseryClient) -> dict[str, bool]:
    me = membership.me
    return {
        "redis": membership.state == "joined",
        "lease_held": membership.lease_held,
        "in_ring": me is not None and membership.ring.member(me.boot) is not None,
        "nursery": nursery.connected,
    }


def _status(checks: dict[str, bool], *, draining: bool) -> str:
    if draining:
        return "draining"
    if not checks["in_ring"] or not checks["nursery"]:
        return "starting"
    return "ready" if checks["redis"] and checks["lease_held"] else "degraded"


def iso(moment: datetime) -> str:
    """ISO 8601 with microseconds and Z: the gateway client parses `%Y-%m-%dT%H:%M:%S.%fZ`."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
