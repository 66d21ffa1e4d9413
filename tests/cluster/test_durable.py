"""Code that runs on the server's account: as the page asks for it (`server/execution/api.py` has the contract)."""

from __future__ import annotations

import asyncio
import io
import json
import time
import uuid
from pathlib import Path
from statistics import median
from typing import Any

from local.stack import Stack
from local.student import Student
from server.execution.api import HOLD_S
from server.owned import OWNER_HEADER
from tests.cluster.durable_kit import (
    ALL,
    HALF,
    STREAM,
    ended,
    gated,
    post,
    student_of,
    text_of,
    until,
    url,
)


async def test_a_cell_is_run_as_the_extension_of_the_page_has_it_run(stack: Stack, tmp_path: Path) -> None:
    async with student_of(stack, "contract") as student:
        gate = tmp_path / "gate"
        cell = {"cell_id": "c-1", "document_path": "lesson.ipynb"}
        status, told, headers = await post(student, gated(gate, tmp_path / "runs"), metadata=cell)
        location = headers["Location"]
        assert status == 202
        assert location == told["request_url"] == url(student, f"requests/{told['request_id']}")
        assert (told["kernel_id"], told["pending"]) == (student.kernel_id, True)
        assert HALF.startswith(text_of(told["outputs"]))  # what was there within the moment that the answer is held
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


async def test_a_small_cell_of_a_page_takes_one_request_and_one_behind_another_is_taken_at_once(
    stack: Stack, tmp_path: Path
) -> None:
    async with student_of(stack, "small") as student:
        gate = tmp_path / "gate"

        async def run(code: str) -> tuple[int, Any, Any]:
            return await post(student, code, metadata={"cell_id": "c-1"})

        _, first, _ = await run("import sys")  # the kernel may still be starting
        await ended(student, first["request_url"])
        answers = [await run("print(6 * 7)") for _ in range(10)]  # a busy machine may take longer than answers are held
        told = next(told for status, told, _ in answers if status == 200)
        assert (told["status"], told["pending"], text_of(told["outputs"])) == ("ok", False, "42\n")
        status, before, _ = await run(gated(gate, tmp_path / "runs"))
        assert status == 202
        behind, took = [], []
        for _ in range(9):
            began = time.monotonic()
            behind.append(await run("print('next')"))
            took.append(time.monotonic() - began)
        assert {status for status, _, _ in behind} == {202}
        assert median(took) < HOLD_S
        gate.touch()
        assert text_of((await ended(student, before["request_url"]))["outputs"]) == ALL
        assert text_of((await ended(student, behind[-1][1]["request_url"]))["outputs"]) == "next\n"


async def test_other_clients_of_the_kernel_see_its_output_and_the_server_counts_as_none(stack: Stack) -> None:
    async with student_of(stack, "beside") as student:
        await student.open()
        _, _, headers = await post(student, "print('for all')")
        await ended(student, headers["Location"])
        async with asyncio.timeout(10):
            while (said := await student.receive()).kind != "stream":
                pass
        assert said.content["text"].strip() == "for all"
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


async def test_an_answer_that_is_sent_again_answers_no_other_question(stack: Stack) -> None:
    async with student_of(stack, "once") as student:
        _, _, headers = await post(student, "print(input('First?'), input('Second?'))")
        for value in ("Ada", "Bob"):
            _, told = await until(student, headers["Location"], lambda status, _: status == 300)
            assert told["input_request"]["prompt"] == {"Ada": "First?", "Bob": "Second?"}[value]
            body = {"input": value, "request_id": str(uuid.uuid4())}
            assert (await student.call("POST", url(student, "input"), body))[0] == 201
            assert (await student.call("POST", url(student, "input"), body))[0] == 201
        result = await ended(student, headers["Location"])
        assert text_of(result["outputs"]) == "First? Ada\nSecond? Bob\nAda Bob\n"
        assert (await student.call("POST", url(student, "input"), body))[0] == 201  # it has counted
        assert (await student.call("POST", url(student, "input"), {"input": "", "request_id": "x"}))[0] == 400


async def test_a_post_that_is_sent_again_while_its_cell_asks_is_told_where_to_ask_and_not_the_question(
    stack: Stack,
) -> None:
    async with student_of(stack, "sent-again") as student:
        fields: dict[str, Any] = {"request_id": str(uuid.uuid4()), "metadata": {"cell_id": "c"}}
        _, _, headers = await post(student, "input('First?')", **fields)
        await until(student, headers["Location"], lambda status, _: status == 300)
        # The page sends what was answered 300 once more after its input: a POST would run the cell a second time.
        status, _, again = await post(student, "input('First?')", **fields)
        assert (status, again["Location"]) == (202, headers["Location"])
        assert (await student.call("POST", url(student, "input"), {"input": "Ada"}))[0] == 201
        await ended(student, headers["Location"])


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


async def test_a_kernel_that_ends_in_mid_cell_ends_its_requests_with_a_sentence(stack: Stack, tmp_path: Path) -> None:
    async with student_of(stack, "dies") as student:
        gate = tmp_path / "gate"
        _, _, first = await post(student, gated(gate, tmp_path / "runs") + "\nos._exit(3)")
        _, _, second = await post(student, "print('never')")
        await until(student, first["Location"], lambda _, told: text_of(told["outputs"]) == HALF)
        gate.touch()
        result = await ended(student, first["Location"])
        assert result["status"] == "error"
        assert "exited with code 3" in result["reason"]
        assert text_of(result["outputs"]).startswith(HALF)
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
        for _ in range(24):  # whichever worker takes the connection, her own owner among them
            async with (
                Student(stack.url, stack.token("stranger")) as again,
                again.http.get(headers["Location"], headers=STREAM) as answer,
            ):
                assert answer.status == 404
        assert (await ada.call("POST", url(ada, "input"), {"input": "hers"}))[0] == 201
        assert "hers" in text_of((await ended(ada, headers["Location"]))["outputs"])


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


async def test_what_a_cell_prints_without_end_is_cut_with_a_sentence_and_fills_nothing(stack: Stack) -> None:
    async with student_of(stack, "prints-much") as student:
        _, _, headers = await student.call("GET", f"/api/kernels/{student.kernel_id}")
        status = Path(f"/proc/{stack.worker_of(headers[OWNER_HEADER])}/status")

        def resident_mib() -> float:
            return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if "VmRSS" in line)

        before = resident_mib()
        code = "for _ in range(200): print(('x' * 99 + '\\n') * 10_000, end='', flush=True)"
        _, told, _ = await post(student, code, metadata={"cell_id": "c-1"})
        result = await ended(student, told["request_url"])
        text = text_of(result["outputs"])
        assert result["status"] == "ok"
        assert len(text) < 9 * 2**20
        assert "[kernelring]" in text
        assert resident_mib() - before < 150  # 90 to 105 MiB, whether it prints 100 MB or 300
