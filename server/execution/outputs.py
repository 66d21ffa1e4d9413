"""From the messages of one cell to its outputs in nbformat, exactly as JupyterLab's output area builds them.

Owns the rules: adjacent streams of one name are one output, `clear_output` (at once, or before the next output),
`update_display_data` for every output with that display id. Bounded; what is cut is said once. Pure: no clock, no I/O.

Source: `packages/outputarea/src/{model,widget}.ts` of JupyterLab 4.6, and nbformat 4.5's schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Self

import orjson

from server.execution.screen import Screen, in_text

OUTPUT_BYTES: Final = 8 * 2**20
OUTPUT_COST: Final = 256  # of each output, besides what is in it
_NO_TEXT: Final = rb"\"text\":\"\""
KINDS: Final = frozenset({"stream", "display_data", "execute_result", "error", "clear_output", "update_display_data"})


class Change(NamedTuple):
    """What a message has done: `output` (one more, or more of a stream), `clear`, or `update` (of one that is there).

    The data of an output is the piece that has come; of an update its place among the outputs, and all of it.
    """

    kind: str
    data: dict[str, Any]


class Outputs:
    """The outputs of one cell, of which `limit_bytes` are kept."""

    def __init__(self, limit_bytes: int = OUTPUT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._outputs: list[dict[str, Any] | tuple[str, Screen]] = []  # a stream is its name and its screen
        self._sizes: list[int] = []
        self._bytes = 0
        self._display_ids: dict[int, str] = {}  # by place
        self._joins = False  # whether the next output may be more of the last one, which is a stream
        self._clear_next = False
        self._is_cut = False

    def hear(self, kind: str, content: dict[str, Any]) -> list[Change]:
        """Take one iopub message (of `KINDS`); return what has changed."""
        if kind == "clear_output":
            return self._clear_output(wait=bool(content.get("wait")))
        if kind == "update_display_data":
            return list(self._update(content))
        cleared = self._clear() if self._clear_next else []
        return [*cleared, *self._add(kind, content)]

    @property
    def size_bytes(self) -> int:
        """About how much is kept."""
        return self._bytes

    def to_list(self) -> list[dict[str, Any]]:
        """The outputs in nbformat."""
        return [_stream(one[0], one[1].text) if isinstance(one, tuple) else one for one in self._outputs]

    @property
    def told(self) -> bytes:
        """Their list as a JSON text in a JSON text. What was printed is made ready for it once, and here joined."""
        pieces = [piece for one in self._outputs for piece in (b",", *_told(one))]
        return b"".join((b'"[', *pieces[1:], b']"'))

    def forget_told(self) -> None:
        """Nobody will ask for `told` again and again."""
        for one in self._outputs:
            if isinstance(one, tuple):
                one[1].forget_told()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _clear_output(self, *, wait: bool) -> list[Change]:
        self._joins = False
        if wait:
            self._clear_next = True
            return []
        return self._clear()

    def _clear(self) -> list[Change]:
        self._outputs, self._sizes, self._bytes, self._display_ids = [], [], 0, {}
        self._joins = self._clear_next = self._is_cut = False
        return [Change("clear", {})]

    def _add(self, kind: str, content: dict[str, Any]) -> list[Change]:
        output = to_output(kind, content)
        size = size_of(output)
        if self._bytes + size > self._limit_bytes:
            self._measure()
        if kind != "error" and (self._is_cut or self._bytes + size > self._limit_bytes):
            return self._cut()
        if kind == "stream":
            self._print(output["name"], output["text"])
        else:
            self._put(output, size)
            if display_id := _display_id(content):
                self._display_ids[len(self._outputs) - 1] = display_id
        return [Change("output", output)]

    def _print(self, name: str, text: str) -> None:
        last = self._outputs[-1] if self._joins else None
        if isinstance(last, tuple) and last[0] == name:
            last[1].write(text)
            self._sizes[-1] += len(text)
            self._bytes += len(text)
            return
        screen = Screen()
        screen.write(text)
        self._put((name, screen), len(text) + OUTPUT_COST)
        self._joins = True

    def _put(self, output: dict[str, Any] | tuple[str, Screen], size: int) -> None:
        self._outputs.append(output)
        self._sizes.append(size)
        self._bytes += size
        self._joins = False

    def _measure(self) -> None:
        """A line that is written again and again takes less than what was printed for it."""
        for at, one in enumerate(self._outputs):
            if isinstance(one, tuple):
                self._sizes[at] = len(one[1].text) + OUTPUT_COST
        self._bytes = sum(self._sizes)

    def _cut(self) -> list[Change]:
        if self._is_cut:
            return []
        self._is_cut = True
        told = {"name": "stderr", "text": cut_notice(self._limit_bytes)}
        self._print(told["name"], told["text"])
        return [Change("output", _stream(**told))]

    def _update(self, content: dict[str, Any]) -> Iterator[Change]:
        wanted = _display_id(content)
        for at, display_id in self._display_ids.items():
            before = self._outputs[at]
            if display_id != wanted or isinstance(before, tuple):
                continue
            after = before | {"data": _object(content, "data"), "metadata": _object(content, "metadata")}
            size = size_of(after)
            if self._bytes - self._sizes[at] + size > self._limit_bytes:
                yield from self._cut()
                return
            self._bytes += size - self._sizes[at]
            self._outputs[at], self._sizes[at] = after, size
            yield Change("update", {"index": at, "output": after})

    # -- kept over the end of a worker -------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        kept = [
            {"name": o[0], "screen": o[1].to_json()} if isinstance(o, tuple) else {"output": o} for o in self._outputs
        ]
        ids = list(self._display_ids.items())
        flags = [self._joins, self._clear_next, self._is_cut]
        return {"outputs": kept, "sizes": self._sizes.copy(), "display_ids": ids, "flags": flags}

    @classmethod
    def from_json(cls, found: dict[str, Any], limit_bytes: int = OUTPUT_BYTES) -> Self:
        """The same again."""
        made = cls(limit_bytes)
        for one in found["outputs"]:
            made._outputs.append(one["output"] if "output" in one else (one["name"], Screen.from_json(one["screen"])))
        made._sizes = found["sizes"]
        made._bytes = sum(made._sizes)
        made._display_ids = dict(found["display_ids"])
        made._joins, made._clear_next, made._is_cut = found["flags"]
        return made


def _told(output: dict[str, Any] | tuple[str, Screen]) -> list[bytes]:
    if not isinstance(output, tuple):
        return [in_text(orjson.dumps(output))]
    begin, _, end = in_text(orjson.dumps(_stream(output[0], ""))).rpartition(_NO_TEXT)
    return [begin, _NO_TEXT[:-2], *output[1].told, _NO_TEXT[-2:], end]


def cut_notice(limit_bytes: int) -> str:
    """What stands where outputs were cut."""
    return (
        f"[kernelring] This cell has put out more than {limit_bytes / 2**20:g} MiB. What came after this is not kept; "
        "have the cell write to a file to see it all.\n"
    )


def to_output(kind: str, content: dict[str, Any]) -> dict[str, Any]:
    """One message's content as an output of nbformat. A kernel may leave out or mistype what it likes."""
    if kind == "stream":
        return _stream(str(content.get("name") or "stdout"), str(content.get("text") or ""))
    if kind == "error":
        traceback = content.get("traceback")
        lines = [str(line) for line in traceback] if isinstance(traceback, list) else []
        told = {"ename": str(content.get("ename", "")), "evalue": str(content.get("evalue", ""))}
        return {"output_type": "error", **told, "traceback": lines}
    output: dict[str, Any] = {
        "output_type": kind,
        "data": _object(content, "data"),
        "metadata": _object(content, "metadata"),
    }
    if kind == "execute_result":
        count = content.get("execution_count")
        output["execution_count"] = count if isinstance(count, int) else None
    return output


def size_of(output: dict[str, Any]) -> int:
    """About how many bytes an output takes."""
    if output["output_type"] == "stream":
        return len(output["text"])
    texts = output["traceback"] if output["output_type"] == "error" else output["data"].values()
    return OUTPUT_COST + sum(len(one) if isinstance(one, str) else len(repr(one)) for one in texts)


def _stream(name: str, text: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def _display_id(content: dict[str, Any]) -> str | None:
    found = _object(content, "transient").get("display_id")
    return found if isinstance(found, str) else None


def _object(content: dict[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    return value if isinstance(value, dict) else {}
