"""Why kernels that are gone have ended: the words for whoever asks for one of them afterwards.

Owns a bounded memory of it, in the nursery, where it outlives workers. It ends with the nursery: of a machine that was
started anew nobody knows what ran before. Never decides what is worth telling: whoever ends a kernel says that.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MAX_USERS: Final = 4096
MAX_PER_USER: Final = 32  # nobody is pushed out by another who ends kernels in a loop
MAX_WORDS: Final = 500  # characters of each: all of it takes 64 MiB at the very most, and mostly some KiB


class Farewells:
    """The newest of each user; "" for a kernel that was ended by its user, to whom that is no news."""

    def __init__(self) -> None:
        self._users: OrderedDict[str, OrderedDict[str, str]] = OrderedDict()

    def keep(self, user: str, kernel_id: str, words: str) -> None:
        """`words`: a whole sentence, or ""."""
        mine = self._users.setdefault(user, OrderedDict())
        self._users.move_to_end(user)
        mine[kernel_id] = words[:MAX_WORDS]
        mine.move_to_end(kernel_id)
        if len(mine) > MAX_PER_USER:
            mine.popitem(last=False)
        if len(self._users) > MAX_USERS:
            self._users.popitem(last=False)

    def of(self, user: str, kernel_id: str) -> str | None:
        """The words; None for a kernel that is not known to have ended, and for somebody else's."""
        return self._users.get(user, OrderedDict()).get(kernel_id)
