"""What a kernel keeps of what its cells have printed and displayed."""

from IPython.core.history import HistoryOutput

from kernels.inside.outputs import KeptOutputs


def stream(outputs: KeptOutputs, cell: int) -> list[str]:
    """As IPython begins to keep what a cell prints."""
    outputs[cell].append(HistoryOutput(output_type="out_stream", bundle={"stream": []}))
    pieces: list[str] = outputs[cell][-1].bundle["stream"]
    return pieces


def test_the_newest_that_was_printed_is_kept_in_order() -> None:
    outputs = KeptOutputs(100_000)
    pieces = stream(outputs, 1)
    for number in range(10_000):
        pieces.append(f"{number}\n")
    assert 100 < len(pieces) < 1000
    assert pieces == [f"{number}\n" for number in range(10_000 - len(pieces), 10_000)]


def test_little_is_kept_whole_cell_by_cell() -> None:
    outputs = KeptOutputs(100_000)
    for cell in (1, 2):
        stream(outputs, cell).append(f"of {cell}")
    outputs[2].append(HistoryOutput(output_type="execute_result", bundle={"text/plain": "7"}))
    assert [output.bundle for output in outputs[1]] == [{"stream": ["of 1"]}]
    assert [output.bundle for output in outputs[2]] == [{"stream": ["of 2"]}, {"text/plain": "7"}]
    assert 3 not in outputs


def test_what_is_displayed_is_bounded_and_not_taken_from_who_displayed_it() -> None:
    outputs = KeptOutputs(100_000)
    shown: list[dict[str, str | list[str]]] = [{"text/plain": "x" * 10_000} for _ in range(100)]
    for data in shown:
        outputs[1].append(HistoryOutput(output_type="display_data", bundle=data))
    assert 4 <= sum(bool(output.bundle) for output in outputs[1]) <= 10
    assert outputs[1][-1].bundle
    assert all(shown)


def test_a_piece_larger_than_all_that_is_kept_replaces_it() -> None:
    outputs = KeptOutputs(1000)
    pieces = stream(outputs, 1)
    pieces += ["small"]
    pieces.append("x" * 5000)
    assert pieces[-1] == "x" * 5000
