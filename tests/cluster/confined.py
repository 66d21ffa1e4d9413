"""What the tests of confinement share: an installation that confines, students with a kernel, and what a cell tried."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kernels import nursery_call
from kernels.records import KernelRecord
from local.stack import Stack
from local.student import Student
from tests.cluster.conftest import running
from tests.redis_server import RedisServer

_TRY = """
import json as _json
def _tried(what):
    try:
        found = what()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"GOT {found!r}"[:300]
"""


@contextmanager
def confined_stack(**settings: str) -> Iterator[Stack]:
    """Two workers whose kernels are confined, and a Redis with a password. Skips where this machine cannot."""
    if os.geteuid() != 0:
        pytest.skip("only root can give each user a uid")
    with (
        RedisServer(password=secrets.token_hex(16)) as server,
        running(server, workers=2, confined=True, settings=settings) as stack,
    ):
        if (stack.readyz() or {}).get("confinement") == "none":
            pytest.skip(f"kernels cannot be confined here: {stack.events('kernels_not_confined')[-1]['missing']}")
        yield stack


@asynccontextmanager
async def student(stack: Stack, user: str, kernel: str | None = None) -> AsyncIterator[Student]:
    """A user with a kernel and a place at it."""
    async with Student(stack.url, stack.token(user)) as made:
        await made.start(kernel)
        try:
            await made.open()
            yield made
        finally:
            assert (await made.call("DELETE", f"/api/kernels/{made.kernel_id}"))[:2] == (204, None)


async def told(who: Student, code: str, within_s: float = 60.0) -> str:
    """What a cell printed."""
    outcome = await who.run(code, within_s)
    assert outcome.reply["status"] == "ok", outcome.reply
    return outcome.text.strip()


async def attempts(who: Student, tries: dict[str, str], setup: str = "") -> dict[str, str]:
    """What came of each expression: the error, or GOT and what it gave."""
    table = ", ".join(f"{name!r}: _tried(lambda: {code})" for name, code in tries.items())
    said = await told(who, f"{_TRY}\n{setup}\nprint(_json.dumps({{{table}}}))")
    found: dict[str, str] = json.loads(said.splitlines()[-1])  # IPython may have something to say before
    return found


def record(stack: Stack, who: Student) -> KernelRecord:
    """What the nursery knows of a student's kernel."""
    found: list[dict[str, Any]] = nursery_call.ask(stack.runtime, "list", 10)["records"]
    return next(KernelRecord.from_json(one) for one in found if one["kernel_id"] == who.kernel_id)


def status(pid: int) -> dict[str, str]:
    """The lines of /proc/<pid>/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
