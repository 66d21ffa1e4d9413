"""The newest output of a kernel, numbered.

Owns a bounded list of iopub messages, as the signed parts that were sent. What falls out is counted, never hidden.
Pure: no sockets, no threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

# A message is a list and at least five bytes objects (measured with sys.getsizeof): short lines cost more than their
# text, and the bound is one of memory.
OVERHEAD_BYTES: Final = 400
MAX_MESSAGES: Final = 20_000


class Taped(NamedTuple):
    """A message: its number, its parts from the signature on, and what it costs."""

    n: int
    parts: list[bytes]
    cost: int


class Tape:
    """Messages 1, 2, 3, … of which the newest are kept: `limit_bytes` and MAX_MESSAGES of them at the most."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._kept: deque[Taped] = deque()
        self.last = 0

    @property
    def first(self) -> int:
        """The number of the oldest message that is kept; `last + 1` when there is none."""
        return self._kept[0].n if self._kept else self.last + 1

    def append(self, parts: Sequence[bytes | memoryview]) -> None:
        """Keep the next message. One that is larger than the whole tape is not kept, nor is anything before it."""
        self.last += 1
        cost = OVERHEAD_BYTES + sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)
        if cost > self._limit_bytes:
            self._kept.clear()
            self._bytes = 0
            return
        # A buffer is the user's own array, which changes: it is copied.
        self._kept.append(Taped(self.last, [bytes(part) for part in parts], cost))
        self._bytes += cost
        while self._bytes > self._limit_bytes or len(self._kept) > MAX_MESSAGES:
            self._bytes -= self._kept.popleft().cost

    def after(self, n: int) -> list[Taped]:
        """Return what is kept of the messages after number `n`, in order."""
        skipped = max(0, n + 1 - self.first)
        return [taped for at, taped in enumerate(self._kept) if at >= skipped]
