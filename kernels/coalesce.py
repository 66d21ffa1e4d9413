"""Fewer messages for a client that falls behind: what one cell prints to one stream, in one message.

Nothing is lost and nothing changes its place. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import orjson

from kernels import framing


def coalesced(frames: Iterable[bytes]) -> list[bytes]:
    """Return frames that say the same: adjacent stream outputs of the same name and parent are joined.

    The joined one has the header and the metadata of the last, and so its msg_id and number.
    """
    found: list[bytes] = []
    for stream, group in groupby(frames, _stream_of):
        same = list(group)
        found += same if stream is None or len(same) == 1 else [_joined(same)]
    return found


def _stream_of(frame: bytes) -> tuple[str, bytes] | None:
    """(name, parent) of a stream output; None for everything else, and for what the server itself says."""
    if framing.channel_of(frame) != "iopub" or b'"stream"' not in framing.part_of(frame, 0):
        return None
    content = _content(frame)
    if framing.is_servers_own(frame) or not isinstance(content.get("text"), str):
        return None
    return str(content.get("name")), framing.part_of(frame, 1)


def _joined(frames: list[bytes]) -> bytes:
    message = framing.unpack(frames[-1])
    text = "".join(_content(frame)["text"] for frame in frames)
    message.parts[3] = orjson.dumps(_content(frames[-1]) | {"text": text})
    return framing.pack("iopub", message.parts)


def _content(frame: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(framing.part_of(frame, 3))
    except orjson.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}
