"""What the server says itself in the place of a kernel, put among the kernel's own messages.

Owns no more than the forms of saying it; `words` has the messages, and whoever speaks decides when.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kernels import framing, words
from kernels.lifecycle import Request


class Voice:
    """`keep(frame, to)` puts a frame into the backlog, for one client or, with None, for all."""

    def __init__(self, keep: Callable[[bytes, str | None], None]) -> None:
        self._keep = keep

    def tell(self, reason: str, state: str | None, to: str | None) -> None:
        """Say in words, which belong to no cell, what has become of the kernel; and its state."""
        self.say("iopub", "stream", words.in_words(reason), {}, to)
        if state:
            self.say("iopub", "status", {"execution_state": state}, {}, to)

    def fail(self, request: Request, reason: str) -> None:
        """Answer a request with an error, in the place of the kernel."""
        for saying in words.refusal(request, reason):
            self.say(*saying)

    def say(self, channel: str, kind: str, content: dict[str, Any], parent: dict[str, Any], to: str | None) -> None:
        """Put a message into the backlog."""
        self._keep(framing.server_message(channel, kind, content, parent), to)
