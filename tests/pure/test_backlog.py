"""What a kernel sent lately: in order, within its bounds, each frame to those it is for, and gaps are told."""

from dataclasses import dataclass

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kernels import framing
from kernels.backlog import Backlog

ALL = 10**9
CLIENTS = ("ann", "bob")
IDS = st.sampled_from(["m1", "m2", "m3", "m4"])


def frame_of(msg_id: str, channel: str = "iopub", padding: int = 0, **more: str) -> bytes:
    header = orjson.dumps({"msg_id": msg_id, **more})
    return framing.pack(channel, [header, b"{}", b"{}", b"x" * padding])


@dataclass
class Row:
    """A frame in the model, which never forgets one."""

    frame: bytes
    msg_id: str
    to: str | None
    answers: str | None


class BacklogMachine(RuleBasedStateMachine):
    """Compares a backlog with the list of all that was ever put into it."""

    @initialize(limit=st.sampled_from([0, 1, 300, 1000, 5000]))
    def begin(self, limit: int) -> None:
        self.limit = limit
        self.backlog = Backlog(limit)
        self.rows: list[Row] = []
        self.cursors = dict.fromkeys(CLIENTS, 0)
        self.got: dict[str, list[bytes]] = {client: [] for client in CLIENTS}
        self.owed: dict[str, list[bytes]] = {client: [] for client in CLIENTS}

    def first(self) -> int:
        """The number of the oldest frame that fits: the longest tail within the limit, one frame at the least."""
        size, first = 0, len(self.rows) + 1
        for number in range(len(self.rows), 0, -1):
            size += len(self.rows[number - 1].frame)
            if size > self.limit and number < len(self.rows):
                break
            first = number
        return first

    def put(self, row: Row) -> None:
        self.rows.append(row)
        for client in CLIENTS:
            if row.answers is None and row.to in (None, client):
                self.owed[client].append(row.frame)

    @rule(msg_id=IDS, to=st.sampled_from([None, "ann", "bob", "gone"]), padding=st.integers(0, 400))
    def append(self, msg_id: str, to: str | None, padding: int) -> None:
        row = Row(frame_of(msg_id, padding=padding), msg_id, to, None)
        self.backlog.append(row.frame, to)
        self.put(row)

    @rule(msg_id=IDS, answers=IDS, channel=st.sampled_from(["shell", "stdin"]))
    def append_what_nobody_asked_for(self, msg_id: str, answers: str, channel: str) -> None:
        row = Row(frame_of(msg_id, channel), msg_id, "", answers)
        self.backlog.append(row.frame, "", answers)
        self.put(row)

    @rule(msg_id=IDS, client=st.sampled_from(CLIENTS))
    def claim(self, msg_id: str, client: str) -> None:
        here = self.rows[self.first() - 1 :]
        found = [row for row in here if row.answers == msg_id]
        answered = self.backlog.claim_answer(msg_id, client)
        assert answered == any(framing.channel_of(row.frame) == "shell" for row in found)
        for row in found:
            row.answers = "claimed"
            self.put(Row(row.frame, row.msg_id, client, None))

    @rule(client=st.sampled_from(CLIENTS), max_bytes=st.sampled_from([1, 200, 600, ALL]))
    def read(self, client: str, max_bytes: int) -> None:
        before = self.cursors[client]
        frames, cursor, missed = self.backlog.read(before, client, max_bytes)
        start = max(before, self.first() - 1)
        passed = self.rows[start:cursor]
        assert missed == start - before
        assert frames == [row.frame for row in passed if row.answers is None and row.to in (None, client)]
        assert sum(map(len, frames[:-1])) < max_bytes
        assert cursor == len(self.rows) or sum(map(len, frames)) >= max_bytes
        self.cursors[client] = cursor
        self.got[client] += frames

    @rule(msg_id=IDS | st.just("m"))
    def find(self, msg_id: str) -> None:
        here = range(self.first(), len(self.rows) + 1)
        newest = max((number for number in here if self.rows[number - 1].msg_id == msg_id), default=None)
        assert self.backlog.find(msg_id) == newest

    @invariant()
    def numbers_only_grow(self) -> None:
        assert self.backlog.last == len(self.rows)

    def teardown(self) -> None:
        for client in CLIENTS:
            self.read(client, ALL)
            if self.first() == 1:  # nothing fell out: each client has had all that was for it, once and in order
                assert self.got[client] == self.owed[client]


TestBacklog = BacklogMachine.TestCase
TestBacklog.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_memory_is_bounded_by_the_limit_and_the_newest_frame_stays() -> None:
    backlog = Backlog(limit_bytes=10_000)
    for number in range(1000):
        backlog.append(frame_of(f"m{number}", padding=500))
    kept = backlog.read(0, "ann", ALL)
    assert 9_000 < sum(map(len, kept.frames)) <= 10_000
    assert kept.missed == 1000 - len(kept.frames)
    backlog.append(frame_of("huge", padding=1_000_000))
    assert backlog.read(0, "ann", ALL).frames == [frame_of("huge", padding=1_000_000)]


def test_a_frame_larger_than_a_batch_is_still_read() -> None:
    backlog = Backlog(ALL)
    backlog.append(frame_of("m1", padding=5000))
    backlog.append(frame_of("m2"))
    assert backlog.read(0, "ann", max_bytes=10) == ([frame_of("m1", padding=5000)], 1, 0)


def test_a_reply_that_came_before_what_its_client_has_seen_is_read_all_the_same() -> None:
    backlog = Backlog(ALL)
    backlog.append(frame_of("reply", "shell"), "", answers="request")
    backlog.append(frame_of("idle"))
    cursor = backlog.find("idle")
    assert cursor == 2
    assert backlog.claim_answer("request", "ann")
    assert backlog.read(cursor, "ann", ALL).frames == [frame_of("reply", "shell")]
    assert backlog.read(cursor, "bob", ALL).frames == []


def test_an_input_request_is_not_the_reply() -> None:
    backlog = Backlog(ALL)
    backlog.append(frame_of("prompt", "stdin"), "", answers="request")
    assert not backlog.claim_answer("request", "ann")
    assert backlog.read(0, "ann", ALL).frames == [frame_of("prompt", "stdin")]


def test_what_nobody_has_claimed_is_shown_to_nobody_and_can_be_claimed_once() -> None:
    backlog = Backlog(ALL)
    backlog.append(frame_of("reply", "shell"), "", answers="request")
    assert backlog.read(0, "", ALL).frames == []
    assert backlog.claim_answer("request", "ann")
    assert not backlog.claim_answer("request", "bob")
    assert backlog.read(0, "", ALL).frames == []


def test_a_message_is_found_by_its_own_id_and_not_where_the_id_is_only_mentioned() -> None:
    backlog = Backlog(ALL)
    backlog.append(frame_of("wanted"))
    backlog.append(frame_of("other", username="wanted"))
    assert backlog.find("wanted") == 1
    assert backlog.find("want") is None


@pytest.mark.parametrize("header", [b'"wanted"', b'["wanted"]', b"wanted", b'{"msg_id":["wanted"]}'])
def test_what_a_kernel_sends_in_the_place_of_a_header_disturbs_no_search(header: bytes) -> None:
    backlog = Backlog(ALL)
    backlog.append(frame_of("wanted"))
    backlog.append(framing.pack("iopub", [header, b"{}", b"{}", b"{}"]))
    assert backlog.find("wanted") == 1


def test_a_reply_that_its_client_has_got_is_not_read_again() -> None:
    backlog = Backlog(10_000)
    reply, other = frame_of("a", "shell"), frame_of("b")
    backlog.append(reply, "ann")
    backlog.note_reply("asked", "ann")
    backlog.append(other)
    assert backlog.read(0, "ann", 10_000).frames == [reply, other]
    backlog.settle("asked", "ann")
    backlog.settle("asked", "ann")
    backlog.settle("never asked", "ann")
    assert backlog.read(0, "ann", 10_000) == ([other], 2, 0)
