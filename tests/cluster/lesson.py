"""A notebook of twenty cells, and what must be in it once it has run, whichever client ran it."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

Outputs = Sequence[Mapping[str, Any]]
Check = Callable[[Outputs], None]

LINES: Final = 100_000
LINE: Final = "{n:08d} a line of output that is fifty bytes long .....\n"  # 53 bytes: 5.3 MB in all


class Cell(NamedTuple):
    """One cell, what its outputs must be, and whether it fails."""

    code: str
    check: Check
    fails: bool = False


def stream(outputs: Outputs, name: str = "stdout") -> str:
    """All that was written to a stream."""
    return "".join(one["text"] for one in outputs if one["output_type"] == "stream" and one["name"] == name)


def data(outputs: Outputs) -> list[Mapping[str, Any]]:
    """The data of results and displays."""
    return [one["data"] for one in outputs if one["output_type"] in ("execute_result", "display_data")]


def prints(text: str) -> Check:
    """Exactly this on stdout, and nothing else."""

    def check(outputs: Outputs) -> None:
        assert stream(outputs) == text
        assert {one["output_type"] for one in outputs} <= {"stream"}

    return check


def nothing(outputs: Outputs) -> None:
    """No output at all."""
    assert list(outputs) == []


def shows(kind: str, value: str) -> Check:
    """One result or display with this form."""

    def check(outputs: Outputs) -> None:
        (found,) = data(outputs)
        assert found[kind] == value

    return check


def raises(name: str, says: str) -> Check:
    """An error, with its traceback."""

    def check(outputs: Outputs) -> None:
        (error,) = [one for one in outputs if one["output_type"] == "error"]
        assert error["ename"] == name
        assert re.search(says, error["evalue"])
        assert error["traceback"]

    return check


def is_image(outputs: Outputs) -> None:
    """A PNG of some size, and its text form."""
    (found,) = data(outputs)
    assert base64.b64decode(found["image/png"]).startswith(b"\x89PNG\r\n")
    assert "Figure" in found["text/plain"]


def is_complete(outputs: Outputs) -> None:
    """Every line of the long output, once, in order."""
    assert stream(outputs) == "".join(LINE.format(n=n) for n in range(LINES))


def is_stderr(outputs: Outputs) -> None:
    """What was written to stderr, apart from stdout."""
    assert (stream(outputs), stream(outputs, "stderr")) == ("out\n", "err\n")


def is_updated(outputs: Outputs) -> None:
    """A display whose content was replaced."""
    (found,) = data(outputs)
    assert found["text/plain"] == "'after'"


def is_large(outputs: Outputs) -> None:
    """One result of a megabyte."""
    (found,) = data(outputs)
    assert found["text/plain"] == repr("x" * 1_000_000)


CELLS: Final[list[Cell]] = [
    Cell("import os", nothing),
    Cell("print(os.name)", prints("posix\n")),
    Cell("x = 6 * 7\nx", shows("text/plain", "42")),
    Cell("from IPython.display import HTML, Markdown, display, clear_output\nHTML('<b>bold</b>')",
         shows("text/html", "<b>bold</b>")),
    Cell("1 / 0", raises("ZeroDivisionError", "division by zero"), fails=True),
    Cell("print('still', x)", prints("still 42\n")),
    Cell("import sys\nprint('out', flush=True)\nprint('err', file=sys.stderr, flush=True)", is_stderr),
    Cell("%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 3, 2]);", is_image),
    Cell("name = input('Who are you? ')", raises("StdinNotImplementedError", "not support input"), fails=True),
    Cell("print('name' in globals())", prints("False\n")),
    Cell(f"sys.stdout.write(''.join({LINE!r}.format(n=n) for n in range({LINES})));", is_complete),
    Cell("shown = display('before', display_id=True)\nshown.update('after')", is_updated),
    Cell("print('gone')\nclear_output()\nprint('kept')", prints("kept\n")),
    Cell("Markdown('*emphasis*')", shows("text/markdown", "*emphasis*")),
    Cell("print('größer — 日本語 \\U0001f40d')", prints("größer — 日本語 \U0001f40d\n")),
    Cell("import asyncio\nawait asyncio.sleep(0)\nprint('awaited')", prints("awaited\n")),
    Cell("def broken(:", raises("SyntaxError", "."), fails=True),
    Cell("%%bash\necho from a shell", prints("from a shell\n")),
    Cell("'x' * 1_000_000", is_large),
    Cell("print(x, sum(range(10)))", prints("42 45\n")),
]  # fmt: skip
assert len(CELLS) == 20
