"""Output that nobody is there to see is in the notebook on disk, as the page would have saved it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import nbformat as untyped_nbformat
import pytest

from local.stack import Stack
from local.student import Student
from tests.cluster.conftest import NewStack
from tests.cluster.test_durable import (
    ALL,
    HALF,
    TURN_S,
    ended,
    full,
    gated,
    kill_owner,
    post,
    student_of,
    text_of,
    until,
)

nbformat: Any = untyped_nbformat
PATH = "lessons/one.ipynb"
IN_CELL = {"cell_id": "cell-b", "document_path": PATH}


async def write_notebook(student: Student) -> None:
    """As the page saves it, before it is run."""
    cells = [
        nbformat.v4.new_code_cell("1", id="cell-a", execution_count=1),
        nbformat.v4.new_code_cell("the cell", id="cell-b", metadata={"jupyter_server_nbmodel": {"requestId": "x"}}),
    ]
    assert (await student.call("PUT", "/api/contents/lessons", {"type": "directory"}))[0] in (200, 201)
    await save(student, nbformat.v4.new_notebook(cells=cells))


async def save(student: Student, notebook: Any) -> None:
    model = {"type": "notebook", "format": "json", "content": json.loads(nbformat.writes(notebook))}
    assert (await student.call("PUT", f"/api/contents/{PATH}", model))[0] in (200, 201)


async def on_disk(student: Student) -> Any:
    _, model, _ = await student.call("GET", f"/api/contents/{PATH}")
    return nbformat.from_dict(model["content"])


async def written(student: Student, text: str, cell: int = 1) -> Any:
    """The notebook, once the cell's output in it is this."""
    async with asyncio.timeout(30):
        while True:
            notebook = await on_disk(student)
            if text_of(notebook.cells[cell].outputs) == text:
                return notebook
            await asyncio.sleep(TURN_S)


async def test_a_cell_that_goes_on_after_the_page_was_closed_is_in_the_notebook(stack: Stack, tmp_path: Path) -> None:
    async with student_of(stack, "closed-tab") as student:
        await write_notebook(student)
        await student.open()  # the page is there
        gate, runs = tmp_path / "gate", tmp_path / "runs"
        _, _, headers = await post(student, gated(gate, runs), metadata=IN_CELL)
        await until(student, headers["Location"], lambda _, told: text_of(told["outputs"]) == HALF)
        await student.close()
        so_far = await written(student, HALF)
        assert so_far.cells[1].execution_count == 1
        gate.touch()
        notebook = await written(student, ALL)
        nbformat.validate(notebook)
        cell = notebook.cells[1]
        assert (cell.execution_count, cell.source) == (1, "the cell")
        assert "jupyter_server_nbmodel" not in cell.metadata
        assert cell.outputs[-1].data == {"text/plain": "'the end'"}
        assert notebook.cells[0].execution_count == 1
        result = await ended(student, headers["Location"])  # and the new page has the same
        assert json.loads(result["outputs"]) == [dict(one) for one in cell.outputs]


async def test_while_a_page_is_there_it_saves_by_itself(stack: Stack, tmp_path: Path) -> None:
    async with student_of(stack, "open-tab") as student:
        await write_notebook(student)
        await student.open()
        _, _, headers = await post(student, "print('seen')", metadata=IN_CELL)
        await ended(student, headers["Location"])
        marker = stack.mark()
        before = await on_disk(student)
        assert before.cells[1].outputs == []
        # It saves with less than what came, for its user has cleared that: nobody puts it back.
        before.cells[1].source = "cleared"
        await save(student, before)
        unsaved = IN_CELL | {"cell_id": "cell-a"}
        _, _, headers = await post(student, "print('and this it has not saved')", metadata=unsaved)
        await ended(student, headers["Location"])
        await student.close()
        notebook = await written(student, "and this it has not saved\n", cell=0)
        assert notebook.cells[1].outputs == []
        assert len(stack.events("outputs_saved", marker)) == 1


@pytest.mark.timeout(240)
async def test_the_next_owner_writes_what_came_at_the_last_one(new_stack: NewStack, tmp_path: Path) -> None:
    stack = new_stack()
    async with full(stack), student_of(stack, "ada") as student:
        await write_notebook(student)
        gate, runs = tmp_path / "gate", tmp_path / "runs"
        await post(student, gated(gate, runs), metadata=IN_CELL)
        await written(student, HALF)
        await kill_owner(stack, student)
        gate.touch()
        notebook = await written(student, ALL)
        assert notebook.cells[1].execution_count == 1
        assert runs.read_text() == "x"


async def test_widgets_are_saved_with_the_notebook(stack: Stack) -> None:
    async with student_of(stack, "widgets") as student:
        await write_notebook(student)
        code = "import ipywidgets\nslider = ipywidgets.IntSlider(value=3)\ndisplay(slider)\nslider.value = 7\n"
        await post(student, code + "print('made')", metadata=IN_CELL)
        notebook = await written(student, "made\n")
        state = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
        shown = notebook.cells[1].outputs[0].data["application/vnd.jupyter.widget-view+json"]["model_id"]
        assert (state[shown]["model_name"], state[shown]["state"]["value"]) == ("IntSliderModel", 7)
