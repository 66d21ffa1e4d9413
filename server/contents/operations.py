"""What each operation does with one user's files, in a thread. Status codes are jupyter_server's.

Writing operations are given the user's ledger, which says that it is their turn.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import nbformat
import orjson
from nbformat import NotebookNode
from tornado.web import HTTPError

from server.contents import course as courses
from server.contents import uploads
from server.contents.files import Files, Model
from server.contents.ledger import Ledger
from server.contents.listing import entries
from server.contents.paths import checked, is_hidden, shown, split

CHANGED: Final = "{} has been changed meanwhile, by another tab or program. Save it again to choose."


class Room(NamedTuple):
    """The user's files and, if there is one, the course's."""

    files: Files
    course: Files | None


class Saved(NamedTuple):
    """A model without content, and whether the file is new."""

    model: Model
    is_new: bool


# -- reading ----------------------------------------------------------------------------------------------------------


def get(room: Room, path: str, options: dict[str, Any]) -> Model:
    """The model of what is at `path`."""
    path = _visible(path, 404)
    course, is_own = room.course, _is_there(room, path)
    if course and not is_own and courses.kind(course, path):
        return courses.model(course, path, **options)
    model: Model = room.files.get(path, **options)
    if course and options["content"] and model["type"] == "directory":
        _add_course(course, model)
    return model


def _add_course(course: Files, model: Model) -> None:
    """Add to a folder of the student's what the course has there."""
    path, listed = model["path"], {each["name"] for each in model["content"]}
    more: list[Model] = []
    if path == "" and entries(course, ""):
        more = [courses.model(course, courses.NAME, content=False)]
    elif courses.kind(course, path) == "directory":
        more = courses.offered(course, path)
    model["content"] += [each for each in more if each["name"] not in listed]


def open_file(room: Room, path: str) -> tuple[int, os.stat_result]:
    """An opened regular file: the student's own, else the course's."""
    path = _visible(path, 404)
    if room.course and not _is_there(room, path) and courses.kind(room.course, path) == "file":
        return room.course.beneath.open(courses.inside(path) or "")
    return room.files.beneath.open(path)


def checkpoints(room: Room, path: str) -> list[Model]:
    """The checkpoints of a file."""
    found: list[Model] = room.files.list_checkpoints(_visible(path, 404))
    return found


def is_only_offered(room: Room, path: str) -> bool:
    """Whether `path` is a file of the course that the student has no copy of yet."""
    path = checked(path)
    return room.course is not None and not _is_there(room, path) and courses.kind(room.course, path) == "file"


# -- writing ----------------------------------------------------------------------------------------------------------


def bring(room: Room, path: str) -> None:
    """Give the student a copy of the course's file, or the folder that the course has; else nothing."""
    path = checked(path)
    kind = courses.kind(room.course, path) if room.course else None
    if room.course and kind == "file":
        courses.bring(room.files, room.course, path)
    elif kind == "directory":
        room.files.beneath.make_folders(path)


def save(room: Room, ledger: Ledger, path: str, model: Model, request: str | None, replaces: str | None) -> Saved:
    """Save what `model` has. Raises HTTPError.

    `replaces`: the hash of the version that this one is made from. If another is there by now: 412, nothing is written.
    The model that is returned has the new version's hash then.
    """
    path = _visible(path, 400)
    if model.get("path"):
        _visible(str(model["path"]), 400)
    bring(room, split(path)[0])
    is_new = not room.files.file_exists(path)
    if replaces and not is_new and ledger.intended(request) != path and _version(room, path)["hash"] != replaces:
        raise HTTPError(412, CHANGED.format(shown(path)).replace("%", "%%"))
    if uploads.is_chunk(model):
        return Saved(uploads.take(room.files, ledger, model, path, request), is_new)
    _check_model(model)
    ledger.intend(request, path)
    try:
        saved: Model = room.files.new(model, path) if is_new else room.files.save(model, path)
        return Saved(saved | (_version(room, path) if replaces else {}), is_new)
    except HTTPError as error:
        raise _what_it_was(error) from error


def new(room: Room, ledger: Ledger, folder: str, kind: str, ext: str, request: str | None) -> Model:
    """Make something empty, with a name of our choice, in `folder`."""
    folder = _visible(folder, 400)
    if done := _done_before(room, ledger, request):
        return done
    bring(room, folder)
    if room.files.file_exists(folder):
        raise HTTPError(400, "Cannot POST to files, use PUT instead.")
    # Called with the chosen path before anything is written.
    room.files.register_pre_save_hook(lambda path, **_: ledger.intend(request, checked(path)))
    model: Model = room.files.new_untitled(path=folder, type=kind, ext=ext)
    return model


def copy(room: Room, ledger: Ledger, path: str, to: str, request: str | None) -> Model:
    """Copy a file or folder."""
    path, to = _visible(path, 400), _visible(to, 400)
    if done := _done_before(room, ledger, request):
        return done
    bring(room, path)
    bring(room, to)
    if room.files.file_exists(to):
        raise HTTPError(400, "Cannot POST to files, use PUT instead.")
    target = _visible(room.files.copy_target(path, to), 400)
    ledger.intend(request, target)
    return room.files.copy_to(path, target)


def rename(room: Room, ledger: Ledger, path: str, to: str, request: str | None) -> Model:
    """Move a file or folder, and its checkpoints."""
    path, to = _visible(path, 400), _visible(to, 400)
    if not _is_there(room, path) and (done := _done_before(room, ledger, request)):
        return done
    bring(room, path)
    ledger.intend(request, to)
    model: Model = room.files.update({"path": to}, path)
    return model


def delete(room: Room, ledger: Ledger, path: str, request: str | None) -> None:
    """Delete a file or an empty folder, and its checkpoints."""
    path = _visible(path, 400)
    if not path:
        raise HTTPError(400, "Can't delete root")
    if not _is_there(room, path):
        if ledger.intended(request) == path:
            return
        if room.course and courses.kind(room.course, path):
            raise HTTPError(403, f"{path} is part of the course and cannot be deleted")
    ledger.intend(request, path)
    room.files.delete(path)


def create_checkpoint(room: Room, path: str) -> Model:
    """Keep a file as it is now."""
    path = _visible(path, 404)
    bring(room, path)
    model: Model = room.files.create_checkpoint(path)
    return model


def restore_checkpoint(room: Room, path: str, checkpoint: str) -> None:
    """Put a file back to what was kept."""
    room.files.restore_checkpoint(checkpoint, _visible(path, 404))


def delete_checkpoint(room: Room, path: str, checkpoint: str) -> None:
    """Forget what was kept."""
    room.files.delete_checkpoint(checkpoint, _visible(path, 404))


def trust(room: Room, path: str) -> None:
    """Trust what a notebook shows."""
    path = _visible(path, 404)
    bring(room, path)
    if not path.endswith(".ipynb"):
        raise HTTPError(400, f"Only notebooks can be trusted, and {path} is none")
    room.files.trust_notebook(path)


def amend(room: Room, path: str, change: Callable[[NotebookNode], bool]) -> bool:
    """Edit a notebook in place. What `change` puts into a cell comes from the user's kernel, so it is trusted."""
    path = _visible(path, 404)
    notebook = room.files.get(path, type="notebook")["content"]
    before = [_shows(cell) for cell in notebook.cells]
    if not change(notebook):
        return False
    for cell, seen in zip(notebook.cells, before, strict=False):
        if cell.cell_type == "code" and (seen in (None, b"[]") or _shows(cell) != seen):
            cell.metadata["trusted"] = True
    from_dict: Any = nbformat.from_dict  # not typed
    notebook = from_dict(notebook)  # plain dictionaries will do in what `change` puts in
    room.files.check_and_sign(notebook, path)
    room.files._save_notebook(room.files._get_os_path(path), notebook, capture_validation_error={})
    return True


# -- inside -----------------------------------------------------------------------------------------------------------


def _shows(cell: NotebookNode) -> bytes | None:
    return orjson.dumps(cell.outputs) if cell.cell_type == "code" else None


def _visible(path: str, status: int) -> str:
    """The checked path; a hidden one is refused with `status`."""
    path = checked(path)
    if is_hidden(path):
        if status == 404:
            raise HTTPError(404, f"file or directory {path!r} does not exist")
        raise HTTPError(status, f"Cannot use hidden files or directories here: {path!r}")
    return path


def _is_there(room: Room, path: str) -> bool:
    return os.path.lexists(room.files.beneath.root / path)


def _version(room: Room, path: str) -> Model:
    """The part of a model that tells what is in a file."""
    found = room.files.get(path, content=False, require_hash=True)
    return {name: found[name] for name in ("hash", "hash_algorithm")}


def _done_before(room: Room, ledger: Ledger, request: str | None) -> Model | None:
    """What this very request made already, before its worker died."""
    path = ledger.intended(request)
    if path is None or room.files.beneath.stat(path) is None:
        return None
    model: Model = room.files.get(path, content=False)
    return model


def _what_it_was(error: HTTPError) -> Exception:
    """jupyter_server makes a 500 of whatever goes wrong in a save: what it was, and a 400 where the notebook is odd."""
    cause = error.__cause__
    if error.status_code != 500 or not isinstance(cause, Exception):
        return error
    if isinstance(cause, AttributeError | KeyError | TypeError | ValueError) and not isinstance(cause, UnicodeError):
        return HTTPError(400, f"This is not a notebook that can be saved: {type(cause).__name__} {cause}")
    return cause


def _check_model(model: Model) -> None:
    """Refuse what nbformat and jupyter_server would fail over in the middle. Raises HTTPError 400, JSONEncodeError."""
    kind = model.get("type") or None
    if kind is None:
        model.pop("type", None)
    if "content" not in model or kind == "directory":
        return
    content = model["content"]
    if kind == "notebook":
        _check_notebook(content)
    elif kind == "file" and not isinstance(content, str):
        raise HTTPError(400, "The content of a file must be a string")


def _check_notebook(content: Any) -> None:
    cells = content.get("cells") if isinstance(content, dict) else None
    if cells is None or not isinstance(content.get("nbformat"), int) or not isinstance(content.get("metadata"), dict):
        raise HTTPError(400, "The content of a notebook must be an object with nbformat, metadata and cells")
    if content["nbformat"] != 4:
        raise HTTPError(400, "Notebooks are saved in nbformat 4")
    if not isinstance(cells, list) or not all(map(_is_cell, cells)):
        raise HTTPError(400, "Each cell of a notebook must be an object with cell_type, metadata and source")
    orjson.dumps(content)  # it says when its parts lie too deep in each other


def _is_cell(cell: Any) -> bool:
    if not isinstance(cell, dict) or not isinstance(cell.get("metadata"), dict):
        return False
    if cell.get("cell_type") == "code":
        outputs = cell.get("outputs")
        return isinstance(outputs, list) and all(isinstance(output, dict) for output in outputs)
    return isinstance(cell.get("cell_type"), str)
