"""The flight recorder of one kernel, and the fence between its owners.

Owns the tape, the ledger, what clients have acknowledged, and who the owner is: whoever has attached with the highest
epoch. ipykernel's threads (main, subshells, shell channel, control, IOPub) meet here, under one lock. No sockets.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from kernels.inside.ledger import Ledger, Parts, Question
from kernels.inside.tape import Tape
from kernels.inside.window import Window

IDENTITY_PREFIX: Final = b"kernelring:"
REPLIES_SHARE: Final = 4  # replies get a quarter of what output gets
MAX_CLIENTS: Final = 64
OVERTAKING: Final = 64


class Owner(NamedTuple):
    """Who may speak to the kernel. Its ZMQ identity is `kernelring:<epoch>:<boot>:<link>`.

    `link` counts the connections of a worker. Two must not share an identity: what came over the older one and is not
    read yet, libzmq's ROUTER would hand over under a name that it makes up, as a stranger's.
    """

    epoch: int
    boot: str
    link: int

    @property
    def identity(self) -> bytes:
        """The DEALER identity that it has on shell, control and stdin."""
        return b"%b%d:%b:%d" % (IDENTITY_PREFIX, self.epoch, self.boot.encode(), self.link)

    def may_follow(self, other: Owner) -> bool:
        """Whether the kernel may be this one's after it was `other`'s: a later epoch's, or the same worker's again."""
        same = (self.epoch, self.boot) == (other.epoch, other.boot)
        return self.epoch > other.epoch or (same and self.link >= other.link)


def owner_of(idents: Sequence[bytes] | bytes | None) -> Owner | None:
    """The owner whose identity a message came with, or is to go to; None for everybody else's."""
    if not isinstance(idents, list) or not idents or not idents[0].startswith(IDENTITY_PREFIX):
        return None
    epoch, _, rest = idents[0].removeprefix(IDENTITY_PREFIX).partition(b":")
    boot, _, link = rest.rpartition(b":")
    return Owner(int(epoch), boot.decode(), int(link)) if epoch.isdigit() and link.isdigit() else None


class Recorder:
    """`limit_bytes` bounds the output that is kept; `incarnation` counts the processes of this kernel."""

    def __init__(self, incarnation: int = 1, limit_bytes: int = 4 * 2**20) -> None:
        self.incarnation = incarnation
        self.owner = Owner(0, "", 0)
        # Shell's own fence follows the owner's epoch when all that had arrived before the new owner has been taken.
        self.shell_epoch = 0
        self.lock = threading.RLock()
        self.window = Window()
        self._tape = Tape(limit_bytes)
        self._ledger = Ledger(limit_bytes // REPLIES_SHARE)
        self._acks: dict[str, int] = {}

    # -- what the kernel sends ------------------------------------------------------------------------------------

    @property
    def next_number(self) -> int:
        """Of the next output. Only ipykernel's IOPub thread counts, so nobody is faster."""
        return self._tape.last + 1

    def sent(self, parts: Sequence[bytes | memoryview]) -> None:
        """Keep an output, without its signature, under `next_number`."""
        with self.lock:
            self._tape.append(parts)

    def replied(self, msg_id: str, parts: Parts) -> None:
        """Keep a reply."""
        with self.lock:
            self._ledger.replied(msg_id, self._tape.last, parts)

    def asked(self, msg_id: str, question: str, parts: Parts) -> None:
        """Keep the question that the cell `msg_id` asks; `question` is its own msg_id."""
        with self.lock:
            self._ledger.questions[msg_id] = Question(question, parts)

    # -- what comes -----------------------------------------------------------------------------------------------

    def take(self, msg_id: str, *, gets_reply: bool) -> bool:
        """Note that a message has come; False when it had come before."""
        with self.lock:
            return self._ledger.take(msg_id, gets_reply=gets_reply)

    def take_input(self, owner: Owner, msg_id: str, answers: str = "") -> bool:
        """Whether the input that has come is one to read: not twice, and not from an owner of before.

        `answers`: the msg_id of the question that it names, "" when it names none. It must be one that waits: what was
        typed for an earlier one may come late, in a new message, and does not answer the next.
        """
        with self.lock:
            waits = [question.msg_id for question in self._ledger.questions.values()]
            if owner.epoch < self.owner.epoch or (answers and answers not in waits):
                return False
            if not self._ledger.take(msg_id, gets_reply=False):
                return False
            self._ledger.questions.clear()
            return True

    def answer(self, msg_id: str) -> tuple[bytes, Parts | None] | None:
        """(identity, reply) to send again for a request that came again; None when there is nothing to send yet.

        The reply is None when it was too large to be kept.
        """
        with self.lock:
            found = self._ledger.answer(msg_id)
            return (self.owner.identity, found.parts) if found and found.has_reply else None

    # -- owners ---------------------------------------------------------------------------------------------------

    def attach(
        self, owner: Owner, since: list[int] | None, sign: Callable[[list[bytes]], bytes]
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Grant the kernel to `owner`, or not; return what to answer: content and buffers.

        In one step: each reply is either among the buffers, or goes to the new owner. `since` is the number,
        [incarnation, n], of the last output that the owner has; None: it has none. `sign` makes a message's signature.
        """
        with self.lock:
            granted = owner.may_follow(self.owner)
            content = {"granted": granted, "epoch": max(owner.epoch, self.owner.epoch), "incarnation": self.incarnation}
            if not granted:
                return content, []
            self.owner = owner
            n = since[1] if since and since[0] == self.incarnation else 0
            return self._replay(content, n, [[sign(parts[:4]), *parts] for parts in self._tape.after(n)])

    def _replay(self, content: dict[str, Any], n: int, output: list[list[bytes]]) -> tuple[dict[str, Any], list[bytes]]:
        """What the tape and the ledger have. The buffers are message after message; the content says how many each."""
        # An owner that has output up to n also has the replies before it, but for some that overtook it.
        late = [answer for answer in self._ledger.replies if not n or answer.at >= n - OVERTAKING]
        replies = [(answer.at, parts) for answer in late if (parts := answer.parts)]
        questions = [question.parts for question in self._ledger.questions.values()]
        content |= {
            "first": max(self._tape.first, n + 1),
            "last": self._tape.last,
            "missed": max(0, self._tape.first - 1 - n),
            "output": [len(parts) for parts in output],
            "replies": [[at, len(parts)] for at, parts in replies],
            "questions": [len(parts) for parts in questions],
            "waiting": self._ledger.waiting,
            "acks": self._acks.copy(),
        }
        return content, [part for parts in (*output, *(parts for _, parts in replies), *questions) for part in parts]

    def acknowledge(self, acks: dict[str, Any], replies: Sequence[str] = ()) -> None:
        """Note how far clients have got (client -> [incarnation, n]), and which requests' replies."""
        with self.lock:
            for msg_id in replies:
                self._ledger.got(msg_id)
            for client, place in acks.items():
                if place[0] == self.incarnation:  # the owner before may tell it later than the one after
                    self._acks[client] = max(place[1], self._acks.pop(client, 0))
            while len(self._acks) > MAX_CLIENTS:
                del self._acks[next(iter(self._acks))]
