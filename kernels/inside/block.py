"""Some messages as they are kept for long: one compressed text.

Owns the form of that text. Printed text takes a fifth to a fifteenth of its size in it, not least because messages of
one kernel have nearly the same headers. What does not get smaller (figures) is kept as it is.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple, Self

from kernels.inside.packed import Packed

LEVEL: Final = 1
"""zlib's fastest. Measured with a line of 35 characters per message: 4.7 us each, copying included."""

SAMPLE_BYTES: Final = 2048
WORTH_IT: Final = 0.5
"""What a sample must shrink to. A figure in base64 gets to three quarters, which is not."""


class Block(NamedTuple):
    """`size` messages that are charged `cost` bytes together."""

    size: int
    cost: int
    shape_bytes: int
    text: bytes
    is_compressed: bool

    @classmethod
    def of(cls, messages: Sequence[Packed]) -> Self:
        """Copy `messages`."""
        shape = array("Q", (number for each in messages for number in (len(each.lengths), *each.lengths))).tobytes()
        text = b"".join((shape, *(each.text for each in messages)))
        at = max(0, (len(text) - SAMPLE_BYTES) // 2)
        sample = text[at : at + SAMPLE_BYTES]
        compress = len(zlib.compress(sample, LEVEL)) <= WORTH_IT * len(sample)
        cost = sum(each.cost for each in messages)
        return cls(len(messages), cost, len(shape), zlib.compress(text, LEVEL) if compress else text, compress)

    @property
    def messages(self) -> list[Packed]:
        """The messages again."""
        text = zlib.decompress(self.text) if self.is_compressed else self.text
        shape = iter(array("Q", text[: self.shape_bytes]))
        at, found = self.shape_bytes, []
        for parts in shape:
            lengths = tuple(next(shape) for _ in range(parts))
            end = at + sum(lengths)
            found.append(Packed(text[at:end], lengths))
            at = end
        return found
