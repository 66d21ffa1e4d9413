"""What the nursery is told of confinement, and what it tells a kernel's process, as JSON and back.

Owns the three types alone: `Options` (settings), `Walls` (the same for all kernels of a host), `Room` (one kernel's).
"""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

UIDS: Final = "uids"
NAMESPACES: Final = "namespaces"
LANDLOCK: Final = "landlock"
NONE: Final = "none"
LEVELS: Final = (UIDS, NAMESPACES, LANDLOCK)
"""Of confinement, the strongest first."""


@dataclass(frozen=True, slots=True)
class Options:
    """The settings. `uids`: first and last of those that users are given, each with the gid of the same number.

    `level`: the one that it has to be; empty for the strongest that there is.
    `memory_mib`, `files` and `file_mib` are a kernel's, and so are those of each process that it starts;
    `processes` (threads count as well) are a user's.
    """

    notebooks: Path
    uids: tuple[int, int] = (200_000, 265_535)
    memory_mib: int = 1024
    processes: int = 512
    files: int = 1024
    file_mib: int = 1024
    level: str = ""

    def to_text(self) -> str:
        """For a command line; `from_text` is its inverse."""
        return json.dumps(asdict(self) | {"notebooks": str(self.notebooks)})

    @classmethod
    def from_text(cls, text: str) -> Self:
        """What `to_text` made."""
        found = json.loads(text)
        return cls(**found | {"notebooks": Path(found["notebooks"]), "uids": tuple(found["uids"])})


@dataclass(frozen=True, slots=True)
class Walls:
    """What all kernels have in common.

    `landlock`: the version of its interface, 0 for none; `readable`, `writable` and `devices` are the paths that it
    leaves open; `seccomp`: a compiled filter, empty for none; `limits`: (resource, value) for setrlimit. `level` says
    how kernels are told apart: by a uid each ("uids"), or all with the server's own. With namespaces `covered` are the
    directories in which others' things lie, and `memory_mib` is what a kernel's own /dev/shm may hold.
    """

    landlock: int = 0
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    seccomp: bytes = b""
    limits: tuple[tuple[int, int], ...] = ()
    level: str = UIDS
    covered: tuple[str, ...] = ()
    memory_mib: int = 0

    def to_text(self) -> str:
        """For a command line; `from_text` is its inverse."""
        return json.dumps(asdict(self) | {"seccomp": base64.b64encode(self.seccomp).decode()})

    @classmethod
    def from_text(cls, text: str) -> Self:
        """What `to_text` made."""
        found = json.loads(text)
        paths = {name: tuple(found[name]) for name in ("readable", "writable", "devices", "covered")}
        limits = tuple((int(resource), int(value)) for resource, value in found["limits"])
        return cls(**found | paths | {"limits": limits, "seccomp": base64.b64decode(found["seccomp"])})


@dataclass(frozen=True, slots=True)
class Room:
    """One kernel's: whose it is, and where. `uid` is the gid, too, 0 where all have the server's; `directory` is the
    kernel's own; `memory` its own part of /dev/shm, empty where all of that is open to it. `makes_sockets`: it is not
    given them."""

    uid: int
    home: str
    directory: str
    memory: str = ""
    makes_sockets: bool = True

    @property
    def packages(self) -> str:
        """Where pip puts a user's own packages."""
        return f"{self.home}/.local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"

    @property
    def readable(self) -> tuple[str, ...]:
        """What it may read, besides what everybody may. With a uid of its own the modes of files say the rest."""
        return (self.directory,) if self.uid else (f"{self.directory}/connection.json",)

    @property
    def writable(self) -> tuple[str, ...]:
        """What it may write to, besides what everybody may."""
        found = (self.home, f"{self.directory}/s", f"{self.directory}/t", self.memory)
        return tuple(path for path in found if path and (self.makes_sockets or not path.endswith("/s")))
