"""What outlives the worker that runs executions: a small file for each, in the kernel's own directory.

Owns the files' form. Each is written whole and put in its place at once, so a reader finds the old or the new one. Its
name has the epoch of the owner that wrote it: an owner before, which does not know yet that it is one, writes beside
its successor's and not over it. They go with the kernel's directory. Blocks: to be called in a thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson
import structlog

from server.execution.execution import Execution, Order, Question, Reply
from server.execution.feed import Feed
from server.execution.outputs import Outputs

log = structlog.get_logger(__name__)

FOLDER: Final = "executions"
WIDGETS: Final = "widgets"
_NAME: Final = re.compile(r"([\w-]{1,64})\.(\d{1,18})\.json")
_PLAIN: Final = (
    "state", "status", "reason", "execution_count", "number", "after", "since", "replied", "idle", "finished_at",
    "times", "version", "saved", "collected",
)  # fmt: skip
Snapshot = dict[str, Any]


def snapshot(execution: Execution) -> Snapshot:
    """All that `revive` needs."""
    kept: Snapshot = {name: getattr(execution, name) for name in _PLAIN}
    question, reply = execution.question, execution.reply
    return kept | {
        "order": asdict(execution.order),
        "outputs": execution.outputs.to_json(),
        "place": execution.feed.place,
        "times": execution.times.copy(),
        "question": asdict(question) if question else None,
        "reply": asdict(reply) if reply else None,
    }


def revive(kept: Snapshot, session: str, user: str) -> Execution:
    """The execution of a snapshot. Raises KeyError, TypeError or ValueError for what is none."""
    execution = Execution(Order(**kept["order"]), session, user, outputs=Outputs.from_json(kept["outputs"]))
    for name in _PLAIN:
        setattr(execution, name, kept[name])
    first, second, third = kept["place"]
    execution.feed = Feed((first, second, third))
    execution.number = (kept["number"][0], kept["number"][1]) if kept["number"] else None
    execution.question = Question(**kept["question"]) if kept["question"] else None
    execution.reply = Reply(**kept["reply"]) if kept["reply"] else None
    return execution


class Journal:
    """Of one kernel, as the owner of `epoch` writes it."""

    def __init__(self, directory: Path, epoch: int) -> None:
        self._folder = directory / FOLDER
        self._epoch = epoch

    def is_there(self) -> bool:
        """Whether anything was ever run here."""
        return self._folder.is_dir()

    def load(self, session: str, user: str) -> tuple[list[Execution], dict[str, Any]]:
        """(executions in their order, the widgets' models), by the newest owner that wrote of each."""
        newest: dict[str, tuple[int, Path]] = {}
        for path in self._folder.glob("*.json") if self.is_there() else ():
            if found := _NAME.fullmatch(path.name):
                name, epoch = found[1], int(found[2])
                newest[name] = max(newest.get(name, (0, path)), (epoch, path))
        widgets = _read(newest.pop(WIDGETS)[1]) if WIDGETS in newest else None
        executions = list(self._revived([path for _, path in newest.values()], session, user))
        return sorted(executions, key=lambda one: one.order.number), widgets or {}

    def _revived(self, paths: list[Path], session: str, user: str) -> Iterator[Execution]:
        for path in paths:
            try:
                if kept := _read(path):
                    yield revive(kept, session, user)
            except (KeyError, TypeError, ValueError) as error:
                log.warning("execution_not_read", path=str(path), why=repr(error))

    def write(self, name: str, kept: Snapshot) -> None:
        """Keep a snapshot of the execution `name`. Of a kernel whose directory is gone nothing is kept."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            fresh = self._folder / f"{name}.{self._epoch}.new"
            fresh.write_bytes(orjson.dumps(kept, option=orjson.OPT_NON_STR_KEYS))
            fresh.replace(self._folder / f"{name}.{self._epoch}.json")
        except FileNotFoundError:
            log.info("execution_not_kept", execution=name, why="the kernel's directory is gone")

    def forget(self, name: str) -> None:
        """It is not asked for any more."""
        for path in self._folder.glob(f"{name}.*"):
            path.unlink(missing_ok=True)


def _read(path: Path) -> Snapshot | None:
    """What a file has. The kernel could have written there, so it is read with care."""
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        log.warning("execution_not_read", path=str(path), why=repr(error))
        return None
    return found if isinstance(found, dict) else None
