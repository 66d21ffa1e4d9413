"""A real kernel, cold and warm, whose owners die: each cell runs once and in order, whoever sends it again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.ring_kernel import Owner, ring_kernel, text_of

# The kernel is busy: its other threads run meanwhile, or none does (a C extension that keeps Python's lock).
BUSY = {
    "sleeps": "import time; time.sleep(.6)",
    "keeps the lock": "import ctypes; ctypes.PyDLL(None).usleep(600_000)",
}


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kr-") as found:
        yield Path(found)


@pytest.fixture(params=[False, True], ids=["cold", "warm"])
def owner(directory: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Owner]]:
    """Makes owners, attached and subscribed."""
    made: list[Owner] = []

    def make(epoch: int, link: int = 1) -> Owner:
        made.append(Owner(directory, epoch, link=link))
        made[-1].subscribed()
        assert made[-1].attach().granted
        return made[-1]

    with ring_kernel(directory, warm=request.param):
        yield make
        for one in made:
            one.close()


@pytest.fixture(params=list(BUSY))
def busy(owner: Callable[..., Owner], request: pytest.FixtureRequest) -> Owner:
    """The owner of a busy kernel; it has written two cells more and dies now."""
    ann = owner(1)
    ann.wait("shell", "execute_reply", ann.run("ran = []"))
    ann.wait("iopub", "execute_input", ann.run(BUSY[request.param]))
    ann.run("ran.append('a')", "a")
    ann.run("ran.append('b')", "b")
    ann.die_having_written()
    return ann


def ran(one: Owner) -> str:
    return text_of(one.output_of(one.run("print(*ran)"))).strip()


@pytest.mark.usefixtures("busy")
def test_what_an_owner_wrote_before_it_died_runs_once_when_the_next_one_sends_it_again(
    owner: Callable[..., Owner],
) -> None:
    bob = owner(2)
    for _ in range(2):
        bob.run("ran.append('a')", "a")
        bob.run("ran.append('b')", "b")
    bob.run("ran.append('c')", "c")
    for cell in ("a", "b", "c"):
        assert bob.wait("shell", "execute_reply", cell).content["status"] == "ok"
    assert ran(bob) == "a b c"


@pytest.mark.usefixtures("busy")
def test_what_an_owner_wrote_before_it_died_runs_once_when_nobody_sends_it_again(
    owner: Callable[..., Owner],
) -> None:
    """Its client's entry worker has died, too. What the client sends next comes after it."""
    bob = owner(2)
    bob.run("ran.append('c')", "c")
    assert bob.wait("shell", "execute_reply", "c").content["status"] == "ok"
    assert ran(bob) == "a b c"


@pytest.mark.usefixtures("busy")
def test_what_two_owners_wrote_before_they_died_runs_once(owner: Callable[..., Owner]) -> None:
    bob = owner(2)
    bob.run("ran.append('a')", "a")
    bob.die_having_written()
    cat = owner(3)
    cat.run("ran.append('b')", "b")
    cat.run("ran.append('c')", "c")
    cat.wait("shell", "execute_reply", "c")
    assert ran(cat) == "a b c"
    cat.run("ran.append('a')", "a")
    cat.wait("shell", "execute_reply", "a")
    assert ran(cat) == "a b c"


@pytest.mark.usefixtures("busy")
def test_what_an_owner_wrote_before_it_connected_anew_runs_once(owner: Callable[..., Owner]) -> None:
    """A worker that had yielded to another, which came to nothing, attaches again: in the same epoch."""
    bob = owner(2)
    bob.run("ran.append('a')", "a")
    again = owner(2, link=2)
    again.run("ran.append('b')", "b")
    again.run("ran.append('c')", "c")
    again.wait("shell", "execute_reply", "c")
    assert ran(again) == "a b c"
    assert not bob.attach().granted, "the connection before is the owner again"
