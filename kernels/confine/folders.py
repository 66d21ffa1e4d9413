"""The directories of a confined kernel: whose they are, and who may enter them.

Owns the owners and modes, set by root before the kernel's process begins and again when its sockets are there. Nothing
here follows a link: what lies in a student's directory was put there by a student.

    runtime/         0711, root    its kernels find their way through it, and can list nothing
    runtime/k/<id>/  0710, root    the kernel's group may pass
        connection.json  0640      and read this
        s/           1770, root    and make its sockets here; once they are there they are root's, and s/ is 0710
        t/           0700, uid     its TMPDIR
    notebooks/       0711, root
        <user>/      0700, uid     HOME
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

SOCKETS: Final = tuple(f"s-{number}" for number in range(1, 6))
SEALED: Final = "s-sealed"
"""Is there once nothing can be put in the place of a socket any more, where that is not said by modes."""

CONNECTION: Final = "connection.json"
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class FolderError(Exception):
    """A directory cannot be what it has to be; the text says why."""


def open_way(directory: Path) -> None:
    """Lets others pass through a directory of ours, and not look into it."""
    fd = os.open(directory, _OPEN)
    try:
        found = os.fstat(fd)
        wanted = stat.S_IMODE(found.st_mode) & ~0o066 | 0o011
        if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != wanted:
            os.fchmod(fd, wanted)
    finally:
        os.close(fd)


def give_home(home: Path, uid: int) -> None:
    """Makes a user's directory the user's own, with all in it if it was the server's until now. Raises FolderError."""
    try:
        fd = os.open(home, _OPEN)
    except OSError as error:
        raise FolderError(f"{home} cannot be entered: {error.strerror}") from error
    try:
        found = os.fstat(fd)
        if found.st_uid not in (uid, os.geteuid()):
            hint = "give it to root once (chown -R 0:0) if it is this user's"
            raise FolderError(f"{home} belongs to uid {found.st_uid}, not to {uid}: {hint}")
        if found.st_uid != uid:
            try:
                _give_all(fd, uid)
            except RecursionError:
                raise FolderError(f"{home} has directories too deep to be given to uid {uid}") from None
            os.fchown(fd, uid, uid)  # last: when this is cut short it begins anew
        if stat.S_IMODE(found.st_mode) != 0o700:
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def _give_all(top: int, uid: int) -> None:
    """What the server has made below a directory. Not a file of several names: another may be somebody else's."""
    server = os.geteuid()
    for _, folders, files, here in os.fwalk(".", dir_fd=top, follow_symlinks=False):
        for name in folders + files:
            found = os.lstat(name, dir_fd=here)
            if found.st_uid == server and (stat.S_ISDIR(found.st_mode) or found.st_nlink == 1):
                os.chown(name, uid, uid, dir_fd=here, follow_symlinks=False)


def give_kernel(directory: Path, uid: int) -> None:
    """Prepares a kernel's directory for its next start. Raises OSError."""
    top = os.open(directory, _OPEN)
    try:
        os.fchown(top, -1, uid)
        os.fchmod(top, 0o710)
        os.chown(CONNECTION, -1, uid, dir_fd=top, follow_symlinks=False)
        os.chmod(CONNECTION, 0o640, dir_fd=top)
        os.chown("s", -1, uid, dir_fd=top, follow_symlinks=False)
        os.chmod("s", 0o1770, dir_fd=top)  # noqa: S103 (its group is the user alone)
        with suppress(FileExistsError):
            os.mkdir("t", 0o700, dir_fd=top)
        os.chown("t", uid, uid, dir_fd=top, follow_symlinks=False)
    finally:
        os.close(top)


def fresh_sockets(directory: Path) -> None:
    """An empty `s/`, of the server's own. Raises OSError.

    What an earlier process has put there besides its sockets is moved aside: it may be without end.
    """
    sockets = directory / "s"
    if os.path.lexists(directory / SEALED):
        (directory / SEALED).rename(directory / f"s-{secrets.token_hex(4)}")
    if os.path.lexists(sockets):
        for name in SOCKETS:
            with suppress(OSError):
                (sockets / name).unlink()
        try:
            sockets.rmdir()
        except OSError:
            sockets.rename(directory / f"s-{secrets.token_hex(4)}")
    sockets.mkdir(mode=0o700)


def seal(directory: Path, uid: int) -> bool:
    """Takes over the sockets that are there. True once all are: then nothing can be put in their place any more.

    What is in the place of a socket and is none stays the student's; who would connect looks first.
    """
    try:
        fd = os.open(directory / "s", _OPEN)
    except FileNotFoundError:
        return True
    try:
        there = [_take(name, uid, fd) for name in SOCKETS]
        if all(there):
            os.fchmod(fd, 0o710)
        return all(there)
    finally:
        os.close(fd)


def close_sockets(directory: Path) -> None:
    """Nothing can be put into `s/` any more, whatever is there by now."""
    (directory / "s").chmod(0o710)


def _take(name: str, uid: int, folder: int) -> bool:
    try:
        found = os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    if found.st_uid == uid and stat.S_ISSOCK(found.st_mode):
        os.chown(name, 0, 0, dir_fd=folder, follow_symlinks=False)
    return True
