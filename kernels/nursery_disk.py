"""A kernel's directory on disk: its record, its log, its removal.

The directory is made by the provisioner (mode 0700, with connection.json in it) and removed by the
nursery alone. Nothing here knows of processes, except that a directory without a record is removed only
after what may still run out of it has been killed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import orjson
import structlog

from kernels.errors import BadRequest, SpawnRefused
from kernels.processes import kill_group, leaders_naming
from kernels.records import KernelRecord, SpawnOrder, checked_kernel_id

RECORD, CONNECTION, LOG = "record.json", "connection.json", "log"

REMOVE_S = 3.0
"""How long the end of a kernel waits for its files to be gone. What is left then goes on being removed."""

log = structlog.get_logger(__name__)


def save(record: KernelRecord) -> None:
    """Writes the record so that a reader, or a nursery started after a kill, finds the old or the new one."""
    fresh = record.directory / (RECORD + ".new")
    fresh.write_bytes(orjson.dumps(record.to_json()))
    fresh.replace(record.directory / RECORD)


def load_all(folder: Path) -> Iterator[KernelRecord]:
    """The records under `folder`. One that cannot be read is moved aside and logged."""
    for directory in sorted(folder.iterdir()):
        path = directory / RECORD
        try:
            record = _load(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, BadRequest) as error:
            _move_aside(path, error)
            continue
        yield record


def _load(path: Path) -> KernelRecord:
    record = KernelRecord.from_json(orjson.loads(path.read_bytes()))
    if record.directory != path.parent or record.kernel_id != path.parent.name:
        raise BadRequest(f"the record of {record.kernel_id} lies in {path.parent.name}")
    return record


def open_log(directory: Path) -> BinaryIO:
    """The kernel's log, empty, opened for appending. Replaces whatever else a kernel has put in its place."""
    path = directory / LOG
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.unlink()
    return os.fdopen(os.open(path, flags | os.O_NOFOLLOW, 0o600), "wb", buffering=0)


def check_directory(order: SpawnOrder, folder: Path) -> None:
    """Raises SpawnRefused unless the directory is the one for this kernel and has a connection file."""
    if order.directory != folder / order.kernel_id:
        raise SpawnRefused(f"the directory of {order.kernel_id} is not {order.directory}")
    if order.directory.is_symlink() or not (order.directory / CONNECTION).is_file():
        raise SpawnRefused(f"{order.directory} has no {CONNECTION}")


def remove(directory: Path) -> None:
    """Removes a kernel's directory with all that is in it; none is fine.

    A process that has left the kernel's group may still write into it: what stays is tried again by
    `sweep`.
    """
    try:
        shutil.rmtree(directory, ignore_errors=True)
    except RecursionError:  # it goes on being removed behind
        start_removing(directory)
    if directory.exists():
        log.warning("kernel_directory_not_removed", directory=str(directory))


async def removed(directory: Path) -> None:
    """As `remove`; by a process of its own where a student may have made files or folders without end."""
    try:
        with os.scandir(directory / "t") as entries:
            filled = next(entries, None) is not None
    except OSError:
        filled = False
    if not filled or await _has_ended(start_removing(directory)):
        remove(directory)


def start_removing(directory: Path) -> subprocess.Popen[bytes]:
    """By a process of its own. The nursery waits for all of its children itself."""
    child = subprocess.Popen(["rm", "-rf", "--one-file-system", "--", str(directory)])  # noqa: S607
    child.returncode = 0
    return child


async def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    """Whether a child has ended within REMOVE_S."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    pidfd = os.pidfd_open(child.pid)
    loop.add_reader(pidfd, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), REMOVE_S)
    except TimeoutError:
        log.warning("kernel_directory_large", pid=child.pid)
        return False
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    return True


def sweep(folder: Path, known: frozenset[str], older_than_s: float) -> None:
    """Removes what has lain in `folder` without a record for `older_than_s`, and ends what runs out of it."""
    for directory in sorted(folder.iterdir()):
        if directory.name in known or time.time() - directory.lstat().st_mtime < older_than_s:
            continue
        if not _is_kernel_id(directory.name) or directory.is_symlink():
            continue  # not ours
        for pid in leaders_naming(directory):
            kill_group(pid)
        remove(directory)
        log.info("kernel_directory_swept", directory=str(directory))


def _is_kernel_id(name: str) -> bool:
    try:
        checked_kernel_id(name)
    except BadRequest:
        return False
    return True


def _move_aside(path: Path, error: Exception) -> None:
    log.error("kernel_record_corrupt", path=str(path), error=str(error))
    try:
        path.replace(path.with_suffix(".corrupt"))
    except OSError as second:
        log.warning("kernel_record_not_moved", path=str(path), error=str(second))
