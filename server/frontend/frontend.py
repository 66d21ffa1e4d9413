"""The front ends as the handlers of a worker find them: the catalogue and what is made of it, each when first wanted.

Owns the moment at which they are read, each once, in a thread. The catalogue is begun when the worker has started: so
that is there for its kernels at once. What can be set is begun with the first page, which does not wait for it: its
browser has the scripts to load before it asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from aiohttp import web

from server.frontend.press import Press

if TYPE_CHECKING:
    from server.frontend.catalogue import Catalogue
    from server.frontend.settings import LabSettings

T = TypeVar("T")

SHELF: Final = "settings"  # among the files of the press, which are named by hashes


class Once(Generic[T]):
    """What `make` returns; made when first wanted, and anew after a failure."""

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._task: asyncio.Task[T] | None = None

    def begin(self) -> asyncio.Task[T]:
        """Begin to make it, unless that was begun before."""
        if self._task is None or (self._task.done() and not _has_succeeded(self._task)):
            self._task = asyncio.ensure_future(self._made())
        return self._task

    async def get(self) -> T:
        """It. A request that is broken off does not break off the making."""
        return await asyncio.shield(self.begin())

    async def wait(self) -> None:
        """Until it is not being made: a thread cannot be broken off."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _made(self) -> T:
        return await self._make()


class Frontend:
    """`await frontend.catalogue()` is there from the first call on."""

    def __init__(
        self,
        notebooks: Path,
        cache: Path,
        catalogue: Callable[[], Catalogue] | None = None,
        settings: Callable[[Catalogue, Path], LabSettings] | None = None,
    ) -> None:
        """`cache`: a directory for what is made once on each host."""
        self.notebooks = notebooks
        self.press = Press(cache)
        self._files: dict[tuple[Path, str], Path] = {}
        self._catalogue = Once(lambda: asyncio.to_thread(catalogue or read_catalogue))
        self._settings = Once(lambda: self._read_settings(settings or read_settings, cache / SHELF))

    def begin(self) -> None:
        """Begin to read the catalogue."""
        self._catalogue.begin()

    def begin_settings(self) -> None:
        """Begin to read what can be set."""
        self._settings.begin()

    async def catalogue(self) -> Catalogue:
        """What is installed."""
        return await self._catalogue.get()

    async def settings(self) -> LabSettings:
        """What can be set in the front ends, and what users have set."""
        return await self._settings.get()

    async def _read_settings(self, read: Callable[[Catalogue, Path], LabSettings], shelf: Path) -> LabSettings:
        return await asyncio.to_thread(read, await self.catalogue(), shelf)

    async def file(self, directory: Path, name: str) -> Path | None:
        """The file `name` of a package's `directory`, if it has that. What was found once is looked up no more."""
        found = self._files.get((directory, name))
        if found is None:
            found = await asyncio.to_thread(_file_below, directory, name)
            if found is not None and name == str(found.relative_to(directory)):  # one name for each: no more than files
                self._files[directory, name] = found
        return found

    async def close(self) -> None:
        """Wait for what is being read."""
        await self._settings.wait()
        await self._catalogue.wait()
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


def _has_succeeded(task: asyncio.Task[T]) -> bool:
    return not task.cancelled() and task.exception() is None


def read_catalogue() -> Catalogue:
    """What is installed. Blocks for a second the first time in a process."""
    from server.frontend.catalogue import Catalogue  # its libraries take that second: not on the event loop

    return Catalogue()


def read_settings(catalogue: Catalogue, shelf: Path) -> LabSettings:
    """What can be set. Blocks for some 0.2 s on the first worker of a host."""
    from server.frontend.settings import LabSettings  # as above

    return LabSettings(catalogue, shelf)


FRONTEND: web.AppKey[Frontend] = web.AppKey("frontend", Frontend)


async def front_ends(app: web.Application) -> AsyncIterator[None]:
    """Begin to read them when the worker starts; wait for the end of that when it stops."""
    app[FRONTEND].begin()
    yield
    await app[FRONTEND].close()


async def catalogue_of(request: web.Request) -> Catalogue:
    """The catalogue, for a handler."""
    return await request.app[FRONTEND].catalogue()
