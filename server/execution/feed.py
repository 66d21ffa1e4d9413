"""What happened to one execution, in order, for whoever follows it: the newest of it, each with an id.

An id is where the kernel's recorder had come to (incarnation, number), and a count of what it does not number; so an id
that one owner gave out means the same at the next. Who comes with an id that is too old gets everything anew. Pure.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, NamedTuple

from kernels.framing import Number

KEPT_BYTES: Final = 2**20
KEPT_EVENTS: Final = 4096
Place = tuple[int, int, int]


class Event(NamedTuple):
    """`kind` is `output`, `clear` or `update`."""

    place: Place
    kind: str
    data: dict[str, Any]


class Feed:
    """`place`: of what happened last. What happened up to it, before this was made, is not here."""

    def __init__(self, place: Place = (0, 0, 0)) -> None:
        self.place = place
        self._before = place  # nothing up to here is kept
        self._events: deque[tuple[Event, int]] = deque()
        self._bytes = 0

    def add(self, kind: str, data: dict[str, Any], number: Number | None, size: int) -> None:
        """One more."""
        if number and (*number, 0) > self.place:
            self.place = (*number, 0)
        else:
            self.place = (*self.place[:2], self.place[2] + 1)
        self._events.append((Event(self.place, kind, data), size))
        self._bytes += size
        while self._bytes > KEPT_BYTES or len(self._events) > KEPT_EVENTS:
            dropped, its_size = self._events.popleft()
            self._bytes -= its_size
            self._before = dropped.place

    def after(self, place: Place) -> list[Event] | None:
        """What happened after `place`; None when not all of that is here any more."""
        if place < self._before:
            return None
        return [event for event, _ in self._events if event.place > place]


def dump_place(place: Place) -> str:
    """An id, as text."""
    return ".".join(map(str, place))


def parse_place(text: str | None) -> Place | None:
    """The text of an id; None when it is none."""
    parts = (text or "").split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 16 for part in parts):
        return None
    return int(parts[0]), int(parts[1]), int(parts[2])
