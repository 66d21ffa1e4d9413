"""Whole installations for tests: gunicorn with four workers, nursery, Redis; afterwards the proof that nothing is left.

`stack` is for tests that only use it: all of them share one. Those that kill workers share `rough_stack`, and those
that want other settings, or break more than workers, take `new_stack` (and `redis`, which that one talks to). All are
looked over at the end: no process, no file in the runtime directory, no Redis key that has no business there.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import redis as redis_client

from local.stack import Stack
from tests.redis_server import RedisServer

NewStack = Callable[..., Stack]

LEFT_FILES: Final = {"host", "secret", "c", "k", "w", "static", "nursery.lock", "nursery.log"}
# The epoch outlives the members for an hour (sharding/keys.py), login records as long as their cookies.
LEFT_KEYS: Final = ("{kernelring:*}:ring", "{kernelring}:session:*", "{kernelring}:logout:*")
GONE_S: Final = 5.0
LEAN: Final = {"KERNELRING_PRELOAD": "none"}
"""Settings of installations whose kernels need no pandas: they are there in half the time."""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis to break."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """Four workers that many tests use and none breaks."""
    with RedisServer() as server, running(server) as shared:
        yield shared
        assert complaints(shared) == []


@pytest.fixture(scope="package")
def _rough_stack() -> Iterator[Stack]:
    with RedisServer() as server, running(server) as shared:
        yield shared


@pytest.fixture
def rough_stack(_rough_stack: Stack) -> Iterator[Stack]:
    """Four workers that a test may kill; afterwards there are four again, and no kernel is left for the next test."""
    yield _rough_stack
    all_again(_rough_stack)
    assert _rough_stack.nursery()["kernels"] == 0


def all_again(stack: Stack) -> None:
    """Wait until each place of a worker is taken by one that lives, and is in the ring."""

    def registered() -> bool:
        running = set(stack.worker_pids())
        return len(running) == stack.workers and running <= {one["pid"] for one in stack.events("worker_registered")}

    stack.wait(registered, f"{stack.workers} workers in the ring")
    stack.wait_ready()


@pytest.fixture
def new_stack(redis: RedisServer) -> Iterator[NewStack]:
    """Start an installation to break: `new_stack(workers=4, settings={…})`, on the Redis of `redis`."""
    with ExitStack() as opened:
        yield lambda **options: opened.enter_context(running(redis, **options))


@contextmanager
def running(redis: RedisServer, **options: Any) -> Iterator[Stack]:
    """An installation, and afterwards the proof that nothing of it is left."""
    stack = Stack(redis.url, **options)
    try:
        with stack:
            yield stack
            stack.stop_gunicorn()
            stack.stop_kernels()
            stack.wait(lambda: not processes_of(stack), "the end of its processes", GONE_S)
            assert files_of(stack) == []
    finally:
        assert processes_of(stack) == []
    assert keys_in(redis) == []


def warmed(stack: Stack) -> None:
    """Wait until kernels start in a moment: for those whose time counts from its beginning."""
    stack.wait(lambda: stack.nursery()["zygote"]["ready"], "the zygote")


def complaints(stack: Stack) -> list[dict[str, Any]]:
    """What the log calls an error."""
    return [event for event in stack.events() if event.get("level") in ("error", "critical")]


def processes_of(stack: Stack) -> list[str]:
    """Processes whose command, environment or working directory names the installation's directory."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            told += os.fsencode((process / "cwd").readlink())
        except OSError:  # it has ended, or is not ours
            continue
        if os.fsencode(stack.directory) in told:
            found.append(f"{process.name} {(told.replace(bytes(1), b' ')[:120]).decode(errors='replace')}")
    return found


def files_of(stack: Stack) -> list[str]:
    """Sockets, kernels and other files in the runtime directory that should be gone."""
    runtime = stack.runtime
    top = {path.name for path in runtime.iterdir()} - LEFT_FILES
    return sorted(top | {str(path) for folder in ("k", "w") for path in (runtime / folder).rglob("*")})


def keys_in(redis: RedisServer) -> list[str]:
    """Keys that should be gone, and keys that would stay for ever."""
    if not redis.running:
        return []
    with redis_client.Redis.from_url(redis.url, decode_responses=True) as client:
        keys = list(client.scan_iter())
        known = {key for key in keys if any(fnmatch.fnmatchcase(key, pattern) for pattern in LEFT_KEYS)}
        return [key for key in keys if key not in known or client.ttl(key) == -1]
