"""What IPython keeps of the output of each cell, for `%notebook`: the newest of it.

IPython 9 keeps all that was ever printed or displayed, so that a cell that prints for ever fills its kernel's memory.
Owns the dictionary that it is kept in (execution count -> outputs), and forgets the oldest. Pure.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

KEPT_BYTES: Final = 256 * 1024  # about, of characters and of what Python needs for each piece
PIECE_BYTES: Final = 128


class KeptOutputs(dict[int, "_OfCell"]):
    """As `HistoryManager.outputs`. Forgotten are pieces and bundles; the outputs that they were in stay, empty."""

    def __init__(self, limit_bytes: int = KEPT_BYTES) -> None:
        super().__init__()
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._order: deque[tuple[Any, int]] = deque()  # (a stream or an output, size), oldest first

    def __missing__(self, count: int) -> _OfCell:
        made = self[count] = _OfCell(self)
        return made

    def clear(self) -> None:
        """As a dictionary's."""
        super().clear()
        self._order.clear()
        self._bytes = 0

    def keep(self, where: Any, size: int) -> None:
        """Something was added: to a stream, or as an output of its own."""
        self._order.append((where, size + PIECE_BYTES))
        self._bytes += size + PIECE_BYTES
        if self._bytes > self._limit_bytes:
            self._forget()

    def _forget(self) -> None:
        """Half of it at once: what is left has to be moved."""
        gone: dict[int, int] = {}
        streams: dict[int, _Stream] = {}
        while self._bytes > self._limit_bytes / 2 and len(self._order) > 1:
            where, size = self._order.popleft()
            self._bytes -= size
            if isinstance(where, _Stream):
                streams[id(where)] = where
                gone[id(where)] = gone.get(id(where), 0) + 1
            else:
                where.bundle = {}
        for key, stream in streams.items():
            del stream[: gone[key]]


class _OfCell(list[Any]):
    """The outputs of one cell."""

    def __init__(self, kept: KeptOutputs) -> None:
        super().__init__()
        self._kept = kept

    def append(self, output: Any) -> None:
        super().append(output)
        if (pieces := output.bundle.get("stream")) is None:
            self._kept.keep(
                output, sum(len(value) for value in output.bundle.values() if isinstance(value, str | bytes))
            )
        else:
            output.bundle["stream"] = _Stream(self._kept, pieces)


class _Stream(list[str]):
    """What was printed to one stream, piece by piece."""

    def __init__(self, kept: KeptOutputs, pieces: list[str]) -> None:
        super().__init__()
        self._kept = kept
        for piece in pieces:
            self.append(piece)

    def append(self, piece: str) -> None:
        super().append(piece)
        self._kept.keep(self, len(piece))
