"""One connection to the nursery: requests out, replies and events in.

It lives from one connect to one loss and is never mended; `kernels.nursery_client` makes the next.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from kernels import nursery_wire
from kernels.errors import BadRequest, NurseryUnavailable

REPLY_BYTES = 256 * 1024 * 1024
"""A list of thousands of kernels with full notes still fits."""

log = structlog.get_logger(__name__)


class LinkLost(Exception):  # noqa: N818 (named for what it says)
    """The connection ended. The nursery may have seen the request; every operation may be sent again."""


class Link:
    """`lost` is done once the connection has ended; from then on `ask` raises LinkLost."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_event: Callable[[dict[str, Any]], None],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._on_event = on_event
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.lost = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, address: Path, on_event: Callable[[dict[str, Any]], None]) -> Link:
        """Raises OSError."""
        reader, writer = await asyncio.open_unix_connection(address, limit=REPLY_BYTES)
        return cls(reader, writer, on_event)

    async def ask(self, op: str, fields: dict[str, Any], answer_s: float) -> dict[str, Any]:
        """The reply. Raises LinkLost, NurseryUnavailable after `answer_s`, or the error of the nursery."""
        if self.lost.done():
            raise LinkLost
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._writer.write(nursery_wire.line({"id": number, "op": op, **fields}))
            async with asyncio.timeout(answer_s):
                await answer
        except TimeoutError:
            raise NurseryUnavailable(f"the nursery has not answered {op} in {answer_s:g} s") from None
        finally:
            self._waiting.pop(number, None)
        return answer.result()

    async def close(self) -> None:
        """Ends the connection; whoever waits gets LinkLost."""
        self.lost.cancel()
        await asyncio.wait([self.lost])

    async def _read(self) -> None:
        try:
            while text := await self._reader.readline():
                self._take(nursery_wire.message_of(text))
        except (OSError, ValueError, BadRequest) as error:  # ValueError: a line beyond the limit
            log.warning("nursery_link_broken", error=str(error))
        finally:
            self._writer.close()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(LinkLost())

    def _take(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._on_event(message)
            return
        answer = self._waiting.get(message.get("id", 0))
        if answer is None or answer.done():
            return  # its asker has given up
        if "error" in message:
            answer.set_exception(nursery_wire.error_from_json(message["error"]))
        else:
            answer.set_result(message["reply"])
