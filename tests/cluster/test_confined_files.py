"""Files of confined students: the server touches them as the student, so both have the same files and the same rights.

Everything that is attacked belongs to the installation that the test has made.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from kernels.confine.uids import Uids
from local.stack import Stack
from local.student import Student
from tests.cluster.confined import attempts, student, told
from tests.cluster.levels import LEVELS, WITH_UIDS, level_of, server_uid, stack_at

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),  # this client's, about itself
]

FILES: Final = "/api/contents"
SECRET: Final = "of root alone"
CELL: Final = """
import os, time
print("half", flush=True)
while not os.path.exists("gate"):
    time.sleep(0.05)
print("end")
"""


@pytest.fixture(scope="module", params=LEVELS)
def confining(request: pytest.FixtureRequest) -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="kr-course-") as course:
        Path(course).chmod(0o755)
        Path(course, "task.txt").write_text("add 1 and 2")
        with stack_at(request.param, KERNELRING_COURSE=course, KERNELRING_QUOTA_MIB="4") as stack:
            yield stack


def text(content: str) -> dict[str, str]:
    return {"type": "file", "format": "text", "content": content}


def notebook(*cells: dict[str, Any]) -> dict[str, Any]:
    content = {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return {"type": "notebook", "format": "json", "content": content}


def cell(source: str, outputs: list[dict[str, Any]]) -> dict[str, Any]:
    shared = {"cell_type": "code", "id": "a", "execution_count": None}
    return shared | {"metadata": {"trusted": True}, "source": source, "outputs": outputs}


def home_of(stack: Stack, user: str) -> Path:
    return stack.directory / "notebooks" / user


def owners(folder: Path) -> set[tuple[int, int]]:
    """Of a folder and all that is below it."""
    found = [folder.lstat(), *(path.lstat() for path in folder.rglob("*"))]
    return {(each.st_uid, each.st_gid) for each in found}


def uid_of(stack: Stack, user: str) -> int:
    """Whose a user's files are."""
    if level_of(stack) != "uids":
        return server_uid(stack)
    uid = Uids(stack.directory / "notebooks", *stack.uids).known(user)
    assert uid is not None
    return uid


async def put(who: Student, path: str, model: dict[str, Any], status: int = 201) -> Any:
    code, said, _ = await who.call("PUT", f"{FILES}/{path}", model)
    assert code == status, said
    return said


async def content(who: Student, path: str) -> Any:
    code, model, _ = await who.call("GET", f"{FILES}/{path}")
    assert code == 200, model
    return model["content"]


async def written(who: Student, path: str, end: str) -> None:
    """Returns once what the first cell of a notebook has printed ends so."""
    async with asyncio.timeout(60):
        while True:
            outputs = (await content(who, path))["cells"][0]["outputs"]
            if "".join(each["text"] for each in outputs).endswith(end):
                return
            await asyncio.sleep(0.1)


async def test_a_student_without_a_kernel_owns_what_the_server_makes_for_them(confining: Stack) -> None:
    async with Student(confining.url, confining.token("new")) as new:
        listed = [each["name"] for each in await content(new, "")]
        assert "Welcome.ipynb" in listed
        await put(new, "week", {"type": "directory"})
        await put(new, "week/a.txt", text("one"))
        await put(new, "week/large.txt", text("two, ") | {"chunk": 1})
        await put(new, "week/large.txt", text("three") | {"chunk": -1})
        assert (await new.call("POST", f"{FILES}/week/a.txt/checkpoints"))[0] == 201
        assert (await new.call("POST", f"{FILES}/week", {"copy_from": "week/a.txt"}))[0] == 201
        assert (await new.call("POST", FILES, {"copy_from": "week"}))[0] == 201
        assert (await new.call("POST", f"{FILES}/week", {"type": "notebook"}))[0] == 201
        assert await content(new, "course/task.txt") == "add 1 and 2"
        uid = uid_of(confining, "new")
        home = home_of(confining, "new")
        assert (home / "course" / "task.txt").exists()
        assert owners(home) == {(uid, uid)}
        assert not [path for path in (home, *home.rglob("*")) if path.stat().st_mode & 0o077]
        assert (await new.call("DELETE", f"{FILES}/week/large.txt"))[0] == 204
        code, said, _ = await new.call("PUT", f"{FILES}/big.txt", text("x" * (5 << 20)))
        assert (code, "4 MiB" in said["message"]) == (507, True)


async def test_a_notebook_is_exported(confining: Stack) -> None:
    async with Student(confining.url, confining.token("ann")) as ann:
        await put(ann, "page.ipynb", notebook(cell("print('kept')", [])))
        code, page, _ = await ann.call("GET", "/nbconvert/html/page.ipynb", within_s=90)
        assert (code, "kept" in page) == (200, True)


def test_the_program_that_exports_has_no_more_than_a_students_rights() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    told = "('text/plain', str((os.getresuid(), os.getresgid(), os.getgroups())), b'')"
    code = f"import os; from server.frontend import export as e; e._converted = lambda *_: {told}"
    command = [sys.executable, "-c", f"{code}; e.main('html', 'x', 'kept', 1024, 200001, 200002)"]
    made = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert json.loads(made.stdout)["name"] == f"({(200001,) * 3}, {(200002,) * 3}, [])"


def test_the_program_that_exports_does_with_less_memory_than_it_may_have() -> None:
    limited = "import resource as r; r.setrlimit(r.RLIMIT_DATA, (256 << 20, 256 << 20))"
    code = f"{limited}; from server.frontend import export as e; e._converted = lambda *_: ('text/plain', '', b'')"
    command = [sys.executable, "-c", f"{code}; e.main('html', 'x', 'kept', 1024); print(r.getrlimit(r.RLIMIT_DATA))"]
    made = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True)
    assert made.stdout.splitlines()[1] == str((256 << 20, 256 << 20))


async def test_what_is_kept_of_a_student_is_the_servers_alone(confining: Stack) -> None:
    drawn = {"output_type": "display_data", "metadata": {}, "data": {"text/html": "<b>1</b>"}}
    async with Student(confining.url, confining.token("ann")) as ann:
        await put(ann, "signed.ipynb", notebook(cell("1", [drawn])))
        assert (await content(ann, "signed.ipynb"))["cells"][0]["metadata"]["trusted"] is True
    state = confining.directory / "notebooks" / ".kernelring" / "ann"
    assert {"welcomed", "nbsignatures.db", "notebook_secret"} <= {path.name for path in state.iterdir()}
    for folder in (state, confining.runtime / "c"):
        assert owners(folder) == {(server_uid(confining),) * 2}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(state.parent.stat().st_mode) == 0o700


async def test_cells_and_the_contents_api_have_the_same_files(confining: Stack) -> None:
    async with student(confining, "ann") as ann:
        await put(ann, "data.txt", text("uploaded"))
        assert await told(ann, "print(open('data.txt').read())") == "uploaded"
        await told(ann, "open('data.txt', 'w').write('by a cell'); open('new.txt', 'w').write('made by a cell')")
        assert await content(ann, "data.txt") == "by a cell"
        await put(ann, "new.txt", text("and by the page"), 200)
        assert await told(ann, "print(open('new.txt').read())") == "and by the page"
        code, body, _ = await ann.call("GET", "/files/new.txt")
        assert (code, body) == (200, "and by the page")
        await told(ann, "import os; os.remove('new.txt')")


@WITH_UIDS
async def test_what_a_student_has_closed_is_closed_to_the_server(confining: Stack) -> None:
    async with student(confining, "ann") as ann:
        await told(ann, "import os\nopen('new.txt', 'w').close(); os.chmod('new.txt', 0o400)")
        assert (await ann.call("GET", f"{FILES}/new.txt?content=0"))[1]["writable"] is False
        await told(ann, "os.chmod('new.txt', 0)")
        for path in (f"{FILES}/new.txt", "/files/new.txt"):
            assert (await ann.call("GET", path))[0] == 403
        await told(ann, "os.remove('new.txt')")


async def test_a_link_to_what_is_not_the_students_leads_nowhere(confining: Stack) -> None:
    private = private_file(confining)
    async with student(confining, "ann") as ann, student(confining, "bob") as bob:
        await put(ann, "diary.txt", text("secret"))
        diary = home_of(confining, "ann") / "diary.txt"
        tries = {name: f"os.link('{path}', 'x-{name}.txt')" for name, path in (("a", diary), ("b", private))}
        found = await attempts(bob, tries, "import os")
        assert not [what for what in found.values() if what.startswith("GOT")], found
        await told(bob, f"os.symlink('{diary}', 'a.txt'); os.symlink('{private}', 'b.txt')\n"
                   f"os.symlink('{diary.parent}', 'ann')")  # fmt: skip
        await nothing_is_told(bob, {"a.txt": 404, "b.txt": 404, "ann/diary.txt": 404})
        assert (diary.read_text(), private.read_text()) == ("secret", SECRET)


@WITH_UIDS
async def test_a_hard_link_to_what_is_not_the_students_gives_nothing(confining: Stack) -> None:
    """Such as the machine would refuse a cell: it is made here, as where `protected_hardlinks` is off."""
    private = private_file(confining)
    async with Student(confining.url, confining.token("ann")) as ann, student(confining, "bob") as bob:
        await put(ann, "hers.txt", text("secret"))
        hers, home = home_of(confining, "ann") / "hers.txt", home_of(confining, "bob")
        os.link(hers, home / "c.txt")
        os.link(private, home / "d.txt")
        await nothing_is_told(bob, {"c.txt": 403, "d.txt": 403})
        assert (await bob.call("POST", f"{FILES}/d.txt/checkpoints"))[0] == 403
        await put(bob, "c.txt", text("mine"), 200)  # another file, in its place
        await put(bob, "d.txt", text("mine"), 200)
        assert await content(bob, "d.txt") == "mine"
        assert (hers.read_text(), private.read_text()) == ("secret", SECRET)
        assert (home / "d.txt").stat().st_uid == uid_of(confining, "bob")


def private_file(stack: Stack) -> Path:
    """A file that only the server may read."""
    private = stack.directory / "private.txt"
    private.write_text(SECRET)
    private.chmod(0o600)
    os.chown(private, server_uid(stack), server_uid(stack))
    return private


async def nothing_is_told(who: Student, paths: dict[str, int]) -> None:
    """Each path is refused with its status, however it is asked for."""
    for path, refused in paths.items():
        for asked in (f"{FILES}/{path}", f"/files/{path}"):
            code, said, _ = await who.call("GET", asked)
            assert (code, "secret" in str(said), SECRET in str(said)) == (refused, False, False), asked
        assert (await who.call("POST", FILES, {"copy_from": path}))[0] == refused, path


async def test_what_nobody_is_there_to_see_is_written_as_the_student(confining: Stack) -> None:
    async with student(confining, "ann") as ann:
        await put(ann, "one.ipynb", notebook(cell(CELL, [])))
        await ann.close()
        asked = {"code": CELL, "metadata": {"cell_id": "a", "document_path": "one.ipynb"}}
        code, said, _ = await ann.call("POST", f"/api/kernels/{ann.kernel_id}/execute", asked)
        assert code == 202, said
        await put(ann, "gate", text(""))
        await written(ann, "one.ipynb", "end\n")
        found = (home_of(confining, "ann") / "one.ipynb").stat()
        assert (found.st_uid, found.st_gid) == (uid_of(confining, "ann"),) * 2
        await ann.open()
        assert "end" in await told(ann, "print(open('one.ipynb').read())")


async def test_files_of_a_directory_that_is_somebody_elses_are_refused(confining: Stack) -> None:
    home = home_of(confining, "eve")
    home.mkdir(mode=0o700)
    os.chown(home, 65534, 65534)
    async with Student(confining.url, confining.token("eve")) as eve:
        code, said, headers = await eve.call("GET", FILES)
        # Without uids the server looks only whether it may enter.
        with_uids = level_of(confining) == "uids"
        refused = (503, True) if with_uids else (403, False)
        assert (code, "Retry-After" in headers, str(home) in str(said)) == (*refused, False)
        assert list(home.iterdir()) == []
    if with_uids:
        assert "65534" in confining.events("home_unavailable")[-1]["why"]
