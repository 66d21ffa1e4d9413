# ruff: noqa: N818  (each is named for what it says)
"""Files below one directory, whatever the directory's owner does to it meanwhile.

Its owner's kernels may at any moment swap a folder for a link that leads elsewhere, or a file for a FIFO, on which an
open would wait for ever. So paths are resolved by the kernel, which stops at the root (`openat2`, RESOLVE_BENEATH), or
where that does not exist step by step without following any link; files are looked at before they are opened, and only
regular ones are; and all changes are made relative to an opened folder. Links within the root are followed.

Writes are atomic: the new file is written beside the old one under a hidden name, synced, and renamed over it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

from server.contents.paths import DRAFT, split

_OPENAT2: Final = 437
_BENEATH: Final = 0x08 | 0x02  # RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_TRIES: Final = 16  # openat2 gives EAGAIN when something was renamed while it looked
_libc: Any = ctypes.CDLL(None, use_errno=True)


class LeavesRoot(OSError):
    """The path leads out of the root."""


class NotRegular(OSError):
    """The path is no regular file."""


class Beneath:
    """The files below `root`; paths are relative to it and checked by `paths.checked`. "" is the root itself."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._fd = os.open(self.root, _FOLDER | os.O_NOFOLLOW)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def resolved(self, path: str, *, last: bool = True) -> str:
        """`path` with links followed, in its last step only if `last`. Raises LeavesRoot."""
        folder, name = ("", path) if last else split(path)
        real = os.path.realpath(self.root / (path if last else folder))
        if real != str(self.root) and not real.startswith(f"{self.root}{os.sep}"):
            raise LeavesRoot(errno.EXDEV, "It leads out of your files", path)
        found = real[len(str(self.root)) + 1 :]
        return found if last else f"{found}/{name}".lstrip("/")

    def open(self, path: str) -> tuple[int, os.stat_result]:
        """Open a regular file for reading; never waits. Raises LeavesRoot, NotRegular, OSError."""
        place = _open_at(self._fd, self.resolved(path) or ".", os.O_PATH | os.O_CLOEXEC)
        try:
            found = os.fstat(place)
            if not stat.S_ISREG(found.st_mode):
                raise NotRegular(errno.EINVAL, "It is not a regular file", path)
            # Not by its name again: this is the very file that was looked at.
            return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), found
        finally:
            os.close(place)

    @contextmanager
    def folder(self, path: str) -> Iterator[int]:
        """An opened folder."""
        fd = _open_at(self._fd, self.resolved(path) or ".", _FOLDER)
        try:
            yield fd
        finally:
            os.close(fd)

    def stat(self, path: str) -> os.stat_result | None:
        """What is at `path`, links followed; None when nothing is."""
        try:
            place = _open_at(self._fd, self.resolved(path) or ".", os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return os.fstat(place)
        finally:
            os.close(place)

    def write(self, path: str, data: bytes) -> None:
        """Put `data` at `path` as a whole: whoever looks sees the old file or the new one."""
        with self.replacing(path) as draft:
            _write_all(draft, data)

    @contextmanager
    def replacing(self, path: str) -> Iterator[int]:
        """A descriptor to write to; what is written becomes the file at `path` when the block ends without an error."""
        folder, name = split(self.resolved(path))
        with self.folder(folder) as parent:
            mode = _mode_to_keep(parent, name)
            with suppress(FileNotFoundError):
                os.unlink(DRAFT, dir_fd=parent)
            draft = os.open(
                DRAFT, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=parent
            )
            try:
                if mode is not None:
                    os.fchmod(draft, mode)
                yield draft
                os.fsync(draft)
                os.rename(DRAFT, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(DRAFT, dir_fd=parent)
                raise
            finally:
                os.close(draft)
            os.fsync(parent)

    def append(self, path: str, data: bytes, at: int) -> None:
        """Add `data` to a file of which the first `at` bytes are kept; with 0 it is made anew. Not atomic."""
        folder, name = split(path)
        with self.folder(folder) as parent:
            if at == 0:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=parent)
            how = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            fd = os.open(name, how | (os.O_CREAT | os.O_EXCL if at == 0 else 0), 0o666, dir_fd=parent)
            try:
                os.ftruncate(fd, at)
                os.lseek(fd, at, os.SEEK_SET)
                _write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)

    def copy(self, source: Beneath, path: str, to: str, *, keep_times: bool = False) -> None:
        """Copy the regular file `path` below `source` to `to`, atomically."""
        fd, found = source.open(path)
        with os.fdopen(fd, "rb") as file, self.replacing(to) as draft:
            with os.fdopen(draft, "wb", closefd=False) as copied:
                shutil.copyfileobj(file, copied, 2**20)
            if keep_times:
                os.utime(draft, ns=(found.st_atime_ns, found.st_mtime_ns))

    def make_folder(self, path: str) -> None:
        """Make a folder; its parent must exist. Raises FileExistsError."""
        folder, name = split(path)
        with self.folder(folder) as parent:
            os.mkdir(name, dir_fd=parent)

    def make_folders(self, path: str) -> None:
        """Make a folder and what is missing above it."""
        steps = path.split("/") if path else []
        for n in range(1, len(steps) + 1):
            with suppress(FileExistsError):
                self.make_folder("/".join(steps[:n]))

    def rename(self, old: str, new: str) -> None:
        """Rename; a link is renamed itself."""
        (old_folder, old_name), (new_folder, new_name) = split(old), split(new)
        with self.folder(old_folder) as source, self.folder(new_folder) as target:
            os.rename(old_name, new_name, src_dir_fd=source, dst_dir_fd=target)
            os.fsync(target)

    def remove(self, path: str) -> None:
        """Remove a file, a link itself, or a folder with all that is in it."""
        folder, name = split(path)
        with self.folder(folder) as parent:
            if stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                shutil.rmtree(name, dir_fd=parent)
            else:
                os.unlink(name, dir_fd=parent)


def _mode_to_keep(parent: int, name: str) -> int | None:
    """The permissions of the file that will be replaced. Raises NotRegular, and PermissionError for a read-only one."""
    try:
        found = os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise NotRegular(errno.EINVAL, "It is not a regular file", name)
    if not found.st_mode & 0o222:
        raise PermissionError(errno.EACCES, "It is read-only", name)
    return stat.S_IMODE(found.st_mode)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _open_at(root: int, path: str, flags: int) -> int:
    """Open `path` below the folder `root`; it has no links any more, unless one was put there just now."""
    how = _How(flags, 0, _BENEATH)
    for _ in range(_TRIES):
        fd: int = _libc.syscall(_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return fd
        problem = ctypes.get_errno()
        if problem in (errno.ENOSYS, errno.EPERM):  # an old kernel, or a container's filter
            return walked(root, path, flags)
        if problem == errno.EXDEV:
            raise LeavesRoot(problem, "It leads out of your files", path)
        if problem not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(problem, os.strerror(problem), path)


def walked(root: int, path: str, flags: int) -> int:
    """As `_open_at`, one step at a time; refuses every link."""
    *folders, last = path.split("/")
    here = os.dup(root)
    try:
        for name in folders:
            below = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        return os.open(last, flags | os.O_NOFOLLOW, dir_fd=here)
    finally:
        os.close(here)
