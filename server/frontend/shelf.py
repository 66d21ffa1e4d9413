"""What one worker has worked out and the host's others read: the list of all settings, as JSON by the plugin's id.

Owns one file in the runtime directory and when it is out of date: its first line is a stamp of what the list was made
from. Making the list costs as much as the rest of a worker's start together, reading it next to nothing. Workers that
make it at the same moment make the same, and the file is replaced whole. All functions block.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

Plugins = dict[str, bytes]


def shelved(file: Path, stamp: str, make: Callable[[], Plugins]) -> Plugins:
    """What `file` has, if that was made from the same; else what `make` returns, which is then kept there."""
    kept = _read(file, stamp)
    if kept is None:
        kept = make()
        _keep(file, stamp, kept)
    return kept


def stamp_of(files: Iterable[Path], *besides: str) -> str:
    """What changes when one of the files does, or is added or removed, or `besides`."""
    told = hashlib.sha256("\0".join(besides).encode())
    for file in sorted(files):
        found = file.stat()
        told.update(f"\0{file}\0{found.st_mtime_ns}\0{found.st_size}".encode())
    return told.hexdigest()


def _read(file: Path, stamp: str) -> Plugins | None:
    try:
        first, *lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("settings_not_read", file=str(file), why=str(error))
        return None
    if first != stamp.encode():
        return None
    named = (line.partition(b"\t") for line in lines)
    return {name.decode(): packed for name, _, packed in named}


def _keep(file: Path, stamp: str, plugins: Plugins) -> None:
    """A full disk costs the next worker the time, and no more."""
    lines = [stamp.encode(), *(name.encode() + b"\t" + packed for name, packed in plugins.items())]
    half = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        half.write_bytes(b"\n".join(lines))
        half.replace(file)
    except OSError as error:
        with suppress(OSError):
            half.unlink()
        log.warning("settings_not_kept", file=str(file), why=str(error))
