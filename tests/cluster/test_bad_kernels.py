"""Kernels that misbehave: programs that are none, kernels that are killed, end themselves or say nonsense.

The client is told why in words, on the channel where it listens; a restart works; nobody else notices.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from kernels.lifecycle import RESTART_LIMIT
from local.stack import Stack
from local.student import Said, Student
from tests.cluster.attack import Place, authorization, complaints, is_jupyters, place_at, undisturbed
from tests.cluster.conftest import LEAN, running
from tests.nursery_fixture import PROGRAMS
from tests.redis_server import RedisServer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

START_S: Final = 10  # a real kernel on a machine with much to do takes some seconds
# Kernelspecs that no program stands behind, beside those of tests/programs.
SPECS: Final[dict[str, dict[str, Any]]] = {
    "no_program": {"argv": ["/nowhere/at/all", "{connection_file}"]},
    "not_executable": {"argv": ["/etc/passwd", "{connection_file}"]},
    "no_argv": {"argv": []},
    "another_provisioner": {
        "argv": ["python", "{connection_file}"],
        "metadata": {"kernel_provisioner": {"provisioner_name": "somewhere-else"}},
    },
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place() -> AsyncIterator[Place]:
    with tempfile.TemporaryDirectory() as folder, RedisServer() as redis:
        kernels = Path(folder) / "kernels"
        kernels.mkdir()
        for program in PROGRAMS.iterdir():
            if (program / "kernel.json").exists():
                (kernels / program.name).symlink_to(program)
        for name, spec in SPECS.items():
            (kernels / name).mkdir()
            (kernels / name / "kernel.json").write_text(json.dumps({"display_name": name, "language": "none"} | spec))
        (kernels / "broken").mkdir()
        (kernels / "broken" / "kernel.json").write_text("{")
        settings = LEAN | {"JUPYTER_PATH": folder, "KERNELRING_KERNEL_START_S": str(START_S)}
        with running(redis, settings=settings) as stack:
            async with place_at(stack) as found:
                yield found


async def started(place: Place, name: str) -> tuple[Student, str]:
    """A student of the attacker's with a kernel of this kernelspec, connected."""
    student = place.attacker
    status, model, _ = await student.call("POST", "/api/kernels", {"name": name})
    assert status == 201, model
    return student, str(model["id"])


async def until(student: Student, state: str, within_s: float = 30.0) -> list[Said]:
    """Everything up to this execution state of the server's own."""
    heard = []
    async with asyncio.timeout(within_s):
        while True:
            heard.append(await student.receive(within_s))
            if heard[-1].kind == "status" and heard[-1].content["execution_state"] == state:
                return heard


def words(heard: list[Said]) -> list[str]:
    """What the server itself said."""
    texts = [one.content["text"] for one in heard if one.kind == "stream"]
    return [text for text in texts if text.startswith("[kernelring] ")]


@pytest.mark.parametrize("name", [*SPECS, "broken"])
async def test_a_kernelspec_without_a_program_is_refused_with_a_sentence(place: Place, name: str) -> None:
    async with undisturbed(place):
        mark = place.stack.mark()
        answer = await place.ask("POST", "/api/kernels", json.dumps({"name": name}))
        assert answer.status in (500, 501), answer
        assert is_jupyters(answer.body)
        assert len(answer.body["message"]) > 20, answer
        if name != "another_provisioner":  # of that jupyter_client has a line of its own to say
            await place.told(mark, 1)
        assert len((await place.ask("GET", "/api/kernels")).body) == 1
        assert len(list((place.stack.runtime / "k").iterdir())) == len(place.neighbours) + 1


async def is_dead(place: Place, name: str) -> str:
    """Start a kernel that never becomes one; return the sentence with which its client is told that it is dead."""
    token = authorization(place).removeprefix("Bearer ")
    async with Student(place.stack.url, token) as student:
        _, student.kernel_id = await started(place, name)
        await student.open()
        path = f"/api/kernels/{student.kernel_id}"
        if (await student.call("GET", path))[1]["execution_state"] == "dead":  # before the client had come
            sentence = str((await student.run("1")).reply["evalue"])
        else:
            (sentence, *_) = words(await until(student, "dead"))
        # Interrupting what is dead is no error of the server's.
        assert (await student.call("POST", f"{path}/interrupt"))[0] == 204
        if name == "dies_at_start":  # a restart is offered, and says what came of it
            status, model, _ = await student.call("POST", f"{path}/restart")
            assert (status, model["id"]) == (200, student.kernel_id)
            sentence = words(await until(student, "dead"))[-1]
        assert await student.delete() == 204
        assert not (place.stack.runtime / "k" / student.kernel_id).exists()
        return sentence


async def test_a_program_that_is_no_kernel_is_dead_and_its_client_is_told_why(place: Place) -> None:
    async with undisturbed(place):
        names = ("dies_at_start", "ignores_sigterm", "floods_stderr", "lingering_child")
        died, *silent = await asyncio.gather(*(is_dead(place, name) for name in names))
        assert "exited with code 3" in died
        assert "no module named spam" in died
        for sentence in silent:
            assert f"did not answer within {START_S} s" in sentence or "has ended" in sentence


ENDS: Final = {
    "os._exit": "import os; os._exit(7)",
    "kill": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "crash": "import ctypes; ctypes.string_at(0)",
    "group": "import os, signal; os.killpg(0, signal.SIGKILL)",
}


@pytest.mark.parametrize("code", ENDS.values(), ids=ENDS)
async def test_a_kernel_that_ends_in_a_cell_says_why_and_a_fresh_one_runs_the_next(place: Place, code: str) -> None:
    student = place.attacker
    await fresh(place)
    async with undisturbed(place):
        # It lives on for a moment, so that the second cell is in its queue when it ends.
        first = await student.ask(f"import time; time.sleep(0.5)\n{code}")
        queued = await student.ask("print('never')")
        heard = await until(student, "restarting")
        replies = {one.parent["msg_id"]: one.content for one in heard if one.kind == "execute_reply"}
        assert set(replies) == {first, queued}
        for reply in replies.values():
            assert reply["status"] == "error"
            assert "exited with code" in reply["evalue"] or "killed by signal" in reply["evalue"], reply
        assert words(heard)
        outcome = await student.run("print('x' in dir())")
        assert outcome.text == "False\n", outcome


async def fresh(place: Place) -> None:
    """A kernel without a past."""
    student = place.attacker
    assert (await student.call("POST", f"/api/kernels/{student.kernel_id}/restart"))[0] == 200
    student.session_id = uuid.uuid4().hex
    await student.open()
    await student.run("x = 1")


@pytest.mark.parametrize("code", ["exit()", "quit()", "raise SystemExit"])
async def test_exit_in_a_cell_leaves_a_kernel_that_works(place: Place, code: str) -> None:
    student = place.attacker
    await fresh(place)
    async with undisturbed(place):
        outcome = await student.run(code)
        assert outcome.reply["status"] in ("ok", "error")
        if code != "raise SystemExit":
            assert "exited with code 0" in words(await until(student, "restarting"))[0]
        assert (await student.run("print(2)")).text == "2\n"


@pytest.mark.parametrize("channel", ["control", "shell"])
async def test_a_shutdown_request_of_a_client_leaves_a_kernel_that_works(place: Place, channel: str) -> None:
    student = place.attacker
    await fresh(place)
    async with undisturbed(place):
        msg_id = await student.send("shutdown_request", {"restart": False}, channel)
        heard = await until(student, "restarting")
        assert [one.kind for one in heard if one.parent.get("msg_id") == msg_id and one.channel == channel] == [
            "shutdown_reply"
        ]
        assert (await student.run("print(3)")).text == "3\n"


async def test_a_kernel_that_keeps_dying_is_given_up_in_words_and_a_restart_helps(place: Place) -> None:
    student = place.attacker
    await fresh(place)
    async with undisturbed(place):
        for _ in range(RESTART_LIMIT):
            await student.ask("import os; os._exit(1)")
            await until(student, "restarting")
        await student.ask("import os; os._exit(1)")
        (sentence,) = words(await until(student, "dead"))
        assert "exited with code 1" in sentence
        model = (await student.call("GET", f"/api/kernels/{student.kernel_id}"))[1]
        assert model["execution_state"] == "dead"
        outcome = await student.run("print(1)")
        assert (outcome.reply["status"], "restart it" in outcome.reply["evalue"]) == ("error", True)
        assert (await student.call("POST", f"/api/kernels/{student.kernel_id}/restart"))[0] == 200
        assert (await student.run("print(4)")).text == "4\n"


async def test_a_kernel_killed_from_outside_is_told_of(place: Place) -> None:
    student = place.attacker
    await fresh(place)
    async with undisturbed(place):
        pid = int((await student.run("import os; print(os.getpid())")).text)
        os.kill(pid, signal.SIGKILL)
        assert "killed by signal 9 (SIGKILL)" in words(await until(student, "restarting"))[0]
        assert (await student.run("print(5)")).text == "5\n"


# A cell that has its own kernel send well signed nonsense to whoever listens.
NONSENSE: Final = """
import zmq
from jupyter_client.session import DELIM
kernel = get_ipython().kernel
def say(*parts, delim=DELIM, signed=True):
    parts = list(parts)
    signature = kernel.session.sign(parts[:4]) if signed else b"0" * 64
    kernel.iopub_socket.send_multipart([b"x", delim, signature, *parts])
odd = [b"", b"[]", b"null", b"1", b'"x"', b"\\xff", b"{", b"[" * 5000, b'{"msg_id": 1}', b'{"msg_id": null}']
for part in odd:
    say(part, b"{}", b"{}", b"{}")
    say(b'{"msg_id": "a", "msg_type": "status"}', part, b"{}", b"{}")
    say(b'{"msg_id": "b", "msg_type": "status"}', b"{}", part, part)
say()
say(b"{}")
say(b"{}", b"{}", b"{}", b"{}", signed=False)
say(b"{}", b"{}", b"{}", b"{}", delim=b"none")
say(*[b"{}"] * 5000)
print("done")
"""


@pytest.mark.parametrize("protocols", [True, False], ids=["v1", "legacy"])
async def test_a_kernel_that_says_nonsense_harms_nobody(place: Place, *, protocols: bool) -> None:
    student = place.attacker
    await fresh(place)
    async with undisturbed(place):
        mark = place.stack.mark()
        path = f"/api/kernels/{student.kernel_id}/channels?session_id=listener"
        offered = ["v1.kernel.websocket.jupyter.org"] if protocols else []
        async with student.http.ws_connect(path, protocols=offered, max_msg_size=0) as listener:
            await student.ask(NONSENSE)
            outcome_seen = False
            async with asyncio.timeout(30):
                while not outcome_seen:
                    data = (await listener.receive()).data
                    assert data is not None, "the listener's socket was closed"
                    outcome_seen = b"done" in (data if isinstance(data, bytes) else str(data).encode())
        assert (await place.ask("GET", f"/api/kernels/{student.kernel_id}")).status == 200
        errors = [event for event in complaints(place.stack, mark) if event["level"] != "warning"]
        assert errors == [], errors
    await fresh(place)


async def test_a_request_that_the_kernel_knows_nothing_of_does_not_block_it(place: Place) -> None:
    student = place.attacker
    await fresh(place)
    async with undisturbed(place):
        for kind in ("nonsense_request", "execute_reply", "status", "x" * 1000):
            await student.send(kind, {})
        await student.send("execute_request", {})  # without any code
        await student.send("complete_request", {"code": 1, "cursor_pos": "x"})
        assert (await student.run("print(6)")).text == "6\n"
        await student.send("nonsense_request", {}, "control")
        await student.send("debug_request", {"type": "request", "seq": "x", "command": 7}, "control")
        assert (await student.run("print(7)")).text == "7\n"


def nothing_but_warnings(stack: Stack) -> list[str]:
    """Errors in the whole log."""
    return [event["event"] for event in complaints(stack, 0) if event["level"] != "warning"]


async def test_none_of_all_that_was_an_error_of_the_server(place: Place) -> None:
    assert nothing_but_warnings(place.stack) == []
