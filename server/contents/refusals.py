"""What goes wrong with files, as one answer each: in jupyter_server's form while its code runs, in ours for clients.

Never tells where the user's directory is on the server.
"""

from __future__ import annotations

import errno
from http import HTTPStatus
from pathlib import Path

import orjson
from tornado.web import HTTPError

from server.api_errors import ApiError, api_error
from server.contents.beneath import LeavesRoot, NotRegular
from server.contents.paths import not_here, shown

_SAID: dict[int, tuple[int, str]] = {
    errno.ENOENT: (404, "No such file or directory: {}"),
    errno.ENOTDIR: (404, "A part of this path is not a directory: {}"),
    errno.EISDIR: (400, "This is a directory: {}"),
    errno.EEXIST: (409, "There is something of this name already: {}"),
    errno.ENOTEMPTY: (400, "This directory is not empty: {}"),
    errno.EACCES: (403, "Permission denied: {}"),
    errno.EPERM: (403, "Permission denied: {}"),
    errno.EROFS: (403, "This cannot be changed here: {}"),
    errno.ELOOP: (404, "This link leads nowhere: {}"),
    errno.EXDEV: (400, "This cannot be moved from one disk to another: {}"),
    errno.ENAMETOOLONG: (400, "The name is too long: {}"),
    errno.EINVAL: (400, "This cannot be done with it: {}"),
    errno.ENOSPC: (507, "The disk is full: delete something, then save again. Not written: {}"),
    errno.EDQUOT: (507, "The disk has no more room for you: delete something, then save again. Not written: {}"),
    errno.EFBIG: (413, "The file is too large: {}"),
}


def refusal(error: OSError, path: str = "") -> HTTPError | OSError:
    """The answer to an error of the disk; the error itself when it is none of the user's making."""
    name = path or str(error.filename or "")
    if isinstance(error, LeavesRoot):
        return not_here(name)
    if isinstance(error, NotRegular):
        return HTTPError(400, f"This is not a regular file: {shown(name)}")
    if error.errno not in _SAID:
        return error
    status, sentence = _SAID[error.errno]
    return HTTPError(status, sentence.format(shown(name)).replace("%", "%%"))


def answer(error: Exception, root: Path) -> ApiError | None:
    """What the client is told of an error while serving files below `root`; None when it is a fault of ours."""
    if isinstance(error, OSError):
        found = refusal(error)
        if isinstance(found, OSError):
            return None
        error = found
    if isinstance(error, HTTPError):
        said = str(error.log_message or HTTPStatus(error.status_code).phrase).replace("%%", "%")
        return api_error(error.status_code, said.replace(f"{root}/", "").replace(str(root), ""), error.reason)
    if isinstance(error, RecursionError | orjson.JSONEncodeError):
        return api_error(400, "This notebook cannot be read or written: its parts lie too deep in each other.")
    if isinstance(error, UnicodeEncodeError):
        return api_error(400, "This holds characters that are no text (half of a surrogate pair).")
    return None
