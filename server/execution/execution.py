"""One request to run code: what was asked, how far it has come, and what its pollers are answered.

Owns the states queued -> running -> done, and what a message of the kernel means for them. Knows no sockets, no files.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

import orjson

from kernels.framing import PROTOCOL_VERSION, Number
from server.execution.feed import Feed
from server.execution.outputs import KINDS, Outputs

State = Literal["queued", "running", "done"]
Answer = dict[str, Any]

CANCELLED: Final = "This run was cancelled before it began."
AFTER_ERROR: Final = "This did not run, because what ran before it has failed."


@dataclass(frozen=True, slots=True)
class Order:
    """What the client asked for. `number` counts a kernel's executions."""

    uid: str
    number: int
    code: str
    cell_id: str | None = None
    document_path: str | None = None
    record_timing: bool = False
    store_history: bool = True
    stop_on_error: bool = True


@dataclass(slots=True)
class Question:
    """The kernel asks for input: the header of its input_request, and that one's content."""

    header: dict[str, Any]
    prompt: str
    password: bool


@dataclass(slots=True)
class Reply:
    """What the client has answered to the question `to`. `by` is the request that brought it."""

    to: str
    by: str
    value: str


class News:
    """Something that happens again and again, to be waited for."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """It has happened."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Return when it happens next."""
        await self._event.wait()


@dataclass(slots=True, eq=False)
class Execution:
    """`version` grows with every change.

    `seen` is the one that a poller has got, `saved` the one that is on disk, `missing` the one for which the notebook
    on disk had no cell.
    """

    order: Order
    session: str
    user: str
    state: State = "queued"
    status: str | None = None
    reason: str | None = None  # why it did not run, or ended without a reply of the kernel
    execution_count: int | None = None
    outputs: Outputs = field(default_factory=Outputs)
    feed: Feed = field(default_factory=Feed)
    number: Number | None = None  # the kernel's output was heard up to here
    after: str | None = None  # and this is the last message of it: what kernels without a recorder go by
    since: str | None = None  # when that was said
    question: Question | None = None
    reply: Reply | None = None
    replied: bool = False
    finished_at: float = 0.0
    times: dict[str, str] = field(default_factory=dict)
    version: int = 0
    seen: int = -1
    saved: int = -1
    missing: int = -1
    collected: bool = False
    idle: bool = False
    news: News = field(default_factory=News)

    @property
    def msg_id(self) -> str:
        """Of the execute_request: whoever sends it again sends the same."""
        return f"{self.order.uid}_execute"

    @property
    def header(self) -> dict[str, Any]:
        """Of the execute_request."""
        return header(self.msg_id, "execute_request", self.user, self.session)

    @property
    def request_parts(self) -> list[bytes]:
        """The execute_request."""
        order = self.order
        content = {
            "code": order.code,
            "silent": False,
            "store_history": order.store_history,
            "user_expressions": {},
            "allow_stdin": True,
            "stop_on_error": order.stop_on_error,
        }
        metadata = {"cellId": order.cell_id} if order.cell_id else {}
        return [orjson.dumps(part) for part in (self.header, {}, metadata, content)]

    # -- what the kernel says ----------------------------------------------------------------------------------------

    def hear(
        self, channel: str, said: dict[str, Any], content: dict[str, Any], number: Number | None, size: int
    ) -> None:
        """A message whose parent is this request; `said` is its header."""
        if number and self.number and number <= self.number:
            return
        kind = str(said.get("msg_type"))
        self.number = number or self.number
        if channel == "iopub":
            self.after, self.since = str(said.get("msg_id")), str(said.get("date"))
        if channel == "stdin" and kind == "input_request":
            self._asked(said, content)
        elif channel == "shell" and kind == "execute_reply":
            self._replied(said, content)
        elif channel == "iopub" and kind == "execute_input":
            self._count(content)
            self._note("iopub.execute_input", said)
        elif channel == "iopub" and kind == "status":
            self._status(said, content)
        elif channel == "iopub" and kind in KINDS:
            self.put_out(kind, content, size)
        else:
            return
        self.changed()

    def put_out(self, kind: str, content: dict[str, Any], size: int) -> None:
        """Take one of the messages that outputs are made of."""
        for change in self.outputs.hear(kind, content):
            self.feed.add(change.kind, change.data, self.number, size)

    def _asked(self, said: dict[str, Any], content: dict[str, Any]) -> None:
        self.question = Question(said, str(content.get("prompt", "")), bool(content.get("password")))

    def _replied(self, said: dict[str, Any], content: dict[str, Any]) -> None:
        self.replied = True
        self.question = None
        self.status = str(content.get("status", "error"))
        self.reason = str(content.get("evalue", "")) if content.get("ename") == "KernelRequestLost" else None
        self._count(content)
        self._note("shell.execute_reply", said)
        if self.idle:
            self.finish()

    def _status(self, said: dict[str, Any], content: dict[str, Any]) -> None:
        state = content.get("execution_state")
        if state in ("busy", "idle"):
            self._note(f"iopub.status.{state}", said)
        if state == "idle":
            self.idle = True
            if self.replied:
                self.finish()

    def _count(self, content: dict[str, Any]) -> None:
        count = content.get("execution_count")
        if isinstance(count, int):
            self.execution_count = count

    def _note(self, what: str, said: dict[str, Any]) -> None:
        if self.order.record_timing and isinstance(date := said.get("date"), str):
            self.times[what] = date

    # -- what happens to it ------------------------------------------------------------------------------------------

    def answer(self, question: Question, value: str, by: str) -> None:
        """The question is answered; the page puts the same into its outputs."""
        shown = "········" if question.password else value
        self.reply = Reply(question.header["msg_id"], by, value)
        self.question = None
        self.put_out("stream", {"name": "stdin", "text": f"{question.prompt} {shown}\n"}, len(shown))
        self.changed()

    def end(self, status: str, reason: str) -> None:
        """It gets no reply from the kernel."""
        if self.state != "done":
            self.status, self.reason = status, reason
            self.finish()
            self.changed()

    def finish(self) -> None:
        """Nothing more will happen to it."""
        self.state = "done"
        self.question = None
        self.outputs.forget_told()
        self.finished_at = time.time()

    def changed(self) -> None:
        """Tell whoever waits."""
        self.version += 1
        self.news.tell()

    # -- what is told of it ------------------------------------------------------------------------------------------

    @property
    def phase(self) -> str:
        """As `request_status` has it: queued, running, input or complete."""
        if self.state == "done":
            return "complete"
        return "input" if self.question else self.state

    def about(self, kernel_id: str) -> Answer:
        """What every answer about it has."""
        return {
            "request_id": self.order.uid,
            "kernel_id": kernel_id,
            "request_url": f"/api/kernels/{kernel_id}/requests/{self.order.uid}",
            "cell_id": self.order.cell_id,
            "document_path": self.order.document_path,
            "pending": self.state != "done",
            "request_status": self.phase,
            "execution_count": self.execution_count,
        }

    def _text_of_outputs(self) -> str | orjson.Fragment:
        if self.state == "done":  # kept for long, and seldom asked for: nothing is made ready
            return orjson.dumps(self.outputs.to_list()).decode()
        return orjson.Fragment(self.outputs.told)

    def result(self, kernel_id: str, *, as_list: bool = False) -> Answer:
        """That, and all outputs: as JSON in a text (as the extension has it, for orjson), or as they are."""
        told = self.about(kernel_id) | {"outputs": self.outputs.to_list() if as_list else self._text_of_outputs()}
        if self.state == "done":
            told["status"] = self.status
            if self.reason:
                told["reason"] = self.reason
        if self.question:
            told["parent_header"] = self.question.header
            told["input_request"] = {"prompt": self.question.prompt, "password": self.question.password}
        return told


def header(msg_id: str, kind: str, user: str, session: str) -> dict[str, Any]:
    """The header of a message of ours to the kernel."""
    return {
        "msg_id": msg_id,
        "msg_type": kind,
        "username": user,
        "session": session,
        "date": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "version": PROTOCOL_VERSION,
    }
