"""Uids, rooms and what crosses a command line: given once, never shared, refused when in doubt."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import resident
from kernels.confine import common_uid, uids
from kernels.confine.host import Report
from kernels.confine.options import Options, Room, Walls
from kernels.confine.uids import Uids, UidsError
from server.confinement import Identity, as_server, as_user, lets_anybody_in

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.fixture
def notebooks(tmp_path: Path) -> Path:
    for name in ("ann", "bob", "eve"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_a_uid_is_given_once_and_to_one_user(notebooks: Path) -> None:
    table = Uids(notebooks, 5000, 5010)
    assert table.known("ann") is None
    assert [table.of(user, user) for user in ("ann", "bob", "ann")] == [5000, 5001, 5000]
    assert [Uids(notebooks, 5000, 5010).known(user) for user in ("ann", "bob", "eve")] == [5000, 5001, None]


def test_many_that_ask_at_once_agree(notebooks: Path) -> None:
    def ask(number: int) -> int:
        return Uids(notebooks, 5000, 5100).of(f"user{number % 10}", f"home{number % 10}")

    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(ask, range(80)))
    assert given[:10] * 8 == given
    assert sorted(given[:10]) == list(range(5000, 5010))


def test_the_table_can_be_read_by_the_server_alone(notebooks: Path) -> None:
    Uids(notebooks, 5000, 5010).of("ann", "ann")
    table = notebooks / ".kernelring" / "uids.json"
    assert (table.stat().st_mode & 0o777, table.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    table.chmod(0o644)
    with pytest.raises(UidsError, match="not a private file"):
        Uids(notebooks, 5000, 5010).of("ann", "ann")


@pytest.mark.parametrize("text", ["{", "[]", '{"fresh": 1, "users": {"ann": 5}}', '{"fresh": 1, "users": []}'])
def test_a_damaged_table_gives_nobody_a_uid(notebooks: Path, text: str) -> None:
    Uids(notebooks, 5000, 5010).of("ann", "ann")
    (notebooks / ".kernelring" / "uids.json").write_text(text)
    with pytest.raises(UidsError, match="damaged"):
        Uids(notebooks, 5000, 5010).of("bob", "bob")


def test_a_directory_is_one_users_alone(notebooks: Path) -> None:
    table = Uids(notebooks, 5000, 5010)
    table.of("ann", "ann")
    with pytest.raises(UidsError, match="is that of ann"):
        table.of("bob", "ann")
    with pytest.raises(UidsError, match="is ann, not bob"):
        table.of("ann", "bob")


def test_a_uid_is_given_again_only_when_all_were_and_its_directory_is_gone(notebooks: Path) -> None:
    table = Uids(notebooks, 5000, 5001)
    (notebooks / "ann").rmdir()
    assert [table.of(user, user) for user in ("ann", "bob")] == [5000, 5001]
    assert table.of("eve", "eve") == 5000
    assert table.known("ann") is None
    with pytest.raises(UidsError, match="KERNELRING_UIDS"):
        table.of("ann", "ann")


def test_a_uid_that_runs_something_is_not_given_again(notebooks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Uids(notebooks, 5000, 5000)
    (notebooks / "ann").rmdir()
    table.of("ann", "ann")
    monkeypatch.setattr(uids, "_runs_something", lambda uid: uid == 5000)
    with pytest.raises(UidsError, match="all uids"):
        table.of("eve", "eve")


@ROOT_ONLY
@pytest.mark.parametrize("empty", [False, True])
def test_a_lost_table_is_found_again_in_the_owners_of_the_directories(notebooks: Path, empty: bool) -> None:
    Uids(notebooks, 5000, 5010).of("other", "other")
    table = notebooks / ".kernelring" / "uids.json"
    table.write_text("") if empty else table.unlink()
    for name, uid in (("ann", 5001), ("eve", 5000)):
        os.chown(notebooks / name, uid, uid)
    made = Uids(notebooks, 5000, 5010)
    assert [made.of(user, user) for user in ("bob", "ann", "eve")] == [5002, 5001, 5000]


def test_a_folder_that_others_could_look_into_is_closed_first(notebooks: Path) -> None:
    folder = notebooks / ".kernelring"
    folder.mkdir(mode=0o755)
    assert Uids(notebooks, 5000, 5010).of("ann", "ann") == 5000
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@ROOT_ONLY
def test_a_folder_of_somebody_else_in_the_tables_place_is_refused(notebooks: Path) -> None:
    (notebooks / ".kernelring").mkdir(mode=0o700)
    os.chown(notebooks / ".kernelring", 5000, 5000)
    with pytest.raises(UidsError, match="not a private directory"):
        Uids(notebooks, 5000, 5010).of("ann", "ann")


@settings(max_examples=20, deadline=None)
@given(st.sets(st.text(min_size=1, max_size=8), max_size=20))
def test_whoever_asks_in_whatever_order_no_two_share_a_uid(asked: set[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = Uids(Path(folder), 5000, 5100)
        found = {user: table.of(user, user.encode(errors="backslashreplace").hex()) for user in asked}
        assert len(set(found.values())) == len(found)
        assert {user: Uids(Path(folder), 5000, 5100).known(user) for user in asked} == found


def test_what_crosses_a_command_line_comes_back_as_it_was() -> None:
    options = Options(Path("/a/b"), (5, 6), 1, 2, 3, 4, "landlock")
    assert Options.from_text(options.to_text()) == options
    program, limits = bytes(range(256)), ((1, 2), (3, 4))
    walls = Walls(7, ("/usr", "/ü"), ("/dev/shm",), ("/dev/null",), program, limits, "namespaces", ("/n", "/r"), 5)
    assert Walls.from_text(walls.to_text()) == walls
    assert json.loads(walls.to_text())["landlock"] == 7


def test_the_words_for_a_level() -> None:
    assert Report("uids", ("landlock7", "seccomp")).name == "uids+landlock7+seccomp"
    assert Report("none").name == "none"
    assert Room(5000, "/h", "/k/1").writable == ("/h", "/k/1/s", "/k/1/t")
    given = Room(0, "/h", "/k/1", "/m", makes_sockets=False)
    assert given.writable == ("/h", "/k/1/t", "/m")
    assert (Room(5000, "/h", "/k/1").readable, given.readable) == (("/k/1",), ("/k/1/connection.json",))


@pytest.mark.parametrize(
    ("abi", "program", "needed", "words"),
    [(5, b"x", 6, "Landlock's version is 5"), (0, b"x", 1, "switched off"), (7, b"", 6, "libseccomp2")],
)
def test_what_a_level_without_uids_lacks(abi: int, program: bytes, needed: int, words: str) -> None:
    assert words in next(common_uid.why_not(abi, program, needed))
    assert list(common_uid.why_not(needed, b"x", needed)) == []


def test_of_what_lies_open_nothing_is_named_that_others_may_not_read(tmp_path: Path) -> None:
    for name, mode in (("open", 0o755), ("closed", 0o700), ("mixed", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    for name, mode in (("open/a", 0o644), ("mixed/a", 0o644), ("mixed/key", 0o600), ("closed/a", 0o644)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    found = common_uid._open_to_all(tmp_path, recursive=True)
    assert found == [tmp_path / "mixed" / "a", tmp_path / "open"]


def test_what_is_counted_of_a_process_is_what_lies_in_its_own_part_of_shared_memory(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(64 * 1024))
    assert resident.files_kib(str(tmp_path)) >= 64
    assert resident.files_kib(str(tmp_path / "gone")) == 0


@pytest.mark.parametrize(
    ("url", "open_"),
    [
        ("redis://localhost:6379/0", True),
        ("redis://user@localhost/0", True),
        ("redis://:word@localhost/0", False),
        ("rediss://user:word@redis.example/0", False),
        ("unix:///run/redis.sock", False),
    ],
)
def test_a_redis_without_a_password_lets_every_kernel_in(url: str, open_: bool) -> None:
    assert lets_anybody_in(url) is open_


@ROOT_ONLY
def test_a_thread_that_acts_as_a_user_has_no_right_of_roots(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "theirs").mkdir(mode=0o700)
    (tmp_path / "theirs" / "x").write_text("secret")
    os.chown(tmp_path / "mine", 5000, 5000)
    (tmp_path / "mine" / "link").symlink_to(tmp_path / "theirs" / "x")
    for above in tmp_path.parents:
        if not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o011)
    with as_user(Identity(5000, 5000)):
        (tmp_path / "mine" / "new").write_text("1")
        with pytest.raises(PermissionError):
            (tmp_path / "mine" / "link").read_text()
        with as_server():
            assert (tmp_path / "theirs" / "x").read_text() == "secret"
        with pytest.raises(PermissionError):
            (tmp_path / "theirs" / "x").read_text()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: None).result()
    assert (tmp_path / "mine" / "new").stat().st_uid == 5000
    assert (tmp_path / "mine" / "link").read_text() == "secret"
    with as_user(None):
        assert (tmp_path / "mine" / "link").read_text() == "secret"


@ROOT_ONLY
def test_other_threads_stay_what_they_are(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: None).result()  # the thread is there before, with root's rights
        with as_user(Identity(5000, 5000)):
            assert pool.submit(lambda: list(closed.iterdir())).result() == []
