"""One place for each user whose files are in use: the turn to write, the number of readers, what is known of the disk.

Kept for the users of late, in memory only. A desk that somebody is at is never given away.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from server.contents.quota import Usage

MAX_DESKS: Final = 1024
AT_ONCE: Final = 4  # threads for one user, so that nobody fills the pool


@dataclass(slots=True)
class Desk:
    """What one user's operations share. `is_settled`: the first login's work is done."""

    usage: Usage
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    seats: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    is_settled: bool = False
    n_guests: int = 0


class Desks:
    """All of them."""

    def __init__(self, new_usage: Callable[[str], Usage]) -> None:
        self._new_usage = new_usage
        self._desks: OrderedDict[str, Desk] = OrderedDict()

    @contextmanager
    def at(self, user: str) -> Iterator[Desk]:
        """The user's desk, which stays while the block runs."""
        desk = self._desks.get(user)
        if desk is None:
            desk = self._desks[user] = Desk(self._new_usage(user))
        self._desks.move_to_end(user)
        desk.n_guests += 1
        try:
            yield desk
        finally:
            desk.n_guests -= 1
            self._forget()

    def _forget(self) -> None:
        while len(self._desks) > MAX_DESKS:
            idle = next((user for user, desk in self._desks.items() if not desk.n_guests), None)
            if idle is None:
                return
            del self._desks[idle]
