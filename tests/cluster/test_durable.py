"""Code that runs on the server's account: its client, its page and its kernel's owner may go; it runs once, to the end.

The client here asks as jupyter-server-nbmodel's page does (`server/execution/api.py` has the contract).
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from local.stack import Stack
from local.student import Student
from server.owned import OWNER_HEADER
from tests.cluster.clients import SeatedStudent, one_at_each_worker

LINES = 40
TURN_S = 0.05


@asynccontextmanager
async def student_of(stack: Stack, user: str) -> AsyncIterator[Student]:
    """A student with a kernel, who takes it away again."""
    async with Student(stack.url, stack.token(user)) as student:
        await student.start()
        yield student
        assert await student.delete() == 204


@asynccontextmanager
async def full(stack: Stack) -> AsyncIterator[None]:
    """Afterwards all workers are there again: one that is stopped while it starts leaves its socket."""
    yield
    await asyncio.to_thread(stack.wait_ready)


def url(student: Student, rest: str) -> str:
    return f"/api/kernels/{student.kernel_id}/{rest}"


async def post(student: Student, code: str, query: str = "", **fields: Any) -> tuple[int, Any, Mapping[str, str]]:
    return await student.call("POST", url(student, f"execute{query}"), {"code": code, **fields})


async def post_again(student: Student, code: str, uid: str) -> tuple[int, Any, Mapping[str, str]]:
    """As a client that is told to try again in a moment."""
    while True:
        answer = await post(student, code, request_id=uid)
        if answer[0] != 503:
            return answer
        await asyncio.sleep(TURN_S)


async def poll(student: Student, location: str) -> tuple[int, Any]:
    """Ask once, and again when the worker that was asked has ended meanwhile."""
    while True:
        try:
            status, told, _ = await student.call("GET", location)
        except aiohttp.ClientError:
            continue
        if status != 503:
            return status, told


async def until(student: Student, location: str, wanted: Callable[[int, Any], bool]) -> tuple[int, Any]:
    """Ask as the page does until the answer is the wanted one."""
    async with asyncio.timeout(30):
        while True:
            status, told = await poll(student, location)
            if wanted(status, told):
                return status, told
            await asyncio.sleep(TURN_S)


async def ended(student: Student, location: str) -> Any:
    status, told = await until(student, location, lambda status, _: status not in (202, 300))
    assert status == 200, told
    return told


def text_of(outputs: str | list[dict[str, Any]]) -> str:
    found = json.loads(outputs) if isinstance(outputs, str) else outputs
    return "".join(one["text"] for one in found if one["output_type"] == "stream")


def gated(gate: Path, runs: Path) -> str:
    """A cell that prints, waits for a file, and prints the rest. It notes each time that it is run."""
    return (
        "import os, time\n"
        f"with open({str(runs)!r}, 'a') as runs: runs.write('x')\n"
        f"for n in range({LINES // 2}): print(n, flush=True)\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        f"for n in range({LINES // 2}, {LINES}): print(n, flush=True)\n"
        "'the end'"
    )


ALL = "".join(f"{n}\n" for n in range(LINES))
HALF = "".join(f"{n}\n" for n in range(LINES // 2))


async def kill_owner(stack: Stack, student: Student) -> None:
    """`kill -9`, once the kernel's owner is known."""
    _, _, headers = await student.call("GET", f"/api/kernels/{student.kernel_id}")
    os.kill(stack.worker_of(headers[OWNER_HEADER]), signal.SIGKILL)


async def test_a_cell_is_run_as_the_extension_of_the_page_has_it_run(stack: Stack, tmp_path: Path) -> None:
    async with student_of(stack, "contract") as student:
        gate = tmp_path / "gate"
        cell = {"cell_id": "c-1", "document_path": "lesson.ipynb"}
        status, told, headers = await post(student, gated(gate, tmp_path / "runs"), metadata=cell)
        location = headers["Location"]
        assert status == 202
        assert location == told["request_url"] == url(student, f"requests/{told['request_id']}")
        assert (told["kernel_id"], told["pending"], told["outputs"]) == (student.kernel_id, True, "[]")
        _, so_far = await until(student, location, lambda _, told: text_of(told["outputs"]) == HALF)
        assert so_far["request_status"] == "running"
        # A page that is opened now.
        _, listed, _ = await student.call("GET", url(student, "execute"))
        (found,) = listed["requests"]
        assert (found["cell_id"], found["document_path"], found["request_url"]) == ("c-1", "lesson.ipynb", location)
        gate.touch()
        result = await ended(student, location)
        assert (result["status"], result["execution_count"], result["request_status"]) == ("ok", 1, "complete")
        assert text_of(result["outputs"]) == ALL
        assert json.loads(result["outputs"])[-1]["data"] == {"text/plain": "'the end'"}
        assert await ended(student, location) == result  # another page gets it, too
        assert (await student.call("GET", url(student, "execute")))[1]["requests"] == []


async def test_other_clients_of_the_kernel_see_its_output_and_the_server_counts_as_none(stack: Stack) -> None:
    async with student_of(stack, "beside") as student:
        await student.open()
        _, _, headers = await post(student, "print('for all')")
        await ended(student, headers["Location"])
        async with asyncio.timeout(10):
            while (said := await student.receive()).kind != "stream":
                pass
        assert said.content["text"] == "for all\n"
        assert (await student.call("GET", f"/api/kernels/{student.kernel_id}"))[1]["connections"] == 1


async def test_input_is_asked_for_after_what_was_printed_before_it(stack: Stack) -> None:
    async with student_of(stack, "asked") as student:
        _, _, headers = await post(student, "print('before')\nname = input('Who?')\nprint('hello', name)")
        seen: list[str] = []

        def asks(status: int, told: Any) -> bool:
            seen.append(text_of(told["outputs"]))
            return status == 300

        _, question = await until(student, headers["Location"], asks)
        assert question["input_request"] == {"prompt": "Who?", "password": False}
        assert question["parent_header"]["msg_type"] == "input_request"
        assert "before\n" in seen[:-1]
        assert (await student.call("POST", url(student, "input"), {"input": "Ada"}))[0] == 201
        result = await ended(student, headers["Location"])
        assert text_of(result["outputs"]) == "before\nWho? Ada\nhello Ada\n"
        assert (await student.call("POST", url(student, "input"), {"input": "again"}))[0] == 409


async def test_what_is_cancelled_before_it_runs_never_runs_and_what_runs_is_interrupted(
    stack: Stack, tmp_path: Path
) -> None:
    async with student_of(stack, "cancels") as student:
        runs = tmp_path / "runs"
        _, _, first = await post(student, gated(tmp_path / "never", runs))
        await until(student, first["Location"], lambda _, told: text_of(told["outputs"]) == HALF)
        _, _, second = await post(student, gated(tmp_path / "never", runs))
        _, _, third = await post(student, "print('third')")
        assert (await student.call("DELETE", second["Location"]))[0] == 204
        assert (await ended(student, second["Location"]))["status"] == "aborted"
        assert (await student.call("DELETE", first["Location"]))[0] == 204
        stopped = await ended(student, first["Location"])
        assert stopped["status"] == "error"
        assert json.loads(stopped["outputs"])[-1]["ename"] == "KeyboardInterrupt"
        assert text_of((await ended(student, third["Location"]))["outputs"]) == "third\n"
        assert runs.read_text() == "x"


async def test_cells_behind_one_that_fails_do_not_run_and_requests_of_programs_do(stack: Stack, tmp_path: Path) -> None:
    async with student_of(stack, "fails") as student:
        gate = tmp_path / "gate"
        failing = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n1 / 0"
        _, _, first = await post(student, failing, metadata={"cell_id": "a"})
        _, _, cell = await post(student, "print('no')", metadata={"cell_id": "b"})
        _, _, program = await post(student, "print('yes')")
        gate.touch()
        assert (await ended(student, first["Location"]))["status"] == "error"
        assert (await ended(student, cell["Location"]))["status"] == "aborted"
        assert text_of((await ended(student, program["Location"]))["outputs"]) == "yes\n"


async def test_a_kernel_that_ends_in_mid_cell_ends_its_requests_with_a_sentence(stack: Stack) -> None:
    async with student_of(stack, "dies") as student:
        _, _, first = await post(student, "print('last words', flush=True)\nimport os\nos._exit(3)")
        _, _, second = await post(student, "print('never')")
        result = await ended(student, first["Location"])
        assert result["status"] == "error"
        assert "exited with code 3" in result["reason"]
        assert "last words" in text_of(result["outputs"])
        assert "exited with code 3" in json.loads(result["outputs"])[-1]["evalue"]
        assert (await ended(student, second["Location"]))["status"] == "error"


async def test_bad_requests_get_one_clear_error(stack: Stack) -> None:
    async with student_of(stack, "bad") as student:
        assert (await student.call("POST", url(student, "execute"), {}))[0] == 400
        large = io.BytesIO(json.dumps({"code": "x" * (2**20 + 1)}).encode())
        async with student.http.post(url(student, "execute"), data=large) as answer:
            assert answer.status == 413
        assert (await post(student, "1", request_id="no id"))[0] == 400
        assert (await post(student, "1", "?wait=for-ever"))[0] == 400
        assert (await post(student, "1", stop_on_error="perhaps"))[0] == 400
        assert (await post(student, "1", server={"url": "http://elsewhere"}))[0] == 400
        unknown = url(student, f"requests/{uuid.uuid4()}")
        for method in ("GET", "DELETE"):
            status, told, _ = await student.call(method, unknown)
            assert (status, set(told)) == (404, {"message", "reason"})
        async with student.http.get(unknown, headers={"Accept": "text/event-stream"}) as answer:
            assert answer.status == 404
        assert (await student.call("POST", url(student, "input"), {"input": 7}))[0] == 400
        elsewhere = f"/api/kernels/{uuid.uuid4()}/execute"
        assert (await student.call("POST", elsewhere, {"code": "1"}))[0] == 404


async def test_nobody_reaches_the_runs_of_somebody_else(stack: Stack) -> None:
    async with student_of(stack, "owner-of-it") as ada, Student(stack.url, stack.token("stranger")) as eve:
        _, _, headers = await post(ada, "input('secret?')")
        eve.kernel_id = ada.kernel_id
        await until(ada, headers["Location"], lambda status, _: status == 300)
        for method, path, body in (
            ("GET", headers["Location"], None),
            ("DELETE", headers["Location"], None),
            ("GET", url(ada, "execute"), None),
            ("POST", url(ada, "execute"), {"code": "1"}),
            ("POST", url(ada, "execute?wait=1"), {"code": "1"}),
            ("POST", url(ada, "input"), {"input": "mine"}),
        ):
            assert (await eve.call(method, path, body))[0] == 404
        async with eve.http.get(headers["Location"], headers={"Accept": "text/event-stream"}) as answer:
            assert answer.status == 404
        assert (await ada.call("POST", url(ada, "input"), {"input": "hers"}))[0] == 201
        assert "hers" in text_of((await ended(ada, headers["Location"]))["outputs"])


# -- over the end of the owner ----------------------------------------------------------------------------------------


async def test_a_cell_whose_owner_is_killed_in_its_midst_ends_with_every_line_once(
    new_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    stack = new_stack()
    async with full(stack), student_of(stack, "ada") as student:
        gate, runs = tmp_path / "gate", tmp_path / "runs"
        cell = {"cell_id": "c-1", "document_path": "lesson.ipynb"}
        _, _, first = await post(student, gated(gate, runs), metadata=cell)
        _, _, second = await post(student, "print('the next')", metadata={"cell_id": "c-2"})
        await until(student, first["Location"], lambda _, told: text_of(told["outputs"]) == HALF)
        await kill_owner(stack, student)
        status, so_far = await until(student, first["Location"], lambda _, told: bool(json.loads(told["outputs"])))
        assert (status, text_of(so_far["outputs"])) == (202, HALF)
        await kill_owner(stack, student)
        gate.touch()
        result = await ended(student, first["Location"])
        assert text_of(result["outputs"]) == ALL
        assert (result["status"], result["execution_count"], result["cell_id"]) == ("ok", 1, "c-1")
        assert text_of((await ended(student, second["Location"]))["outputs"]) == "the next\n"
        assert runs.read_text() == "x"


async def test_a_request_on_its_way_to_an_owner_that_is_killed_runs_once(
    new_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    stack = new_stack()
    async with full(stack), student_of(stack, "ada") as student, AsyncExitStack() as room:
        gate, runs = tmp_path / "gate", tmp_path / "runs"
        gate.touch()
        _, _, headers = await student.call("GET", f"/api/kernels/{student.kernel_id}")
        owner = headers[OWNER_HEADER]
        entry = next(one for one in await one_at_each_worker(stack, "ada", room) if one.entry != owner)
        entry.kernel_id = student.kernel_id
        os.kill(stack.worker_of(owner), signal.SIGSTOP)
        uid = str(uuid.uuid4())
        asking = asyncio.create_task(post_again(entry, gated(gate, runs), uid))
        await asyncio.wait((asking,), timeout=0.2)  # it lies at the owner, or will at the next
        os.kill(stack.worker_of(owner), signal.SIGKILL)
        status, told, _ = await asking
        assert (status, told["request_id"]) == (202, uid)
        result = await ended(student, told["request_url"])
        assert text_of(result["outputs"]) == ALL
        # The client did not hear of it and sends it again; and other code under this name is refused.
        status, again, _ = await post(student, gated(gate, runs), request_id=uid)
        assert (status, again["request_status"]) == (202, "complete")
        assert (await post(student, "1", request_id=uid))[0] == 409
        assert runs.read_text() == "x"


async def test_a_question_can_be_answered_after_its_owner_was_killed(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack()
    async with full(stack), student_of(stack, "ada") as student:
        _, _, headers = await post(student, "print('so far')\nprint('hello', input('Who?'))")
        await until(student, headers["Location"], lambda status, _: status == 300)
        await kill_owner(stack, student)
        status, told, _ = await answer(student, "Ada")
        assert status == 201, told
        result = await ended(student, headers["Location"])
        assert text_of(result["outputs"]) == "so far\nWho? Ada\nhello Ada\n"


async def answer(student: Student, value: str) -> tuple[int, Any, Mapping[str, str]]:
    """Answer; again when the connection was to the worker that was killed."""
    while True:
        try:
            return await student.call("POST", url(student, "input"), {"input": value})
        except aiohttp.ClientError:
            continue


# -- the plain way ----------------------------------------------------------------------------------------------------


async def test_a_program_waits_for_its_result(stack: Stack, tmp_path: Path) -> None:
    async with student_of(stack, "program") as student:
        status, told, _ = await post(student, "print('hi')\n1 + 1", "?wait=30")
        assert (status, told["status"], text_of(told["outputs"])) == (200, "ok", "hi\n")
        assert told["outputs"][-1]["data"] == {"text/plain": "2"}
        gate = tmp_path / "gate"
        status, told, headers = await post(student, gated(gate, tmp_path / "runs"), "?wait=0.1")
        assert (status, told["pending"]) == (202, True)
        gate.touch()
        status, told, _ = await student.call("GET", headers["Location"] + "?wait=30")
        assert (status, text_of(told["outputs"])) == (200, ALL)
        status, told, headers = await post(student, "input('?')", "?wait=30")
        assert (status, headers["Location"]) == (300, url(student, "input"))


async def events_in(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str | None, Any]]:
    """(event, id, data) of each."""
    assert answer.content_type == "text/event-stream"
    fields: dict[str, str] = {}
    async for raw in answer.content:
        line = raw.decode().rstrip("\n")
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield fields["event"], fields.get("id"), json.loads(fields["data"])
            fields = {}


class Follower:
    """What a client of the events has shown by now."""

    def __init__(self) -> None:
        self.text = ""
        self.last: str | None = None
        self.done: dict[str, Any] | None = None

    async def follow(self, answer: aiohttp.ClientResponse, until_text: str | None = None) -> None:
        """To the end, or until so much is shown."""
        async for kind, place, data in events_in(answer):
            self.last = place or self.last
            if kind == "clear":
                self.text = ""
            elif kind == "output":
                self.text += data.get("text", "")
            elif kind == "done":
                self.done = data
            if self.text == until_text:
                return


STREAM = {"Accept": "text/event-stream"}


async def test_events_go_on_at_the_next_owner_and_for_a_client_that_comes_back(
    new_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    stack = new_stack()
    async with full(stack), student_of(stack, "ada") as student, AsyncExitStack() as room:
        gate, runs = tmp_path / "gate", tmp_path / "runs"
        _, _, headers = await student.call("GET", f"/api/kernels/{student.kernel_id}")
        entries = await one_at_each_worker(stack, "ada", room)
        entry: SeatedStudent = next(one for one in entries if one.entry != headers[OWNER_HEADER])
        body = {"code": gated(gate, runs)}
        follower = Follower()
        async with entry.http.post(url(student, "execute"), json=body, headers=STREAM) as answer:
            location = answer.headers["Location"]
            await follower.follow(answer, until_text=HALF)
            await kill_owner(stack, student)
            gate.touch()
            await follower.follow(answer)
        assert follower.text == ALL
        assert follower.done
        assert follower.done["status"] == "ok"
        # It comes back with the place at which it was, and with none.
        again = Follower()
        again.text = follower.text
        async with student.http.get(location, headers=STREAM | {"Last-Event-ID": follower.last or ""}) as answer:
            await again.follow(answer)
        assert (again.text, again.done) == (ALL, follower.done)
        anew = Follower()
        async with student.http.get(location, headers=STREAM) as answer:
            await anew.follow(answer)
        assert (anew.text, runs.read_text()) == (ALL, "x")
