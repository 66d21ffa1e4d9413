"""How much a kernel was sent that it has not come to yet.

Owns the bound on it. A kernel that is busy takes nothing, and what it is sent meanwhile lies in this worker's memory,
which all students share. Pure: counts messages and bytes, holds none.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

MAX_MESSAGES: Final = 2_000  # a notebook that is run at once has some hundred cells
MAX_BYTES: Final = 32 * 2**20  # one message more may be on top: as large as the setting allows
OVERRUN: Final = (
    "The kernel is busy and has been sent more than can be kept for it. This was not handed on, and what else is sent "
    "before the kernel has come to it is not either. Interrupt or restart the kernel, or wait for it."
)


class Unsettled:
    """What was sent on each channel, in order. A kernel takes it in this order, too.

    Each channel has its own bound: an interrupt (control) must pass when cells (shell) do not.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, dict[str, int]] = {"shell": {}, "control": {}, "stdin": {}}
        self._bytes: Counter[str] = Counter()

    def full(self, channel: str) -> bool:
        """Whether nothing more must be sent there for now."""
        return len(self._sizes[channel]) >= MAX_MESSAGES or self._bytes[channel] >= MAX_BYTES

    @property
    def empty(self) -> bool:
        """Whether the kernel has come to every request."""
        return not self._sizes["shell"] and not self._sizes["control"]

    def sent(self, channel: str, msg_id: str, size: int) -> None:
        """A message of `size` bytes was written."""
        self._bytes[channel] += size
        sizes = self._sizes[channel]
        sizes[msg_id] = sizes.get(msg_id, 0) + size

    def heard(self, msg_id: str) -> None:
        """The kernel has said something about this message: it has that one and all before it on its channel."""
        for channel, sizes in self._sizes.items():
            if msg_id in sizes:
                self._forget(channel, msg_id)

    def asked(self) -> None:
        """The kernel asks for input: it has taken what was on stdin before (and thrown it away)."""
        if answers := self._sizes["stdin"]:
            self._forget("stdin", next(reversed(answers)))

    def _forget(self, channel: str, last: str) -> None:
        sizes = self._sizes[channel]
        msg_id = ""
        while msg_id != last:
            msg_id = next(iter(sizes))
            self._bytes[channel] -= sizes.pop(msg_id)
