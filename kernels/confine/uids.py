"""Which uid a user has on this machine.

Owns the table `<notebooks>/.kernelring/uids.json`: it lies beside what the uids own, so that the two are kept, moved
and restored together. A uid is given once, under a lock, and never by a hash, which two users could share. The numbers
go up; one is given again only when all of them were given, and then one whose user's directory is gone.

Any process of the server's user may ask. What it reads is believed only while nobody else can have written it.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

FOLDER: Final = ".kernelring"
"""Below the notebooks. The server makes no user's directory of a name that begins with a dot."""


class UidsError(Exception):
    """No uid can be told; the text says why."""


@dataclass(slots=True)
class _Table:
    """`users`: user to (uid, name of the directory). `fresh`: the next number that nobody has had yet."""

    fresh: int
    users: dict[str, tuple[int, str]] = field(default_factory=dict)


class Uids:
    """The table of one notebooks directory. `first` and `last` may both be given."""

    def __init__(self, notebooks: Path, first: int, last: int) -> None:
        self._notebooks = notebooks
        self._first, self._last = first, last
        self._path = notebooks / FOLDER / "uids.json"
        self._read: tuple[tuple[int, ...], _Table] | None = None

    def known(self, user: str) -> int | None:
        """The user's uid, if they were given one. Raises UidsError."""
        found = self._table().users.get(user)
        return found[0] if found else None

    def of(self, user: str, home: str) -> int:
        """The user's uid, given now if they have none. `home` is the name of their directory. Raises UidsError."""
        found = self._table().users.get(user)
        if found is None:
            with self._locked():
                found = self._table().users.get(user) or self._give(user, home)
        if found[1] != home:
            raise UidsError(f"the directory of {user} is {found[1]}, not {home}")
        return found[0]

    def _give(self, user: str, home: str) -> tuple[int, str]:
        table = self._table()
        if owner := next((other for other, (_, place) in table.users.items() if place == home), None):
            raise UidsError(f"the directory {home} is that of {owner}, not of {user}")
        uid = self._owner_of(home, table)
        if uid is None:
            uid, table.fresh = self._unused(table)
        table.users[user] = (uid, home)
        self._write(table)
        return table.users[user]

    def _owner_of(self, home: str, table: _Table) -> int | None:
        """The owner of a directory that was somebody's before the table was lost. Only root could give it away."""
        with suppress(FileNotFoundError):
            uid = (self._notebooks / home).lstat().st_uid
            if self._first <= uid <= self._last and uid not in {given for given, _ in table.users.values()}:
                return uid
        return None

    def _unused(self, table: _Table) -> tuple[int, int]:
        """(a uid that owns nothing, the next that nobody has had yet)."""
        owners = _owners(self._notebooks)
        taken = owners | {uid for uid, _ in table.users.values()}
        for uid in range(table.fresh, self._last + 1):
            if uid not in taken:
                return uid, uid + 1
        for former, (uid, home) in table.users.items():
            if uid not in owners and not os.path.lexists(self._notebooks / home) and not _runs_something(uid):
                del table.users[former]
                return uid, self._last + 1
        raise UidsError(f"all uids from {self._first} to {self._last} are given: make KERNELRING_UIDS longer")

    # -- the file -------------------------------------------------------------------------------------------------

    def _table(self) -> _Table:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return _Table(self._first)
        except OSError as error:
            raise UidsError(f"{self._path} cannot be read: {error.strerror}") from error
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise UidsError(f"{self._path} is not a private file of this server")
            if not found.st_size:  # lost with the machine's power; see `_owner_of`
                return _Table(self._first)
            mark = (found.st_ino, found.st_mtime_ns, found.st_size)
            if self._read is None or self._read[0] != mark:
                self._read = (mark, self._parsed(file.read()))
            return self._read[1]

    def _parsed(self, text: bytes) -> _Table:
        try:
            found = json.loads(text)
            users = {str(user): (int(uid), str(home)) for user, (uid, home) in found["users"].items()}
            return _Table(max(self._first, int(found["fresh"])), users)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UidsError(f"{self._path} is damaged: restore it, or the owners of all directories are lost") from None

    def _write(self, table: _Table) -> None:
        """It does not wait for a disk, on which a class that starts at once would wait for each student.

        What is lost with the machine's power is found again in the owners of directories.
        """
        content: dict[str, Any] = {"fresh": table.fresh, "users": table.users}
        draft = self._path.with_suffix(".new")
        self._read = None
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
                json.dump(content, file)
            draft.replace(self._path)
        except OSError as error:
            raise UidsError(f"{self._path} cannot be written: {error.strerror}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        folder = self._path.parent
        try:
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
                raise UidsError(f"{folder} is not a private directory of this server")
            if found.st_mode & 0o055:  # made by a part of the server that keeps nothing from readers
                folder.chmod(0o700)
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UidsError(f"{folder} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _owners(folder: Path) -> set[int]:
    """Of all that is in a folder."""
    found = set()
    for entry in folder.iterdir():
        with suppress(FileNotFoundError):  # removed meanwhile
            found.add(entry.lstat().st_uid)
    return found


def _runs_something(uid: int) -> bool:
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdigit() and process.stat().st_uid == uid:
                return True
    return False
