"""What is joined for a client that falls behind, and what is not."""

import orjson

from kernels import framing
from kernels.coalesce import coalesced


def output(text: str, name: str = "stdout", cell: str = "a", kind: str = "stream", n: int = 1) -> bytes:
    parts = [
        {"msg_id": f"m{n}", "msg_type": kind},
        {"msg_id": cell},
        {"kernelring": [1, n]},
        {"name": name, "text": text},
    ]
    return framing.pack("iopub", [orjson.dumps(part) for part in parts])


def texts(frames: list[bytes]) -> list[str]:
    return [orjson.loads(framing.part_of(frame, 3))["text"] for frame in frames]


def test_what_a_cell_prints_comes_as_one_message_with_the_last_ones_id_and_number() -> None:
    (joined,) = coalesced([output("a\n", n=1), output("b\n", n=2), output("ü\n", n=3)])
    assert texts([joined]) == ["a\nb\nü\n"]
    assert orjson.loads(framing.part_of(joined, 0))["msg_id"] == "m3"
    assert framing.number_of(framing.part_of(joined, 2)) == (1, 3)


def test_other_streams_cells_and_kinds_keep_their_place() -> None:
    own = framing.server_message("iopub", "stream", {"name": "stdout", "text": "7"}, {"msg_id": "b"})
    frames = [output("1"), output("2", "stderr"), output("3"), output("4", cell="b")]
    frames += [output("5", cell="b", kind="display_data"), output("6", cell="b"), own]
    assert coalesced(frames) == frames


def test_what_is_not_json_is_passed_on() -> None:
    odd = framing.pack("iopub", [b'{"msg_type":"stream"}', b"{}", b"{}", b"no json"])
    assert coalesced([odd, odd]) == [odd, odd]
