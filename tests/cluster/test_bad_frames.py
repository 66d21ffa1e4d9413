"""WebSockets that are wrong: handshakes, frames and messages of all three framings.

Each is answered by a close with a code and a sentence, or a refused handshake, and logged once. The neighbours and the
attacker's own kernel go on.
"""

from __future__ import annotations

import asyncio
import json
import struct
import uuid
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import orjson
import pytest
import pytest_asyncio

from kernels import framing
from local.student import SocketClosed, Student
from tests.cluster.attack import (
    Place,
    authorization,
    close_of,
    handshake,
    place_at,
    plug,
    read_head,
    say,
    undisturbed,
    ws_frame,
)
from tests.cluster.conftest import LEAN, running
from tests.redis_server import RedisServer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

MAX_MIB: Final = 1
V1: Final = framing.V1_SUBPROTOCOL
HEADER: Final[dict[str, Any]] = {"msg_id": "m", "msg_type": "kernel_info_request", "session": "s", "username": "u"}
JSON_HEADER: Final = orjson.dumps(HEADER)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place() -> AsyncIterator[Place]:
    with RedisServer() as redis, running(redis, settings=LEAN | {"KERNELRING_MAX_MESSAGE_MIB": str(MAX_MIB)}) as stack:
        async with place_at(stack) as found:
            yield found


def v1(*parts: bytes, channel: bytes = b"shell") -> bytes:
    """A v1 frame of any parts and any channel."""
    offsets = [8 * (len(parts) + 3)]
    for part in (channel, *parts):
        offsets.append(offsets[-1] + len(part))
    return struct.pack(f"<{len(offsets) + 1}Q", len(offsets), *offsets) + b"".join((channel, *parts))


def v1_with(header: bytes, content: bytes = b"{}", parent: bytes = b"{}", metadata: bytes = b"{}") -> bytes:
    """A v1 frame on the shell channel."""
    return v1(header, parent, metadata, content)


def without(field: str) -> dict[str, Any]:
    """The header less one field."""
    return {name: value for name, value in HEADER.items() if name != field}


def v1_offsets(count: int, *offsets: int) -> bytes:
    """The beginning of a v1 frame, whatever it says."""
    return struct.pack(f"<{len(offsets) + 1}Q", count, *offsets)


HEADERS: Final[dict[str, Any]] = {
    "no msg_id": without("msg_id"),
    "no msg_type": without("msg_type"),
    "no session": without("session"),
    "a number for a msg_id": HEADER | {"msg_id": 7},
    "null for a msg_id": HEADER | {"msg_id": None},
    "an empty msg_id": HEADER | {"msg_id": ""},
    "a list for a msg_id": HEADER | {"msg_id": ["m"]},
    "an object for a msg_type": HEADER | {"msg_type": {}},
    "a number for a subshell": HEADER | {"subshell_id": 1},
    "a list": [HEADER],
    "null": None,
    "a text": "header",
    "a MiB of username": HEADER | {"username": "u" * 500_000},
    "a msg_id of the server's own": HEADER | {"msg_id": "kernelring-probe-1"},
}
V1_FRAMES: Final[dict[str, bytes | str]] = {
    "text": '{"channel": "shell"}',
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "no offsets": v1_offsets(0),
    "2^64-1 offsets": v1_offsets(2**64 - 1) + b"x" * 100,
    "a million offsets": v1_offsets(1_000_000),
    "100,000 offsets that are there": v1_offsets(100_000, *[8 * 100_001] * 100_000),
    "offsets that fall": v1_offsets(6, 56, 61, 60, 60, 60, 60) + b"shell",
    "offsets beyond the end": v1_offsets(6, 56, 61, 63, 65, 67, 2**63) + b"shell{}{}{}{}",
    "a first offset within the offsets": v1_offsets(6, 8, 13, 15, 17, 19, 69) + b"shell{}{}{}{}",
    "three parts": v1(JSON_HEADER, b"{}", b"{}"),
    "a channel that is not UTF-8": v1(JSON_HEADER, b"{}", b"{}", b"{}", channel=b"\xff\xfe"),
    "no channel": v1(JSON_HEADER, b"{}", b"{}", b"{}", channel=b""),
    "a header that is not JSON": v1_with(b"{"),
    "a header that is not UTF-8": v1_with(b'{"msg_id": "\xff"}'),
    "a header with NaN": v1_with(b'{"msg_id": NaN}'),
    "a header that is deep": v1_with(b'{"a":' * 500 + b"1" + b"}" * 500),
    "a content that is a list": v1_with(JSON_HEADER, b"[]"),
    "a content that is not JSON": v1_with(JSON_HEADER, b"code"),
    "half a MiB of brackets": v1_with(JSON_HEADER, b"[" * (MAX_MIB * 2**19)),
    "a parent that is a text": v1_with(JSON_HEADER, parent=b'"x"'),
    "metadata that are null": v1_with(JSON_HEADER, metadata=b"null"),
}
V1_FRAMES.update({f"channel {name}": v1(JSON_HEADER, b"{}", b"{}", b"{}", channel=name.encode()) for name in
                  ("iopub", "hb", "Shell", "shell\0", "x" * 10_000)})  # fmt: skip
V1_FRAMES.update({f"header: {name}": v1_with(orjson.dumps(header)) for name, header in HEADERS.items()})


def legacy(**changed: Any) -> str:
    """A legacy text message with changes."""
    good = {"header": HEADER, "parent_header": {}, "metadata": {}, "content": {}, "channel": "shell"}
    return json.dumps(good | changed)


def legacy_binary(count: int, *offsets: int, rest: bytes = b"") -> bytes:
    """A legacy binary message, whatever it says."""
    return struct.pack(f">{len(offsets) + 1}I", count, *offsets) + rest


LEGACY_FRAMES: Final[dict[str, bytes | str]] = {
    "nothing": "",
    "words": "hello",
    "a list": "[]",
    "null": "null",
    "no header": "{}",
    "half a surrogate pair": legacy().replace('"shell"', '"\\ud800"'),
    "NaN": legacy(content=float("nan")),
    "half a MiB of brackets": "[" * (MAX_MIB * 2**19),
    "a number for a channel": legacy(channel=1),
    "channel iopub": legacy(channel="iopub"),
    "channel hb": legacy(channel="hb"),
    "a channel that is not ASCII": legacy(channel="sh\u00e9ll"),
    "a content that is a list": legacy(content=[]),
    "a parent that is a text": legacy(parent_header="x"),
    "metadata that are a number": legacy(metadata=1),
    "deep content": legacy(content="X").replace('"X"', '{"a":' * 600 + "1" + "}" * 600),
    "no bytes": b"",
    "a binary of no parts": legacy_binary(0, rest=b"x" * 8),
    "a binary of 2^32-1 parts": legacy_binary(2**32 - 1, rest=b"x" * 8),
    "a binary with offsets that fall": legacy_binary(2, 20, 12, rest=b"{}" * 10),
    "a binary with offsets beyond its end": legacy_binary(2, 12, 2**31, rest=b"{}" * 10),
    "a binary that is not JSON": legacy_binary(1, 8, rest=b"\xff\xfe"),
}
LEGACY_FRAMES.update({f"header: {name}": legacy(header=header) for name, header in HEADERS.items()})


async def refused_frame(place: Place, frame: bytes | str, *protocols: str) -> str:
    """Send one bad frame over a new WebSocket: closed with 1007 and a sentence, logged once. Returns the sentence."""
    mark = place.stack.mark()
    path = f"/api/kernels/{place.attacker.kernel_id}/channels?session_id={uuid.uuid4().hex}"
    async with asyncio.timeout(30), place.attacker.http.ws_connect(path, protocols=protocols) as line:
        await (line.send_str(frame) if isinstance(frame, str) else line.send_bytes(frame))
        while (message := await line.receive()).type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            pass  # what the kernel says to everybody
        code, why = close_of(line, message)
        assert (code, why.startswith("Malformed message: ")) == (1007, True), (frame[:80], code, why)
    (event,) = await place.told(mark, 1)
    assert event["event"] == "frame_refused"
    assert len(event["why"]) < 300
    return why


async def test_a_frame_that_is_not_v1_closes_with_a_sentence(place: Place) -> None:
    async with undisturbed(place):
        for frame in V1_FRAMES.values():
            await refused_frame(place, frame, V1)
        assert (await place.attacker.run("print(x)")).text == "1\n"


async def test_a_frame_that_is_not_of_the_legacy_form_closes_with_a_sentence(place: Place) -> None:
    async with undisturbed(place):
        for frame in LEGACY_FRAMES.values():
            await refused_frame(place, frame)
        assert (await place.attacker.run("print(x)")).text == "1\n"


TOO_BIG: Final = b"x" * (MAX_MIB * 2**20 + 1)
BROKEN: Final[dict[str, tuple[bytes, int]]] = {
    "reserved bits": (ws_frame(2, b"x", reserved=4), 1002),
    "an unknown opcode": (ws_frame(5, b"x"), 1002),
    "a continuation of nothing": (ws_frame(0, b"x"), 1002),
    "a new message within a message": (ws_frame(2, b"x", fin=False) + ws_frame(2, b"y"), 1002),
    "a ping in pieces": (ws_frame(9, b"x", fin=False), 1002),
    "a ping of 126 bytes": (ws_frame(9, b"x" * 126), 1002),
    "a close of one byte": (ws_frame(8, b"x"), 1002),
    "a close with code 999": (ws_frame(8, struct.pack(">H", 999)), 1002),
    "text that is not UTF-8": (ws_frame(1, b"\xff\xfe"), 1007),
    "a message above the limit": (ws_frame(2, TOO_BIG), 1009),
    "a length of 2^63": (b"\x82\xff" + struct.pack(">Q", 2**63), 1009),
    "pieces that are too much together": (ws_frame(2, TOO_BIG[:600_000], fin=False) + ws_frame(0, TOO_BIG), 1009),
}


def close_frame_in(heard: bytes) -> tuple[int, str]:
    """Code and sentence of the close frame with which what was heard ends."""
    at, close = 0, b""
    while at < len(heard):
        opcode, size, start = heard[at] & 15, heard[at + 1] & 127, at + 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, start = int.from_bytes(heard[start : start + width], "big"), start + width
        close = heard[start : start + size] if opcode == 8 else close
        at = start + size
    return int.from_bytes(close[:2], "big"), close[2:].decode()


async def test_bytes_that_are_no_websocket_frame_close_with_a_sentence(place: Place) -> None:
    async with undisturbed(place):
        for name, (frame, expected) in BROKEN.items():
            mark = place.stack.mark()
            heard = await say(place, handshake(place, uuid.uuid4().hex, protocol=V1) + frame)
            assert heard.startswith(b"HTTP/1.1 101 "), (name, heard)
            code, why = close_frame_in(heard.partition(b"\r\n\r\n")[2])
            assert (code, bool(why)) == (expected, True), (name, code, why)
            (event,) = await place.told(mark, 1)
            assert event["event"] == "frame_refused", (name, event)


async def test_a_message_at_the_limit_passes(place: Place) -> None:
    code = f"print(len({'y' * (MAX_MIB * 2**20 - 2000)!r}))"
    async with undisturbed(place):
        assert (await place.attacker.run(code)).text.strip() == str(MAX_MIB * 2**20 - 2000)


# -- handshakes -------------------------------------------------------------------------------------------------------


BAD_HANDSHAKES: Final = {
    "no key": ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
    "a key that is short": ("dGhlIHNhbXBsZSBub25jZQ==", "eA=="),
    "a key that is not base64": ("dGhlIHNhbXBsZSBub25jZQ==", "!!"),
    "version 99": ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 99"),
    "no version": ("Sec-WebSocket-Version: 13\r\n", ""),
    "another upgrade": ("Upgrade: websocket", "Upgrade: h2c"),
    "no upgrade": ("Upgrade: websocket\r\nConnection: Upgrade\r\n", "Connection: close\r\n"),
    "POST": ("GET ", "POST "),
}


async def test_a_handshake_that_is_none_is_refused(place: Place) -> None:
    async with undisturbed(place):
        for name, (good, bad) in BAD_HANDSHAKES.items():
            mark = place.stack.mark()
            request = handshake(place).decode().replace(good, bad, 1).encode()
            with await plug(place) as line:
                await asyncio.get_running_loop().sock_sendall(line, request)
                heard = await read_head(line)
            status = int(heard.split()[1])
            assert 400 <= status < 500, (name, heard)
            assert b"application/json" in heard, (name, heard)
            await place.told(mark, 1)


async def test_any_text_can_be_a_session_id(place: Place) -> None:
    texts = ["", "\0", "\n{}\r\n", "\x1b[2J", "x" * 5000, "\u202e", "\U0001f980" * 100, "..", '"', "a&session_id=b"]
    encoded = [quote(text) for text in texts] + ["%ED%A0%80", "%ff", "%", "%0d%0aX-Forged:1"]
    async with undisturbed(place):
        for session_id in encoded:
            path = f"/api/kernels/{place.attacker.kernel_id}/channels?session_id={session_id}"
            student = place.attacker
            line = await student.http.ws_connect(path, protocols=[V1], max_msg_size=0)
            try:
                await line.send_bytes(v1_with(orjson.dumps(HEADER | {"msg_id": uuid.uuid4().hex})))
                async with asyncio.timeout(10):
                    while framing.unpack((await line.receive()).data).channel != "shell":
                        pass
            finally:
                await line.close()


async def test_a_session_id_of_10_kb_is_refused(place: Place) -> None:
    async with undisturbed(place):
        mark = place.stack.mark()
        heard = await say(place, handshake(place, "x" * 10_000))
        assert b" 400 " in heard.partition(b"\r\n")[0]
        (event,) = await place.told(mark, 1)
        assert event["event"] == "request_malformed"


async def read_on(student: Student) -> None:
    """Read until the socket is closed, which raises SocketClosed."""
    while True:
        await student.receive()


async def test_the_newer_of_two_sockets_with_one_session_id_gets_the_seat(place: Place) -> None:
    token = authorization(place).removeprefix("Bearer ")
    async with undisturbed(place), Student(place.stack.url, token) as older, Student(place.stack.url, token) as newer:
        for student in (older, newer):
            student.kernel_id, student.session_id = place.attacker.kernel_id, "twin"
            await student.open()
        with pytest.raises(SocketClosed) as closed:
            await read_on(older)
        assert closed.value.code == 1000  # it must not come back, or the two would take turns for ever
        assert (await newer.run("print(x)")).text == "1\n"


async def test_the_same_session_id_at_somebody_elses_kernel_is_somebody_elses(place: Place) -> None:
    victim = place.neighbours[0]
    async with undisturbed(place):
        place.attacker.session_id = victim.session_id
        await place.attacker.open()  # at the own kernel
        assert (await place.attacker.run("print(x)")).text == "1\n"
