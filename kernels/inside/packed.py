"""A message as it is kept: one bytes object.

orjson's results each occupy 4 kB for as long as they live, however short they are (measured, 3.11, RSS of 4,000 lists
of four: 16.2 kB each, copies of the same 1.1 kB). And a buffer is the user's own array, which changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final, NamedTuple, Self

OVERHEAD_BYTES: Final = 400  # of the objects around the text (measured with sys.getsizeof), for bounds of memory


class Packed(NamedTuple):
    """Copies of a message's parts."""

    text: bytes
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, parts: Sequence[bytes | memoryview]) -> Self:
        """Copy `parts`."""
        lengths = tuple(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)
        return cls(b"".join(parts), lengths)

    @property
    def cost(self) -> int:
        """What it takes in memory, bytes."""
        return OVERHEAD_BYTES + len(self.text)

    @property
    def parts(self) -> list[bytes]:
        """The parts again."""
        return [self.text[a:b] for a, b in pairwise((0, *accumulate(self.lengths)))]


def size_of(parts: Sequence[bytes | memoryview]) -> int:
    """How many bytes they are."""
    return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)
