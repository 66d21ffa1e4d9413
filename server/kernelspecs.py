"""Which kernels can be started: Jupyter Server's kernelspecs API.

Reads the kernelspecs that are installed on the host, through jupyter_client; any worker answers. The answer is kept for
some seconds, because looking means reading a dozen directories.
"""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpecManager, NoSuchKernel
from traitlets import TraitError

from kernels.confine.options import NONE
from server import app_keys
from server.api_errors import api_error

KEPT_S: Final = 10.0
NAME: Final = r"{name:[\w.-]+}"
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")


class Kernelspecs:
    """The installed kernelspecs, as `{name: {"resource_dir": …, "spec": {…}}}`."""

    default: str = NATIVE_KERNEL_NAME

    def __init__(self) -> None:
        self._manager = KernelSpecManager()
        self._kept: dict[str, Any] = {}
        self._until_s = 0.0

    async def all(self) -> dict[str, Any]:
        """Every kernelspec, at most ten seconds old."""
        if time.monotonic() >= self._until_s:
            self._kept = await asyncio.to_thread(self._manager.get_all_specs)
            self._until_s = time.monotonic() + KEPT_S
        return self._kept

    async def one(self, name: str) -> dict[str, Any]:
        """One kernelspec. Raises NoSuchKernel."""
        found = (await self.all()).get(name)
        if found is None:
            raise NoSuchKernel(name)
        return dict(found)

    async def check(self, name: str) -> None:
        """Return when a kernel can be started by this kernelspec. Raises NoSuchKernel, UnusableSpec."""
        try:
            spec = await asyncio.to_thread(self._manager.get_kernel_spec, name)
        except (OSError, TraitError, TypeError, ValueError) as error:
            raise UnusableSpec(f"kernel.json cannot be read: {error}") from error
        if not spec.argv:
            raise UnusableSpec("kernel.json names no program (argv is empty)")


class UnusableSpec(Exception):  # noqa: N818 - it says what is the matter
    """A kernelspec is there, and no kernel can be started by it; the text is a sentence."""


def is_name(text: str) -> bool:
    """Whether a kernelspec can be called so."""
    return _NAME.fullmatch(text) is not None


def spec_model(name: str, found: dict[str, Any], *, debugs: bool) -> dict[str, Any]:
    """A kernelspec as clients see it, with the addresses of its resource files.

    Unless it `debugs` it promises no debugger: JupyterLab's button for one goes by this, not by what a kernel says.
    """
    directory = Path(found["resource_dir"])
    resources = {}
    for file in ("kernel.js", "kernel.css"):
        if (directory / file).is_file():
            resources[file] = f"/kernelspecs/{name}/{file}"
    for logo in sorted(directory.glob("logo-*")):
        resources[logo.stem] = f"/kernelspecs/{name}/{logo.name}"
    spec = found["spec"]
    if not debugs:
        spec = spec | {"metadata": spec["metadata"] | {"debugger": False}}
    return {"name": name, "spec": spec, "resources": resources}


async def list_kernelspecs(request: web.Request) -> web.Response:
    """`GET /api/kernelspecs`."""
    kernelspecs = request.app[app_keys.KERNELSPECS]
    specs = await kernelspecs.all()
    debugs = _debugs(request)
    models = await asyncio.to_thread(
        lambda: {name: spec_model(name, found, debugs=debugs) for name, found in specs.items()}
    )
    return web.json_response({"default": kernelspecs.default, "kernelspecs": models})


async def get_kernelspec(request: web.Request) -> web.Response:
    """`GET /api/kernelspecs/{name}`."""
    name = request.match_info["name"]
    found = await _found(request, name)
    return web.json_response(await asyncio.to_thread(spec_model, name, found, debugs=_debugs(request)))


async def kernelspec_file(request: web.Request) -> web.StreamResponse:
    """`GET /kernelspecs/{name}/{file}`: a logo or script of the kernelspec. Only files of its own directory."""
    directory = Path((await _found(request, request.match_info["name"]))["resource_dir"])
    wanted = await asyncio.to_thread(_file_below, directory, request.match_info["file"])
    if wanted is None:
        raise api_error(404, "The kernelspec has no such file")
    return web.FileResponse(wanted, headers={"X-Content-Type-Options": "nosniff"})


def _file_below(directory: Path, name: str) -> Path | None:
    """The file `name`, with links followed, if that is one in `directory`."""
    try:
        root = directory.resolve()
        wanted = root.joinpath(name).resolve()
        return wanted if wanted.is_relative_to(root) and wanted.is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long a name; links in a ring; a null character
        return None


def _debugs(request: web.Request) -> bool:
    """Whether kernels may have a debugger: confined ones may not (`kernels/inside/confined.py`)."""
    return request.app[app_keys.NURSERY].confinement == NONE


async def _found(request: web.Request, name: str) -> dict[str, Any]:
    try:
        return await request.app[app_keys.KERNELSPECS].one(name)
    except NoSuchKernel as error:
        raise api_error(404, f"Kernel spec {name} not found") from error
