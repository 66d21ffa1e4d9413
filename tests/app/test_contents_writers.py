"""Two writers, and writers that end in the middle: whole files, each request done once, the newest owner's word."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from kernels.errors import ClaimRefused
from server.api_errors import ApiError
from server.contents import ledger
from tests.app.contents_kit import desk_in, notebook, text

ROOT = Path(__file__).resolve().parents[2]
WRITER = """
import sys
from pathlib import Path
from server.contents.beneath import Beneath
with Beneath(Path(sys.argv[1])) as beneath:
    print("begun", flush=True)
    n = 0
    while True:
        n += 1
        beneath.write("a.txt", str(n % 10).encode() * 3_000_000)
"""


async def test_while_another_worker_writes_one_waits_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "LOCK_S", 0.3)
    async with desk_in(tmp_path) as desk:
        await desk.call("PUT", "a.txt", text("one"))
        with ledger.ledger_path(tmp_path / "c", "ada").open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            refused = await desk.call("PUT", "a.txt", text("two"))
            assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
            assert (await desk.call("GET", "a.txt")).model["content"] == "one"
            assert (await desk.call("PUT", "a.txt", text("bob's"), user="bob")).status == 201
            waiting = asyncio.create_task(desk.call("PUT", "a.txt", text("three")))
            fcntl.flock(held, fcntl.LOCK_UN)
            assert (await waiting).status == 200


async def test_a_worker_that_is_late_writes_nothing(tmp_path: Path) -> None:
    """It hung with a save in its hands, and another has written since."""
    async with desk_in(tmp_path) as late, desk_in(tmp_path) as owner:
        await late.call("PUT", "a.txt", text("one"))
        owner.epoch[0] = 2
        await owner.call("PUT", "a.txt", text("two"))
        with pytest.raises(ClaimRefused) as refused:
            await late.contents.save("ada", "a.txt", text("stale"))
        assert refused.value.epoch == 2
        assert (await owner.call("GET", "a.txt")).model["content"] == "two"


async def test_a_request_that_comes_again_is_done_once(tmp_path: Path) -> None:
    """Its worker died after the work and before the answer; the next owner gets it under the same id."""
    chunks = [{"type": "file", "format": "base64", "content": base64.b64encode(part).decode(), "chunk": chunk}
              for part, chunk in ((b"one", 1), (b"two", -1))]  # fmt: skip
    asked = [
        ("POST", "", {"type": "notebook"}, 201),
        ("POST", "", {"type": "directory"}, 201),
        ("POST", "", {"copy_from": "Untitled.ipynb"}, 201),
        ("PATCH", "Untitled.ipynb", {"path": "b.ipynb"}, 200),
        ("DELETE", "b.ipynb", None, 204),
        ("PUT", "up.txt", chunks[0], 201),
        ("PUT", "up.txt", chunks[1], 201),
    ]
    async with desk_in(tmp_path) as first, desk_in(tmp_path) as second:
        for method, path, body, status in asked:
            request = str(uuid.uuid4())
            answers = [await each.call(method, path, body, request=request) for each in (first, second)]
            assert answers[0].status == status
            assert answers[1].status in (status, 200), (method, path, answers[1])
            if answers[0].model:
                assert answers[0].model["path"] == answers[1].model["path"]
        listed = (await first.call("GET")).model["content"]
        assert sorted(each["name"] for each in listed) == ["Untitled Folder", "Untitled-Copy1.ipynb", "up.txt"]
        assert (first.home / "up.txt").read_bytes() == b"onetwo"


async def test_a_save_that_replaces_another_version_than_it_says_is_refused(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk:
        await desk.call("PUT", "a.ipynb", notebook("1"))
        seen = (await desk.call("GET", "a.ipynb", content="0", hash="1")).model["hash"]
        saved = await desk.call("PUT", "a.ipynb", notebook("2"), replaces=seen)
        assert saved.model["hash"] == (await desk.call("GET", "a.ipynb", hash="1")).model["hash"] != seen
        refused = await desk.call("PUT", "a.ipynb", notebook("3"), replaces=seen)
        assert (refused.status, refused.said[:29]) == (412, "a.ipynb has been changed mean")
        assert (await desk.call("GET", "a.ipynb")).model["content"]["cells"][0]["source"] == "2"
        await desk.call("DELETE", "a.ipynb")  # nothing is lost by saving it again
        assert (await desk.call("PUT", "a.ipynb", notebook("4"), replaces=seen)).status == 201


async def test_a_save_that_comes_again_is_not_refused_for_what_it_did_itself(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as first, desk_in(tmp_path) as second:
        await first.call("PUT", "a.txt", text("1"))
        seen = (await first.call("GET", "a.txt", content="0", hash="1")).model["hash"]
        for each in (first, second):
            assert (await each.call("PUT", "a.txt", text("2"), request="r", replaces=seen)).status == 200
        await second.call("PUT", "a.txt", text("3"), request="another's")
        assert (await second.call("PUT", "a.txt", text("2"), request="r", replaces=seen)).status == 412


async def test_a_name_that_was_only_meant_goes_to_whoever_takes_it(tmp_path: Path) -> None:
    """A worker noted what a request was about to make, and was killed before it made it."""
    async with desk_in(tmp_path) as desk:
        await desk.call("PUT", "a.txt", text("x"))
        with ledger.held(ledger.ledger_path(tmp_path / "c", "ada"), 1) as held:
            held.intend("first", "untitled")
        paths = [(await desk.call("POST", request=request)).model["path"] for request in ("second", "first", "second")]
        assert paths == ["untitled", "untitled1", "untitled"]


async def test_saves_at_once_leave_one_of_them_whole(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as one, desk_in(tmp_path) as other:
        contents = [str(n) * 50_000 for n in range(8)]
        saves = [each.call("PUT", "a.txt", text(content)) for content in contents for each in (one, other)]
        assert {answer.status for answer in await asyncio.gather(*saves)} <= {200, 201}
        assert (one.home / "a.txt").read_text() in contents
        assert [each.name for each in one.home.iterdir()] == ["a.txt"]


async def test_a_writer_that_is_killed_leaves_a_whole_file_and_nothing_to_see(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk:
        for _ in range(3):
            command = [sys.executable, "-c", WRITER, str(desk.home)]
            writer = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, cwd=ROOT)
            assert writer.stdout is not None
            await writer.stdout.readline()
            while not (desk.home / "a.txt").exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.005)
            writer.kill()
            await writer.wait()
            content = (desk.home / "a.txt").read_bytes()
            assert len(content) == 3_000_000
            assert len(set(content)) == 1
            assert [each["name"] for each in (await desk.call("GET")).model["content"]] == ["a.txt"]
        await desk.call("PUT", "a.txt", text("x"))
        assert [each.name for each in desk.home.iterdir()] == ["a.txt"]
        assert (await desk.call("DELETE", "a.txt")).status == 204


async def test_a_save_goes_on_when_whoever_asked_has_gone(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk:
        saving = asyncio.create_task(desk.contents.save("ada", "a.ipynb", notebook("1")))
        await asyncio.sleep(0)
        saving.cancel()
        await desk.contents.save("ada", "b.ipynb", notebook("2"))  # takes its turn after it
        assert (desk.home / "a.ipynb").exists()


async def test_a_damaged_ledger_locks_nobody_out(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk:
        await desk.call("PUT", "a.txt", text("one"))
        for damage in (b"{", b"[]", b'{"epoch": 1}', b'{"epoch": 0, "intents": 1, "uploads": 2}', b"\xff"):
            ledger.ledger_path(tmp_path / "c", "ada").write_bytes(damage)
            assert (await desk.call("PUT", "a.txt", text("two"))).status == 200, damage
            assert (await desk.call("POST", "", {"type": "file"})).status == 201, damage


async def test_a_full_disk_is_told_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk_in(tmp_path) as desk:
        await desk.call("PUT", "a.txt", text("one"))

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            refused = await desk.call("PUT", "a.txt", text("two"))
        assert refused.status == 507
        assert "The disk is full" in refused.said
        assert (desk.home / "a.txt").read_text() == "one"
        assert [each.name for each in desk.home.iterdir()] == ["a.txt"]


async def test_an_api_error_is_the_only_kind_that_a_caller_sees(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk:
        for path in ("none.txt", "../x", "a\0"):
            with pytest.raises(ApiError):
                await desk.contents.get("ada", path)
