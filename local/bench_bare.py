"""The floor of HTTP: one aiohttp handler that answers at once, under the gunicorn and the workers that the server has.

Owns that process. The answer is as long as the server's own, made anew for each request as there.
"""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import orjson
from aiohttp import web

from local import tied
from local.paths import ROOT
from local.readiness import readiness
from local.stack import READY_S, free_port


async def create_app() -> web.Application:
    """Return the application of one worker."""
    app = web.Application()
    app.router.add_get("/api/status", _status)
    app.router.add_get("/readyz", _status)
    return app


async def _status(request: web.Request) -> web.Response:
    del request
    now = datetime.now(UTC).isoformat()
    model = {"started": now, "last_activity": now, "connections": 0, "kernels": 0}
    return web.Response(body=orjson.dumps(model), content_type="application/json")


class BareServer:
    """`with BareServer(worker_class, workers) as bare:` answers at `bare.port`."""

    def __init__(self, worker_class: str, workers: int) -> None:
        self.port = free_port()
        self._command = [
            *(sys.executable, "-m", "gunicorn", "local.bench_bare:create_app"),
            *("--worker-class", worker_class, "--workers", str(workers), "--bind", f"127.0.0.1:{self.port}"),
            *("--keep-alive", "75", "--no-control-socket", "--log-level", "warning"),
        ]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(tied.command(self._command), cwd=ROOT, start_new_session=True)
        deadline = time.monotonic() + READY_S
        while not readiness(self.port)[0]:
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.__exit__(None, None, None)
                raise RuntimeError("the bare server did not start")
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
