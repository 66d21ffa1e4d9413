"""A client's WebSocket: what comes is checked and brought into one form, what goes out into the client's.

Owns the framings (`kernels/framing.py` has their forms), the bounds of what a client may send, and the closes with a
reason. Knows nothing of kernels and owners.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

from aiohttp import WSCloseCode

from kernels import framing
from kernels.errors import MalformedFrame
from kernels.wires import PROBE_PREFIX
from server.links import MAX_REASON
from server.unread import WatchedSocket

CLOSE_S: Final = (
    1.0  # a client that does not answer our close is not waited for any longer: a stopping worker has others
)
MAX_HEADER_BYTES: Final = 16 * 1024  # headers of requests are kept until the reply; a client's has 300
# What JupyterLab makes of a close: 1000 and 1001 mean "do not come back", all others "reconnect" (FACTS: lab >= 4.6).
WHY: Final[dict[int, bytes]] = {
    WSCloseCode.PROTOCOL_ERROR: b"This is not a WebSocket frame as RFC 6455 has it",
    WSCloseCode.INVALID_TEXT: b"A text message must be UTF-8",
    WSCloseCode.MESSAGE_TOO_BIG: b"The message is larger than KERNELRING_MAX_MESSAGE_MIB allows",
}


class ClientSocket(WatchedSocket):
    """aiohttp's, made for a Jupyter client."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(
            protocols=(framing.V1_SUBPROTOCOL,),
            timeout=CLOSE_S,
            max_msg_size=max_bytes,
            compress=False,
            autoping=False,  # a pong says how far the client has come
        )

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        """As aiohttp's, which closes by itself when it cannot read a frame, and says no word."""
        return await super().close(code=code, message=message or WHY.get(code, b""), drain=drain)

    async def dismiss(self, code: int, why: str) -> None:
        """Close; a client that does not even read that is not waited for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.close(code=code, message=why.encode()[:MAX_REASON])

    def checked(self, data: str | bytes) -> tuple[framing.Message, dict[str, Any]]:
        """(message, header) of what the client has sent. Raises MalformedFrame."""
        message, header = framing.checked(self._frame_of(data))
        if len(message.parts[0]) > MAX_HEADER_BYTES:
            raise MalformedFrame(f"the header is longer than {MAX_HEADER_BYTES} bytes")
        if header["msg_id"].startswith(PROBE_PREFIX):
            raise MalformedFrame(f"a msg_id that begins with {PROBE_PREFIX} is the server's own")
        return message, header

    def _frame_of(self, data: str | bytes) -> bytes:
        if self.ws_protocol != framing.V1_SUBPROTOCOL:
            return framing.from_legacy(data)
        if isinstance(data, str):
            raise MalformedFrame(f"{framing.V1_SUBPROTOCOL} has binary messages only")
        return data

    async def pass_on(self, frame: bytes) -> None:
        """Send a frame of the kernel's. Raises MalformedFrame when it cannot be said in the client's form."""
        if self.ws_protocol == framing.V1_SUBPROTOCOL:
            return await self.send_bytes(frame)
        legacy = framing.to_legacy(frame)
        return await (self.send_str(legacy) if isinstance(legacy, str) else self.send_bytes(legacy))
