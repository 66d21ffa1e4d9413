"""Records and orders: what crosses the nursery's socket, and what does not get through."""

import contextlib
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.bounds import UNBOUNDED
from kernels.errors import BadRequest, ClaimRefused, KernelsError, SpawnRefused, UnknownKernel
from kernels.nursery_wire import check_runtime, error_from_json, error_to_json, line, message_of
from kernels.records import (
    NOTES_BYTES,
    Exit,
    KernelRecord,
    SpawnOrder,
    checked_kernel_id,
    checked_notes,
    now_utc,
)

KERNEL_ID = "0123abcd-0123-4567-89ab-0123456789ab"

RECORD = KernelRecord(
    kernel_id=KERNEL_ID,
    user="ann",
    kernel_name="python3",
    incarnation=2,
    directory=Path("/run/k") / KERNEL_ID,
    cwd=Path("/home/ann"),
    pid=4711,
    pid_started=123456,
    started_at="2030-01-01T00:00:00.000001Z",
    state="exited",
    exit=Exit(None, 9, "killed by signal 9 (SIGKILL)"),
    claim_epoch=17,
    claim_boot="cafe",
    notes={"path": "a.ipynb"},
)

ORDER = SpawnOrder(
    KERNEL_ID,
    "ann",
    "python3",
    1,
    Path("/run/k") / KERNEL_ID,
    ("python", "-c", "1"),
    {"PATH": "/bin"},
    Path("/"),
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def test_a_record_comes_back_from_a_line_as_it_went() -> None:
    assert KernelRecord.from_json(message_of(line(RECORD.to_json()))) == RECORD


def test_an_order_comes_back_from_a_line_as_it_went() -> None:
    assert SpawnOrder.from_json(message_of(line(ORDER.to_json()))) == ORDER


@given(st.sampled_from(sorted(RECORD.to_json())), json_values)
def test_a_record_with_any_field_changed_is_read_or_refused(name: str, value: Any) -> None:
    with contextlib.suppress(BadRequest):
        KernelRecord.from_json(RECORD.to_json() | {name: value})


@given(st.sampled_from(sorted(ORDER.to_json())), json_values)
def test_an_order_with_any_field_changed_is_read_or_refused(name: str, value: Any) -> None:
    with contextlib.suppress(BadRequest):
        SpawnOrder.from_json(ORDER.to_json() | {name: value})


def test_an_order_of_a_worker_that_knows_of_no_bounds_has_none() -> None:
    found = ORDER.to_json()
    del found["bounds"]
    assert SpawnOrder.from_json(found).bounds == UNBOUNDED


@pytest.mark.parametrize("name", sorted(ORDER.to_json().keys() - {"bounds"}))
def test_an_order_that_lacks_a_field_is_refused(name: str) -> None:
    found = ORDER.to_json()
    del found[name]
    with pytest.raises(BadRequest, match=name):
        SpawnOrder.from_json(found)


@pytest.mark.parametrize(
    "change",
    [
        {"argv": []},
        {"argv": "python"},
        {"argv": [""]},
        {"argv": ["python", 1]},
        {"argv": ["python\0"]},
        {"env": {"A=B": "1"}},
        {"env": {"A": 1}},
        {"env": {"A": "1\0"}},
        {"env": {"": "1"}},
        {"incarnation": 0},
        {"incarnation": True},
        {"user": ""},
    ],
)
def test_an_order_that_exec_could_not_take_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        SpawnOrder.from_json(ORDER.to_json() | change)


@pytest.mark.parametrize("text", ["", "..", "a/b", KERNEL_ID + "/..", KERNEL_ID.upper(), KERNEL_ID + "\n", None, 7])
def test_only_a_uuid_names_a_kernel(text: object) -> None:
    with pytest.raises(BadRequest):
        checked_kernel_id(text)


def test_notes_have_a_limit() -> None:
    assert checked_notes({"a": "x" * (NOTES_BYTES - 20)})
    with pytest.raises(BadRequest, match="more than"):
        checked_notes({"a": "x" * NOTES_BYTES})


@pytest.mark.parametrize(
    ("status", "code", "signum", "reason", "returncode"),
    [
        (0, 0, None, "exited with code 0", 0),
        (3 << 8, 3, None, "exited with code 3", 3),
        (9, None, 9, "killed by signal 9 (SIGKILL)", -9),
        (11 | 0x80, None, 11, "killed by signal 11 (SIGSEGV)", -11),
        (40, None, 40, "killed by signal 40 (real-time)", -40),
        (None, None, None, "exited while the nursery was away: exit code unknown", 255),
    ],
)
def test_an_exit_is_told_in_words(
    status: int | None, code: int | None, signum: int | None, reason: str, returncode: int
) -> None:
    found = Exit.of_status(status)
    assert found == Exit(code, signum, reason)
    assert found.returncode == returncode


def test_a_moment_is_told_in_the_form_that_jupyter_parses() -> None:
    assert datetime.strptime(now_utc(), "%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.mark.parametrize("error", [UnknownKernel("a"), SpawnRefused("b"), ClaimRefused("c", 12), BadRequest("d")])
def test_an_error_comes_out_of_the_wire_as_it_went_in(error: KernelsError) -> None:
    found = error_from_json(error_to_json(error))
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert getattr(found, "epoch", None) == getattr(error, "epoch", None)


@pytest.mark.parametrize("text", [b"", b"{", b"[]\n", b"7\n", b"\xff\n", b'{"id": 1'])
def test_a_line_that_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(BadRequest):
        message_of(text)


def test_a_runtime_directory_too_deep_for_sockets_is_refused_in_words() -> None:
    check_runtime(Path("/" + "x" * 61))
    with pytest.raises(KernelsError, match="longer than 62 bytes"):
        check_runtime(Path("/" + "x" * 62))
    with pytest.raises(KernelsError, match="absolute"):
        check_runtime(Path("x"))
