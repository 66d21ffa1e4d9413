"""Installations at each level of confinement, as tests take them: the strongest is root's, the others any uid's.

Owns what each is started with, and the skip, with a sentence, where a machine does not offer it.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from local import own_uids
from local.paths import ROOT
from local.stack import Stack, as_uid
from tests.cluster.confined import confined_stack
from tests.cluster.conftest import running
from tests.redis_server import RedisServer

LEVELS: Final = ("uids", "namespaces", "landlock")
WITH_UIDS: Final = pytest.mark.parametrize("confining", ["uids"], indirect=True)
"""For a test of what only uids can give, or is the same at all, where `confining` is an installation at each level."""

NEEDED: Final = "import gunicorn, ipykernel, kernels.inside, server, zmq"


def plain_uid() -> int | None:
    """For `Stack(uid=…)`: one without any right, where that must be taken on; None where the tests have none."""
    if os.geteuid() != 0:
        return None
    uid = own_uids.claim()[0]
    try:
        tried = subprocess.run(
            [sys.executable, "-c", NEEDED], cwd=ROOT, capture_output=True, text=True, timeout=60, **as_uid(uid)
        )
    except PermissionError as error:
        pytest.skip(f"other users cannot run this Python, or enter {ROOT}: {error.strerror}")
    if tried.returncode:
        pytest.skip(f"other users cannot read this server: {tried.stderr.strip().splitlines()[-1]}")
    return uid


@contextmanager
def plain_stack(**settings: str) -> Iterator[Stack]:
    """Two workers that have no right of root's, and a Redis with a password: one uid, as on one's own machine."""
    uid = plain_uid()
    with (
        RedisServer(password=secrets.token_hex(16), uid=uid) as server,
        running(server, workers=2, uid=uid, settings=settings) as stack,
    ):
        yield stack


@contextmanager
def stack_at(level: str, **settings: str) -> Iterator[Stack]:
    """An installation that confines at this level and no other."""
    settings = {"KERNELRING_CONFINEMENT": level} | settings
    with confined_stack(**settings) if level == "uids" else plain_stack(**settings) as stack:
        if (found := level_of(stack)) != level:
            pytest.skip(f"this machine confines at {found}: {stack.nursery()['missing']}")
        yield stack


def level_of(stack: Stack) -> str:
    """How an installation confines, in a word of `LEVELS`."""
    return str((stack.readyz() or {})["confinement"].partition("+")[0])


def server_uid(stack: Stack) -> int:
    """Whose the server is, and all that it makes for itself."""
    return os.geteuid() if stack.uid is None else stack.uid
