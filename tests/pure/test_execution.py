"""What a cell's messages come to: as JupyterLab's output area shows it, within bounds, and the same after a revival."""

from __future__ import annotations

import json
from typing import Any

import nbformat as untyped_nbformat
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.execution.execution import Execution, Order
from server.execution.feed import Feed, dump_place, parse_place
from server.execution.journal import revive, snapshot
from server.execution.outputs import Outputs, cut_notice
from server.execution.saving import Filled, amend
from server.execution.screen import Screen
from server.execution.widgets import MAX_MODELS, MIMETYPE, Widgets

nbformat: Any = untyped_nbformat
Message = tuple[str, dict[str, Any]]


def out(text: str, name: str = "stdout") -> Message:
    return "stream", {"name": name, "text": text}


def shown(text: str, display_id: str | None = None, kind: str = "display_data") -> Message:
    transient = {"display_id": display_id} if display_id else {}
    return kind, {"data": {"text/plain": text}, "metadata": {}, "transient": transient}


def result(text: str, count: int) -> Message:
    return "execute_result", {"data": {"text/plain": text}, "metadata": {}, "execution_count": count}


def clear(*, wait: bool) -> Message:
    return "clear_output", {"wait": wait}


FAILED: Message = ("error", {"ename": "E", "evalue": "v", "traceback": ["t"]})


def brief(outputs: Outputs) -> list[str]:
    """Each output in a word or two."""
    found = []
    for one in outputs.to_list():
        if one["output_type"] == "stream":
            found.append(f"{one['name']}:{one['text']}")
        elif one["output_type"] == "error":
            found.append(f"error:{one['ename']}")
        else:
            found.append(f"{one['output_type']}:{one['data']['text/plain']}")
    return found


def heard(*messages: Message, limit: int = 10_000) -> Outputs:
    outputs = Outputs(limit)
    for kind, content in messages:
        outputs.hear(kind, content)
    return outputs


@pytest.mark.parametrize(
    ("messages", "wanted"),
    [
        ([out("a"), out("b")], ["stdout:ab"]),
        ([out("a"), out("b", "stderr"), out("c")], ["stdout:a", "stderr:b", "stdout:c"]),
        ([out("a"), shown("x"), out("b")], ["stdout:a", "display_data:x", "stdout:b"]),
        ([out("a"), result("1", 3)], ["stdout:a", "execute_result:1"]),
        ([out("a"), FAILED], ["stdout:a", "error:E"]),
        ([out("a"), clear(wait=False), out("b")], ["stdout:b"]),
        ([out("a"), clear(wait=True)], ["stdout:a"]),
        ([out("a"), clear(wait=True), out("b")], ["stdout:b"]),
        ([out("a"), clear(wait=True), clear(wait=False)], []),
        ([shown("x", "d"), shown("y", "d", "update_display_data")], ["display_data:y"]),
        (
            [shown("x", "d"), shown("x", "e"), shown("x", "d"), shown("y", "d", "update_display_data")],
            ["display_data:y", "display_data:x", "display_data:y"],
        ),
        ([shown("x", "d"), clear(wait=False), shown("y", "d", "update_display_data")], []),
        ([shown("y", "d", "update_display_data")], []),
        ([out("10%"), out("\r20%")], ["stdout:20%"]),
        ([out("a\n10%\r"), out("9")], ["stdout:a\n90%"]),
        ([out("ab\b\bc")], ["stdout:c"]),
        ([out("a\n\b\bc")], ["stdout:a\nc"]),
        ([out("abc\rx\ny")], ["stdout:xbc\ny"]),
    ],
)
def test_outputs_are_what_the_page_shows(messages: list[Message], wanted: list[str]) -> None:
    assert brief(heard(*messages)) == wanted


def test_outputs_are_valid_in_a_notebook() -> None:
    messages = [out("a"), shown("x", "d"), result("1", 3), FAILED, ("stream", {}), ("error", {}), ("display_data", {})]
    cell = nbformat.v4.new_code_cell("x", outputs=[nbformat.from_dict(one) for one in heard(*messages).to_list()])
    nbformat.validate(nbformat.v4.new_notebook(cells=[cell]))


def test_what_is_too_much_is_cut_with_one_sentence_and_the_error_is_still_shown() -> None:
    outputs = heard(*[out("x" * 100)] * 50, shown("no"), FAILED, limit=2000)
    assert outputs.size_bytes < 3500
    told = brief(outputs)
    assert told[-1] == "error:E"
    assert told[1:-1] == [f"stderr:{cut_notice(2000)}"]
    outputs.hear(*clear(wait=False))
    outputs.hear(*out("after"))
    assert brief(outputs) == ["stdout:after"]


def test_a_progress_bar_is_never_too_much() -> None:
    assert brief(heard(*[out(f"\r{n:04d}") for n in range(5000)], limit=2000)) == ["stdout:4999"]


def lab(text: str) -> str:
    """`processText`, as it stands in JupyterLab 4.6."""
    shown, at = "", 0
    for character in text:
        if character == "\b":
            if at > 0 and shown[at - 1] != "\n":
                shown, at = shown[: at - 1] + shown[at:], at - 1
        elif character == "\r":
            while at > 0 and shown[at - 1] != "\n":
                at -= 1
        elif character == "\n":
            shown += "\n"
            at = len(shown)
        else:
            shown, at = shown[:at] + character + shown[at + 1 :], at + 1
    return shown


TYPED = st.lists(st.text(alphabet="ab\r\n\b", max_size=8), max_size=12)


@given(TYPED, st.integers(0, 12))
def test_a_stream_reads_as_in_jupyterlab_however_it_is_cut_and_revived(pieces: list[str], revived_at: int) -> None:
    screen = Screen()
    for at, piece in enumerate(pieces):
        if at == revived_at:
            screen = Screen.from_json(json.loads(json.dumps(screen.to_json())))
        screen.write(piece)
    assert screen.text == lab("".join(pieces))


MESSAGES = st.lists(
    st.one_of(
        st.builds(out, st.text(alphabet="ab\r\n", max_size=5), st.sampled_from(["stdout", "stderr"])),
        st.builds(shown, st.text(max_size=3), st.sampled_from(["d", "e", None])),
        st.builds(shown, st.text(max_size=3), st.sampled_from(["d", "e"]), st.just("update_display_data")),
        st.booleans().map(lambda wait: clear(wait=wait)),
        st.just(FAILED),
    ),
    max_size=20,
)


@given(MESSAGES, st.integers(0, 20))
def test_what_the_next_owner_goes_on_with_is_what_the_last_one_had(messages: list[Message], moved_at: int) -> None:
    execution = Execution(Order("u", 1, "code"), "session", "ada")
    for number, (kind, content) in enumerate(messages, 1):
        if number == moved_at:
            execution = revive(json.loads(json.dumps(snapshot(execution))), "session", "ada")
        execution.hear("iopub", {"msg_type": kind}, content, (1, number), 1)
        execution.hear("iopub", {"msg_type": kind}, content, (1, number), 1)  # what is heard twice counts once
    assert execution.outputs.to_list() == heard(*messages, limit=2**20).to_list()


@given(MESSAGES, st.integers(0, 20))
def test_who_comes_back_is_told_the_rest_or_everything(messages: list[Message], left_at: int) -> None:
    execution = Execution(Order("u", 1, "code"), "session", "ada")
    theirs, place = Outputs(), (0, 0, 0)
    for number, (kind, content) in enumerate(messages, 1):
        execution.hear("iopub", {"msg_type": kind}, content, (1, number), 1)
        if number <= left_at:
            theirs, place = copy_of(execution.outputs), execution.feed.place
    missed = execution.feed.after(place)
    assert missed is not None
    for event in missed:
        replay(theirs, event.kind, event.data)
    assert theirs.to_list() == execution.outputs.to_list()


def copy_of(outputs: Outputs) -> Outputs:
    return Outputs.from_json(json.loads(json.dumps(outputs.to_json())))


def replay(outputs: Outputs, kind: str, data: dict[str, Any]) -> None:
    """What a client of the events does."""
    if kind == "clear":
        outputs.hear("clear_output", {})
    elif kind == "output":
        outputs.hear(data["output_type"], data)
    else:
        outputs._outputs[data["index"]] = data["output"]


def test_a_place_that_is_too_old_has_no_rest() -> None:
    feed = Feed((1, 7, 0))
    feed.add("output", {}, (1, 9), 10)
    assert feed.after((1, 6, 0)) is None
    assert [event.place for event in feed.after((1, 7, 0)) or []] == [(1, 9, 0)]
    assert feed.after((1, 9, 0)) == []
    assert parse_place(dump_place((1, 9, 0))) == (1, 9, 0)
    assert [parse_place(text) for text in ("", None, "1.2", "1.2.x", "1.-2.3", "9" * 99 + ".1.1")] == [None] * 6


def comm(kind: str, comm_id: str, state: dict[str, Any] | None = None, **more: Any) -> Message:
    data = {"state": state, **more} if state is not None else {}
    return kind, {"comm_id": comm_id, "target_name": "jupyter.widget", "data": data}


def test_the_state_of_widgets_is_kept_as_a_notebook_keeps_it() -> None:
    widgets = Widgets()
    model = {"_model_name": "IntSliderModel", "_model_module": "@jupyter-widgets/controls", "value": 1}
    assert widgets.hear(*comm("comm_open", "a", model | {"_model_module_version": "2.0.0"}), [], 100)
    assert widgets.hear(*comm("comm_msg", "a", {"value": 5}, method="update", buffer_paths=[["raw"]]), [b"xyz"], 50)
    assert not widgets.hear(*comm("comm_msg", "stranger", {"value": 5}, method="update"), [], 50)
    metadata = widgets.to_metadata()
    assert metadata
    state = metadata[MIMETYPE]["state"]["a"]
    assert (state["model_name"], state["model_module_version"], state["state"]["value"]) == (
        "IntSliderModel",
        "2.0.0",
        5,
    )
    assert state["buffers"] == [{"data": "eHl6", "path": ["raw"], "encoding": "base64"}]
    assert Widgets.from_json(json.loads(json.dumps(widgets.to_json()))).to_metadata() == metadata
    assert widgets.hear(*comm("comm_close", "a"), [], 9)
    assert widgets.to_metadata() is None


def test_widgets_without_end_are_not_kept() -> None:
    widgets = Widgets()
    for n in range(MAX_MODELS + 2):
        widgets.hear(*comm("comm_open", str(n), {}), [], 9)
    assert widgets.too_many
    assert widgets.to_metadata() is None


def test_outputs_are_put_into_their_cell_and_nowhere_else() -> None:
    cells = [nbformat.v4.new_code_cell("1", id="a", execution_count=1), nbformat.v4.new_code_cell("2", id="b")]
    cells[1]["metadata"]["jupyter_server_nbmodel"] = {"requestId": "u"}
    notebook = nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_markdown_cell("text", id="c")])
    execution = Execution(Order("u", 1, "2", cell_id="b"), "session", "ada")
    execution.hear("iopub", {"msg_type": "execute_input"}, {"execution_count": 7}, (1, 1), 1)
    execution.hear("iopub", {"msg_type": "stream"}, out("two")[1], (1, 2), 1)
    elsewhere = Execution(Order("v", 2, "3", cell_id="gone"), "session", "ada")
    filled = [Filled.by(execution, 0.0), Filled.by(elsewhere, 0.0)]
    assert amend(notebook, filled, {MIMETYPE: {}})
    nbformat.validate(notebook)
    assert nbformat.reads(nbformat.writes(notebook), as_version=4).cells[1].outputs[0].text == "two"
    assert (notebook.cells[1].execution_count, dict(notebook.cells[1].metadata)) == (7, {})
    assert (notebook.cells[0].execution_count, notebook.cells[0].outputs) == (1, [])
    assert notebook.metadata.widgets == {MIMETYPE: {}}
    assert not amend(notebook, filled, {MIMETYPE: {}})


@pytest.mark.parametrize(
    ("collected", "outputs", "count", "later_s", "is_written"),
    [
        (False, [], None, 1, True),
        (False, ["half"], None, 1, True),  # as the page had it when it went
        (False, ["half"], 3, 1, True),
        (False, ["newer"], 4, 1, False),
        (False, [], 4, 1, True),
        (True, [], None, 1, True),  # the page saved as it ran the cell, and went before it saved again
        (True, [], None, 60, False),  # the page had it all, and its user has cleared it
    ],
)
def test_a_notebook_saved_since_keeps_what_may_be_newer(
    collected: bool, outputs: list[str], count: int | None, later_s: float, is_written: bool
) -> None:
    execution = Execution(Order("e", 1, "", cell_id="c"), "session", "ada", execution_count=3, collected=collected)
    execution.put_out(*out("all"), 3)
    execution.finish()
    cell = nbformat.v4.new_code_cell("", id="c", execution_count=count)
    cell.outputs = [nbformat.v4.new_output("stream", text=text) for text in outputs]
    there: set[str | None] = set()
    filled = Filled.by(execution, execution.finished_at + later_s)
    assert amend(nbformat.v4.new_notebook(cells=[cell]), [filled], None, there) == is_written
    assert there == {"c"}
    assert [one.text for one in cell.outputs] == (["all"] if is_written else outputs)


PRINTED = st.lists(st.text(alphabet='a"\\\né\r\b🐍\x01', max_size=9), max_size=12)


@given(printed=PRINTED, looks=st.integers(1, 4))
def test_what_a_poll_is_told_is_what_there_is(printed: list[str], looks: int) -> None:
    execution = Execution(Order("u", 1, ""), "session", "ada")
    for n, text in enumerate(printed):
        execution.put_out(*(out(text, name='"text":""') if n % 5 == 4 else out(text)), len(text))
        if n % 7 == 6:
            execution.put_out(*shown(text), len(text))
        if n % looks == 0:
            assert json.loads(json.loads(orjson.dumps(execution.result("k")))["outputs"]) == execution.outputs.to_list()
    for is_over in (False, True):
        if is_over:
            execution.finish()
        assert json.loads(json.loads(orjson.dumps(execution.result("k")))["outputs"]) == execution.outputs.to_list()
