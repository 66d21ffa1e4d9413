"""The newest output of a kernel, numbered.

Owns a bounded list of iopub messages, as the signed parts that were sent. What falls out is counted, never hidden.
Pure: no sockets, no threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

from kernels.inside.packed import Packed, size_of

MAX_MESSAGES: Final = 20_000


class Tape:
    """Messages 1, 2, 3, … of which the newest are kept: `limit_bytes` and MAX_MESSAGES of them at the most."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._kept: deque[Packed] = deque()
        self.last = 0

    @property
    def first(self) -> int:
        """The number of the oldest message that is kept; `last + 1` when there is none."""
        return self.last + 1 - len(self._kept)

    def append(self, parts: Sequence[bytes | memoryview]) -> None:
        """Keep the next message. One that is larger than the whole tape is not kept, nor is anything before it."""
        self.last += 1
        if size_of(parts) > self._limit_bytes:
            self._kept.clear()
            self._bytes = 0
            return
        self._kept.append(Packed.of(parts))
        self._bytes += self._kept[-1].cost
        while self._bytes > self._limit_bytes or len(self._kept) > MAX_MESSAGES:
            self._bytes -= self._kept.popleft().cost

    def after(self, n: int) -> list[list[bytes]]:
        """Return what is kept of the messages after number `n`, in order."""
        return [packed.parts for packed in islice(self._kept, max(0, n + 1 - self.first), None)]
