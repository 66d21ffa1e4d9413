"""A real kernel with a recorder: what it numbers, keeps, repeats and refuses."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.ring_kernel import Owner, ring_kernel, text_of

MAKE = Callable[..., Owner]


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kr-") as found:
        yield Path(found)


@pytest.fixture(params=[False, True], ids=["", "threadless"])
def kernel(directory: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    with ring_kernel(directory, "--RingApp.incarnation=3", threadless=request.param):
        yield


@pytest.fixture
def owner(directory: Path) -> Iterator[MAKE]:
    """Makes owners, attached and subscribed unless told otherwise."""
    made: list[Owner] = []

    def make(epoch: int, boot: str = "b") -> Owner:
        made.append(Owner(directory, epoch, boot))
        made[-1].subscribed()
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.usefixtures("kernel")
def test_output_is_numbered_one_by_one_and_signed(owner: MAKE) -> None:
    ann = owner(1)
    assert ann.attach().granted
    seen = ann.output_of(
        ann.run("import threading, os\nprint('a')\nthreading.Thread(target=print, args=('b',)).start()\n2")
    )
    seen += ann.output_of(ann.run("display({'text/plain': 'x'}, raw=True); 1/0"))
    numbers = [message.n for message in seen]
    assert 0 not in numbers
    assert numbers == list(range(numbers[0] or 0, numbers[0] + len(numbers)))
    assert {message.metadata["kernelring"][0] for message in seen} == {3}


@pytest.mark.usefixtures("kernel")
def test_what_forked_children_print_is_numbered_too(owner: MAKE) -> None:
    ann = owner(1)
    ann.attach()
    code = """
import os, sys, time
child = os.fork()
if not child:
    print('child')
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
time.sleep(.3)"""
    printed = [message for message in ann.output_of(ann.run(code)) if message.kind == "stream"]
    assert text_of(printed) == "child\n"
    assert all(message.n for message in printed)


@pytest.mark.usefixtures("kernel")
def test_the_next_owner_gets_what_was_sent_to_nobody(owner: MAKE) -> None:
    ann = owner(1)
    ann.attach()
    cell = ann.run("import time\nfor i in range(20):\n    print(i, flush=True); time.sleep(.02)\n'end'")
    first = ann.wait("iopub", "stream")
    ann.close()

    bob = owner(2)
    while len((attached := bob.attach([3, first.n])).output) < 5:
        pass
    live = bob.output_of(cell)
    replayed = {message.n for message in attached.output}
    assert min(replayed) == first.n + 1
    both = attached.output + [message for message in live if message.n not in replayed]
    assert [message.n for message in both] == list(range(first.n + 1, both[-1].n + 1))
    assert text_of([first, *both]) == "".join(f"{i}\n" for i in range(20))
    assert bob.wait("shell", "execute_reply", cell).content["status"] == "ok"


@pytest.mark.usefixtures("kernel")
def test_a_cell_that_ended_between_two_owners_gives_its_reply_to_the_next(owner: MAKE) -> None:
    ann = owner(1)
    ann.attach()
    cell = ann.run("import time; time.sleep(.2); x = 7; x")
    ann.wait("iopub", "execute_input", cell)
    ann.close()
    bob = owner(2)
    while cell in (attached := bob.attach()).content["waiting"]:
        pass
    assert [reply.parent for reply in attached.replies] == [cell]
    assert [
        message.content["data"]["text/plain"] for message in attached.output if message.kind == "execute_result"
    ] == ["7"]
    bob.run("x", cell)  # the entry worker does not know, and sends it again
    assert bob.wait("shell", "execute_reply", cell).content["execution_count"] == 1


@pytest.mark.usefixtures("kernel")
def test_a_request_that_comes_twice_runs_once(owner: MAKE) -> None:
    ann = owner(1)
    ann.attach()
    ann.run("n = 0", "first")
    ann.wait("shell", "execute_reply", "first")
    for _ in range(3):
        ann.run("import time; time.sleep(.2); n += 1", "same")
    ann.wait("shell", "execute_reply", "same")
    ann.run("n += 1", "same")
    assert ann.wait("shell", "execute_reply", "same").content["status"] == "ok"
    assert text_of(ann.output_of(ann.run("print(n)"))) == "1\n"


def test_an_owner_of_before_is_refused_and_not_heard(directory: Path, owner: MAKE) -> None:
    with ring_kernel(directory):
        late, newest = owner(5, "old"), owner(6, "new")
        assert late.attach().granted
        late.run("x = 'queued'; import time; time.sleep(.3)", "queued")
        late.wait("iopub", "execute_input", "queued")
        late.run("y = 'queued behind'", "behind")
        assert newest.attach().granted
        assert not late.attach().granted
        assert not owner(6, "other boot").attach().granted
        late.run("x = 'stale'", "stale")
        late.send("control", "interrupt_request", {})
        # What was written before is taken, and its reply goes to the owner.
        assert newest.wait("shell", "execute_reply", "queued").content["status"] == "ok"
        newest.wait("shell", "execute_reply", "behind")
        assert text_of(newest.output_of(newest.run("print(x, y)"))) == "queued queued behind\n"
        assert late.next("shell", 0.1) is None


@pytest.mark.usefixtures("kernel")
def test_input_that_waits_is_asked_again_and_answered_once(owner: MAKE) -> None:
    ann = owner(1)
    ann.attach()
    cell = ann.run("a = input('one '); b = input('two '); print(a, b)")
    assert ann.wait("stdin", "input_request", cell).content["prompt"] == "one "
    ann.close()

    bob = owner(2)
    (question,) = bob.attach().questions
    assert (question.parent, question.content["prompt"]) == (cell, "one ")
    answer = bob.send("stdin", "input_reply", {"value": "1"}, parent={"header": question.header})
    bob.wait("stdin", "input_request", cell)
    bob.send("stdin", "input_reply", {"value": "1"}, answer)  # sent again: it must not answer the second question
    bob.send("stdin", "input_reply", {"value": "2"})
    assert "1 2\n" in text_of(bob.output_of(cell))
    assert bob.attach().questions == []


def test_the_recorder_is_bounded_and_says_how_much_fell_out(directory: Path, owner: MAKE) -> None:
    with ring_kernel(directory, "--RingApp.recorder_mib=0.1"):
        ann = owner(1)
        ann.attach()
        cell = ann.run("import sys\nfor i in range(1000):\n    print(i); sys.stdout.flush()")
        seen = ann.output_of(cell)
        bob = owner(2)
        attached = bob.attach([1, seen[0].n])
        assert 20 < len(attached.output) < 300
        assert attached.content["missed"] + len(attached.output) == seen[-1].n - seen[0].n
        assert attached.output[-1].n == attached.content["last"] == seen[-1].n
        # One message that is larger than everything.
        seen = bob.output_of(bob.run("display({'text/plain': 'x' * 200_000}, raw=True)"))
        assert text_of(owner(3).attach([1, seen[-1].n]).output) == ""


@pytest.mark.usefixtures("kernel")
def test_acknowledgements_outlive_the_owner(owner: MAKE) -> None:
    ann = owner(1)
    ann.attach()
    ann.send("control", "kernelring_ack_request", {"client-1": [3, 5], "client-2": [2, 9]})
    ann.attach()  # answered behind it; another owner's request, over another connection, may overtake it
    assert owner(2).attach().content["acks"] == {"client-1": 5}


@pytest.mark.usefixtures("kernel")
def test_magics_rich_output_and_buffers_are_as_ever(owner: MAKE) -> None:
    ann = owner(1)
    ann.attach()
    kinds = [message.kind for message in ann.output_of(ann.run("%time 1\n"))]
    assert kinds == ["status", "execute_input", "stream", "execute_result", "status"]
    rich = ann.output_of(
        ann.run("display({'text/html': '<b>x</b>'}, raw=True, metadata={'m': 1}, transient={'display_id': 'd'})")
    )
    (shown,) = [message for message in rich if message.kind == "display_data"]
    assert shown.content == {"data": {"text/html": "<b>x</b>"}, "metadata": {"m": 1}, "transient": {"display_id": "d"}}
    code = """
from comm import create_comm
c = create_comm('t', data={'a': 1}, metadata={'version': '2'}, buffers=[memoryview(bytearray(b'xyz'))])"""
    (opened,) = [message for message in ann.output_of(ann.run(code)) if message.kind == "comm_open"]
    assert opened.buffers == [b"xyz"]
    assert {name: value for name, value in opened.metadata.items() if name != "kernelring"} == {"version": "2"}
    again = owner(2).attach([3, opened.n - 1]).output[0]
    assert again == opened


def test_a_students_own_module_named_kernels_is_found(owner: MAKE, directory: Path) -> None:
    (directory / "kernels.py").write_text("mine = 'yes'")
    with ring_kernel(directory):
        ann = owner(1)
        ann.attach()
        assert text_of(ann.output_of(ann.run("import kernels; print(kernels.mine)"))) == "yes\n"
