"""One writer for each user, on this whole host; and what a writer must know of the one before.

During a takeover the worker that owned a user may still be writing, and a worker that hung may wake with a save in its
hands. So whoever writes holds an flock on the user's file in the runtime directory, which ends with its process, and
notes its epoch there: a writer with a lower epoch than the last one's is refused before it touches anything.

The same file says what was being done. A request that was in flight when its worker died is sent again to the next
owner under the same id: what it has done already ("made Untitled3.ipynb") is then not done a second time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
import structlog

from kernels.errors import ClaimRefused
from server.api_errors import api_error

log = structlog.get_logger(__name__)

LOCK_S: Final = 5.0
RETRY_S: Final = 0.02
MAX_INTENTS: Final = 16  # of one user, from newest: a request is sent again within seconds or never
MAX_UPLOADS: Final = 8
MAX_BYTES: Final = 256 * 1024


@dataclass(slots=True)
class Ledger:
    """What the file says. `uploads`: path -> (last chunk taken, bytes so far)."""

    fd: int
    epoch: int = 0
    intents: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, tuple[int, int]] = field(default_factory=dict)

    def intend(self, request: str | None, path: str) -> None:
        """Note, before it is done, that `request` is about to make, move or remove `path`.

        Another request's note about `path` is void from here on: its worker was killed between the note and the work,
        so what will be at `path` is not its own. Else both would be told that they had made the same file.
        """
        if request is not None:
            self.intents = {other: theirs for other, theirs in self.intents.items() if theirs != path}
            self.intents[request] = path
            while len(self.intents) > MAX_INTENTS:
                del self.intents[next(iter(self.intents))]
            self.keep()

    def intended(self, request: str | None) -> str | None:
        """The path that `request` was about to change when its worker ended; None for a new request."""
        return self.intents.get(request) if request is not None else None

    def keep(self) -> None:
        """Write it down. The file is small and the page cache outlives us; it need not outlive the machine."""
        text = orjson.dumps({"epoch": self.epoch, "intents": self.intents, "uploads": self.uploads})
        os.pwrite(self.fd, text.ljust(os.fstat(self.fd).st_size), 0)
        os.ftruncate(self.fd, len(text))


def ledger_path(folder: Path, user: str) -> Path:
    """The user's file."""
    return folder / hashlib.sha256(user.encode()).hexdigest()[:40]


@contextmanager
def held(path: Path, epoch: int) -> Iterator[Ledger]:
    """Hold the user's lock. Blocks for LOCK_S at most: for a thread. Raises a 503 ApiError, ClaimRefused."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _lock(fd)
        ledger = _read(fd)
        if epoch < ledger.epoch:
            raise ClaimRefused("another worker has written to this user's files since", ledger.epoch)
        if epoch > ledger.epoch:
            ledger.epoch = epoch
            ledger.keep()
        yield ledger
    finally:
        os.close(fd)  # and with it the lock


def _lock(fd: int) -> None:
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                sentence = "Your files are being written by another worker. Try again in a moment."
                raise api_error(503, sentence, "locked", headers={"Retry-After": "1"}) from None
            time.sleep(RETRY_S)
        else:
            return


def _read(fd: int) -> Ledger:
    text = os.pread(fd, MAX_BYTES, 0)
    if not text.strip():
        return Ledger(fd)
    try:
        told: dict[str, Any] = orjson.loads(text)
        uploads = {path: (n, size) for path, (n, size) in told["uploads"].items()}
        return Ledger(fd, told["epoch"], told["intents"], uploads)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        log.warning("contents_ledger_unreadable", why=repr(error))
        return Ledger(fd)
