"""The server's own messages among a kernel's: what they look like. Whoever says them decides when, and to whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from kernels.lifecycle import Request

Saying = tuple[str, str, dict[str, Any], dict[str, Any], str | None]
"""Channel, msg_type, content, parent header, and the client that it is for (None: all)."""

STARTED: Final = "Your kernel has started."
"""To those who were told that it waits. The page's line (`words.js`) knows this sentence: it goes by itself."""


def in_words(text: str) -> dict[str, Any]:
    """The content of a stream message."""
    return {"name": "stderr", "text": f"[kernelring] {text}\n"}


def refusal(request: Request, reason: str) -> Iterator[Saying]:
    """Answers a request with an error, in the place of the kernel."""
    error = {"ename": "KernelRequestLost", "evalue": reason, "traceback": [reason]}
    kind = request.header["msg_type"]
    if kind == "execute_request":
        yield "iopub", "error", error, request.header, None
    reply = {"status": "error", "execution_count": None, **error}
    yield request.channel, kind.removesuffix("_request") + "_reply", reply, request.header, request.client
    yield "iopub", "status", {"execution_state": "idle"}, request.header, None
