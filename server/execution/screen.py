"""What a stream shows, as JupyterLab keeps it: carriage returns and backspaces applied, as on a terminal.

Mirrors `processText` of JupyterLab 4.6 (`packages/outputarea/src/model.ts`), so that what the server writes into a
notebook is what the page would have written, and so that the page finds its own text in the server's. Pure.
"""

from __future__ import annotations

import re
from typing import Any, Final, Self

import orjson

_CONTROL: Final = re.compile(r"[\n\b\r]")


class Screen:
    """One stream output. Neither control goes before a line's begin, so only the last line can still change."""

    def __init__(self) -> None:
        self._settled: list[str] = []  # complete lines
        self._tail: list[str] = []  # what follows; with a cursor inside it, one line
        self._cursor: int | None = None  # where in the tail the next character goes; None: at its end
        self._told_settled, self._told_tail = Told(), Told()

    def write(self, text: str) -> None:
        """Take what the kernel has printed."""
        if self._cursor is None and "\r" not in text and "\b" not in text:
            self._tail.append(text)
            return
        head, newline, line = "".join(self._tail).rpartition("\n")
        self._settled.append(head + newline)
        lines, line, cursor = _typed(line, len(line) if self._cursor is None else self._cursor, text)
        self._settled += lines
        self._tail, self._told_tail = [line], Told()
        self._cursor = cursor if cursor < len(line) else None

    @property
    def text(self) -> str:
        """All of it."""
        return "".join((*self._settled, *self._tail))

    @property
    def told(self) -> list[bytes]:
        """All of it, in pieces, as it is told to a page: escaped for a JSON text that is in a JSON text."""
        return [*self._told_settled.all_of(self._settled), *self._told_tail.all_of(self._tail)]

    def forget_told(self) -> None:
        """Keep nothing for `told`."""
        self._told_settled, self._told_tail = Told(), Told()

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {"text": self.text, "cursor": self._cursor}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """The same again."""
        made = cls()
        made._cursor = found["cursor"]
        head, newline, line = found["text"].rpartition("\n")
        made._settled, made._tail = [head + newline], [line]
        return made


class Told:
    """Pieces of text that only grow in number, escaped; each is escaped once, however often all are asked for."""

    def __init__(self) -> None:
        self._count = 0
        self._escaped: list[bytes] = []

    def all_of(self, pieces: list[str]) -> list[bytes]:
        """The text that they make."""
        if len(pieces) > self._count:
            self._escaped.append(escaped("".join(pieces[self._count :])))
            self._count = len(pieces)
        return self._escaped


def escaped(text: str) -> bytes:
    """`text` as it stands in a JSON text in a JSON text. That of two texts is that of the one, and of the other."""
    return in_text(orjson.dumps(text)[1:-1])


def in_text(json: bytes) -> bytes:
    """A JSON text as it stands in one."""
    return orjson.dumps(json.decode())[1:-1]


def _typed(line: str, cursor: int, text: str) -> tuple[list[str], str, int]:
    """(complete lines, the last line, the cursor in it) after `text` was typed at `cursor` of `line`."""
    lines: list[str] = []
    at = 0
    while True:
        control = _CONTROL.search(text, at)
        piece = text[at : control.start() if control else None]
        line = line[:cursor] + piece + line[cursor + len(piece) :]
        cursor += len(piece)
        if control is None:
            return lines, line, cursor
        at = control.end()
        if control[0] == "\n":  # goes to the end of the line, wherever the cursor is
            lines.append(line + "\n")
            line, cursor = "", 0
        elif control[0] == "\r":
            cursor = 0
        elif cursor:
            line, cursor = line[: cursor - 1] + line[cursor:], cursor - 1
