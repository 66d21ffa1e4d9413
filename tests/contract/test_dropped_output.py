"""Output that ZMQ drops because its owner does not read is had again from the recorder, or told of as one gap."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from tests.contract.ring_kernel import ANSWER_S, ring_kernel

OWNER: Final = Path(__file__).parent.parent / "programs" / "listening_owner.py"
LINES: Final = 2_000
FLOOD: Final = """
import pathlib, time
def await_file(name):
    while not pathlib.Path(name).exists():
        time.sleep(.01)
print('first', flush=True)
await_file('go')
for line in range({lines}):
    print(line, '.' * 500, flush=True)
pathlib.Path('printed').touch()
"""
MORE: Final = "await_file('more'); print('last', flush=True)"


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kr-") as found:
        yield Path(found)


class Listener:
    """The owner's process, and what its client was handed."""

    def __init__(self, directory: Path, code: str) -> None:
        self.directory = directory
        command = [sys.executable, str(OWNER), str(directory), code]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.said = map(json.loads, self.process.stdout)

    def misses_a_flood(self) -> None:
        """The kernel prints while the owner is stopped."""
        while "first" not in next(self.said)["text"]:  # the line's end may come by itself
            pass
        self.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.process.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        (self.directory / "go").touch()
        until((self.directory / "printed").exists)
        self.process.send_signal(signal.SIGCONT)

    def rest(self) -> list[dict[str, Any]]:
        """All that it says until the cell has ended."""
        found = list(self.said)
        assert self.process.wait(ANSWER_S) == 0
        return found


def until(holds: Any) -> None:
    """For what nothing announces."""
    end = time.monotonic() + ANSWER_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def lines_of(said: list[dict[str, Any]]) -> list[int]:
    text = "".join(one["text"] for one in said if not one["text"].startswith("[kernelring]"))
    return [int(line.split()[0]) for line in text.splitlines() if line not in ("", "last")]


@pytest.fixture
def listener(directory: Path, request: pytest.FixtureRequest) -> Iterator[Listener]:
    more, recorder_mib = request.param
    with ring_kernel(directory, "--RingApp.send_messages=50", f"--RingApp.recorder_mib={recorder_mib}"):
        found = Listener(directory, FLOOD.format(lines=LINES) + more)
        try:
            yield found
        finally:
            found.process.kill()
            found.process.communicate()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("listener", [(MORE, 4)], indirect=True)
def test_what_was_dropped_comes_in_its_place_when_the_cell_goes_on(listener: Listener) -> None:
    listener.misses_a_flood()
    (listener.directory / "more").touch()
    said = listener.rest()
    assert lines_of(said) == list(range(LINES))
    numbers = [one["n"] for one in said if one["n"]]
    assert all(b == a + 1 for a, b in pairwise(numbers))
    assert not any("[kernelring]" in one["text"] for one in said)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("listener", [("", 4)], indirect=True)
def test_what_was_dropped_comes_also_when_nothing_comes_after_it(listener: Listener) -> None:
    """The cell's idle status was dropped, too."""
    listener.misses_a_flood()
    said = listener.rest()
    assert lines_of(said) == list(range(LINES))
    assert [one["n"] for one in said if one["n"]] == sorted({one["n"] for one in said if one["n"]})


@pytest.mark.timeout(60)
@pytest.mark.parametrize("listener", [(MORE, 0.2), ("", 0.2)], indirect=True, ids=["goes on", "ends"])
def test_what_nobody_has_any_more_is_told_of_once_where_it_is_missing(listener: Listener) -> None:
    listener.misses_a_flood()
    (listener.directory / "more").touch()
    said = listener.rest()
    (notice,) = [one for one in said if one["text"].startswith("[kernelring]")]
    assert "missing here" in notice["text"]
    at = said.index(notice)
    before, after = lines_of(said[:at]), lines_of(said[at:])
    assert before == list(range(len(before)))
    assert after == list(range(after[0], LINES))
    last_before = [one["n"] for one in said[:at] if one["n"]][-1]  # a reply has no number
    first_after = next(one["n"] for one in said[at + 1 :] if one["n"])
    assert int(notice["text"].split()[1]) == first_after - last_before - 1
