"""What a kernel sent lately, as its owner keeps it for the clients.

Owns one bounded, numbered list of frames per kernel. A client is a cursor into it: so a client that went away for a
moment, or reads slowly, goes on from where it was, and memory is bounded by the list and not by the clients. What
fell out before a client had it is counted and told, never skipped silently. Pure: no sockets, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import orjson

from kernels import framing

_CLAIMED: Final = ""  # no request has this msg_id
MAX_REPLIES: Final = 1024  # that clients have not said they have got


@dataclass(slots=True)
class Entry:
    """One frame. `to` names the only client that gets it (None: all).

    `answers` is None, or the frame is nobody's yet: the msg_id of the request that it replies to. `number` is what the
    kernel's own recorder has numbered it with, if it did.
    """

    frame: bytes
    to: str | None
    answers: str | None
    number: framing.Number | None = None


class Batch(NamedTuple):
    """What `read` returns: frames in order, the cursor after them, and how many frames had fallen out before them."""

    frames: list[bytes]
    cursor: int
    missed: int


class Backlog:
    """Frames 1, 2, 3, … of which the newest `limit_bytes` are kept."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._entries: dict[int, Entry] = {}
        self._first = 1
        self.last = 0
        self._replies: dict[tuple[str, str], int] = {}  # by request and client: the number of the frame
        self.dropped: framing.Number = (0, 0)  # the number of the newest output that has fallen out

    def append(
        self,
        frame: bytes,
        to: str | None = None,
        answers: str | None = None,
        number: framing.Number | None = None,
    ) -> None:
        """Keep one more frame, and let the oldest go while the limit is exceeded (the newest always stays)."""
        self.last += 1
        self._entries[self.last] = Entry(frame, to, answers, number)
        self._bytes += len(frame)
        while self._bytes > self._limit_bytes and self._first < self.last:
            oldest = self._entries.pop(self._first)
            self._bytes -= len(oldest.frame)
            self.dropped = oldest.number or self.dropped
            self._first += 1

    def note_reply(self, msg_id: str, client: str) -> None:
        """The newest frame is the reply to this request, for this client."""
        self._replies[msg_id, client] = self.last
        while len(self._replies) > MAX_REPLIES:
            del self._replies[next(iter(self._replies))]

    def settle(self, msg_id: str, client: str) -> None:
        """`client` has got the reply to its request `msg_id`: it is not told again."""
        if entry := self._entries.get(self._replies.pop((msg_id, client), 0)):
            entry.answers = _CLAIMED

    def read(self, cursor: int, client: str, max_bytes: int, past: framing.Number = (0, 0)) -> Batch:
        """Return the frames after `cursor` that `client` may see, about `max_bytes` of them at the most.

        `past`: it has got the kernel's output up to this number, some of which may have come here later than to it.
        """
        missed = max(0, self._first - 1 - cursor)
        cursor = max(cursor, self._first - 1)
        frames: list[bytes] = []
        size = 0
        while cursor < self.last and size < max_bytes:
            cursor += 1
            entry = self._entries[cursor]
            is_new = entry.number is None or entry.number > past
            if is_new and entry.answers is None and entry.to in (None, client):
                frames.append(entry.frame)
                size += len(entry.frame)
        return Batch(frames, cursor, missed)

    def runs_away_from(self, cursor: int) -> bool:
        """Whether what a client at `cursor` has to read will fall out soon, if it reads no faster."""
        return self._bytes > self._limit_bytes / 2 and cursor < (self._first + self.last) / 2

    def find(self, msg_id: str) -> int | None:
        """Return the number of the message `msg_id`, or None when it is not (or no longer) here."""
        wanted = msg_id.encode()
        for number in range(self.last, self._first - 1, -1):
            header = framing.part_of(self._entries[number].frame, 0)
            if wanted in header and _msg_id(header) == msg_id:
                return number
        return None

    def after(self, number: framing.Number) -> int:
        """Return the cursor of a client that has got the kernel's output up to `number`, whether it is here or not."""
        for cursor in range(self.last, self._first - 1, -1):
            found = self._entries[cursor].number
            if found and found <= number:
                return cursor
        return self._first - 1

    def claim_answer(self, msg_id: str, client: str) -> bool:
        """Give `client` what came for its request `msg_id` while nobody knew who had asked.

        False: the reply was not among it and is still to come (an input request comes before it).

        The frames are put at the end. Where they were, the client may be past them already: the owner before and this
        one hear iopub both, but this one alone the reply. Reply heard here as 1, then iopub 2 by both; the owner
        before passes 2 on and ends; the client goes on after 2, and 1 would never be read.
        """
        found = [entry for entry in self._entries.values() if entry.answers == msg_id]
        for entry in found:
            entry.answers = _CLAIMED
            self.append(entry.frame, client)
            if framing.channel_of(entry.frame) != "stdin":
                self.note_reply(msg_id, client)
        return any(framing.channel_of(entry.frame) != "stdin" for entry in found)


def _msg_id(header: bytes) -> object:
    """The header's msg_id; None when a kernel has sent what is not a header."""
    try:
        fields = orjson.loads(header)
    except orjson.JSONDecodeError:
        return None
    return fields.get("msg_id") if isinstance(fields, dict) else None
