"""The line of kernels that wait to be started: in order of arrival, and fair between users.

Owns the order alone; it never touches processes or the clock. One user's many starts do not delay another's first: each
further start of a user's stands one turn behind the one before, and those of one turn stand in order of arrival. Nobody
waits for ever, for a turn that has come does not come again.
"""

from __future__ import annotations

import itertools


class Line:
    """Those that wait, by their kernel's id."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[int, int, str]] = {}  # turn, arrival, user
        self._turn = 0
        self._arrivals = itertools.count()

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, kernel_id: str, user: str) -> None:
        """One more."""
        last = max((turn for turn, _, whose in self._waiting.values() if whose == user), default=self._turn - 1)
        self._waiting[kernel_id] = (max(self._turn, last + 1), next(self._arrivals), user)

    def leave(self, kernel_id: str) -> None:
        """It waits no more, or did not."""
        self._waiting.pop(kernel_id, None)

    def first(self) -> str:
        """Whose turn it is, who stays in the line; "" when nobody waits."""
        return min(self._waiting, key=self._waiting.__getitem__, default="")

    def call(self) -> str:
        """As `first`, who leaves the line."""
        if kernel_id := self.first():
            self._turn = self._waiting.pop(kernel_id)[0]
        return kernel_id

    def place(self, kernel_id: str) -> int:
        """1 for the first; 0 for one that does not wait."""
        if own := self._waiting.get(kernel_id):
            return sum(other <= own for other in self._waiting.values())
        return 0
