"""Where a user's kernels start and with which environment.

Owns the mapping from user to directory, and the environment built from nothing: no variable of the server reaches a
kernel unless a setting names it.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Final
from urllib.parse import quote

PASSED_ON: Final = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "VIRTUAL_ENV")
# Interpreter settings that cost nothing and that numeric libraries need on a shared machine are left to the
# kernelspec; what Jupyter itself reads to find kernelspecs and its configuration goes along.
JUPYTER: Final = ("JUPYTER_PATH", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_PREFER_ENV_PATH", "IPYTHONDIR")
MAX_NAME_BYTES: Final = 200
MAX_DEPTH: Final = (
    64  # each step down reads a link at every level: a path of 2,000 would stop the event loop for seconds
)
_KERNEL_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_kernel_id(text: str) -> bool:
    """Whether `text` has the form of a UUID in lower case, and so can name a directory."""
    return _KERNEL_ID.fullmatch(text) is not None


def user_directory(notebooks: Path, user: str) -> Path:
    """Return the user's directory below `notebooks`, made when missing. Two users never share one."""
    directory = notebooks / directory_name(user)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def directory_name(user: str) -> str:
    """The name of the user's directory. It never begins with a dot.

    It is the id, percent-encoded, so that it is one path segment; a long one ends in its hash instead. An
    encoded id has no "!", so nobody can choose an id that spells the shortened name of somebody else.
    """
    name = quote(user, safe="@+=,").replace(".", "%2E")
    if len(name) > MAX_NAME_BYTES:
        name = f"{name[: MAX_NAME_BYTES - 65]}!{hashlib.sha256(user.encode()).hexdigest()}"
    return name


def start_directory(notebooks: Path, user: str, path: str | None) -> Path:
    """Return the directory in which a kernel for the notebook `path` starts: the nearest existing one of the user's."""
    root = user_directory(notebooks, user).resolve()
    if not path or "\0" in path:
        return root
    here = root
    for part in Path(path.lstrip("/")).parts[:MAX_DEPTH]:
        below = _directory_below(root, here / part)
        if below is None:
            break
        here = below
    return here


def _directory_below(root: Path, path: Path) -> Path | None:
    """`path` with links followed, if that is a directory in `root`."""
    try:
        real = path.resolve()
        return real if real.is_relative_to(root) and real.is_dir() else None
    except (OSError, RuntimeError):  # too long a name, a closed directory; links in a ring (RuntimeError)
        return None


def kernel_environment(extra: tuple[str, ...], cwd: Path) -> dict[str, str]:
    """Return the complete environment of a kernel. `extra`: further names to take from the server's own."""
    names = (*PASSED_ON, *JUPYTER, *extra)
    environment = {name: os.environ[name] for name in names if name in os.environ}
    here = str(Path(sys.executable).parent)  # kernelspecs name `python`, and students call `!pip`
    environment["PATH"] = os.pathsep.join([here, os.environ.get("PATH", os.defpath)])
    environment["PWD"] = str(cwd)
    return environment
