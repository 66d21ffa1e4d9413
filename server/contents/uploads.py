"""Files that come in chunks, as Lab and Notebook send what is larger than 1 MiB.

jupyter_server appends each chunk to the file itself, so a reader sees half a file, and a chunk that is sent twice is in
it twice. Here chunks gather in a hidden file beside it, how far it goes is in the ledger, and the last one renames it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any, Final

from tornado.web import HTTPError

from server.contents.files import Files, Model
from server.contents.ledger import MAX_UPLOADS, Ledger
from server.contents.paths import UPLOAD, joined, split

LAST: Final = -1


def take(files: Files, ledger: Ledger, model: Model, path: str, request: str | None) -> Model:
    """Take one chunk (`model["chunk"]`: 1, 2, … and -1 for the last). Returns the model of the file so far."""
    data, chunk = _bytes(model), model["chunk"]
    if chunk == LAST and ledger.intended(request) == path and path not in ledger.uploads:
        return _model(files, path)  # finished by a worker that could not say so any more
    taken, size = (0, 0) if chunk == 1 else ledger.uploads.get(path, (0, 0))
    if chunk != 1 and (taken == 0 or files.beneath.stat(_draft(path)) is None):
        raise HTTPError(400, f"The upload of {path} was interrupted: start it again.")
    if chunk not in (taken, taken + 1, LAST):
        raise HTTPError(400, f"Chunk {chunk} of {path} does not follow chunk {taken}: start the upload again.")
    if chunk != taken:  # else the worker that took it could not say so any more
        files.grow(len(data))
        files.beneath.append(_draft(path), data, size)
        _note(files, ledger, path, (chunk, size + len(data)))
    if chunk == LAST:
        return _finish(files, ledger, path, request)
    return _model(files, _draft(path)) | {"name": split(path)[1], "path": path}


def _finish(files: Files, ledger: Ledger, path: str, request: str | None) -> Model:
    if files.dir_exists(path):
        raise HTTPError(400, f"{path} is a directory")
    ledger.intend(request, path)
    files.beneath.rename(_draft(path), files.beneath.resolved(path))
    del ledger.uploads[path]
    ledger.keep()
    return _model(files, path)


def _note(files: Files, ledger: Ledger, path: str, place: tuple[int, int]) -> None:
    """Remember how far it is. Of too many uploads at once, the one that nothing came for the longest is given up."""
    ledger.uploads.pop(path, None)
    ledger.uploads[path] = place
    while len(ledger.uploads) > MAX_UPLOADS:
        oldest = next(iter(ledger.uploads))
        del ledger.uploads[oldest]
        if files.beneath.stat(_draft(oldest)) is not None:
            files.beneath.remove(_draft(oldest))
    ledger.keep()


def _draft(path: str) -> str:
    folder, name = split(path)
    return joined(folder, f"{UPLOAD}{hashlib.sha256(name.encode()).hexdigest()[:16]}")


def _model(files: Files, path: str) -> Model:
    """The model of a file, without content; jupyter_server's own refuses hidden ones."""
    files.allow_hidden = True
    model: Model = files.get(path, content=False, type="file")
    files.allow_hidden = False
    return model


def _bytes(model: Model) -> bytes:
    if model.get("type") != "file":
        raise HTTPError(400, f"File type {model.get('type')!r} is not supported for large file transfer")
    content, form = model.get("content"), model.get("format")
    if not isinstance(content, str):
        raise HTTPError(400, "No file content provided")
    if form not in ("text", "base64"):
        raise HTTPError(400, "Must specify format of file contents as 'text' or 'base64'")
    try:
        return content.encode() if form == "text" else base64.b64decode(content)
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise HTTPError(400, f"Encoding error saving the chunk: {error}") from error


def is_chunk(model: dict[str, Any]) -> bool:
    """Whether this is part of a larger file. Raises HTTPError 400."""
    chunk = model.get("chunk")
    if chunk is None:
        return False
    if isinstance(chunk, bool) or not isinstance(chunk, int) or not (chunk == LAST or chunk >= 1):
        raise HTTPError(400, "chunk must be 1, 2, … or -1 for the last one")
    return True
