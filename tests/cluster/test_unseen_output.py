"""Output that nobody is there to see is in the notebook on disk, as the page would have saved it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import nbformat as untyped_nbformat
import pytest
import pytest_asyncio

from local.stack import Stack
from local.student import Student
from server import workdir
from server.execution.executions import COMING_S
from server.execution.saving import ON_ITS_WAY_S
from tests.cluster.durable_kit import (
    ALL,
    HALF,
    TURN_S,
    ended,
    gated,
    kill_owner,
    post,
    student_of,
    text_of,
    until,
    url,
)
from tests.cluster.side_by_side import SideBySide, Told

nbformat: Any = untyped_nbformat
pytestmark = pytest.mark.timeout(240)

PATH = "lessons/one.ipynb"
beside = SideBySide()
IN_CELL = {"cell_id": "cell-b", "document_path": PATH}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def told(request: pytest.FixtureRequest) -> Told:
    """Each waits for as long as a page may take; and all at once."""
    return await beside.tell(request)


async def write_notebook(student: Student, *more: Any) -> None:
    """As the page saves it, before it is run."""
    cells = [
        nbformat.v4.new_code_cell("1", id="cell-a", execution_count=1),
        nbformat.v4.new_code_cell("the cell", id="cell-b", metadata={"jupyter_server_nbmodel": {"requestId": "x"}}),
        *more,
    ]
    assert (await student.call("PUT", "/api/contents/lessons", {"type": "directory"}))[0] in (200, 201)
    await save(student, nbformat.v4.new_notebook(cells=cells))


async def save(student: Student, notebook: Any) -> None:
    model = {"type": "notebook", "format": "json", "content": json.loads(nbformat.writes(notebook))}
    assert (await student.call("PUT", f"/api/contents/{PATH}", model))[0] in (200, 201)


def file_of(stack: Stack, user: str) -> Path:
    """The file itself: whoever reads it as a page does is taken for one."""
    return workdir.user_directory(stack.directory / "notebooks", user) / PATH


async def saves_of(user: str, stack: Stack, marker: int) -> int:
    """How often the server has written what came, once it has."""
    while True:
        if found := [one for one in stack.events("outputs_saved", marker) if one["user"] == user]:
            return len(found)
        await asyncio.sleep(TURN_S)


async def written(file: Path, text: str, cell: int = 1) -> Any:
    """The notebook, once the cell's output in it is this."""
    async with asyncio.timeout(60):
        while True:
            notebook = nbformat.read(file, as_version=4)
            if text_of(notebook.cells[cell].outputs) == text:
                return notebook
            await asyncio.sleep(TURN_S)


@beside
async def test_a_cell_that_goes_on_after_the_page_was_closed_is_in_the_notebook(stack: Stack, tmp_path: Path) -> None:
    async with student_of(stack, "closed-tab") as student:
        file = file_of(stack, "closed-tab")
        await write_notebook(student)
        await student.open()  # the page is there
        gate, runs = tmp_path / "gate", tmp_path / "runs"
        _, _, headers = await post(student, gated(gate, runs), metadata=IN_CELL)
        await until(student, headers["Location"], lambda _, told: text_of(told["outputs"]) == HALF)
        await student.close()
        so_far = await written(file, HALF)
        assert so_far.cells[1].execution_count == 1
        gate.touch()
        notebook = await written(file, ALL)
        nbformat.validate(notebook)
        cell = notebook.cells[1]
        assert (cell.execution_count, cell.source) == (1, "the cell")
        assert "jupyter_server_nbmodel" not in cell.metadata
        assert cell.outputs[-1].data == {"text/plain": "'the end'"}
        assert notebook.cells[0].execution_count == 1
        result = await ended(student, headers["Location"])  # and the new page has the same
        assert json.loads(result["outputs"]) == [dict(one) for one in cell.outputs]


@beside
async def test_while_a_page_is_there_it_saves_by_itself(stack: Stack, tmp_path: Path) -> None:
    async with student_of(stack, "open-tab") as student:
        file = file_of(stack, "open-tab")
        await write_notebook(student)
        await student.open()
        _, told, _ = await post(student, "print('seen')", metadata=IN_CELL)
        await ended(student, told["request_url"])
        marker = stack.mark()
        before = nbformat.read(file, as_version=4)
        assert before.cells[1].outputs == []
        # It saves with less than what came, for its user has cleared that: nobody puts it back.
        before.cells[1].source = "cleared"
        await save(student, before)
        later = time.time() + ON_ITS_WAY_S  # than a save would be that was on its way as the cell ended
        os.utime(file, (later, later))
        unsaved = IN_CELL | {"cell_id": "cell-a"}
        _, told, _ = await post(student, "print('and this it has not saved')", metadata=unsaved)
        await ended(student, told["request_url"])
        await student.close()
        notebook = await written(file, "and this it has not saved\n", cell=0)
        assert notebook.cells[1].outputs == []
        assert await saves_of("open-tab", stack, marker) == 1


async def test_the_next_owner_writes_what_came_at_the_last_one(rough_stack: Stack, tmp_path: Path) -> None:
    async with student_of(rough_stack, "ada") as student:
        file = file_of(rough_stack, "ada")
        await write_notebook(student)
        gate, runs = tmp_path / "gate", tmp_path / "runs"
        await post(student, gated(gate, runs), metadata=IN_CELL)
        await written(file, HALF)
        await kill_owner(rough_stack, student)
        gate.touch()
        notebook = await written(file, ALL)
        assert notebook.cells[1].execution_count == 1
        assert runs.read_text() == "x"


@beside
async def test_widgets_are_saved_with_the_notebook(stack: Stack) -> None:
    async with student_of(stack, "widgets") as student:
        file = file_of(stack, "widgets")
        await write_notebook(student)
        code = "import ipywidgets\nslider = ipywidgets.IntSlider(value=3)\ndisplay(slider)\nslider.value = 7\n"
        await post(student, code + "print('made')", metadata=IN_CELL)
        notebook = await written(file, "made\n")
        state = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
        shown = notebook.cells[1].outputs[0].data["application/vnd.jupyter.widget-view+json"]["model_id"]
        assert (state[shown]["model_name"], state[shown]["state"]["value"]) == ("IntSliderModel", 7)


async def test_a_cell_that_was_not_saved_yet_gets_its_output_with_the_save_that_brings_it(
    stack: Stack, tmp_path: Path
) -> None:
    async with student_of(stack, "unsaved-cell") as student:
        file, marker = file_of(stack, "unsaved-cell"), stack.mark()
        await write_notebook(student)
        gate = tmp_path / "gate"
        for cell in ("cell-c", "cell-d"):  # whose page goes before they are over
            status, _, _ = await post(student, gated(gate, tmp_path / "runs"), metadata=IN_CELL | {"cell_id": cell})
            assert status == 202
        gate.touch()

        def waits() -> bool:  # for the two, together or one after the other
            return sum(int(event["waiting_for_their_cell"]) for event in stack.events("outputs_saved", marker)) >= 2

        await asyncio.to_thread(stack.wait, waits, "both to wait for their cells")
        _, listed, _ = await student.call("GET", url(student, "execute"))
        assert [one["cell_id"] for one in listed["requests"]] == ["cell-c", "cell-d"]
        newer = nbformat.v4.new_code_cell("", id="cell-d", execution_count=99)
        newer.outputs = [nbformat.v4.new_output("stream", text="newer")]
        await write_notebook(student, nbformat.v4.new_code_cell("", id="cell-c"), newer)
        notebook = await written(file, ALL, cell=2)
        assert (notebook.cells[3].execution_count, text_of(notebook.cells[3].outputs)) == (99, "newer")
        _, listed, _ = await student.call("GET", url(student, "execute"))
        assert listed["requests"] == []


@beside
async def test_nothing_is_written_while_a_page_that_has_read_the_notebook_may_still_come(
    stack: Stack, tmp_path: Path
) -> None:
    async with student_of(stack, "page-comes") as student:
        file = file_of(stack, "page-comes")
        await write_notebook(student)
        gate, runs = tmp_path / "gate", tmp_path / "runs"
        await post(student, gated(gate, runs), metadata=IN_CELL)
        await written(file, HALF)
        read_at = time.time()
        _, model, _ = await student.call("GET", f"/api/contents/{PATH}")
        assert text_of(model["content"]["cells"][1]["outputs"]) == HALF
        gate.touch()
        await written(file, ALL)
        assert file.stat().st_mtime - read_at >= COMING_S - 0.1
