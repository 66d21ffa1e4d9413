"""What kernels may read that have the server's own uid, and whether this host can confine such kernels: by a trial.

Owns the list and the trial. With a uid of its own a kernel may read what others may, as the modes of files say. Here
every mode is open to it, so the list names what is allowed, and nothing else is: the system's programs and libraries,
what everybody may read of its settings, and the Python that kernels run in.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from kernels.confine import apart
from kernels.confine.child import ConfineError, Fitting
from kernels.confine.options import NAMESPACES, Room, Walls

ALONE: Final = 6
"""Before this version Landlock keeps processes from neither signals nor abstract sockets (Linux 6.12)."""

DEVICES: Final = ("null", "zero", "full", "random", "urandom")
"""Without terminals: those of all kernels lie in one directory, and each has the same owner."""

_SYSTEM: Final = ("bin", "lib", "lib32", "lib64", "libx32", "sbin", "usr", "proc", "sys", "nix/store", "gnu/store")
_SETTINGS: Final = Path("/etc")
_INSTALLED: Final = Path("/opt")
_ENDS: Final = (Path("/etc/resolv.conf"), Path("/etc/localtime"))  # are links to elsewhere


def readable(package: Path, closed: list[Path]) -> Iterator[str]:
    """Paths. `package`: this server's own; `closed`: what must not be among them, nor what these lie in."""
    return iter(_without_what_lies_below(_readable(package, closed)))


def _without_what_lies_below(paths: Iterator[str]) -> list[str]:
    found = sorted(set(paths))
    return [path for path in found if not any(str(above) in found for above in Path(path).parents)]


def _readable(package: Path, closed: list[Path]) -> Iterator[str]:
    yield from (f"/{name}" for name in _SYSTEM if Path(f"/{name}").is_dir() and not Path(f"/{name}").is_symlink())
    yield from map(str, _open_to_all(_SETTINGS, recursive=True))
    yield from map(str, _open_to_all(_INSTALLED, recursive=False, closed=[package, *closed]))
    yield from (str(path.resolve()) for path in _ENDS if path.exists())
    for path in {Path(sys.prefix), Path(sys.base_prefix), package, *map(Path, filter(None, sys.path))}:
        real = path.resolve()
        if not any(each == real or real in each.parents for each in (package.parent / "x", *closed)) and real.exists():
            yield str(real)


def _open_to_all(folder: Path, *, recursive: bool, closed: list[Path] | None = None) -> list[Path]:
    """What lies in a folder that every user of the machine may read; the folder itself when that is all of it."""
    found: list[Path] = []
    whole = True
    for path in _entries(folder):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode) or (not recursive and path.lstat().st_uid == os.geteuid() != 0):
            continue
        is_folder = stat.S_ISDIR(mode)
        wanted = 0o005 if is_folder else 0o004
        if mode & wanted != wanted or any(path == each or path in each.parents for each in closed or ()):
            whole = False
        elif is_folder and recursive:
            below = _open_to_all(path, recursive=True)
            whole = whole and below == [path]
            found.extend(below)
        else:
            found.append(path)
    return [folder] if whole and recursive else found


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, PermissionError):
        return []


def why_not(abi: int, program: bytes, needed: int) -> Iterator[str]:
    """Sentences about what is missing besides a trial. `needed`: of Landlock."""
    if abi < needed:
        found = f"Landlock's version is {abi}" if abi else "Landlock is missing or switched off"
        yield f"{found}, and {needed} is needed to keep kernels apart that have one uid (Linux 6.12 has 6)"
    if not program:
        yield "seccomp is missing: install libseccomp2"


def tried(walls: Walls, must_read: list[str]) -> str:
    """What is wrong when a child goes behind the walls; "" when nothing is."""
    place = Path(tempfile.mkdtemp(prefix="kernelring-"))
    try:
        for name in ("home", "t", "memory", "secret"):
            (place / name).mkdir()
        (place / "connection.json").touch()
        room = Room(0, str(place / "home"), str(place), str(place / "memory"), makes_sockets=False)
        if walls.level == NAMESPACES:
            walls, room = replace(walls, covered=(*walls.covered, str(place))), replace(room, memory="/dev/shm")  # noqa: S108
        return _told_by_a_child(walls, room, must_read)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _told_by_a_child(walls: Walls, room: Room, must_read: list[str]) -> str:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _go_apart(walls, write)
            os.write(write, _try(walls, room, must_read).encode(errors="replace"))
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        found = told.read().decode()
    os.waitpid(pid, 0)
    return found.removesuffix("\n") if found.endswith("\n") else "a child that was confined has ended at once"


def _go_apart(walls: Walls, write: int) -> None:
    """Goes on in a child, which ends when it has told what it has found."""
    if walls.level != NAMESPACES:
        return
    try:
        apart.begin()
        child = os.fork()
    except OSError as error:
        os.write(write, f"they cannot be made here ({error.strerror})\n".encode())
        os._exit(0)
    if child:
        os.waitpid(child, 0)
        os._exit(0)


def _try(walls: Walls, room: Room, must_read: list[str]) -> str:
    """In the child. The sentence, and a line's end to show that it came to its own."""
    try:
        Fitting(walls).enter(room)
    except ConfineError as error:
        return f"a process cannot be confined: {error}\n"
    for path in must_read:
        try:
            os.close(os.open(path, os.O_RDONLY))
        except OSError as error:
            return f"a confined process cannot read {path} ({error.strerror}): install it elsewhere, such as in /opt\n"
    with suppress(OSError):
        os.listdir(f"{room.directory}/secret")  # noqa: PTH208 (as short as can be)
        return "Landlock keeps a process from nothing here\n"
    with suppress(OSError):
        os.chroot("/")
        return "seccomp refuses nothing here\n"
    return "\n"
