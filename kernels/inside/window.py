"""How much output may be under way to the owner: bytes that were sent and that it has not said to have read.

Owns that count, and the waiting of whoever prints faster than the owner reads. ZMQ counts messages, and 20,000 of them
may be gigabytes, here and at the owner. So an owner offers a window when it attaches, and says how far it has read.
Output is numbered, so that nothing more than a number must be said. No sockets.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import Final

MESSAGE_BYTES: Final = 512  # what a message costs beside its parts, in libzmq and in Python
MARK_BYTES: Final = 64 * 1024  # how exactly it is known what was read
# Whoever prints waits for an owner that reads nothing, and then goes on without it: it may be dead, and the cell is to
# finish all the same. An owner that was killed is replaced sooner, one that hangs later: then the recorder overflows.
PATIENCE_S: Final = 1.5
# What is sent although the window is full, by those who do not wait: forked children, mostly. Beyond it nothing is
# handed to libzmq. It is recorded, and the owner sees by the next number that it has missed something.
HARD_LIMIT: Final = 4


class Window:
    """`sent` is called on ipykernel's IOPub thread, `open` and `read` on the control thread; these never wait."""

    def __init__(self) -> None:
        self._limit = 0  # none: no owner has offered a window
        self._sent = self._read = 0
        self._marks: deque[tuple[int, int]] = deque()  # (number, bytes sent with it and before)
        self._changed = threading.Condition()
        self._patient = True
        self._own = threading.local()
        self._process = os.getpid()

    def open(self, limit_bytes: int) -> None:
        """An owner has attached, and has been told all until now; 0: it does not say what it reads."""
        with self._changed:
            self._here()
            self._limit = limit_bytes
            self._read = self._sent
            self._marks.clear()
            self._patient = True
            self._changed.notify_all()

    def sent(self, number: int, size: int) -> bool:
        """Count a message that is about to be sent. False: it must not be, because nobody reads."""
        with self._changed:
            self._here()
            if self._limit and self._sent - self._read > HARD_LIMIT * self._limit:
                return False
            self._sent += size + MESSAGE_BYTES
            if self._limit and self._sent - (self._marks[-1][1] if self._marks else self._read) > MARK_BYTES:
                self._marks.append((number, self._sent))
            return True

    def read(self, number: int) -> None:
        """The owner has read all up to `number`."""
        with self._changed:
            while self._marks and self._marks[0][0] <= number:
                self._read = self._marks.popleft()[1]
            self._patient = True
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when there is room: at once, mostly. Called by threads that print, after they have."""
        if self._has_room() or hasattr(self._own, "exempt") or os.getpid() != self._process:
            return
        with self._changed:
            while not self._has_room():
                before = self._read
                if not self._changed.wait(PATIENCE_S) and self._read == before:
                    self._patient = False

    def _has_room(self) -> bool:
        return self._sent - self._read <= self._limit or not self._limit or not self._patient

    def _here(self) -> None:
        """This thread makes room for others and must not wait for it, whatever it prints itself."""
        self._own.exempt = True
        self._process = os.getpid()  # of the kernel itself: its forked children have none of these threads
