"""What a chaos student was told, message by message, held against what had to come.

Owns the judgement of one student's messages: what is missing, what came again after a reconnect, what came again
otherwise, what was out of order, and how late each line was. Nothing is dropped silently: a message that came before is
counted before it is put aside. Pure: messages, times and connection numbers are given in.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from local.chaos_cells import LINE, Cell
from local.student import Said

NOTICE: Final = "[kernelring]"
GAP_WORDS: Final = "missing here"  # in the notices of a gap, whoever tells it
REQUEST_LOST: Final = "KernelRequestLost"  # the server's own error for a request that gets no reply
FORGET: Final = 60_000  # ids of messages that are kept to know them again, of each student
PAUSE_IN_CELL_S: Final = 0.06  # a cell may sleep so long after its last line
SHEETS: Final = 100  # cells whose messages are known when they come again; of older ones it is not told which
SHOWN: Final = 6  # numbers of missing lines that are named


@dataclass(frozen=True, slots=True)
class Connection:
    """Which of the student's connections it is, and since when (monotonic seconds)."""

    number: int = 0
    since_s: float = 0.0


class Counts(NamedTuple):
    """Lines that came again or too late, and what there is to say about it."""

    repeated: int
    doubled: int
    disordered: int
    remarks: list[str]


@dataclass(slots=True)
class Sheet:
    """One cell's messages so far. Times are monotonic seconds, of this machine and so of its kernels."""

    cell: Cell
    sent_s: float
    repeated: int = 0
    doubled: int = 0
    disordered: int = 0
    parts: Counter[str] = field(default_factory=Counter)
    reply: dict[str, object] | None = None
    notices: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    pause_s: float = 0.0
    answered_s: float = 0.0
    closed: bool = False
    _lines: dict[int, Connection] = field(default_factory=dict)
    _top: int = -1
    _printed_s: float = 0.0
    _tail: str = ""

    # -- what is known --------------------------------------------------------------------------------------------

    @property
    def heard(self) -> bool:
        """Whether anything at all was said about it."""
        return bool(self.parts or self._lines)

    @property
    def shown(self) -> int:
        """How many of its lines have come."""
        return len(self._lines)

    @property
    def ended(self) -> bool:
        """Whether a front end would send the next cell: both reply and idle have come."""
        return self.reply is not None and self.parts["idle"] > 0

    @property
    def told_lost(self) -> bool:
        """Whether the server itself answered that the request is lost."""
        return self.reply is not None and self.reply.get("ename") == REQUEST_LOST

    @property
    def gaps(self) -> list[str]:
        """The notices of output that is missing."""
        return [text for text in self.notices if GAP_WORDS in text]

    def missing_lines(self) -> list[int]:
        """Numbers of the lines that have not come."""
        return [number for number in range(len(self.cell.texts)) if number not in self._lines]

    def missing_parts(self) -> list[str]:
        """What else had to come, and has not."""
        wanted = Counter({"busy": 1, "execute_input": 1, "idle": 1, "reply": 1})
        wanted += Counter({f"prompt {prompt}": 1 for prompt in self.cell.prompts})
        if self.cell.end != "ok":
            wanted[self.cell.end] = 1
        found = self.parts - Counter({"reply": 1}) if self.told_lost else self.parts
        return sorted((wanted - found).elements())

    def take(self) -> Counts:
        """What was counted since the last call: messages may come again long after their cell has ended."""
        found = Counts(self.repeated, self.doubled, self.disordered, self.remarks)
        self.repeated = self.doubled = self.disordered = 0
        self.remarks = []
        return found

    # -- what comes -----------------------------------------------------------------------------------------------

    def again(self, units: int, *, after_reconnect: bool, what: str) -> None:
        """A message, or lines of it, that had come before."""
        if after_reconnect:
            self.repeated += units
            self.remarks.append(f"repeated: {what}")
        else:
            self.doubled += units
            self.remarks.append(f"doubled: {what}")

    def note(self, said: Said, connection: Connection, now_s: float) -> None:
        """A message that has not come before."""
        if not self.heard:
            self._late(now_s, self.sent_s, connection)
        if self.closed:
            self.disordered += 1
            self.remarks.append(f"a {said.kind} after the cell's end")
        if said.kind == "stream":
            self._stream(said, connection, now_s)
        else:
            self._part(_name(said))
            if said.kind == "error" and said.content["ename"] == REQUEST_LOST:
                self.notices.append(str(said.content["evalue"]))
            if said.kind == "execute_reply":
                self._reply(said, connection, now_s)

    def _part(self, name: str) -> None:
        self.parts[name] += 1
        if self.parts[name] > 1 and name != "error":
            self.again(1, after_reconnect=False, what=f"{name}, as a new message")

    def _reply(self, said: Said, connection: Connection, now_s: float) -> None:
        self.reply = said.content
        if len(self.cell.texts) - 1 in self._lines:
            self._late(now_s, self._printed_s + PAUSE_IN_CELL_S, connection)

    def _stream(self, said: Said, connection: Connection, now_s: float) -> None:
        text = str(said.content["text"])
        if text.startswith(NOTICE):
            self.notices.append(text.strip())
        elif said.content["name"] != "stdout":
            self.remarks.append(f"on stderr: {text[:200]!r}")
        else:
            *whole, self._tail = (self._tail + text).split("\n")
            for line in whole:
                self._line(line, connection, now_s)

    def _line(self, line: str, connection: Connection, now_s: float) -> None:
        """One line, wherever the messages had cut it."""
        found = LINE.fullmatch(line)
        number = int(found["number"]) if found and found["cell"] == self.cell.name else len(self.cell.texts)
        if not found or number >= len(self.cell.texts) or found["text"] != self.cell.texts[number]:
            self.remarks.append(f"not a line of this cell: {line[:80]!r}")
            return
        if before := self._lines.get(number):
            self.again(1, after_reconnect=before.number != connection.number, what=f"line {number}, in a new message")
            return
        if number < self._top:
            self.disordered += 1
            self.remarks.append(f"line {number} after line {self._top}")
        self._lines[number], self._top = connection, max(number, self._top)
        self._printed_s = float(found["printed"])
        self._late(now_s, self._printed_s, connection)
        if self.answered_s:
            self.pause_s = max(self.pause_s, self._printed_s - max(self.answered_s, connection.since_s))
            self.answered_s = 0.0

    def _late(self, now_s: float, due_s: float, connection: Connection) -> None:
        self.pause_s = max(self.pause_s, now_s - max(due_s, connection.since_s))


class Ledger:
    """All that one student hears. `numbered`: the student says what it has got when it reconnects, so nothing with a
    number may come again.
    """

    def __init__(self, *, numbered: bool) -> None:
        self._numbered = numbered
        self._seen: dict[str, int] = {}
        self._sheets: dict[str, Sheet] = {}
        self._stray = Sheet(Cell("none", "none", "", ()), 0.0)  # for what comes again of cells that nobody remembers
        self.states: list[str] = []  # what the server said of the kernel itself: restarting, dead

    def open(self, msg_id: str, cell: Cell, sent_s: float) -> Sheet:
        """A new cell, sent as `msg_id`."""
        sheet = self._sheets[msg_id] = Sheet(cell, sent_s)
        while len(self._sheets) > SHEETS:
            del self._sheets[next(iter(self._sheets))]
        while len(self._seen) > FORGET:
            del self._seen[next(iter(self._seen))]
        return sheet

    def sheets(self) -> list[Sheet]:
        """All that something may have been entered in lately."""
        return [self._stray, *self._sheets.values()]

    def forget(self, msg_id: str) -> None:
        """This cell was given up: what still comes of it is nobody's business."""
        self._sheets.pop(msg_id, None)

    def hear(self, said: Said, connection: Connection, now_s: float) -> bool:
        """Enter one message. False when this connection had brought it before: there is nothing to be done about it."""
        newest = next(reversed(self._sheets.values())) if self._sheets else None
        sheet = self._sheets.get(str(said.parent.get("msg_id")))
        if said.kind == "status" and said.content["execution_state"] in ("restarting", "dead"):
            self.states.append(said.content["execution_state"])
        if sheet is None and said.kind == "stream":  # said of the kernel and not of a cell: it belongs to the newest
            sheet = newest
        before = self._seen.get(said.header["msg_id"])
        self._seen[said.header["msg_id"]] = connection.number
        if before is None:
            if sheet:
                sheet.note(said, connection, now_s)
            return True
        after_reconnect = before != connection.number and not (self._numbered and said.metadata.get("kernelring"))
        what = f"{_name(said)} {said.header['msg_id']} {said.metadata.get('kernelring', '')}"
        (sheet or self._stray).again(_units(said), after_reconnect=after_reconnect, what=what)
        return before != connection.number


def _units(said: Said) -> int:
    """How many lines a message brings; others count as one."""
    return max(1, str(said.content["text"]).count("\n")) if said.kind == "stream" else 1


def _name(said: Said) -> str:
    match said.kind:
        case "status":
            return str(said.content["execution_state"])
        case "execute_reply":
            return "reply"
        case "execute_result":
            return "result"
        case "input_request":
            return f"prompt {said.content['prompt']}"
        case kind:
            return kind


def first_few(numbers: list[int]) -> str:
    """Numbers in words, without all of them."""
    shown = ", ".join(map(str, numbers[:SHOWN]))
    return f"{shown}, … {numbers[-1]}" if len(numbers) > SHOWN else shown
