"""Who a user is on this machine, for the parts of the server that touch a user's files.

Owns the step from settings to `kernels.confine`, and the identity under which a thread works in a user's directory.
What confines kernels is the nursery; this module starts nothing and decides on no path within the directory.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from kernels.confine import folders, host
from kernels.confine.folders import FolderError
from kernels.confine.options import NONE, UIDS, Options
from kernels.confine.uids import Uids, UidsError
from kernels.errors import NurseryUnavailable
from server.settings import Settings
from server.workdir import user_directory

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_ASK: Final = -1  # no such uid: setfsuid changes nothing and says what it is


@dataclass(frozen=True, slots=True)
class Identity:
    """A user's uid and gid on this machine."""

    uid: int
    gid: int


def options_of(settings: Settings) -> Options:
    """What the nursery is told."""
    return Options(
        notebooks=settings.notebooks,
        uids=settings.uids,
        memory_mib=settings.kernel_memory_mib,
        processes=settings.user_processes,
        files=settings.kernel_files,
        file_mib=settings.kernel_file_mib,
        level=settings.confinement or "",
    )


def lets_anybody_in(redis_url: str) -> bool:
    """Whether every process that can reach this Redis, a kernel too, could log in to it: there is no password."""
    parts = urlsplit(redis_url)
    return parts.scheme != "unix" and not parts.password


class Identities:
    """The identities of users. `confinement` tells the nursery's level; "" while that is not known."""

    def __init__(self, settings: Settings, confinement: Callable[[], str]) -> None:
        self._notebooks = settings.notebooks
        self._uids = Uids(settings.notebooks, *settings.uids)
        self._confinement = confinement
        self._settings = settings
        self._walls = ""

    def walls(self) -> str:
        """What a process that works for a user is put behind where users have no uids, for a command line; else "".

        For a thread. To be asked once the level is known.
        """
        if self._confinement().partition("+")[0] in (UIDS, NONE):
            return ""
        self._walls = self._walls or host.without_uids(options_of(self._settings), self._settings.runtime_dir).to_text()
        return self._walls

    def home(self, user: str) -> tuple[Path, Identity | None]:
        """The user's directory, made when it is missing, and the identity that owns it; None: the server's own.

        For a thread: it reads and writes. Raises NurseryUnavailable when this cannot be known now.
        """
        directory = user_directory(self._notebooks, user)
        level = self._confinement()
        if not level:
            raise NurseryUnavailable("it is not known yet how kernels are confined")
        if not level.startswith(UIDS):
            return directory, None
        try:
            uid = self._uids.of(user, directory.name)
            folders.give_home(directory, uid)
        except (UidsError, FolderError) as error:
            raise NurseryUnavailable(f"the directory cannot be used: {error}") from error
        return directory, Identity(uid, uid)


@contextmanager
def as_user(identity: Identity | None) -> Iterator[None]:
    """Within it this thread, and no other, touches files as that identity and with no right of root's. None: no change.

    Links, devices and hard links that a student has made then lead nowhere that the student could not go. A FIFO still
    waits for its other end: open with O_NONBLOCK. What is started within it (a thread, a process) does not inherit
    this for sure. Raises OSError when the identity cannot be taken on.
    """
    if identity is None:
        yield
        return
    before = (_LIBC.setfsuid(_ASK), _LIBC.setfsgid(_ASK))
    try:
        _take_on(identity.uid, identity.gid)
        yield
    finally:
        _take_on(*before)


@contextmanager
def as_server() -> Iterator[None]:
    """Within `as_user`, for what the server keeps outside of users' directories: this thread is the server again.

    Nothing below a user's directory may be touched in it.
    """
    before = (_LIBC.setfsuid(_ASK), _LIBC.setfsgid(_ASK))
    if before == (os.geteuid(), os.getegid()):
        yield
        return
    try:
        _take_on(os.geteuid(), os.getegid())
        yield
    finally:
        _take_on(*before)


def _take_on(uid: int, gid: int) -> None:
    """Neither call tells whether it has failed."""
    _LIBC.setfsgid(gid)
    _LIBC.setfsuid(uid)
    if (_LIBC.setfsuid(_ASK), _LIBC.setfsgid(_ASK)) != (uid, gid):
        raise PermissionError(f"this thread cannot act as uid {uid} and gid {gid}")
