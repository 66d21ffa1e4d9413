"""What a class adds to Jupyter's files: room for each, a welcome, a course, and output written by nobody's page."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from server.api_errors import ApiError
from server.contents import welcome
from tests.app.contents_kit import Desk, desk_in, notebook, text

MIB = 2**20


def names(listed: Any) -> list[str]:
    return sorted(each["name"] for each in listed.model["content"])


# -- quota ------------------------------------------------------------------------------------------------------------


async def test_a_full_folder_takes_nothing_more_until_something_is_deleted(tmp_path: Path) -> None:
    async with desk_in(tmp_path, quota_mib=2) as desk:
        assert (await desk.call("PUT", "a.txt", text("x" * (MIB + MIB // 2)))).status == 201
        too_much = await desk.call("PUT", "b.txt", text("x" * MIB))
        assert too_much.status == 507
        assert too_much.said == (
            "Your notebooks use 1 of 2 MiB, and this needs 1 MiB more: delete something, then save again."
        )
        assert too_much.model["reason"] == "Quota exceeded"
        (desk.home / "by a cell.bin").write_bytes(bytes(MIB))
        for body in ({"copy_from": "a.txt"}, {"copy_from": "by a cell.bin"}):
            assert (await desk.call("POST", "", body)).status == 507
        full = await desk.call("PUT", "c.ipynb", notebook("x" * 4096))
        assert full.said == "Your notebooks use 2 of 2 MiB: delete something, then save again."
        chunk = {"type": "file", "format": "text", "content": "x", "chunk": 1}
        assert (await desk.call("PUT", "d.txt", chunk)).status == 507
        assert (await desk.call("PUT", "a.txt", text("shorter"))).status == 200
        assert (await desk.call("PUT", "a.txt", text("x" * MIB + "x" * (MIB // 2)))).status == 507
        (desk.home / "by a cell.bin").unlink()
        assert (await desk.call("PUT", "c.ipynb", notebook("x" * 4096))).status == 201
        assert names(await desk.call("GET")) == ["a.txt", "c.ipynb"]
        assert (desk.home / "a.txt").read_text() == "shorter"


async def test_without_a_quota_there_is_no_limit(tmp_path: Path) -> None:
    async with desk_in(tmp_path, quota_mib=0) as desk:
        assert (await desk.call("PUT", "a.txt", text("x" * (3 * MIB)))).status == 201


# -- welcome ----------------------------------------------------------------------------------------------------------


async def test_a_new_user_finds_notebooks_once(tmp_path: Path) -> None:
    async with desk_in(tmp_path, welcome=True) as desk:
        first = await asyncio.gather(*(desk.call("GET") for _ in range(5)))
        assert all(names(each) == ["Files and data.ipynb", "Plotting.ipynb", "Welcome.ipynb"] for each in first)
        for name in names(first[0]):
            found = await desk.call("GET", name)
            assert "message" not in found.model  # nbformat's complaint, if there were one
            assert found.model["content"]["nbformat_minor"] == 5
            assert (await desk.call("DELETE", name)).status == 204
    async with desk_in(tmp_path, welcome=True) as desk:  # another worker
        assert names(await desk.call("GET")) == []
        assert list(desk.home.iterdir()) == []


async def test_a_folder_with_something_in_it_is_left_as_it_is(tmp_path: Path) -> None:
    async with desk_in(tmp_path, welcome=True) as desk:
        (desk.home / "mine.txt").touch()
        assert names(await desk.call("GET")) == ["mine.txt"]
        (desk.home / "mine.txt").unlink()
        assert names(await desk.call("GET")) == []


@pytest.mark.parametrize("after", range(1, 9))
async def test_a_welcome_that_was_cut_short_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The worker ends at the n-th rename, before it is done."""
    real, calls = os.rename, [0]

    def rename(*arguments: Any, **options: Any) -> None:
        calls[0] += 1
        if calls[0] == after:
            raise OSError(5, "the worker was killed here")
        real(*arguments, **options)

    async with desk_in(tmp_path, welcome=True) as desk:
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", rename)
            await desk.call("GET")
    async with desk_in(tmp_path, welcome=True) as desk:
        assert names(await desk.call("GET")) == sorted(welcome.notebooks())
        assert sorted(each.name for each in desk.home.iterdir()) == sorted(welcome.notebooks())


# -- course -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def course(tmp_path: Path) -> Path:
    root = tmp_path / "the course"
    (root / "week1" / "data").mkdir(parents=True)
    (root / "week1" / "lesson.ipynb").write_text('{"cells":[],"metadata":{},"nbformat":4,"nbformat_minor":5}')
    (root / "week1" / "other.ipynb").write_text('{"cells":[],"metadata":{},"nbformat":4,"nbformat_minor":5}')
    (root / "week1" / "table.csv").write_text("a,b\n")
    (root / "week1" / "data" / "deep.csv").write_text("c,d\n")
    (root / "week1" / ".solution.ipynb").write_text("hidden")
    (root / "outside").symlink_to("/etc")
    return root


async def test_an_assignment_is_the_students_from_its_first_opening(tmp_path: Path, course: Path) -> None:
    async with desk_in(tmp_path, course=course) as desk:
        assert names(await desk.call("GET")) == ["course"]
        assert names(await desk.call("GET", "course")) == ["week1"]
        assert names(await desk.call("GET", "course/week1")) == ["data", "lesson.ipynb", "other.ipynb", "table.csv"]
        looked_at = await desk.call("GET", "course/week1/lesson.ipynb", content="0", hash="1")
        assert (looked_at.model["path"], looked_at.model["writable"]) == ("course/week1/lesson.ipynb", True)
        assert list(desk.home.iterdir()) == []

        opened = await desk.call("GET", "course/week1/lesson.ipynb")
        assert (opened.status, opened.model["path"]) == (200, "course/week1/lesson.ipynb")
        mine = desk.home / "course" / "week1"
        assert sorted(each.name for each in mine.iterdir()) == ["data", "lesson.ipynb", "table.csv"]
        assert (mine / "data" / "deep.csv").read_text() == "c,d\n"

        assert (await desk.call("PUT", "course/week1/lesson.ipynb", notebook("my answer"))).status == 200
        assert (await desk.call("GET", "course/week1/lesson.ipynb")).model["content"]["cells"]
        assert (await desk.call("GET", "course/week1/lesson.ipynb", user="bob")).model["content"]["cells"] == []
        assert names(await desk.call("GET", "course/week1")) == ["data", "lesson.ipynb", "other.ipynb", "table.csv"]
        assert (await desk.call("DELETE", "course/week1/lesson.ipynb")).status == 204
        assert (await desk.call("GET", "course/week1/lesson.ipynb")).model["content"]["cells"] == []


async def test_the_course_itself_is_never_written_to(tmp_path: Path, course: Path) -> None:
    before = sorted((path, path.lstat().st_mtime_ns) for path in course.rglob("*"))
    async with desk_in(tmp_path, course=course) as desk:
        assert (await desk.call("DELETE", "course/week1/other.ipynb")).status == 403
        assert (await desk.call("DELETE", "course")).status == 403
        assert (await desk.call("PUT", "course/week1/new.txt", text("x"))).status == 201
        assert (await desk.call("POST", "course/week1", {"type": "notebook"})).status == 201
        assert (await desk.call("POST", "", {"copy_from": "course/week1/table.csv"})).status == 201
        assert (await desk.call("PATCH", "course/week1/other.ipynb", {"path": "o.ipynb"})).status == 200
        assert (await desk.call("POST", "course/week1/lesson.ipynb/checkpoints")).status == 201
        for path in ("course/outside/passwd", "course/week1/.solution.ipynb", "course/nothing.txt", "course/../x"):
            assert (await desk.call("GET", path)).status == 404
            with pytest.raises(ApiError):
                await desk.contents.open_file("ada", path)
        opened = await desk.contents.open_file("ada", "course/week1/data/deep.csv")
        assert os.read(opened.fd, 100) == b"c,d\n"
        os.close(opened.fd)
    assert sorted((path, path.lstat().st_mtime_ns) for path in course.rglob("*")) == before


async def test_a_course_that_is_away_hides_nobodys_files(tmp_path: Path) -> None:
    async with desk_in(tmp_path, course=tmp_path / "nowhere") as desk:
        await desk.call("PUT", "a.txt", text("x"))
        assert names(await desk.call("GET")) == ["a.txt"]


# -- amending and downloads -------------------------------------------------------------------------------------------


async def add_output(desk: Desk, data: dict[str, str]) -> bool:
    def change(found: Any) -> bool:
        found.cells[0].outputs = [{"output_type": "display_data", "data": data, "metadata": {}}]
        return bool(data)

    return await desk.contents.amend("ada", "a.ipynb", change)


async def test_output_that_nobody_saw_is_written_and_trusted(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk:
        await desk.call("PUT", "a.ipynb", notebook("1"))
        before = await desk.call("GET", "a.ipynb", content="0", hash="1")
        assert await add_output(desk, {}) is False
        assert (await desk.call("GET", "a.ipynb", content="0", hash="1")).model == before.model
        assert await add_output(desk, {"text/html": "<script>1</script>"}) is True
        after = await desk.call("GET", "a.ipynb", hash="1")
        assert after.model["hash"] != before.model["hash"]
        cell = after.model["content"]["cells"][0]
        assert cell["outputs"][0]["data"] == {"text/html": "<script>1</script>"}
        assert cell["metadata"]["trusted"] is True
        for path in ("none.ipynb", "../x.ipynb", ".x.ipynb"):
            with pytest.raises(ApiError) as refused:
                await desk.contents.amend("ada", path, lambda _: True)
            assert refused.value.status == 404


async def test_a_download_is_an_opened_file(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk:
        (desk.home / "a.bin").write_bytes(b"\0" * 1000)
        opened = await desk.contents.open_file("ada", "a.bin")
        assert (opened.stat.st_size, os.read(opened.fd, 2000)) == (1000, b"\0" * 1000)
        os.close(opened.fd)
        (desk.home / "d").mkdir()
        for path, status in (("d", 400), ("none", 404), ("", 400)):
            with pytest.raises(ApiError) as refused:
                await desk.contents.open_file("ada", path)
            assert refused.value.status == status
