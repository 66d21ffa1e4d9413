"""Files that never change, compressed once on each host.

Owns the directory of compressed files: a link to each file, and beside it the same as gzip, which aiohttp's
FileResponse picks when the client takes it. A file is compressed when it is first asked for, in threads of its own:
so the start of a worker costs nothing, and most of a bundle's 600 files, which nobody asks for, cost nothing either.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger(__name__)

LEVEL: Final = 6  # 9 takes twice the time for 1 % less
LEAST_BYTES: Final = 1024  # below, the headers are most of it
COMPRESSIBLE: Final = frozenset({".js", ".css", ".json", ".svg", ".ttf", ".eot", ".html", ".txt"})
THREADS: Final = 2


class Press:
    """`await press.pressed(file)` is the path to serve for it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="press")
        self._made: dict[Path, Path] = {}
        self._making: dict[Path, asyncio.Future[Path]] = {}

    async def pressed(self, file: Path) -> Path:
        """The link beside which the compressed file lies; `file` itself when that is not to be had."""
        made = self._made.get(file)
        if made is not None:
            return made
        if file.suffix not in COMPRESSIBLE:
            return file
        making = self._making.get(file)
        if making is None:
            loop = asyncio.get_running_loop()
            making = self._making[file] = loop.run_in_executor(self._threads, self._press, file)
            making.add_done_callback(lambda done: self._keep(file, done))
        return await asyncio.shield(making)

    def close(self) -> None:
        """End the threads, after what they are at."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _keep(self, file: Path, done: asyncio.Future[Path]) -> None:
        del self._making[file]
        if not done.cancelled() and done.exception() is None:
            self._made[file] = done.result()

    def _press(self, file: Path) -> Path:
        """Make both, unless another worker has. A full disk costs the compression and no more."""
        try:
            told = file.stat()
            if told.st_size < LEAST_BYTES:
                return file
            named = hashlib.sha256(f"{file}\0{told.st_mtime_ns}\0{told.st_size}".encode()).hexdigest()[:32]
            link = self._directory / f"{named}{file.suffix}"
            compressed = link.with_name(link.name + ".gz")
            if not compressed.exists() or not link.exists():
                self._directory.mkdir(mode=0o700, exist_ok=True)
                _write(file, compressed, told)
                _link(file, link)
        except OSError as error:
            log.warning("not_compressed", file=str(file), why=str(error))
            return file
        return link


def _write(file: Path, compressed: Path, told: os.stat_result) -> None:
    """Whole or not at all. With the time of the file itself, so that the tags of all hosts are the same."""
    half = compressed.with_name(f"{compressed.name}.{secrets.token_hex(4)}")
    half.write_bytes(gzip.compress(file.read_bytes(), LEVEL, mtime=0))
    os.utime(half, ns=(told.st_mtime_ns, told.st_mtime_ns))
    half.replace(compressed)


def _link(file: Path, link: Path) -> None:
    half = link.with_name(f"{link.name}.{secrets.token_hex(4)}")
    half.symlink_to(file)
    half.replace(link)
