"""Which paths can name a file, and how files below a root are reached, with openat2 and without."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.web import HTTPError

from server.contents import beneath
from server.contents.beneath import Beneath, LeavesRoot, NotRegular
from server.contents.paths import DRAFT, OURS, UPLOAD, checked, is_hidden, split
from server.contents.quota import ABANDONED_S, TOO_DEEP, Usage, counted
from tests.nested import nested


@pytest.mark.parametrize(
    ("path", "clean"),
    [("", ""), ("/", ""), ("a", "a"), ("/a//b/", "a/b"), ("a b/é.ipynb", "a b/é.ipynb"), ("...", "...")],
)  # fmt: skip
def test_a_good_path_is_stripped(path: str, clean: str) -> None:
    assert checked(path) == clean


@pytest.mark.parametrize("path", ["..", "a/..", ".", "a/./b", "a\0", "a\\b", "\ud800", "x" * 241, "é" * 121, "d/" * 65])
def test_a_bad_path_is_no_path(path: str) -> None:
    with pytest.raises(HTTPError) as refused:
        checked(path)
    assert refused.value.status_code == 404


@given(st.text())
def test_a_checked_path_stays_below(path: str) -> None:
    try:
        clean = checked(path)
    except HTTPError:
        return
    assert checked(clean) == clean
    assert os.path.normpath(f"/root/{clean}") == f"/root/{clean}".rstrip("/")


def test_hidden_is_what_has_a_dot_anywhere() -> None:
    assert [path for path in ("a", "a.b", ".a", "a/.b/c", "") if is_hidden(path)] == [".a", "a/.b/c"]
    assert split("a/b/c") == ("a/b", "c")


@pytest.fixture(params=["openat2", "step by step"])
def files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Beneath:
    if request.param == "step by step":
        monkeypatch.setattr(beneath, "_open_at", beneath.walked)
    (tmp_path / "root" / "d").mkdir(parents=True)
    (tmp_path / "root" / "d" / "a.txt").write_text("a")
    (tmp_path / "secret.txt").write_text("secret")
    return Beneath(tmp_path / "root")


def read(files: Beneath, path: str) -> bytes:
    fd, _ = files.open(path)
    with os.fdopen(fd, "rb") as file:
        return file.read()


def test_files_are_read_and_written(files: Beneath) -> None:
    assert read(files, "d/a.txt") == b"a"
    files.write("d/b.txt", b"b")
    files.write("top.txt", b"top")
    assert (read(files, "d/b.txt"), read(files, "top.txt")) == (b"b", b"top")
    (files.root / "d" / "b.txt").chmod(0o640)
    files.write("d/b.txt", b"B")
    assert (files.root / "d" / "b.txt").stat().st_mode & 0o777 == 0o640
    files.remove("d")
    assert sorted(each.name for each in files.root.iterdir()) == ["top.txt"]


def test_a_folder_that_becomes_a_link_after_it_was_looked_at_leads_nowhere(
    files: Beneath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel swaps it between the look at the path and the opening."""
    (files.root / "d" / "a.txt").unlink()
    (files.root / "d").rmdir()
    (files.root / "d").symlink_to("..")
    monkeypatch.setattr(Beneath, "resolved", lambda _self, path, **_: path)
    for attempt in (lambda: read(files, "d/secret.txt"), lambda: files.write("d/secret.txt", b"x")):
        with pytest.raises(OSError) as refused:  # noqa: PT011 - which of these depends on the way
            attempt()
        assert isinstance(refused.value, LeavesRoot) or refused.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert (files.root.parent / "secret.txt").read_text() == "secret"


def test_only_regular_files_are_opened(files: Beneath) -> None:
    os.mkfifo(files.root / "fifo")
    for path in ("fifo", "d", ""):
        with pytest.raises(NotRegular):
            files.open(path)
    with pytest.raises(NotRegular):
        files.write("fifo", b"x")


def test_what_a_write_fails_in_is_removed(files: Beneath) -> None:
    with pytest.raises(ZeroDivisionError), files.replacing("d/a.txt"):
        _ = 1 / 0
    assert [each.name for each in (files.root / "d").iterdir()] == ["a.txt"]
    assert read(files, "d/a.txt") == b"a"


def test_usage_counts_blocks_and_not_what_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "large").write_bytes(bytes(2**20))
    (tmp_path / "mine" / "link").symlink_to("../large")
    with (tmp_path / "mine" / "sparse").open("wb") as file:
        file.truncate(2**40)
    assert counted(tmp_path / "mine") < 100_000
    usage = Usage(tmp_path / "mine", 1)
    usage.grow(900_000)
    with pytest.raises(HTTPError) as refused:
        usage.grow(1_100_000)
    assert refused.value.status_code == 507
    usage.grow(-5)


def test_what_an_upload_of_yesterday_has_left_is_removed_and_not_counted(tmp_path: Path) -> None:
    long_ago = time.time() - ABANDONED_S - 60
    (tmp_path / "d").mkdir()
    kept = [tmp_path / f"{UPLOAD}new", tmp_path / "d" / ".mine", tmp_path / f"{OURS}-other"]
    gone = [tmp_path / f"{UPLOAD}old", tmp_path / "d" / DRAFT]
    for file in kept + gone:
        file.write_bytes(bytes(2**16))
    for file in [*kept[1:], *gone]:
        os.utime(file, (long_ago, long_ago))
    assert 3 * 2**16 <= counted(tmp_path) < 4 * 2**16
    assert [file.exists() for file in kept + gone] == [True] * 3 + [False] * 2


def test_folders_too_deep_to_be_counted_are_said_to_be_so(tmp_path: Path) -> None:
    with nested(tmp_path), pytest.raises(HTTPError) as refused:
        Usage(tmp_path, 1).grow(1)
    assert (refused.value.status_code, refused.value.log_message) == (507, TOO_DEEP)
