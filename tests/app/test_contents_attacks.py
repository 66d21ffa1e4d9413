"""What must not be reached through the contents API, and what must not harm it: one clear refusal each."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.api_errors import ApiError
from server.contents import listing
from server.contents.beneath import Beneath
from tests.app.contents_kit import Desk, desk_in, notebook, text

SECRET = "the secret of the house"


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Ada's folder beside another's, with a secret in it."""
    (tmp_path / "notebooks" / "bob").mkdir(parents=True)
    (tmp_path / "notebooks" / "bob" / "secret.txt").write_text(SECRET)
    async with desk_in(tmp_path) as made:
        yield made
    assert (tmp_path / "notebooks" / "bob" / "secret.txt").read_text() == SECRET
    assert [each.name for each in (tmp_path / "notebooks" / "bob").iterdir()] == ["secret.txt"]


BAD_PATHS = [
    "/../bob/secret.txt", "/%2e%2e/bob/secret.txt", "/..%2fbob%2fsecret.txt", "/a/../../bob/secret.txt", "/a%00b",
    "/..%5cbob%5csecret.txt", "/%2fetc%2fpasswd", "//etc/passwd", "/" + "x" * 300, "/" + "/".join("d" * 100),
    "/..", "/a/./b", "/C:%5cx",
]  # fmt: skip


async def test_no_path_leads_out(desk: Desk) -> None:
    verbs = [("GET", None), ("PUT", text("x")), ("DELETE", None), ("PATCH", {"path": "y.txt"}), ("POST", {})]
    for tail in BAD_PATHS:
        for method, body in verbs:
            answer = await desk.raw(method, tail, body)
            assert answer.status in (400, 404), (method, tail, answer)
            assert set(answer.model) == {"message", "reason"}
            assert str(desk.root) not in answer.said
            assert SECRET not in str(answer.model)
    for target in ("../bob/x.txt", "a\\b", "a\0b", "/".join("d" * 100)):
        await desk.call("PUT", "mine.txt", text("x"))
        assert (await desk.call("PATCH", "mine.txt", {"path": target})).status == 404
        assert (await desk.call("POST", "", {"copy_from": target})).status == 404


@pytest.mark.parametrize("leads_to", ["../bob", "/etc", "/", "loop", "nowhere"])
async def test_no_link_leads_out(desk: Desk, leads_to: str) -> None:
    (desk.home / "loop").symlink_to("loop")
    (desk.home / "link").symlink_to(leads_to)
    (desk.home / "file.txt").symlink_to(f"{leads_to}/secret.txt")
    for path in ("link", "link/secret.txt", "link/new.txt", "file.txt"):
        for method, where, body in [
            ("GET", path, None),
            ("POST", f"{path}/checkpoints", None),
            ("POST", "", {"copy_from": path}),
        ]:
            assert (await desk.call(method, where, body)).status in (400, 404), (method, where)
    for path in ("link/new.txt", "link/secret.txt"):
        assert (await desk.call("PUT", path, text("x"))).status in (404, 400), path
    assert (await desk.call("GET")).model["content"] == []
    for path in ("link", "file.txt", "loop"):
        assert (await desk.call("DELETE", path)).status == 204, path
    assert list(desk.home.iterdir()) == []


async def test_a_link_within_is_followed_and_written_through(desk: Desk) -> None:
    (desk.home / "d").mkdir()
    (desk.home / "d" / "a.txt").write_text("one")
    (desk.home / "link.txt").symlink_to("d/a.txt")
    assert (await desk.call("GET", "link.txt")).model["content"] == "one"
    assert (await desk.call("PUT", "link.txt", text("two"))).status == 200
    assert (desk.home / "d" / "a.txt").read_text() == "two"
    assert (desk.home / "link.txt").is_symlink()


async def test_checkpoints_behind_a_link_are_not_written(desk: Desk) -> None:
    (desk.home / ".ipynb_checkpoints").symlink_to("../bob")
    await desk.call("PUT", "a.txt", text("x"))
    assert (await desk.call("POST", "a.txt/checkpoints")).status == 404


@pytest.mark.timeout(20)
async def test_what_is_no_regular_file_is_refused_and_nobody_waits_for_it(desk: Desk) -> None:
    os.mkfifo(desk.home / "fifo.ipynb")
    os.mkfifo(desk.home / "fifo.txt")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(desk.home / "socket.txt"))
    (desk.home / "device.txt").symlink_to("/dev/zero")
    for path in ("fifo.ipynb", "fifo.txt", "socket.txt", "device.txt"):
        for method, body in [("GET", None), ("PUT", text("x")), ("PUT", notebook("1"))]:
            assert (await desk.call(method, path, body)).status in (400, 404), (method, path)
        assert (await desk.call("GET", path, content="0", hash="1")).status in (400, 404)
        assert (await desk.call("POST", f"{path}/checkpoints")).status in (400, 404)
        with pytest.raises(ApiError):
            await desk.contents.open_file("ada", path)
    assert (await desk.call("GET")).model["content"] == []
    listener.close()


async def test_hidden_files_are_hidden_and_refused(desk: Desk) -> None:
    (desk.home / ".env").write_text(SECRET)
    (desk.home / ".git").mkdir()
    (desk.home / ".git" / "config").write_text(SECRET)
    await desk.call("PUT", "a.txt", text("x"))
    for path in (".env", ".git", ".git/config"):
        assert (await desk.call("GET", path)).status == 404
        assert (await desk.call("PUT", path, text("x"))).status == 400
        assert (await desk.call("DELETE", path)).status == 400
        assert (await desk.call("PATCH", path, {"path": "b.txt"})).status == 400
        assert (await desk.call("PATCH", "a.txt", {"path": path})).status == 400
        assert (await desk.call("POST", "", {"copy_from": path})).status == 400
        with pytest.raises(ApiError):
            await desk.contents.open_file("ada", path)
    assert [each["name"] for each in (await desk.call("GET")).model["content"]] == ["a.txt"]


NESTED: Any = []
for _ in range(500):
    NESTED = [NESTED]


BAD_MODELS: Any = [
    b"{", b"[]", b"1", b'"x"', b"\xff", {"type": "notebook", "content": None}, {"type": "notebook", "content": {}},
    {"type": "notebook", "content": {"cells": [1], "nbformat": 4, "metadata": {}}},
    {"type": "notebook", "content": {"cells": [{"cell_type": "code"}], "nbformat": 4, "metadata": {}}},
    {"type": "notebook", "content": {"cells": [], "nbformat": 3, "metadata": {}}},
    notebook("1", cells=[{"cell_type": "code", "metadata": {}, "source": 1, "outputs": [{}]}]),
    notebook("1", cells=[{"cell_type": "code", "metadata": {}, "source": 1, "outputs": [{"output_type": 1}]}, 1]),
    {"type": "file", "content": "x"}, {"type": "file", "content": 1, "format": "text"},
    {"type": "file", "content": "é", "format": "base64"}, {"type": "file", "content": "x", "format": "zip"},
    {"type": "file", "content": "x", "format": "text", "chunk": 0}, {"type": "file", "content": "x", "chunk": "1"},
    {"type": "file", "content": "x", "format": "text", "chunk": 7}, {"type": "file", "content": "x", "chunk": True},
    {"type": "file", "content": 1, "format": "text", "chunk": 1}, {"type": "notebook", "content": "x", "chunk": 1},
    {"type": 1}, {"path": 1}, {"path": ".x", "type": "file", "content": "x", "format": "text"}, {"copy_from": "a"},
    json.dumps(notebook("1", deep=NESTED)).encode(), {"type": "directory", "path": []},
    b'{"type": "file", "format": "text", "content": "\\ud800"}',
]  # fmt: skip


async def test_a_bad_model_is_refused_and_writes_nothing(desk: Desk) -> None:
    for body in BAD_MODELS:
        answer = await desk.call("PUT", "a.ipynb", body)
        assert answer.status == 400, (str(body)[:60], answer)
    assert list(desk.home.iterdir()) == []


async def test_a_notebook_on_disk_that_is_none_is_told_in_words(desk: Desk) -> None:
    for content in (b"", b"{", b"[1]", b"\xff\xfe", b'{"nbformat": 4}', b"[" * 100_000, b"null"):
        (desk.home / "a.ipynb").write_bytes(content)
        answer = await desk.call("GET", "a.ipynb")
        assert answer.status == 400, (content[:20], answer)
        assert str(desk.root) not in answer.said
        assert (await desk.call("GET", "a.ipynb", type="file")).status == 200
        assert [each["name"] for each in (await desk.call("GET")).model["content"]] == ["a.ipynb"]


async def test_odd_queries_are_refused(desk: Desk) -> None:
    await desk.call("PUT", "a.txt", text("x"))
    for query in ({"format": "zip"}, {"content": "2"}, {"hash": "x"}, {"type": "directory"}):
        assert (await desk.call("GET", "a.txt", **query)).status == 400
    assert (await desk.call("GET", "a.txt", type="odd")).model["type"] == "file"
    assert (await desk.call("GET", "", type="notebook")).status == 400
    (desk.home / "b.bin").write_bytes(b"\xff")
    assert (await desk.call("GET", "b.bin", format="text")).status == 400


async def test_a_large_folder_is_listed_in_part_and_says_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_LISTED", 200)
    for n in range(1_000):
        (desk.home / f"{n:05}.csv").touch()
    listed = (await desk.call("GET")).model["content"]
    assert [each["name"] for each in listed[:2]] == ["00000.csv", "00001.csv"]
    assert len(listed) == 201
    assert listed[-1]["name"] == "(200 of 1,000 files are listed)"


async def test_a_file_too_large_to_open_is_told_of(desk: Desk) -> None:
    with (desk.home / "big.bin").open("wb") as file:
        file.truncate(2**40)
    for query in ({}, {"type": "notebook"}, {"content": "0", "hash": "1"}):
        answer = await desk.call("GET", "big.bin", **query)
        assert answer.status == 413
        assert "files of up to 64 MiB are opened here" in answer.said
    assert (await desk.call("GET", "big.bin", content="0")).model["size"] == 2**40


async def test_a_name_that_is_no_text_is_left_out(desk: Desk) -> None:
    (desk.home / os.fsdecode(b"\xff.txt")).touch()
    (desk.home / "a\\b.txt").touch()
    (desk.home / "a%20b & ü.txt").touch()
    assert [each["name"] for each in (await desk.call("GET")).model["content"]] == ["a%20b & ü.txt"]
    assert (await desk.call("GET", "a%20b & ü.txt")).status == 200


@pytest.mark.parametrize("path", ["d", "d/n.ipynb", "d/n.ipynb/checkpoints"])
async def test_nothing_is_told_of_what_a_link_leads_to_that_comes_after_a_check(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    outside, mine = desk.root / "outside", desk.home / "d"
    for folder in (outside, outside / ".ipynb_checkpoints", mine, mine / ".ipynb_checkpoints"):
        folder.mkdir()
        for name in ("n.ipynb", "n-checkpoint.ipynb"):
            (folder / name).write_text("x" * (4321 if folder.is_relative_to(outside) else 1))
    for each in (*outside.rglob("*"), outside):
        os.utime(each, (10**9, 10**9))  # in 2001
    resolved, left = Beneath.resolved, 0

    def checked_and_then_swapped(self: Beneath, path: str, *, last: bool = True) -> str:
        nonlocal left
        found = resolved(self, path, last=last)
        left -= 1
        if left == 0:
            mine.rename(desk.home / "old")
            mine.symlink_to(outside)
        return found

    await desk.call("GET")
    monkeypatch.setattr(Beneath, "resolved", checked_and_then_swapped)
    checks = 0
    while left <= 0:  # after the first check, then after the second, until there are no more
        checks, left = checks + 1, checks + 1
        answer = await desk.call("GET", path, **({} if path.endswith("checkpoints") else {"content": "0"}))
        assert not {"4321", "2001"} & set(re.findall(r"\d+", str(answer.model))), (checks, answer)
        if left <= 0:
            mine.unlink()
            (desk.home / "old").rename(mine)
    assert checks > 2
