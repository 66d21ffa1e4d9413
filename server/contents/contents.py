"""Users' notebooks and files: the one way to them.

`Contents` owns who may touch which files when, and nothing of HTTP: each call is one operation for one user, done in a
thread. Writing operations take turns: in this worker by the user's desk, on this host by the ledger. What an operation
does with files is in `operations.py`; what the course adds is there, too. All of it is done as the user whose files
they are, where kernels are confined: what they made is theirs, and a link of theirs leads where they could go.

Raises ApiError for whatever is the caller's mistake, for a full disk, and for a lock that does not come free;
ClaimRefused when this worker is not the owner any more, which the handlers of `server/owned.py` know what to do with.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import structlog
from nbformat import NotebookNode

from kernels.errors import NurseryUnavailable
from server import workdir
from server.api_errors import ApiError, api_error
from server.confinement import Identity, as_user
from server.contents import operations, welcome
from server.contents.course import Course
from server.contents.desks import Desk, Desks
from server.contents.files import Files, Model
from server.contents.ledger import Ledger, held, ledger_path
from server.contents.operations import Room, Saved
from server.contents.paths import OURS
from server.contents.quota import Usage
from server.contents.refusals import answer

log = structlog.get_logger(__name__)
T = TypeVar("T")
Home = Callable[[str], tuple[Path, Identity | None]]

THREADS: Final = 16


class Opened(NamedTuple):
    """An opened regular file; the caller closes `fd`."""

    fd: int
    stat: os.stat_result


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are. `ledgers`: in the runtime directory; `quota_mib` 0: no limit; `course`: None for none."""

    notebooks: Path
    ledgers: Path
    quota_mib: int = 0
    course: Path | None = None


async def _nobody_asks(_: str) -> None:
    """What `Contents.on_opening` is until somebody wants to know."""


class Contents:
    """All users' files. `epoch`: of this worker's ring, which says whose turn it is between two workers.

    `home`: the user's directory and identity on this machine; called in threads.
    """

    def __init__(self, places: Places, epoch: Callable[[], int], home: Home) -> None:
        self._places, self._epoch, self._home = places, epoch, home
        self._course = Course(places.course, places.notebooks / OURS / "!course") if places.course else None
        self._desks = Desks(lambda user: Usage(places.notebooks / workdir.directory_name(user), places.quota_mib))
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="contents")
        self._writes: set[asyncio.Task[Any]] = set()
        self.on_opening: Callable[[str], Awaitable[None]] = _nobody_asks  # before a user's notebook is read
        self.on_saved: Callable[[str], None] = lambda _: None  # after one was saved

    async def close(self) -> None:
        """Wait for what is being written."""
        if self._writes:
            await asyncio.wait(self._writes)
        await asyncio.to_thread(self._threads.shutdown)

    # -- reading --------------------------------------------------------------------------------------------------

    async def get(
        self,
        user: str,
        path: str,
        *,
        content: bool = True,
        type: str | None = None,  # noqa: A002 - as jupyter_server's
        format: str | None = None,  # noqa: A002
        require_hash: bool = False,
    ) -> Model:
        """The model of a file, notebook or folder. An assignment that is opened is copied from the course first."""
        if content and (type == "notebook" or (type is None and path.endswith(".ipynb"))):
            await self.on_opening(user)
        asked = content and self._course is not None
        if asked and await self._read(user, lambda room: operations.is_only_offered(room, path)):
            await self._write(user, lambda room, _: operations.bring(room, path))
        options = {"content": content, "type": type, "format": format, "require_hash": require_hash}
        return await self._read(user, lambda room: operations.get(room, path, options))

    async def open_file(self, user: str, path: str) -> Opened:
        """Open a file for a download; the caller closes it."""
        return Opened(*await self._read(user, lambda room: operations.open_file(room, path)))

    async def identity(self, user: str) -> Identity | None:
        """Who the user is on this machine, for a process that works for them; None: whoever the server is."""
        return await self._in_thread(lambda: self._whereabouts(user)[1])

    async def checkpoints(self, user: str, path: str) -> list[Model]:
        """The checkpoints of a file."""
        return await self._read(user, lambda room: operations.checkpoints(room, path))

    # -- writing: `request` is the id under which a request that a worker's death cut short comes again ------------

    async def save(
        self, user: str, path: str, model: Model, *, request: str | None = None, replaces: str | None = None
    ) -> Saved:
        """Save a file, a notebook, a folder, or one chunk of an upload; a file only if it is the version `replaces`."""
        saved = await self._write(
            user, lambda room, ledger: operations.save(room, ledger, path, model, request, replaces)
        )
        if path.endswith(".ipynb"):
            self.on_saved(user)
        return saved

    async def new(self, user: str, folder: str, kind: str = "", ext: str = "", *, request: str | None = None) -> Model:
        """Make an empty file, notebook or folder with a name of our choice."""
        return await self._write(user, lambda room, ledger: operations.new(room, ledger, folder, kind, ext, request))

    async def copy(self, user: str, path: str, to: str, *, request: str | None = None) -> Model:
        """Copy a file or folder: into the folder `to`, or to that path."""
        return await self._write(user, lambda room, ledger: operations.copy(room, ledger, path, to, request))

    async def rename(self, user: str, path: str, to: str, *, request: str | None = None) -> Model:
        """Move a file or folder."""
        return await self._write(user, lambda room, ledger: operations.rename(room, ledger, path, to, request))

    async def delete(self, user: str, path: str, *, request: str | None = None) -> None:
        """Delete a file or an empty folder, and its checkpoints."""
        await self._write(user, lambda room, ledger: operations.delete(room, ledger, path, request))

    async def create_checkpoint(self, user: str, path: str) -> Model:
        """Keep a file as it is now."""
        return await self._write(user, lambda room, _: operations.create_checkpoint(room, path))

    async def restore_checkpoint(self, user: str, path: str, checkpoint: str) -> None:
        """Put a file back to what was kept."""
        await self._write(user, lambda room, _: operations.restore_checkpoint(room, path, checkpoint))

    async def delete_checkpoint(self, user: str, path: str, checkpoint: str) -> None:
        """Forget what was kept."""
        await self._write(user, lambda room, _: operations.delete_checkpoint(room, path, checkpoint))

    async def trust(self, user: str, path: str) -> None:
        """Trust what a notebook shows."""
        await self._write(user, lambda room, _: operations.trust(room, path))

    async def amend(self, user: str, path: str, change: Callable[[NotebookNode], bool]) -> bool:
        """Let `change` edit the notebook (in a thread), and write it when it returns True. Returns what it did."""
        return await self._write(user, lambda room, _: operations.amend(room, path, change))

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _read(self, user: str, work: Callable[[Room], T]) -> T:
        with self._desks.at(user) as desk:
            if not desk.is_settled:
                await self._settle(user, desk)
            async with desk.seats:
                return await self._in_thread(lambda: self._done(user, desk, work))

    async def _write(self, user: str, work: Callable[[Room, Ledger], T]) -> T:
        """Done to its end, even if whoever asked for it goes away: the turn must not pass on before."""
        epoch = self._epoch()  # before any waiting: a worker that hung meanwhile must find itself out of date
        task = asyncio.ensure_future(self._written(user, epoch, work))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return await asyncio.shield(task)

    async def _written(self, user: str, epoch: int, work: Callable[[Room, Ledger], T]) -> T:
        with self._desks.at(user) as desk:
            if not desk.is_settled:
                await self._settle(user, desk)

            def do() -> T:
                with held(ledger_path(self._places.ledgers, user), epoch) as ledger:
                    return self._done(user, desk, lambda room: work(room, ledger))

            async with desk.turn:
                return await self._in_thread(do)

    async def _settle(self, user: str, desk: Desk) -> None:
        """What a user's first login makes. A disk that refuses it keeps nobody from their files."""
        epoch = self._epoch()

        def do() -> None:
            if welcome.is_welcomed(self._state(user)):
                return
            with held(ledger_path(self._places.ledgers, user), epoch):
                self._done(user, desk, lambda room: welcome.fill(room.files))
                welcome.keep_in_mind(self._state(user))

        async with desk.turn:
            if desk.is_settled:
                return
            try:
                await self._in_thread(do)
            except (OSError, ApiError) as error:
                log.warning("welcome_failed", user=user, why=repr(error))
            else:
                desk.is_settled = True

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _done(self, user: str, desk: Desk, work: Callable[[Room], T]) -> T:
        """Run `work` in this thread, as the user and on files opened for it; errors that are answers become ApiErrors.

        What `work` is given from outside of the user's directory is open already, or opened `as_server`.
        """
        root, identity = self._whereabouts(user)
        try:
            with as_user(identity), Files(root, self._state(user), desk.usage.grow) as files:
                course = self._course.open() if self._course else None
                try:
                    return work(Room(files, course))
                finally:
                    if course:
                        course.__exit__()
        except Exception as error:
            said = answer(error, root)
            if said is None:
                raise
            raise said from error

    def _whereabouts(self, user: str) -> tuple[Path, Identity | None]:
        try:
            home, identity = self._home(user)
        except NurseryUnavailable as error:
            log.warning("home_unavailable", user=user, why=str(error))
            said = "Your files cannot be opened just now. Try again in a moment."
            raise api_error(503, said, "home", headers={"Retry-After": "1"}) from error
        return home.resolve(), identity

    def _state(self, user: str) -> Path:
        """What is kept about a user outside their directory. No user's directory can have this name."""
        return self._places.notebooks / OURS / workdir.directory_name(user)
