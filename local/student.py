"""A student at the server: a small, exact Jupyter client over REST and WebSocket.

What tests, bench and chaos drive the server with. It checks nothing and hides nothing: every frame that arrives is
handed up, in order, so that whoever uses it can say what was lost, doubled or out of order.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from kernels import framing

ANSWER_S = 30.0


@dataclass(slots=True)
class Said:
    """One message from the kernel, with its parts as JSON."""

    channel: str
    header: dict[str, Any]
    parent: dict[str, Any]
    content: dict[str, Any]
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Its msg_type."""
        return str(self.header["msg_type"])


@dataclass(slots=True)
class Outcome:
    """What one request came to: its reply's content, and all that was said about it, in order."""

    reply: dict[str, Any]
    said: list[Said] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All stdout, joined."""
        return "".join(
            one.content["text"] for one in self.said if one.kind == "stream" and one.content["name"] == "stdout"
        )

    @property
    def notices(self) -> list[str]:
        """What the server itself said (on stderr)."""
        texts = [one.content["text"] for one in self.said if one.kind == "stream"]
        return [text for text in texts if text.startswith("[kernelring]")]


class SocketClosed(Exception):  # noqa: N818 - it is an event more than an error
    """The channels WebSocket has ended; `code` says how, and `reason` why."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(f"closed with {code} {reason}")
        self.code = code
        self.reason = reason


class Student:
    """`async with Student(url, token) as student:` Every connection is new, so each may reach another worker.

    `entry` and `owner` are the slots of the workers that took the last connection. With `numbered` it tells the server
    the number of the last message that it got when it connects again; a stock client does not.
    """

    def __init__(self, url: str, token: str, *, numbered: bool = False) -> None:
        self.url = url
        self.session_id = uuid.uuid4().hex
        self.kernel_id = ""
        self.entry = self.owner = ""
        self.last_seq: list[int] = []
        self._numbered = numbered
        self._headers = {"Authorization": f"Bearer {token}"}
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._note_workers)
        self.http = aiohttp.ClientSession(self.url, headers=self._headers, connector=connector, trace_configs=[trace])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
        await self.http.close()

    async def _note_workers(self, _session: object, _context: object, end: aiohttp.TraceRequestEndParams) -> None:
        """An upgrade's answer is seen nowhere else."""
        if end.response.status == 101:
            self.entry = end.response.headers.get("X-Kernelring-Entry", "")
            self.owner = end.response.headers.get("X-Kernelring-Owner", "")

    # -- REST -----------------------------------------------------------------------------------------------------

    async def call(
        self, method: str, path: str, body: Any = None, *, within_s: float = ANSWER_S
    ) -> tuple[int, Any, Mapping[str, str]]:
        """One request: (status, JSON or text or None, headers)."""
        async with asyncio.timeout(within_s), self.http.request(method, path, json=body) as answer:
            raw = await answer.read()
            found = orjson.loads(raw) if raw and answer.content_type == "application/json" else raw.decode() or None
            return answer.status, found, answer.headers

    async def start(self, name: str | None = None) -> Mapping[str, str]:
        """Start a kernel; returns the answer's headers (entry and owner)."""
        status, model, headers = await self.call("POST", "/api/kernels", {"name": name} if name else {})
        if status != 201:
            raise RuntimeError(f"no kernel: {status} {model}")
        self.kernel_id = model["id"]
        return headers

    async def delete(self) -> int:
        """Delete the kernel; returns the status."""
        return (await self.call("DELETE", f"/api/kernels/{self.kernel_id}"))[0]

    # -- channels -------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """(Re)connect the channels WebSocket, with the same session_id. Raises aiohttp.ClientError."""
        await self.close()
        path = f"/api/kernels/{self.kernel_id}/channels?session_id={self.session_id}"
        if self._numbered and self.last_seq:
            path += "&last_seq=" + ".".join(map(str, self.last_seq))
        self._socket = await self.http.ws_connect(path, protocols=[framing.V1_SUBPROTOCOL], max_msg_size=0, compress=0)

    async def close(self) -> None:
        """Close it."""
        if self._socket is not None:
            await self._socket.close()

    async def send(self, kind: str, content: dict[str, Any], channel: str = "shell") -> str:
        """Send one message; returns its msg_id."""
        msg_id, frame = self.message(kind, content, channel)
        await self.send_raw(frame)
        return msg_id

    def message(
        self, kind: str, content: dict[str, Any], channel: str = "shell", parent: dict[str, Any] | None = None
    ) -> tuple[str, bytes]:
        """A message ready for `send_raw`, and its msg_id."""
        msg_id = uuid.uuid4().hex
        header = {
            "msg_id": msg_id,
            "msg_type": kind,
            "username": "student",
            "session": self.session_id,
            "date": "2026-01-01T00:00:00.000000Z",
            "version": "5.4",
        }
        parts = [orjson.dumps(header), orjson.dumps(parent or {}), b"{}", orjson.dumps(content)]
        return msg_id, framing.pack(channel, parts)

    async def send_raw(self, frame: bytes | str) -> None:
        """Send one WebSocket message as it is. Raises SocketClosed."""
        socket = self._socket
        assert socket is not None
        try:
            await (socket.send_str(frame) if isinstance(frame, str) else socket.send_bytes(frame))
        except ConnectionError as error:
            raise SocketClosed(socket.close_code) from error

    async def receive(self, within_s: float = ANSWER_S) -> Said:
        """The next message. Raises SocketClosed, TimeoutError."""
        assert self._socket is not None
        async with asyncio.timeout(within_s):
            message = await self._socket.receive()
        if message.type is aiohttp.WSMsgType.CLOSE:  # aiohttp forgets this code when it cannot answer the close
            raise SocketClosed(message.data, message.extra or "")
        if message.type is not aiohttp.WSMsgType.BINARY:
            raise SocketClosed(self._socket.close_code, str(message.extra or ""))
        channel, parts = framing.unpack(message.data)
        header, parent, metadata, content = (orjson.loads(part) for part in parts[:4])
        self.last_seq = metadata.get("kernelring") or self.last_seq
        return Said(channel, header, parent, content, metadata)

    async def ask(self, code: str, *, store_history: bool = True, allow_stdin: bool = False) -> str:
        """Send an execute_request; returns its msg_id."""
        return await self.send("execute_request", cell(code, store_history=store_history, allow_stdin=allow_stdin))

    async def outcome(self, msg_id: str, within_s: float = ANSWER_S) -> Outcome:
        """Wait for the reply and the idle status of `msg_id`. Other messages are passed over."""
        said: list[Said] = []
        reply: dict[str, Any] | None = None
        idle = False
        async with asyncio.timeout(within_s):
            while reply is None or not idle:
                one = await self.receive(within_s)
                if one.parent.get("msg_id") != msg_id:
                    continue
                said.append(one)
                if one.channel != "iopub" and one.kind.endswith("_reply"):
                    reply = one.content
                idle = idle or (one.kind == "status" and one.content["execution_state"] == "idle")
        return Outcome(reply, said)

    async def run(self, code: str, within_s: float = ANSWER_S, *, store_history: bool = True) -> Outcome:
        """Run a cell to its end."""
        return await self.outcome(await self.ask(code, store_history=store_history), within_s)


def cell(code: str, *, store_history: bool = True, allow_stdin: bool = False) -> dict[str, Any]:
    """The content of an execute_request."""
    return {
        "code": code,
        "silent": False,
        "store_history": store_history,
        "user_expressions": {},
        "allow_stdin": allow_stdin,
        "stop_on_error": True,
    }
