"""How long a cell may run: then it is interrupted, and if it does not stop, its kernel is started anew.

Owns the time of each cell that runs, one clock for each kernel, at its owner. A cell's time begins with the busy status
that the kernel itself has dated, so the next owner, who hears that again from the kernel's recorder, counts on from
there. Where it hears it no more (the cell has printed more than is kept, or there is no recorder), it counts from its
adoption. Waiting counts: for an answer to `input()`, too, since the kernel is as taken as by any other cell. It is
meant for cells that were forgotten; whoever has their kernel send false states is bounded by its processor time alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from kernels.words import in_words

GRACE_S: Final = 10.0
"""How long an interrupted cell may take to stop."""

_UNKNOWN: Final = ""  # the cell of an adopted kernel that nothing is known of

Say = Callable[[str, str, dict[str, Any], dict[str, Any], str | None], None]
Stop = Callable[[str], None]


class CellClock:
    """`say` is the kernel's; `stop(sentence)` interrupts, or with a sentence ends."""

    def __init__(self, limit_s: float, say: Say, stop: Stop) -> None:
        self._limit_s, self._say, self._stop = limit_s, say, stop
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def heard(self, state: str, header: bytes, parent: bytes) -> None:
        """A status of the kernel's own. Raises ValueError, KeyError or TypeError for one that is malformed."""
        if not self._limit_s:
            return
        asked = orjson.loads(parent)
        if asked["msg_type"] == "execute_request" and state in ("busy", "idle"):
            self._forget(asked["msg_id"])
            if state == "busy":
                left_s = self._limit_s - _age_s(orjson.loads(header).get("date"))
                self._after(max(left_s, 0), asked["msg_id"], self._over, asked)

    def adopted(self) -> None:
        """The kernel was another owner's, and may be at a cell that is not heard of any more."""
        if self._limit_s and not self._timers:
            self._after(self._limit_s, _UNKNOWN, self._over, {})

    def known(self) -> None:
        """What an adopted kernel was at has ended."""
        self._forget(_UNKNOWN)

    def clear(self) -> None:
        """The process has ended, or is somebody else's."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _over(self, asked: dict[str, Any]) -> None:
        told = in_words(f"This cell has run for {self._limit}, the limit, and is stopped.")
        self._say("iopub", "stream", told, asked, None)
        self._stop("")
        self._after(GRACE_S, asked.get("msg_id", _UNKNOWN), self._still_there, asked)

    def _still_there(self, asked: dict[str, Any]) -> None:
        self._forget(asked.get("msg_id", _UNKNOWN))
        self._stop(
            f"A cell ran for more than {self._limit}, the limit, and did not stop when it was interrupted, so the "
            "kernel was started anew; variables are lost."
        )

    @property
    def _limit(self) -> str:
        minutes = self._limit_s / 60
        return "1 minute" if minutes == 1 else f"{minutes:g} minutes"

    def _after(
        self, pause_s: float, msg_id: str, then: Callable[[dict[str, Any]], None], asked: dict[str, Any]
    ) -> None:
        self._timers[msg_id] = asyncio.get_running_loop().call_later(pause_s, then, asked)

    def _forget(self, msg_id: str) -> None:
        if timer := self._timers.pop(msg_id, None):
            timer.cancel()


def _age_s(date: object) -> float:
    """How long ago that was; 0 for what is no date, or one to come."""
    with suppress(ValueError, TypeError):
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(str(date))).total_seconds())
    return 0.0
