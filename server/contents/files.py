"""jupyter_server's contents manager over one user's directory, with its file access replaced.

What a model looks like, what a notebook is, trust and checkpoints are jupyter_server's; how bytes get from and to the
disk is `beneath.py`'s. One instance serves one operation, in one thread, and is closed with it: neither it nor its
signature database is shared. It has no lock: whoever calls it to write holds the user's.

The thread touches the user's files as the user (`server/confinement.py`), and the database, which is not theirs, as
the server.
"""

from __future__ import annotations

import io
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from jupyter_events import EventLogger
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from nbformat.sign import NotebookNotary
from tornado.web import HTTPError
from traitlets import Instance

from server.confinement import as_server
from server.contents import listing
from server.contents.beneath import Beneath, LeavesRoot
from server.contents.checkpoints import Checkpoints
from server.contents.paths import OURS, checked, is_hidden, joined, split
from server.contents.refusals import refusal

Model = dict[str, Any]

MAX_OPENED_MIB: Final = 64  # a file is one JSON text, and in memory several times until it is sent
_LOG: Final = logging.getLogger("server.contents.jupyter")
_LOG.setLevel(logging.CRITICAL)  # it tells of each notebook that is not trusted; its errors reach the client
logging.getLogger("traitlets").addFilter(lambda record: "/nbformat/" not in record.pathname)  # as do nbformat's
_EVENTS: Final = EventLogger()  # with one of its own, each instance would load a schema


_Base: Any = LargeFileManager  # not typed, as NotebookNotary
_Notary: Any = NotebookNotary


class Files(_Base):  # type: ignore[misc]
    """A contents manager for one operation. `grow`: told of bytes to be written; raises when there is no room."""

    beneath = Instance(Beneath)

    def __init__(self, root: Path, state: Path, grow: Callable[[int], None]) -> None:
        """`state`: the folder that has the user's notebook signatures."""
        super().__init__(
            beneath=Beneath(root),
            root_dir=str(root),
            event_logger=_EVENTS,
            checkpoints_class=Checkpoints,
            log=_LOG,
            delete_to_trash=False,
            use_atomic_writing=False,  # what replaces it needs no backup, and no guess from one
        )
        self._state, self._grow = state, grow
        self._notaries: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.beneath.__exit__()
        with as_server():
            for notary in self._notaries:
                notary.close()

    def emit(self, data: Any) -> None:
        """Events of jupyter_server's bus: nobody listens to this instance's."""

    def _notary_default(self) -> Any:
        """Opened when first needed: it is a database. Another user's trust is none here."""
        with as_server():
            self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
            notary = _Notary(data_dir=str(self._state), log=self.log)
            self._notaries.append(notary)
            notary.__enter__()
        return notary

    def check_and_sign(self, nb: Any, path: str = "", **more: Any) -> None:
        """Sign a notebook that is about to be saved, if all of it is trusted."""
        with as_server():
            super().check_and_sign(nb, path, **more)

    def mark_trusted_cells(self, nb: Any, path: str = "") -> None:
        """Mark a notebook that was read, if it was signed."""
        with as_server():
            super().mark_trusted_cells(nb, path)

    # -- paths ----------------------------------------------------------------------------------------------------

    def _get_os_path(self, path: str) -> str:
        """The place of an API path on disk. Raises HTTPError 404 for none, LeavesRoot."""
        path = checked(path)
        self.beneath.resolved(path)
        return str(self.beneath.root / path)

    def api_path(self, os_path: str) -> str:
        """The API path of what `_get_os_path` returned."""
        return os.path.relpath(os_path, self.beneath.root)

    @contextmanager
    def perm_to_403(self, os_path: str = "") -> Iterator[None]:
        """Errors of the disk as answers, with the API path: jupyter_server makes a 500 of all but permissions."""
        try:
            yield
        except OSError as error:
            raise refusal(error, self.api_path(os_path) if os_path else "") from error

    def exists(self, path: str) -> bool:
        """Whether anything is at `path`."""
        return self._found(path) is not None

    def file_exists(self, path: str) -> bool:
        """Whether a regular file is at `path`."""
        found = self._found(path)
        return found is not None and stat.S_ISREG(found.st_mode)

    def dir_exists(self, path: str) -> bool:
        """Whether a folder is at `path`."""
        found = self._found(path)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def _found(self, path: str) -> os.stat_result | None:
        try:
            return self.beneath.stat(checked(path))
        except LeavesRoot:
            raise
        except OSError:  # as os.path.exists has it: a folder that is closed, a name that is too long
            return None

    def _base_model(self, path: str) -> Model:
        """What is told of a file or folder, by descriptors: its folder may be a link to somebody else's just now."""
        if not self.allow_hidden and is_hidden(path):
            raise HTTPError(404, f"file or directory does not exist: {path!r}")
        folder, name = split(checked(path))
        with self.perm_to_403(self._place(path)), self.beneath.folder(folder) as parent:
            found = os.lstat(name or ".", dir_fd=parent)
            writable = os.access(name or ".", os.W_OK, dir_fd=parent, effective_ids=True)
        return listing.model(path, "notebook", found) | {"writable": writable}

    # -- bytes ----------------------------------------------------------------------------------------------------

    @contextmanager
    def open(self, os_path: str, *_: Any, **__: Any) -> Iterator[Any]:
        """What jupyter_server reads files with."""
        with self.perm_to_403(os_path):
            fd, found = self.beneath.open(self.api_path(os_path))
            with os.fdopen(fd, "rb") as file:
                _check_size(self.api_path(os_path), found.st_size)
                yield file

    @contextmanager
    def atomic_writing(self, os_path: str, text: bool = True, **_: Any) -> Iterator[Any]:
        """What jupyter_server writes files with."""
        with self.perm_to_403(os_path):
            buffer: Any = io.StringIO(newline="") if text else io.BytesIO()
            yield buffer
            written = buffer.getvalue()
            self.put(self.api_path(os_path), written.encode() if text else written)

    def put(self, path: str, data: bytes) -> None:
        """Write a file, if there is room."""
        old = self.beneath.stat(path)
        self.grow(len(data) - (old.st_size if old else 0))
        self.beneath.write(path, data)

    def grow(self, n_bytes: int) -> None:
        """Say that so many more bytes will be written. Raises HTTPError 507."""
        self._grow(n_bytes)

    # -- verbs ----------------------------------------------------------------------------------------------------

    def _dir_model(self, path: str, content: bool = True) -> Model:
        """A folder; its list is bounded and says so."""
        model: Model = self._base_model(path) | {"type": "directory", "size": None}
        if content:
            model |= {"content": listing.entries(self, path), "format": "json"}
        return model

    def _save_directory(self, os_path: str, model: Model, path: str = "") -> None:
        found = self.beneath.stat(path)
        if found is None:
            with self.perm_to_403(os_path):
                self.beneath.make_folder(path)
        elif not stat.S_ISDIR(found.st_mode):
            raise HTTPError(400, f"Not a directory: {path}")

    def delete_file(self, path: str) -> None:
        """Delete a file, or a folder in which the student sees nothing any more."""
        path = checked(path)
        if is_hidden(path):
            raise HTTPError(400, f"Cannot delete file or directory {path!r}")
        if not self._is_taken(path):
            raise HTTPError(404, f"file or directory does not exist: {path!r}")
        with self.perm_to_403(self._place(path)):
            is_link = (self.beneath.root / path).is_symlink()  # goes itself, wherever it leads
            if not is_link and self.dir_exists(path) and listing.entries(self, path):
                raise HTTPError(400, f"Directory {path} not empty")
            self.beneath.remove(self.beneath.resolved(path, last=False))

    def rename_file(self, old_path: str, new_path: str) -> None:
        """Rename a file or folder; never over another."""
        old, new = checked(old_path), checked(new_path)
        if is_hidden(old) or is_hidden(new) or not old or not new:
            raise HTTPError(400, f"Cannot rename file or directory {old!r}")
        if old == new:
            return
        if self._is_taken(new):
            raise HTTPError(409, f"File already exists: {new}")
        if self.beneath.stat(old) is None:
            raise HTTPError(404, f"File or directory does not exist: {old}")
        if not self.dir_exists(split(new)[0]):
            raise HTTPError(404, f"No such directory: {split(new)[0]}")
        with self.perm_to_403(self._place(old)):
            self.beneath.rename(self.beneath.resolved(old, last=False), self.beneath.resolved(new, last=False))

    def copy_target(self, from_path: str, to_path: str) -> str:
        """The path that a copy gets, as jupyter_server's `copy` chooses it. Raises HTTPError 404."""
        name = listing.COPY.sub(".", split(from_path)[1])
        if self.dir_exists(to_path):
            return joined(to_path, self.increment_filename(name, to_path, insert="-Copy")).lstrip("/")
        if not self.dir_exists(split(to_path)[0]):
            raise HTTPError(404, f"No such parent directory: {split(to_path)[0]} to copy file in")
        return to_path

    def copy_to(self, from_path: str, to_path: str) -> Model:
        """Copy a file or a folder; a folder appears as a whole."""
        found = self.beneath.stat(from_path)
        if found is None:
            raise HTTPError(404, f"file or directory does not exist: {from_path!r}")
        with self.perm_to_403(self._place(from_path)):
            if stat.S_ISDIR(found.st_mode):
                self._copy_folder(from_path, to_path)
            else:
                self.grow(found.st_size)
                self.beneath.copy(self.beneath, from_path, to_path)
        model: Model = self.get(to_path, content=False)
        return model

    def _copy_folder(self, from_path: str, to_path: str) -> None:
        if not from_path or f"{to_path}/".startswith(f"{from_path}/"):
            raise HTTPError(400, f"Can't copy {from_path!r} into itself")
        draft = joined(split(to_path)[0], f"{OURS}-copy")
        if os.path.lexists(self.beneath.root / draft):
            self.beneath.remove(draft)
        self.beneath.make_folder(draft)
        for path, found in listing.tree(self.beneath, from_path):
            target = draft + path[len(from_path) :]
            if stat.S_ISDIR(found.st_mode):
                self.beneath.make_folder(target)
            else:
                self.grow(found.st_size)
                self.beneath.copy(self.beneath, path, target)
        self.beneath.rename(draft, to_path)

    def _is_taken(self, path: str) -> bool:
        return os.path.lexists(self.beneath.root / path)

    def _place(self, path: str) -> str:
        return str(self.beneath.root / path)


def _check_size(path: str, size: int) -> None:
    if size > MAX_OPENED_MIB * 2**20:
        raise HTTPError(
            413,
            f"{path} has {size >> 20:,} MiB, and files of up to {MAX_OPENED_MIB} MiB are opened here: "
            "download it, or read it in a cell.",
        )
