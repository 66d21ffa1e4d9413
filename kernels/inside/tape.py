"""The newest output of a kernel, numbered.

Owns a bounded list of iopub messages, as the parts that were sent, without their signatures. What falls out is
counted, never hidden. Pure: no sockets, no threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

from kernels.inside.block import Block
from kernels.inside.packed import Packed, size_of

MAX_MESSAGES: Final = 20_000
BLOCK_BYTES: Final = 2**16
BLOCKS: Final = 16  # of the limit at least, so that what falls out at a time is little


class Tape:
    """Messages 1, 2, 3, … of which the newest are kept: `limit_bytes` and MAX_MESSAGES of them at the most.

    The bound is on what was sent. It takes less memory, because all but the newest is kept in compressed blocks, and
    it falls out a block at a time.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._block_bytes = min(BLOCK_BYTES, limit_bytes // BLOCKS)
        self.last = 0
        self._blocks: deque[Block] = deque()
        self._count = self._cost = 0  # of what is in the blocks
        self._newest: list[Packed] = []  # which may become the next block
        self._newest_cost = 0

    @property
    def first(self) -> int:
        """The number of the oldest message that is kept; `last + 1` when there is none."""
        return self.last + 1 - self._count - len(self._newest)

    def append(self, parts: Sequence[bytes | memoryview]) -> None:
        """Keep the next message. One that is larger than the whole tape is not kept, nor is anything before it."""
        self.last += 1
        if size_of(parts) > self._limit_bytes:
            self._forget()
            return
        self._newest.append(Packed.of(parts))
        self._newest_cost += self._newest[-1].cost
        if self._newest_cost >= self._block_bytes:
            self._seal()
        while self._blocks and self._is_too_much():
            self._drop()

    def after(self, n: int) -> list[list[bytes]]:
        """Return what is kept of the messages after number `n`, in order."""
        skip = max(0, n + 1 - self.first)
        kept: list[Packed] = []
        for block in self._blocks:
            if skip >= block.size:
                skip -= block.size
            else:
                kept += islice(block.messages, skip, None)
                skip = 0
        return [packed.parts for packed in (*kept, *self._newest[skip:])]

    def _is_too_much(self) -> bool:
        return self._cost + self._newest_cost > self._limit_bytes or self._count + len(self._newest) > MAX_MESSAGES

    def _seal(self) -> None:
        self._blocks.append(Block.of(self._newest))
        self._count += len(self._newest)
        self._cost += self._newest_cost
        self._newest_cost = 0
        self._newest.clear()

    def _drop(self) -> None:
        oldest = self._blocks.popleft()
        self._count -= oldest.size
        self._cost -= oldest.cost

    def _forget(self) -> None:
        self._blocks.clear()
        self._newest.clear()
        self._count = self._cost = self._newest_cost = 0
