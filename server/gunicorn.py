"""gunicorn's settings: `gunicorn -c python:server.gunicorn server.app:create_app`.

Read once, in the arbiter, before anything is opened: a bad setting ends the start with one sentence and exit
code 2. The hooks below prepare the host before the first worker is forked and tell the ring at once when a
worker has died. Nothing here serves a request, and nothing here ends a kernel: the nursery outlives gunicorn.
"""

import gc
import importlib
import os
import resource
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import structlog

from kernels import nursery_call
from kernels.confine import host as offered
from kernels.confine.host import Report
from kernels.errors import NurseryUnavailable
from kernels.supervisor import ensure_nursery
from kernels.warmth import Warmth
from server import bind as binding
from server import log
from server.arbiter import ARBITER, hold_signals
from server.confinement import lets_anybody_in, options_of
from server.host import Host, HostError
from server.settings import Settings, SettingsError
from sharding.deathwatch import evict_child

NURSERY_START_S = 10.0
SHARED_IMPORTS = (
    "aiohttp_session",
    "jupyter_server.services.contents.largefilemanager",
    "jwt",
    "server.frontend.packages",
    "uhashring",
)
REFUSED = 2  # exit code: started in a way that cannot work; a restart would not help


def _refuse(problem: Exception) -> NoReturn:
    """End the start with one sentence and no traceback."""
    print(problem, file=sys.stderr, flush=True)
    sys.exit(REFUSED)


try:
    _settings = Settings.from_environ(os.environ)
    _options = options_of(_settings)
    _report, _ = offered.probe(_options, _settings.runtime_dir)
    bind = binding.addresses(_settings, _report)
except SettingsError as problem:
    _refuse(problem)
log.configure(_settings.log_level, _settings.log_format)
_log = structlog.get_logger(__name__)

# The names below are gunicorn's.
worker_class = "aiohttp.GunicornUVLoopWebWorker"
workers = _settings.web_concurrency
backlog = 2_048
keepalive = 75  # seconds; longer than the 60 s after which common proxies drop an idle connection
timeout = 30  # seconds without a worker's own heartbeat after which the arbiter ends it
graceful_timeout = _settings.graceful_s
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a disk could stall beats
control_socket_disable = True  # its default place is in the user's home; signals do all that is needed
proc_name = "kernelring"
logger_class = log.GunicornLog


def on_starting(server: Any) -> None:
    """Before sockets and workers: the runtime directory, descriptors for all kernels, and the nursery."""
    _check_reach(server.cfg.address)
    _check_redis(server.cfg.address)
    try:
        host = Host.open(_settings.runtime_dir)
        host.sweep_sockets()
        _raise_descriptor_limit()
        warmth = Warmth(_settings.preload, _settings.spares)
        with _imported():
            ensure_nursery(host.runtime, _settings.nursery_grace_s, NURSERY_START_S, warmth, _options)
        _say_confinement(nursery_call.ask(host.runtime, "status", NURSERY_START_S), server.cfg.address)
    except (HostError, NurseryUnavailable) as problem:
        _refuse(problem)
    server.kernelring_host = host
    ARBITER.generation = time.time_ns()
    if not (_settings.jwt_secret or _settings.jwks_url):
        _log.warning("nobody_can_log_in", why="neither KERNELRING_JWT_SECRET nor KERNELRING_JWKS_URL is set")


@contextmanager
def _imported() -> Iterator[None]:
    """Import, in a thread beside what the body waits for, what all workers need and is none of our own code.

    Once, and before they are forked: each of them would take half a second of a processor for it, and 40 MiB. (One
    name is ours, of a file that only imports.)
    """
    importing = threading.Thread(target=lambda: [importlib.import_module(name) for name in SHARED_IMPORTS])
    importing.start()
    try:
        yield
    finally:
        importing.join()  # a fork beside a thread that imports would leave locks that nobody opens


def when_ready(server: Any) -> None:
    """Sockets are bound and no worker runs yet: check those that a parent handed down, too."""
    _check_reach([listener.getsockname() for listener in server.LISTENERS])


def on_reload(_server: Any) -> None:
    """HUP: the workers forked from now on are a newer generation and may take the slots of the older."""
    ARBITER.generation = time.time_ns()


def pre_fork(server: Any, _worker: Any) -> None:
    """Before each fork, also after TTIN and TTOU: the worker reads its copy of ARBITER.

    What is imported by now lives as long as the process. The collector of garbage need not look at it in a worker: it
    would write to each object, so that the memory would no longer be shared, and at the end of a worker that alone
    would take more of a processor than its start.
    """
    gc.freeze()
    ARBITER.n_slots = server.num_workers
    hold_signals()


def child_exit(server: Any, worker: Any) -> None:
    """A worker has ended, however: free its place in the ring at once, and remove the socket that a killed one leaves.

    An error here would stop gunicorn.
    """
    try:
        evict_child(_settings.redis_url, server.kernelring_host.id, worker.pid)
        server.kernelring_host.sweep_sockets()
    except Exception:
        _log.exception("child_exit_failed", worker=worker.pid)


def on_exit(server: Any) -> None:
    """gunicorn ends, and has killed the workers that did not end in time: nobody sweeps after it."""
    server.kernelring_host.sweep_sockets(killed=server.WORKERS)


def _check_reach(names: Iterable[object]) -> None:
    """End the start if other machines could reach one of these sockets; the command line may name any."""
    hosts = _hosts(names)
    try:
        binding.refuse_beyond_loopback(_settings, _report, hosts, f"Listening on {', '.join(hosts)}")
    except SettingsError as problem:
        _refuse(problem)


def _say_confinement(status: dict[str, Any], names: Iterable[object]) -> None:
    """Log how kernels are confined, by the word of the nursery, which may have run before. End the start if it must.

    Root's groups go, for a thread that acts as a student keeps them; and as what a kernel makes, what such a thread
    makes is for nobody else to read.
    """
    global _report  # noqa: PLW0603 - until now it was what the host offers; from now on what there is
    layers = str(status.get("confinement", "none"))
    _report = Report(layers.partition("+")[0], tuple(layers.split("+")[1:]), tuple(status.get("missing", ())))
    _check_reach(names)
    if _report.level == "none":
        _log.warning("kernels_not_confined", missing="; ".join(_report.missing))
        return
    _log.info("kernels_confined", layers=layers, missing="; ".join(_report.missing))
    if os.geteuid() == 0:
        os.setgroups([])
    os.umask(0o077)


def _check_redis(names: Iterable[object]) -> None:
    """End the start if confined kernels of several users could all log in to Redis."""
    if _report.level == "none" or not lets_anybody_in(_settings.redis_url):
        return
    why = "REDIS_URL names a Redis without a password, which every kernel can reach: give it one (requirepass)"
    if binding.serves_several(_settings, _hosts(names)) and not _settings.unconfined:
        _refuse(SettingsError(f"{why}."))
    _log.warning("redis_is_open", why=why)


def _hosts(names: Iterable[object]) -> list[str]:
    return [str(name[0]) if isinstance(name, tuple) else f"unix:{name}" for name in names]


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
