"""What a student finds at their first login: a few notebooks that show how it works here.

Once for each user: a mark outside their folder says that it was done, so notebooks that they delete stay deleted. A
folder that has something in it already is left as it is: who began with a program, whose kernel wrote a file before
anybody asked for a page, needs no welcome, and an operator may have put there what is to be found first.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Final

from server.contents import listing
from server.contents.files import Files
from server.contents.paths import OURS

MARK: Final = "welcomed"
_READY: Final = f"{OURS}-welcome"  # complete, being moved to its place
_DRAFT: Final = f"{OURS}-welcome-draft"


def is_welcomed(state: Path) -> bool:
    """Whether there is nothing more to do for the user of this state folder."""
    return (state / MARK).exists()


def keep_in_mind(state: Path) -> None:
    """There is nothing more to do for this user."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    (state / MARK).touch(mode=0o600)


def fill(files: Files) -> None:
    """Fill a new user's empty folder. Killed at any moment, the next call finishes it."""
    beneath, root = files.beneath, files.beneath.root
    if not (root / _READY).is_dir() and not listing.entries(files, ""):
        if os.path.lexists(root / _DRAFT):
            beneath.remove(_DRAFT)
        beneath.make_folder(_DRAFT)
        for name, data in notebooks().items():
            beneath.write(f"{_DRAFT}/{name}", data)
        beneath.rename(_DRAFT, _READY)
    if (root / _READY).is_dir():
        for name in notebooks():
            if os.path.lexists(root / _READY / name) and not os.path.lexists(root / name):
                beneath.rename(f"{_READY}/{name}", name)
        beneath.remove(_READY)


def notebooks() -> dict[str, bytes]:
    """The notebooks that come with this server, by name."""
    folder = resources.files("server.contents") / "welcome"
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.name.endswith(".ipynb")}
