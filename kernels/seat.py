"""A client's place at a kernel: a cursor into its backlog, and a way to send.

Owns one client's reading position. `frames` is what a transport loops on; it never buffers, so a client that reads
slowly only falls behind in the backlog, and when that has gone on without it, is told how much it missed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from kernels import framing
from kernels.backlog import Backlog
from kernels.coalesce import coalesced

if TYPE_CHECKING:
    from kernels.attached import AttachedKernel

BATCH_BYTES: Final = 256 * 1024  # what one write to a client carries at the most, about
OWN_SESSION: Final = "kernelring-execution-" * 6  # of the server's own seats: longer than a client's session_id may be


class Seat:
    """Made by `AttachedKernel.take_seat`. `cursor` is the number of the last frame that was read.

    `number` is the last output, as the kernel's recorder numbers it, that the client is known to have got; None without
    a recorder. `reached`: it is known to have got all in the backlog up to there, also the server's own words, which
    have no number. `missed`: how many messages the client can not be given any more. `past`: the last output that it
    was sent by the owner before, who may have heard it before we do.
    """

    def __init__(
        self,
        kernel: AttachedKernel,
        backlog: Backlog,
        client: str,
        cursor: int,
        number: framing.Number | None = None,
        missed: int = 0,
        past: framing.Number = (0, 0),
    ) -> None:
        self.client = client
        self.cursor = cursor
        self.number = number
        self.reached = 0
        self.refused: set[str] = set()  # requests that must not be handed on if they are sent again
        self._missed = missed
        self._past = past
        self.own = False  # the server's: no client that anything waits for, and it gets every message as it came
        self.occupied = True
        self.left = asyncio.Event()
        self.left_s = 0.0
        self._kernel = kernel
        self._backlog = backlog
        self._closed: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def frames(self) -> list[bytes]:
        """Return the next frames, in order, at least one; wait for them if need be.

        Raises KernelMoved or KernelGone once everything that this owner has for the client was read.
        """
        while True:
            is_slow = not self.own and self._backlog.runs_away_from(self.cursor)
            batch = self._backlog.read(self.cursor, self.client, BATCH_BYTES, self._past)
            self.cursor = batch.cursor
            frames = coalesced(batch.frames) if is_slow else batch.frames
            missed, self._missed = batch.missed + self._missed, 0
            if missed:
                return [_gap(missed), *frames]
            if frames:
                return frames
            if self._closed:
                raise self._closed
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def send(self, message: framing.Message, header: dict[str, Any]) -> None:
        """Write a message to the kernel once it is up. Raises KernelMoved or KernelGone."""
        if self._closed:
            raise self._closed
        await self._kernel.attached()
        if self._closed:  # meanwhile
            raise self._closed
        if header["msg_id"] in self.refused:
            return
        self._kernel.send(self.client, message, header)

    def acknowledge(self, number: framing.Number, unnumbered: Sequence[str] = ()) -> None:
        """The client has got all output up to `number`, and what has none: none of it is told again.

        `unnumbered`: the requests whose replies it has got, and the msg_ids of the server's own messages.
        """
        own = [msg_id for msg_id in unnumbered if msg_id.startswith(framing.OWN_PREFIX)]
        replies = [msg_id for msg_id in unnumbered if msg_id not in own]
        if own:  # by an owner before us, if it is not here
            self.reached = max(self.reached, self._backlog.find(own[-1]) or 0)
        for msg_id in replies:
            self._backlog.settle(msg_id, self.client)
        if self.number is not None and (replies or number > self.number):
            self.number = max(self.number, number)
            self._kernel.acknowledge(self.client, self.number, replies)

    @property
    def closed(self) -> bool:
        """Whether nothing more will come, but for what is left to read."""
        return self._closed is not None

    def leave(self) -> None:
        """The client's connection has ended; its place is kept for a while."""
        self.occupied = False
        self.left.set()
        self.left_s = time.monotonic()

    def wake(self) -> None:
        """There may be something to read."""
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self, error: Exception) -> None:
        """Let `frames` raise `error` after what is left to read."""
        self._closed = self._closed or error
        self.wake()


def _gap(missed: int) -> bytes:
    text = (
        f"[kernelring] {missed} messages of output are missing here: there were more than are kept for a client that "
        "is slow or was away. Have the cell write to a file to see them all.\n"
    )
    return framing.server_message("iopub", "stream", {"name": "stderr", "text": text})
