"""The front ends as the handlers of a worker find them: the catalogue and what is made of it, each when first wanted.

Owns the moment at which they are read: in a thread, once, begun when the worker has started. So a worker is there for
its kernels at once, and whoever asks for a page in the first second waits for the rest of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from server.frontend.press import Press

if TYPE_CHECKING:
    from server.frontend.catalogue import Catalogue
    from server.frontend.settings import LabSettings

    Read = tuple[Catalogue, LabSettings]


class Frontend:
    """`await frontend.catalogue()` is there from the first call on."""

    def __init__(self, notebooks: Path, cache: Path, read: Callable[[], Read] | None = None) -> None:
        self.notebooks = notebooks
        self.press = Press(cache)
        self._read = read or read_front_ends
        self._files: dict[tuple[Path, str], Path] = {}
        self._reading: asyncio.Task[Read] | None = None

    def begin(self) -> asyncio.Task[Read]:
        """Begin to read the catalogue, unless that was begun before."""
        if self._reading is None or (self._reading.done() and not _has_succeeded(self._reading)):
            self._reading = asyncio.create_task(asyncio.to_thread(self._read), name="read_catalogue")
        return self._reading

    async def catalogue(self) -> Catalogue:
        """What is installed. A request that is broken off does not break off the reading."""
        return (await asyncio.shield(self.begin()))[0]

    async def settings(self) -> LabSettings:
        """What can be set in the front ends, and what users have set."""
        return (await asyncio.shield(self.begin()))[1]

    async def file(self, directory: Path, name: str) -> Path | None:
        """The file `name` of a package's `directory`, if it has that. What was found once is looked up no more."""
        found = self._files.get((directory, name))
        if found is None:
            found = await asyncio.to_thread(_file_below, directory, name)
            if found is not None and name == str(found.relative_to(directory)):  # one name for each: no more than files
                self._files[directory, name] = found
        return found

    async def close(self) -> None:
        """Wait for what is being read: a thread cannot be broken off."""
        if self._reading is not None:
            await asyncio.wait([self._reading])
        self.press.close()


def _file_below(directory: Path, name: str) -> Path | None:
    """The file `name` if that lies in `directory`, with links followed."""
    try:
        root = directory.resolve()
        wanted = root.joinpath(name).resolve()
        is_there = wanted.is_relative_to(root) and wanted.is_file()
        return directory / wanted.relative_to(root) if is_there else None
    except (OSError, RuntimeError, ValueError):  # too long a name; links in a ring; a null character
        return None


def _has_succeeded(task: asyncio.Task[Read]) -> bool:
    return not task.cancelled() and task.exception() is None


def read_front_ends() -> Read:
    """What `Frontend` has of them. Blocks for seconds the first time in a process."""
    from server.frontend.catalogue import Catalogue  # takes seconds: not on the event loop
    from server.frontend.settings import LabSettings

    catalogue = Catalogue()
    return catalogue, LabSettings(catalogue)


FRONTEND: web.AppKey[Frontend] = web.AppKey("frontend", Frontend)


async def front_ends(app: web.Application) -> AsyncIterator[None]:
    """Begin to read them when the worker starts; wait for the end of that when it stops."""
    app[FRONTEND].begin()
    yield
    await app[FRONTEND].close()


async def catalogue_of(request: web.Request) -> Catalogue:
    """The catalogue, for a handler."""
    return await request.app[FRONTEND].catalogue()
