"""Jupyter Server's kernels API, as the owner serves it.

Formats and status codes are jupyter_server's (`services/kernels/handlers.py`, 2.21), read from its source.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiohttp import web
from jupyter_client.kernelspec import NoSuchKernel

from kernels.errors import DuplicateKernel, SpawnRefused, TooManyKernels
from kernels.tenant import Tenant
from server import app_keys, kernelspecs, workdir
from server.api_errors import ApiError, api_error, request_id
from server.owned import json_object, text_field
from server.request_keys import USER
from server.status import iso

KERNEL_ID: Final = r"{kernel_id:\w+-\w+-\w+-\w+-\w+}"


def kernel_model(tenant: Tenant) -> dict[str, Any]:
    """A kernel as clients see it."""
    kernel = tenant.kernel
    return {
        "id": tenant.record.kernel_id,
        "name": tenant.record.kernel_name,
        "last_activity": iso(kernel.last_activity),
        "execution_state": kernel.life.execution_state,
        "connections": kernel.connections,
    }


async def start(
    request: web.Request,
    *,
    name: str | None,
    path: str | None,
    kernel_id: str | None = None,
    notes: dict[str, Any] | None = None,
    takes_place: bool = False,
) -> Tenant:
    """Start a kernel for the request's user. Raises ApiError: 501 unknown kernelspec, 409 id taken, 503.

    `takes_place`: of another of the user's kernels, which the caller ends afterwards.

    429 when the user has too many: JupyterLab shows the message of any status, and takes only 403 for a lost login.

    A kernel whose id the client did not choose is named by the request, so a request that a worker's death made the
    entry worker repeat finds the kernel that it has started already.
    """
    house, settings, user = request.app[app_keys.HOUSE], request.app[app_keys.SETTINGS], request[USER]
    name = name or request.app[app_keys.KERNELSPECS].default
    if not kernelspecs.is_name(name):  # jupyter_client would log a line of its own
        raise _no_such_kernelspec(name)
    cwd = await asyncio.to_thread(workdir.start_directory, settings.notebooks, user, path)
    environment = workdir.kernel_environment(settings.kernel_env, cwd)
    chosen = kernel_id or request_id(request)
    try:
        await request.app[app_keys.KERNELSPECS].check(name)
        return await house.create(
            user, chosen, name, cwd=cwd, env=environment, notes=notes or {}, takes_place=takes_place
        )
    except NoSuchKernel as error:
        raise _no_such_kernelspec(name) from error
    except DuplicateKernel as error:
        if kernel_id is None:
            return await house.get(user, chosen)
        raise api_error(409, f"A kernel with the id {kernel_id} exists already") from error
    except TooManyKernels as error:
        raise api_error(429, error.reason) from error
    except (SpawnRefused, kernelspecs.UnusableSpec) as error:
        raise api_error(500, f"The kernel could not be started: {error}") from error


def _no_such_kernelspec(name: str) -> ApiError:
    sentence = f"The '{name}' kernel is not available. Pick another one, or install that kernel."
    return api_error(501, sentence, f"{name} not found")


async def list_kernels(request: web.Request) -> web.Response:
    """`GET /api/kernels`."""
    tenants = await request.app[app_keys.HOUSE].of(request[USER])
    return web.json_response([kernel_model(tenant) for tenant in tenants])


async def start_kernel(request: web.Request) -> web.Response:
    """`POST /api/kernels` with `{name?, path?, kernel_id?}`: 201 and where the kernel is."""
    model = await json_object(request) or {}
    kernel_id = text_field(model, "kernel_id")
    if kernel_id is not None and not workdir.is_kernel_id(kernel_id):
        raise api_error(400, "kernel_id must be a UUID in lower case")
    tenant = await start(request, name=text_field(model, "name"), path=text_field(model, "path"), kernel_id=kernel_id)
    location = f"/api/kernels/{tenant.record.kernel_id}"
    return web.json_response(kernel_model(tenant), status=201, headers={"Location": location})


async def get_kernel(request: web.Request) -> web.Response:
    """`GET /api/kernels/{kernel_id}`."""
    return web.json_response(kernel_model(await _tenant(request)))


async def delete_kernel(request: web.Request) -> web.Response:
    """`DELETE /api/kernels/{kernel_id}`: 204 once nothing of the kernel is left."""
    await request.app[app_keys.HOUSE].end(await _tenant(request), "deleted by its user")
    return web.Response(status=204)


async def interrupt_kernel(request: web.Request) -> web.Response:
    """`POST /api/kernels/{kernel_id}/interrupt`: 204."""
    await request.app[app_keys.HOUSE].interrupt(await _tenant(request))
    return web.Response(status=204)


async def restart_kernel(request: web.Request) -> web.Response:
    """`POST /api/kernels/{kernel_id}/restart`: the model, once the new process answers."""
    tenant = await _tenant(request)
    await request.app[app_keys.HOUSE].restart(tenant)
    return web.json_response(kernel_model(tenant))


async def _tenant(request: web.Request) -> Tenant:
    return await request.app[app_keys.HOUSE].get(request[USER], request.match_info["kernel_id"])
