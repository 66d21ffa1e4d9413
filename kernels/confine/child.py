"""What a kernel's process does to itself before any of its user's code.

Owns the order of it. It runs in a forked child with one thread, as root, and when it is through the process has no
way back. Every step that fails ends the start of that kernel: none is skipped. Where kernels have no uids of their own
it need not be root, and what it may do as root it gives up.
"""

from __future__ import annotations

import ctypes
import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

from kernels.confine import landlock, seccomp
from kernels.confine.apart import View
from kernels.confine.options import NAMESPACES, UIDS, Room, Walls

_SET_DUMPABLE, _BOUND_WITHOUT, _SET_SUBREAPER, _SET_NO_NEW_PRIVS, _AMBIENT = 4, 24, 36, 38, 47
_NO_AMBIENT: Final = 4
_SETPCAP: Final = 8
_CAPABILITIES: Final = 0x20080522  # the version of their interface
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class ConfineError(Exception):
    """A layer has failed; the text says which and why."""


class Fitting:
    """The walls, as one process puts them up. What does not depend on the kernel can be done before it is known."""

    def __init__(self, walls: Walls) -> None:
        self._walls = walls
        self._ruleset = -1
        self._filtered = not walls.seccomp
        self._view = View(walls) if walls.level == NAMESPACES else None
        self._covered = False

    def prepare(self) -> None:
        """In a spare that waits. What fails here fails again, and then counts, in `enter`.

        What is behind a filter and none of the nursery's kernels is what one has left, where they share a uid.
        """
        with suppress(OSError):
            self._cover()
            self._make_ruleset()
            if self._walls.level == UIDS:
                self._filter()

    def enter(self, room: Room) -> None:
        """Confines this process to a room. Raises ConfineError; the process must end then."""
        step = "limits"
        try:
            for what, most in self._walls.limits:
                resource.setrlimit(what, (most, most))
            step = "namespaces"
            self._cover()
            if self._view:
                self._view.open(room)
            step = "Landlock"
            self._make_ruleset()
            self._open_room(room)
            if self._walls.level == UIDS:
                step = "groups"
                os.setgroups([])
            else:
                step = "capabilities"
                _be_nobody_special()
            step = "seccomp"
            self._filter()
            step = "Landlock"
            if self._walls.landlock:
                landlock.restrict(self._ruleset, self._walls.landlock)
                os.close(self._ruleset)
            if self._walls.level == UIDS:
                step = f"uid {room.uid}"
                os.setresgid(room.uid, room.uid, room.uid)
                os.setresuid(room.uid, room.uid, room.uid)
                _prctl(_SET_DUMPABLE, 0)
        except (OSError, ValueError) as error:
            raise ConfineError(f"{step}: {getattr(error, 'strerror', None) or error}") from error
        os.umask(0o077)
        if not os.path.isdir(room.packages):  # noqa: PTH112 (as cheap as can be)
            with suppress(
                OSError
            ):  # no layer: Python would not look again into a directory that was not there at first
                os.makedirs(room.packages, exist_ok=True)  # noqa: PTH103

    def _filter(self) -> None:
        """What the filter refuses no step of ours needs, so it may come first. Takes longer than all others."""
        _prctl(_SET_NO_NEW_PRIVS, 1)
        if not self._filtered:
            seccomp.load(self._walls.seccomp)
            self._filtered = True

    def _cover(self) -> None:
        if self._view and not self._covered:
            self._view.cover()
            self._covered = True

    def _make_ruleset(self) -> None:
        walls = self._walls
        if walls.landlock and self._ruleset < 0:
            made = landlock.create(walls.landlock)
            landlock.allow_reading(made, walls.landlock, walls.readable)
            landlock.allow_devices(made, walls.landlock, walls.devices)
            landlock.allow_writing(made, walls.landlock, walls.writable)
            self._ruleset = made

    def _open_room(self, room: Room) -> None:
        if self._walls.landlock:
            landlock.allow_reading(self._ruleset, self._walls.landlock, room.readable)
            landlock.allow_writing(self._ruleset, self._walls.landlock, room.writable)


def _be_nobody_special() -> None:
    """No capability from here on, whatever is run. What it starts stays below it: an orphan becomes its child.

    So whatever comes to the nursery as an orphan comes from a kernel that has just ended.
    """
    _prctl(_SET_SUBREAPER, 1)
    _prctl(_AMBIENT, _NO_AMBIENT)
    if _effective() >> _SETPCAP & 1:  # without it none can be got again either: `no_new_privs`
        last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
        for capability in range(last + 1):
            _prctl(_BOUND_WITHOUT, capability)
    header, nothing = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
    if _LIBC.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _effective() -> int:
    header, found = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
    if _LIBC.capget(header, found) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found[0]


def _prctl(what: int, value: int) -> None:
    if _LIBC.prctl(what, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
