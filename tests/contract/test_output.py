"""A real kernel's output under all the ways to make some: nothing is lost, nothing overtakes."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.ring_kernel import ANSWER_S, Owner, Said, ring_kernel, text_of


@pytest.fixture(scope="module", params=[False, True], ids=["cold", "warm"])
def kernel(request: pytest.FixtureRequest) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_CURRENT_TEST")  # ipykernel looks for it, and does not watch descriptor 1 then
        with tempfile.TemporaryDirectory(prefix="kr-") as at, ring_kernel(Path(at), warm=request.param) as it:
            patch.undo()
            yield Path(at), it


@pytest.fixture
def owner(kernel: tuple[Path, subprocess.Popen[bytes]]) -> Iterator[Owner]:
    one = Owner(kernel[0], time.time_ns())
    one.subscribed()
    assert one.attach().granted
    yield one
    one.close()


def printed_until(owner: Owner, wanted: str) -> str:
    """What is printed from now on, by whichever cell, until `wanted` is among it."""
    text = ""
    end = time.monotonic() + ANSWER_S
    while wanted not in text and time.monotonic() < end:
        message = owner.next("iopub")
        text += message.content["text"] if message and message.kind == "stream" else ""
    return text


def without_gap(seen: list[Said]) -> bool:
    return [message.n for message in seen] == list(range(seen[0].n, seen[0].n + len(seen)))


def test_ten_thousand_tiny_prints_of_four_threads_are_all_there_before_idle(owner: Owner) -> None:
    code = """
import sys, threading
def tell(name):
    for i in range(2500):
        sys.stdout.write(f'{name}:{i}\\n')
        if not i % 100: sys.stdout.flush()
threads = [threading.Thread(target=tell, args=(name,)) for name in range(4)]
for each in threads: each.start()
for each in threads: each.join()"""
    lines = text_of(owner.output_of(owner.run(code))).splitlines()
    for name in range(4):
        assert [line for line in lines if line.startswith(f"{name}:")] == [f"{name}:{i}" for i in range(2500)]
    assert len(lines) == 10_000


def test_what_a_cell_prints_without_a_newline_comes_before_its_idle(owner: Owner) -> None:
    for i in range(150):
        code = f"import sys; print({i}, end=''); print({i}, end='', file=sys.stderr)"
        assert text_of(owner.output_of(owner.run(code))) == f"{i}{i}"


def test_a_cell_that_ends_just_when_its_text_is_sent_by_itself_is_not_idle_before(owner: Owner) -> None:
    """ipykernel sends 200 ms after a print."""
    for i in range(16):
        code = f"import time; print('a', end=''); time.sleep(0.1985 + {i} * 2e-4)"
        assert text_of(owner.output_of(owner.run(code))) == "a"


def test_what_a_thread_prints_while_cells_end_is_complete_and_in_order(owner: Owner) -> None:
    owner.run(
        "import threading\nstop = threading.Event()\ndef tell():\n    i = 0\n    while not stop.wait(0.0005):\n"
        "        print(f'<{i}>', end='')\n        i += 1\n    print('end', i, flush=True)\n"
        "thread = threading.Thread(target=tell); thread.start()"
    )
    for _ in range(80):
        owner.run("x = 1")
    owner.run("stop.set(); thread.join()")
    text, _, count = printed_until(owner, "end").partition("end")
    assert text == "".join(f"<{i}>" for i in range(int(count)))
    assert int(count) > 10


def test_what_does_not_go_through_python_comes_too(owner: Owner) -> None:
    for code in (
        "import os\n_ = os.write(1, b'by hand\\n')",
        "import subprocess\n_ = subprocess.run(['echo', 'by hand'])",
        "!echo by hand",
        "import os\n_ = os.system('echo by hand')",
    ):
        owner.run(code)
        assert "by hand" in printed_until(owner, "by hand")
    owner.run("import faulthandler, sys\nfaulthandler.dump_traceback(2)")
    assert "Current thread" in printed_until(owner, "Current thread")


def test_a_forked_child_prints_through_its_parent(owner: Owner) -> None:
    code = """
import os, sys
child = os.fork()
if not child:
    for i in range(50): print(i, end=' ', flush=True)
    os._exit(0)
os.waitpid(child, 0)
print('parent')"""
    owner.run(code)
    text = printed_until(owner, "49 ")
    assert text.replace("parent\n", "") == "".join(f"{i} " for i in range(50))


def test_an_interrupt_among_prints_leaves_no_hole_and_the_kernel_answers(
    owner: Owner, kernel: tuple[Path, subprocess.Popen[bytes]]
) -> None:
    for _ in range(15):
        cell = owner.run("i = 0\nwhile True:\n    print(f'<{i}>', end='', flush=True)\n    i += 1")
        first = owner.wait("iopub", "stream", cell)
        os.kill(kernel[1].pid, signal.SIGINT)
        seen = owner.output_of(cell)
        assert without_gap(seen)
        assert any(message.content.get("ename") == "KeyboardInterrupt" for message in seen)
        text = text_of([first, *seen])
        assert text == "".join(f"<{i}>" for i in range(text.count("<")))
        assert text_of(owner.output_of(owner.run("print('there')"))) == "there\n"


def test_what_is_printed_at_exit_is_heard() -> None:
    with tempfile.TemporaryDirectory(prefix="kr-") as found, ring_kernel(Path(found)):
        owner = Owner(Path(found), 1)
        try:
            owner.subscribed()
            assert owner.attach().granted
            owner.output_of(owner.run("import atexit\natexit.register(print, 'goodbye', flush=True)"))
            owner.send("control", "shutdown_request", {"restart": False})
            assert "goodbye" in printed_until(owner, "goodbye")
        finally:
            owner.close()
