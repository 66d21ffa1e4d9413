"""The three framings: what goes in comes out, as with jupyter_server, and what is no message is refused in words."""

import importlib
import json
import struct
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import framing
from kernels.errors import MalformedFrame

# The independent reference: jupyter_server's own serializers (it is installed with jupyterlab, and has no types).
reference: Any = importlib.import_module("jupyter_server.services.kernels.connection.base")

NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=4)
NAMES = TEXT.filter(bool)
HEADERS = st.builds(
    lambda more, msg_id, kind: {**more, "msg_id": msg_id, "msg_type": kind, "session": "s", "subshell_id": None},
    *(OBJECTS, NAMES, NAMES),
)
BUFFERS = st.lists(st.binary(max_size=40), max_size=4)
CHANNELS = st.sampled_from(["shell", "control", "stdin", "iopub"])
FIELDS = ("header", "parent_header", "metadata", "content")
HEADER = {"msg_id": "m", "msg_type": "execute_request", "session": "s"}


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """A message as jupyter_server holds it."""
    header = draw(HEADERS)
    rest = {"channel": draw(CHANNELS), "msg_id": header["msg_id"], "msg_type": header["msg_type"]}
    objects = {name: draw(OBJECTS) for name in FIELDS[1:]}
    return {"header": header, **objects, **rest, "buffers": draw(BUFFERS)}


def parts_of(message: dict[str, Any]) -> list[bytes]:
    return [*(orjson.dumps(message[name]) for name in FIELDS), *message["buffers"]]


def frame_of(header: object = HEADER, content: bytes = b"{}", channel: str = "shell", parent: bytes = b"{}") -> bytes:
    packed = header if isinstance(header, bytes) else orjson.dumps(header)
    return framing.pack(channel, [packed, parent, b"{}", content])


def fields_of(frame: bytes) -> dict[str, Any]:
    channel, parts = framing.unpack(frame)
    found = {name: json.loads(part) for name, part in zip(FIELDS, parts, strict=False)}
    return {**found, "channel": channel, "buffers": parts[4:]}


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name not in ("msg_id", "msg_type")}


@given(CHANNELS, st.lists(st.binary(max_size=40), min_size=4, max_size=9))
def test_a_v1_frame_is_the_one_that_jupyter_server_makes_and_reads(channel: str, parts: list[bytes]) -> None:
    frame = framing.pack(channel, parts)
    assert frame == reference.serialize_msg_to_ws_v1(parts, channel)
    assert framing.unpack(frame) == (channel, parts) == reference.deserialize_msg_from_ws_v1(frame)
    assert framing.channel_of(frame) == channel
    assert [framing.part_of(frame, index) for index in range(len(parts))] == parts


@given(messages().filter(lambda message: message["channel"] != "iopub"))
def test_a_well_formed_message_passes_the_check_unchanged(message: dict[str, Any]) -> None:
    frame = framing.pack(message["channel"], parts_of(message))
    expected = (message["channel"], parts_of(message)), message["header"]
    assert framing.checked(frame) == framing.trusted(frame) == expected


@given(messages())
def test_a_legacy_client_gets_what_jupyter_server_would_have_sent(message: dict[str, Any]) -> None:
    sent = framing.to_legacy(framing.pack(message["channel"], parts_of(message)))
    if isinstance(sent, str):
        assert message["buffers"] == []
        assert json.loads(sent) == message
    else:
        expected = json.loads(json.dumps({**message, "buffers": []})) | {"buffers": message["buffers"]}
        found = reference.deserialize_binary_message(sent)
        for name in ("header", "parent_header"):  # the reference makes dates of what looks like one
            expected[name] = reference.extract_dates(expected[name])
        assert message["buffers"] != []
        assert found == expected


@given(messages())
def test_what_a_legacy_client_sends_is_understood_as_jupyter_server_understands_it(message: dict[str, Any]) -> None:
    assert fields_of(framing.from_legacy(reference.serialize_binary_message(message))) == without_ids(message)
    text = json.dumps({**message, "buffers": []})
    assert fields_of(framing.from_legacy(text)) == without_ids(message) | {"buffers": []}


@given(messages())
def test_there_and_back_changes_nothing(message: dict[str, Any]) -> None:
    frame = framing.pack(message["channel"], parts_of(message))
    assert fields_of(framing.from_legacy(framing.to_legacy(frame))) == fields_of(frame)


def test_what_a_legacy_client_leaves_out_is_empty_and_the_channel_is_shell() -> None:
    assert framing.unpack(framing.from_legacy('{"content":null}')) == ("shell", [b"{}"] * 4)


def test_a_kernel_may_send_more_buffers_than_a_client_may() -> None:
    parts = [orjson.dumps(HEADER), b"{}", b"{}", b"{}", *([b"x"] * framing.MAX_PARTS)]
    frame = framing.pack("shell", parts)
    assert framing.unpack(frame).parts == parts
    assert len(reference.deserialize_binary_message(framing.to_legacy(frame))["buffers"]) == framing.MAX_PARTS
    with pytest.raises(MalformedFrame, match="offsets"):
        framing.checked(frame)


def test_a_legacy_client_may_send_as_many_buffers_as_any_other() -> None:
    most = framing.MAX_PARTS - 4
    message = {"header": HEADER, "parent_header": {}, "metadata": {}, "content": {}, "channel": "shell"}
    frame = framing.from_legacy(reference.serialize_binary_message({**message, "buffers": [b"x"] * most}))
    assert len(framing.checked(frame)[0].parts) == framing.MAX_PARTS
    with pytest.raises(MalformedFrame, match="parts"):
        framing.from_legacy(reference.serialize_binary_message({**message, "buffers": [b"x"] * (most + 1)}))


@pytest.mark.parametrize("buffers", [[], [b"\xff\x00"]])
def test_what_a_kernel_says_that_is_not_utf_8_still_reaches_a_legacy_client(buffers: list[bytes]) -> None:
    frame = framing.pack("iopub", [orjson.dumps(HEADER), b"{}", b"{}", b'{"text":"caf\xe9"}', *buffers])
    sent = framing.to_legacy(frame)
    found = json.loads(sent) if isinstance(sent, str) else reference.deserialize_binary_message(sent)
    assert found["content"] == {"text": "caf\ufffd"}
    assert found["buffers"] == buffers


def test_a_message_of_the_servers_own_has_the_form_of_a_kernels() -> None:
    frame = framing.server_message("iopub", "status", {"execution_state": "dead"}, HEADER)
    channel, parts = framing.unpack(frame)
    header, parent, metadata, content = map(orjson.loads, parts)
    assert (channel, parent, metadata, content) == ("iopub", HEADER, {}, {"execution_state": "dead"})
    assert header.keys() == {"msg_id", "msg_type", "username", "session", "date", "version"}
    assert header["date"].endswith("Z")
    assert datetime.now(UTC) >= datetime.fromisoformat(header["date"])
    ids = {orjson.loads(framing.part_of(framing.server_message("iopub", "x", {}), 0))["msg_id"] for _ in range(50)}
    assert len(ids) == 50


def v1(*numbers: int, rest: bytes = b"") -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers) + rest


GOOD = frame_of()
START = 8 * 7  # six offsets and their count
NOT_A_FRAME = {
    "empty": b"",
    "seven bytes": b"\x06\x00\x00\x00\x00\x00\x00",
    "no offsets": v1(0),
    "too few offsets": v1(5, *[48] * 5),
    "more offsets than bytes": v1(6, 56, 56, 56),
    "as many offsets as a number can say": v1(2**64 - 1, rest=b"x" * 100),
    "a huge count": v1(2**40, rest=b"x" * 100),
    "too many parts": v1(9000, *[8 * 9001] * 9000),
    "falling offsets": v1(6, START, START + 5, START + 3, START + 4, START + 6, START + 8, rest=b"shell{}{}"),
    "overlapping parts": v1(6, START, START + 5, START + 9, START + 7, START + 9, START + 9, rest=b"shell{}{}"),
    "overlapping the offsets": v1(6, 8, START, START, START, START, START),
    "an end beyond the end": GOOD[:-1],
    "bytes after the end": GOOD + b"x",
    "an offset beyond the end": v1(6, START, START, START, START, START, 2**63),
    "a channel that is not ASCII": framing.pack("sh\xe9ll", [b"{}"] * 4),
    "a channel that is not UTF-8": GOOD.replace(b"shell", b"sh\xffll"),
    "a legacy text": json.dumps({"header": HEADER, "channel": "shell"}).encode(),
}


@pytest.mark.parametrize("frame", NOT_A_FRAME.values(), ids=NOT_A_FRAME)
def test_what_is_not_a_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(MalformedFrame, match=r"frame|ASCII"):
        framing.checked(frame)


def deep(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


def nested(fields: dict[str, str], levels: int) -> bytes:
    return orjson.dumps(fields)[:-1] + b',"x":' + deep(levels) + b"}"


NOT_A_MESSAGE = {
    "the kernel's own channel": frame_of(channel="iopub"),
    "no channel": frame_of(channel=""),
    "an unknown channel": frame_of(channel="hb"),
    "a header that is a list": frame_of([HEADER]),
    "a header that is a string": frame_of("msg_id msg_type session"),
    "an empty header": frame_of({}),
    "no session": frame_of({**HEADER, "session": None}),
    "an empty id": frame_of({**HEADER, "msg_id": ""}),
    "an id that is a number": frame_of({**HEADER, "msg_id": 1}),
    "a type that is a list": frame_of({**HEADER, "msg_type": ["execute_request"]}),
    "a subshell that is a list": frame_of({**HEADER, "subshell_id": []}),
    "a header nested too deeply to be written again": frame_of(nested(HEADER, 300)),
    "content that is empty": frame_of(content=b""),
    "content that is a list": frame_of(content=b"[]"),
    "content that is null": frame_of(content=b"null"),
    "content that is not JSON": frame_of(content=b"{'a': 1}"),
    "content that is not UTF-8": frame_of(content=b'{"a":"\xff"}'),
    "content with NaN": frame_of(content=b'{"a":NaN}'),
    "content with infinity": frame_of(content=b'{"a":-Infinity}'),
    "content with half a surrogate pair": frame_of(content=b'{"a":"\\ud800"}'),
    "content nested a hundred thousand deep": frame_of(content=deep(100_000)),
    "content that never ends": frame_of(content=b"[" * 100_000),
    "content that goes on": frame_of(content=b"{} {}"),
    "a parent that is a number": frame_of(parent=b"1"),
}


@pytest.mark.parametrize("frame", NOT_A_MESSAGE.values(), ids=NOT_A_MESSAGE)
def test_what_a_kernel_would_stumble_over_is_refused(frame: bytes) -> None:
    framing.unpack(frame)  # it is the message that is refused here, not the frame
    with pytest.raises(MalformedFrame):
        framing.checked(frame)


def test_a_refusal_does_not_repeat_megabytes_of_what_it_refuses() -> None:
    with pytest.raises(MalformedFrame) as refusal:
        framing.checked(frame_of(channel="x" * 1_000_000))
    assert len(str(refusal.value)) < 200


NOT_LEGACY = {
    "empty text": "",
    "no JSON": "hello",
    "a list": "[]",
    "NaN": '{"content":{"a":NaN}}',
    "lone surrogate": '{"content":"\ud800"}',
    "lone surrogate, escaped": '{"content":"\\ud800"}',
    "a channel that is a number": '{"channel":1}',
    "nested too deeply to be written again": '{"content":' + deep(300).decode() + "}",
    "nested too deeply to be read": deep(100_000).decode(),
    "empty bytes": b"",
    "seven bytes": b"\0\0\0\1\0\0\0",
    "no parts": struct.pack(">II", 0, 8),
    "a huge count": struct.pack(">II", 2**32 - 1, 8) + b"{}" * 50,
    "a count that is negative": struct.pack(">iI", -1, 8) + b"{}" * 50,
    "more parts than bytes": struct.pack(">II", 3, 16) + b"{}",
    "an offset inside the offsets": struct.pack(">II", 1, 0) + b"{}",
    "an offset beyond the end": struct.pack(">II", 1, 100) + b"{}",
    "falling offsets": struct.pack(">III", 2, 14, 12) + b"{}{}",
    "text that is not UTF-8": struct.pack(">II", 1, 8) + b'{"a":"\xff"}',
    "text that is empty": struct.pack(">II", 1, 8),
    "a v1 frame": GOOD,
}


@pytest.mark.parametrize("data", NOT_LEGACY.values(), ids=NOT_LEGACY)
def test_what_is_not_a_legacy_message_is_refused(data: str | bytes) -> None:
    with pytest.raises(MalformedFrame):
        framing.from_legacy(data)


def refusal_or_message(data: str | bytes, *, legacy: bool) -> None:
    """Whatever comes, it is a message or it is a MalformedFrame; any other exception fails the test."""
    try:
        frame = framing.from_legacy(data) if legacy else data
        assert isinstance(frame, bytes)
        message, header = framing.checked(frame)
    except MalformedFrame:
        return
    assert framing.pack(*message) == frame
    framing.server_message("shell", "reply", {}, header)
    framing.to_legacy(frame)


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    refusal_or_message(noise, legacy=False)
    refusal_or_message(noise, legacy=True)


@given(st.text(max_size=60) | VALUES.map(json.dumps) | OBJECTS.map(lambda found: json.dumps({"header": found})))
def test_noise_as_text_is_refused(noise: str) -> None:
    refusal_or_message(noise, legacy=True)


@given(st.lists(st.integers(0, 120) | st.integers(0, 2**64 - 1), max_size=9), st.binary(max_size=80))
def test_noise_in_the_place_of_offsets_is_refused(numbers: list[int], rest: bytes) -> None:
    refusal_or_message(v1(len(numbers), *numbers, rest=rest), legacy=False)
    small = struct.pack(f">I{len(numbers)}I", len(numbers), *(number % 2**32 for number in numbers))
    refusal_or_message(small + rest, legacy=True)


@given(messages(), st.data())
def test_a_damaged_message_is_refused_or_is_another_message(message: dict[str, Any], data: st.DataObject) -> None:
    frame = framing.pack(message["channel"], parts_of(message))
    for whole, legacy in ((frame, False), (reference.serialize_binary_message(message), True)):
        at = data.draw(st.integers(0, len(whole) - 1))
        damaged = whole[:at] + data.draw(st.binary(max_size=9)) + whole[at + data.draw(st.integers(0, 9)) :]
        refusal_or_message(damaged, legacy=legacy)


@pytest.mark.parametrize("header", [b"", b"[]", b"7", b"\xff", b'{"msg_id":', deep(2000)])
def test_a_kernel_that_sends_no_header_is_refused_by_the_legacy_framing(header: bytes) -> None:
    with pytest.raises(MalformedFrame):
        framing.to_legacy(framing.pack("iopub", [header, b"{}", b"{}", b"{}"]))
    with pytest.raises(MalformedFrame):
        framing.trusted(framing.pack("iopub", [header, b"{}", b"{}", b"{}"]))
