"""What a client has sent and the kernel may not have taken, as the client's entry worker remembers it.

Owns what a next owner must be told or sent. For a kernel with a recorder that is every whole message until there is a
sign that the kernel has it: all of them are sent again, in order, and the kernel takes each once. For others it is
requests without a reply, which are never sent twice. Pure: no sockets.
"""

from __future__ import annotations

from typing import Any, Final

from kernels import framing
from kernels.framing import Message
from kernels.unsettled import MAX_MESSAGES
from server.links import Outgoing, size_of

MAX_UNREAD: Final = 2 * MAX_MESSAGES  # requests without a reply; the kernel's own bound answers half of that
MAX_BYTES: Final = 64 * 2**20  # of all messages; twice what the kernel's own bound lets through
MAX_ANSWERED: Final = 1024


class Outbox:
    """`recorded`: the kernel takes a message once, however often it comes."""

    def __init__(self) -> None:
        self.recorded = False
        self._waiting: dict[str, Outgoing] = {}
        self._bytes = 0
        self._typed: dict[str, None] = {}  # of `_waiting`: what goes to stdin
        self._answered: dict[str, None] = {}  # the newest MAX_ANSWERED

    def add(self, message: Message, header: dict[str, Any]) -> None:
        """A message is about to be handed on: the reply may come at once."""
        if not self.recorded and not _is_request(message, header):
            return
        if header["msg_id"] not in self._waiting:  # else it is sent again
            self._waiting[header["msg_id"]] = (message, header)
            if message.channel == "stdin":
                self._typed[header["msg_id"]] = None
            self._bytes += size_of(message)
        # It floods and reads nothing, and is the first that we forget about.
        while len(self._waiting) > MAX_UNREAD or (self._bytes > MAX_BYTES and len(self._waiting) > 1):
            self.take_back(next(iter(self._waiting)))

    def take_back(self, msg_id: str) -> None:
        """It was not handed on after all."""
        if found := self._waiting.pop(msg_id, None):
            self._bytes -= size_of(found[0])
            self._typed.pop(msg_id, None)

    @property
    def pending(self) -> list[tuple[str, dict[str, Any]]]:
        """(channel, header) of the requests that have no reply."""
        return [(message.channel, header) for message, header in self._waiting.values() if _is_request(message, header)]

    def to_send(self, not_given: list[Outgoing]) -> list[Outgoing]:
        """What the next owner is to be sent, in order; `not_given` is what none was given yet."""
        if not self.recorded:
            return not_given
        return [*self._waiting.values(), *(one for one in not_given if one[1]["msg_id"] not in self._waiting)]

    def heard(self, channel: str, frame: bytes) -> bool:
        """Note what the kernel says; False when it is a reply or a question that the client has already."""
        if channel in ("shell", "control"):
            return self._heard_reply(framing.msg_id_of(framing.part_of(frame, 1)))
        if not self.recorded:
            return True
        if channel == "stdin":  # it asks: what was typed before has been read
            self._forget_typed()
            return self._is_first(framing.msg_id_of(framing.part_of(frame, 0)))
        if b'"status"' in framing.part_of(frame, 0) and b'"idle"' in framing.part_of(frame, 3):
            self._forget_quiet(framing.msg_id_of(framing.part_of(frame, 1)))
        return True

    def _heard_reply(self, msg_id: str) -> bool:
        self.take_back(msg_id)
        self._forget_typed()
        return not self.recorded or self._is_first(msg_id)

    def _is_first(self, msg_id: str) -> bool:
        if msg_id in self._answered:
            return False
        self._answered[msg_id] = None
        if len(self._answered) > MAX_ANSWERED:
            del self._answered[next(iter(self._answered))]
        return True

    def _forget_typed(self) -> None:
        for msg_id in list(self._typed):
            self.take_back(msg_id)

    def _forget_quiet(self, msg_id: str) -> None:
        """The kernel is done with a message; if it gets no reply (comm_msg), that is all there is to hear of it."""
        if (found := self._waiting.get(msg_id)) and not _is_request(*found):
            self.take_back(msg_id)


def _is_request(message: Message, header: dict[str, Any]) -> bool:
    return message.channel != "stdin" and str(header["msg_type"]).endswith("_request")
