"""How one Jupyter message looks on a WebSocket.

Owns the three framings that clients speak. Inside kernelring a message is always a *frame*: the bytes of
`v1.kernel.websocket.jupyter.org`, because its parts are the ZMQ parts unparsed. The two legacy framings are
translated at the edge, for clients that offer no subprotocol. Never touches sockets.

Source: jupyter_server's documentation, "WebSocket kernel wire protocols", and jupyter_client's messaging page.
"""

from __future__ import annotations

import re
import struct
import uuid
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, NamedTuple

import orjson

from kernels.errors import MalformedFrame

V1_SUBPROTOCOL: Final = "v1.kernel.websocket.jupyter.org"
PROTOCOL_VERSION: Final = "5.4"  # of Jupyter's messages, as jupyter_client 8.10 speaks it
CLIENT_CHANNELS: Final = frozenset({"shell", "control", "stdin"})
MAX_PARTS: Final = 4096  # of a client's message; far above what one sends, and keeps a hostile count from taking memory
_FIXED_PARTS: Final = 4  # header, parent_header, metadata, content; what follows are buffers
_LEGACY_TAIL: Final = b'"channel":%b,"msg_id":%b,"msg_type":%b}'
_JSON_FIELDS: Final = ("header", "parent_header", "metadata", "content")


OWN_PREFIX: Final = "kernelring-own-"  # of the msg_id of what the server says itself
_SHORT_BYTES: Final = 2048  # what is longer is not remembered
_NUMBERED: Final = re.compile(rb'\{"kernelring":\[(\d{1,9}),(\d{1,15})\]')
Number = tuple[int, int]
"""What a flight recorder gives to each output: the incarnation of the kernel, and 1, 2, 3, … in it."""


class Message(NamedTuple):
    """One message: its channel and its parts (header, parent_header, metadata, content, then buffers)."""

    channel: str
    parts: list[bytes]


def pack(channel: str, parts: list[bytes]) -> bytes:
    """Return the v1 frame of `parts` (at least four, buffers after them) on `channel`."""
    name = channel.encode()
    offsets = [8 * (len(parts) + 3), 0]
    offsets[1] = offsets[0] + len(name)
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    return b"".join((struct.pack(f"<{len(offsets) + 1}Q", len(offsets), *offsets), name, *parts))


def unpack(frame: bytes, max_parts: int | None = None) -> Message:
    """Return the message in a v1 frame; raise MalformedFrame for anything that is not one, or has too many parts.

    A kernel's own messages have no `max_parts`: it may send as many buffers as it likes.
    """
    offsets = _offsets(frame, max_parts)
    try:
        channel = frame[offsets[0] : offsets[1]].decode("ascii")
    except UnicodeDecodeError as error:
        raise MalformedFrame("the channel's name is not ASCII") from error
    return Message(channel, [frame[a:b] for a, b in pairwise(offsets[1:])])


def _offsets(frame: bytes, max_parts: int | None) -> tuple[int, ...]:
    if len(frame) < 8:
        raise MalformedFrame("a frame is at least 8 bytes long")
    (count,) = struct.unpack_from("<Q", frame)
    too_many = max_parts is not None and count > max_parts + 2
    if count < _FIXED_PARTS + 2 or too_many or len(frame) < 8 * (count + 1):
        raise MalformedFrame(f"a frame cannot have {count} offsets")
    offsets: tuple[int, ...] = struct.unpack_from(f"<{count}Q", frame, 8)
    rising = all(a <= b for a, b in pairwise(offsets))
    if offsets[0] != 8 * (count + 1) or offsets[-1] != len(frame) or not rising:
        raise MalformedFrame("the frame's offsets do not fit its length")
    return offsets


def channel_of(frame: bytes) -> str:
    """Return the channel of a frame that this process packed itself (not checked)."""
    count, start, end = struct.unpack_from("<QQQ", frame)
    del count
    return frame[start:end].decode()


def part_of(frame: bytes, index: int) -> bytes:
    """Return part `index` (0 header, 1 parent_header, 2 metadata, 3 content) of a frame that is known to be good."""
    start, end = struct.unpack_from("<QQ", frame, 8 * (index + 2))
    return frame[start:end]


def checked(frame: bytes) -> tuple[Message, dict[str, Any]]:
    """Return (message, header) of a frame from a client; raise MalformedFrame with a sentence that says what is wrong.

    Everything that a kernel would stumble over is refused here, so that the client hears of it instead of waiting.
    """
    message = unpack(frame, MAX_PARTS)
    if message.channel not in CLIENT_CHANNELS:
        raise MalformedFrame(f"there is no channel {message.channel[:40]!r} to send on")
    fields = [_json_object(name, part) for name, part in zip(_JSON_FIELDS, message.parts, strict=False)]
    header = fields[0]
    for field in ("msg_id", "msg_type", "session"):
        if not isinstance(header.get(field), str) or not header[field]:
            raise MalformedFrame(f"the header's {field} must be a string that is not empty")
    if not isinstance(header.get("subshell_id"), str | None):
        raise MalformedFrame("the header's subshell_id must be a string")
    _json("header", header)  # it will be a parent_header in what the server itself says, so it must go both ways
    return message, header


def msg_id_of(header: bytes) -> str:
    """Return the msg_id in a header or parent header that a kernel sent; "" when there is none to be read."""
    return _text_in(header, "msg_id")


def session_of(header: bytes) -> str:
    """Return the session in a header or parent header that a kernel sent; "" when there is none to be read."""
    return _text_in(header, "session")


def _text_in(header: bytes, name: str) -> str:
    return _short_text_in(header, name) if len(header) < _SHORT_BYTES else _found_text_in(header, name)


def _found_text_in(header: bytes, name: str) -> str:
    try:
        text = orjson.loads(header)[name]
    except (ValueError, TypeError, KeyError):
        return ""
    return text if isinstance(text, str) else ""


# All messages of a cell have the same parent header, and each is looked into several times.
_short_text_in = lru_cache(maxsize=64)(_found_text_in)


def number_of(metadata: bytes) -> Number | None:
    """Return the number in the metadata of an output; None when it has none.

    The recorder puts it first. What a user writes into metadata comes after it, and is not looked at.
    """
    found = _NUMBERED.match(metadata)
    return (int(found[1]), int(found[2])) if found else None


def is_servers_own(frame: bytes) -> bool:
    """Whether a frame was made by `server_message`, here or at another worker."""
    return b'"username":"kernelring"' in part_of(frame, 0)


def trusted(frame: bytes) -> tuple[Message, dict[str, Any]]:
    """As `checked`, of a frame that a worker of ours has checked."""
    message = unpack(frame)
    return message, _json_object("header", message.parts[0])


def _json(name: str, value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as error:  # orjson reads 1024 levels and writes 254
        raise MalformedFrame(f"the {name} cannot be written as JSON again: {error}") from error


def _json_object(name: str, part: str | bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(part)
    except orjson.JSONDecodeError as error:
        raise MalformedFrame(f"the {name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise MalformedFrame(f"the {name} must be a JSON object")
    return value


def server_message(channel: str, msg_type: str, content: dict[str, Any], parent: dict[str, Any] | None = None) -> bytes:
    """Return the frame of a message that the server itself says, in the place of the kernel. `parent`: a header."""
    header = {
        "msg_id": f"{OWN_PREFIX}{uuid.uuid4().hex}",
        "msg_type": msg_type,
        "username": "kernelring",
        "session": "kernelring",
        "date": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "version": PROTOCOL_VERSION,
    }
    return pack(channel, [orjson.dumps(part) for part in (header, parent or {}, {}, content)])


def to_legacy(frame: bytes) -> str | bytes:
    """Return the legacy form of a frame: text, or bytes when the message has buffers; raise MalformedFrame.

    A kernel may say what is not UTF-8 (jupyter_client sends a file name that cannot be decoded as the bytes that it
    is). A text frame cannot; what is wrong becomes U+FFFD, as browsers do with the v1 form.
    """
    channel, parts = unpack(frame)
    ids = _json_object("header", parts[0])
    form = b'{"header":%b,"parent_header":%b,"metadata":%b,"content":%b,"buffers":[],' + _LEGACY_TAIL
    told = (orjson.dumps(value) for value in (channel, ids.get("msg_id"), ids.get("msg_type")))
    text = form % (*parts[:_FIXED_PARTS], *told)
    buffers = parts[_FIXED_PARTS:]
    readable = text.decode(errors="replace")
    if not buffers:
        return readable
    text = readable.encode()
    offsets = [4 * (len(buffers) + 2)]
    for part in (text, *buffers[:-1]):
        offsets.append(offsets[-1] + len(part))
    return b"".join((struct.pack(f">{len(offsets) + 1}I", len(offsets), *offsets), text, *buffers))


def from_legacy(data: str | bytes) -> bytes:
    """Return the v1 frame of a legacy message (text, or bytes with buffers); raise MalformedFrame."""
    text, buffers = (data, []) if isinstance(data, str) else _split_legacy(data)
    message = _json_object("message", text)
    channel = message.get("channel", "shell")
    if not isinstance(channel, str):
        raise MalformedFrame("the channel must be a string")
    parts = []
    for name in _JSON_FIELDS:
        value = message.get(name, {})
        parts.append(_json(name, {} if value is None else value))
    return pack(channel, [*parts, *buffers])


def _split_legacy(data: bytes) -> tuple[bytes, list[bytes]]:
    if len(data) < 8:
        raise MalformedFrame("a binary message is at least 8 bytes long")
    (count,) = struct.unpack_from(">I", data)
    if not 1 <= count <= MAX_PARTS - _FIXED_PARTS + 1 or len(data) < 4 * (count + 1):
        raise MalformedFrame(f"a binary message cannot have {count} parts")
    offsets = [*struct.unpack_from(f">{count}I", data, 4), len(data)]
    if offsets[0] < 4 * (count + 1) or any(a > b for a, b in pairwise(offsets)):
        raise MalformedFrame("the message's offsets do not fit its length")
    pieces = [data[a:b] for a, b in pairwise(offsets)]
    return pieces[0], pieces[1:]
