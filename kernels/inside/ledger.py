"""Which requests a kernel has taken, and what it has answered.

Owns the msg_ids, so that no request runs twice however often it is sent, the replies, so that one which nobody heard
can be sent again, and the questions (`input()`) that wait. Bounded. Pure: no sockets, no threads.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kernels.inside.packed import Packed

MAX_OPEN: Final = 8192  # requests without a reply: far more than a client queues up
MAX_DONE: Final = 4096
Parts = list[bytes]


class Answer(NamedTuple):
    """The end of a request. `packed`: its reply, from the signature on; None when it was too large to be kept.

    `at`: the number of the last output before it. `has_reply` is False for a message that gets none (comm_msg).
    `is_got`: its client has it.
    """

    at: int
    packed: Packed | None
    has_reply: bool = True
    is_got: bool = False

    @property
    def parts(self) -> Parts | None:
        """The reply's parts."""
        return self.packed.parts if self.packed else None


class Question(NamedTuple):
    """An input_request that waits for its input_reply."""

    msg_id: str
    parts: Parts


class Ledger:
    """`limit_bytes` bounds the replies."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._open: dict[str, None] = {}
        self._done: dict[str, Answer] = {}
        self._with_parts: dict[str, int] = {}  # of `_done`: which have their parts, oldest first, and at what cost
        self.questions: dict[str, Question] = {}  # by the msg_id of the cell that asks

    def take(self, msg_id: str, *, gets_reply: bool) -> bool:
        """Note that a message has come; False when it had come before."""
        if msg_id in self._open or msg_id in self._done:
            return False
        if gets_reply:
            self._open[msg_id] = None
            while len(self._open) > MAX_OPEN:
                del self._open[next(iter(self._open))]
        else:
            self._end(msg_id, Answer(0, None, has_reply=False))
        return True

    def replied(self, msg_id: str, at: int, parts: Parts) -> None:
        """Keep the reply to a request; its questions have gone with it."""
        self._open.pop(msg_id, None)
        self.questions.pop(msg_id, None)
        packed = Packed.of(parts)
        self._bytes += packed.cost
        self._with_parts[msg_id] = packed.cost
        self._end(msg_id, Answer(at, packed))
        while self._bytes > self._limit_bytes:
            oldest = next(iter(self._with_parts))
            self._bytes -= self._with_parts.pop(oldest)
            self._done[oldest] = self._done[oldest]._replace(packed=None)

    def answer(self, msg_id: str) -> Answer | None:
        """What became of a message; None while it waits or runs."""
        return self._done.get(msg_id)

    @property
    def waiting(self) -> list[str]:
        """The requests that run or wait, oldest first."""
        return list(self._open)

    @property
    def replies(self) -> list[Answer]:
        """The replies that are kept and that no client has said it has got, oldest first."""
        return [answer for msg_id in self._with_parts if not (answer := self._done[msg_id]).is_got]

    def got(self, msg_id: str) -> None:
        """The client has the reply to this request."""
        if answer := self._done.get(msg_id):
            self._done[msg_id] = answer._replace(is_got=True)

    def _end(self, msg_id: str, answer: Answer) -> None:
        self._done[msg_id] = answer
        while len(self._done) > MAX_DONE:
            oldest = next(iter(self._done))
            del self._done[oldest]
            self._bytes -= self._with_parts.pop(oldest, 0)
