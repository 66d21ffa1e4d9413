"""What front ends do with the channels WebSocket, over four workers: old framing, VS Code's start, several tabs."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import orjson
import pytest

from kernels import framing
from local.stack import Stack
from local.student import Said, SocketClosed, Student
from server.owned import ENTRY_HEADER, OWNER_HEADER
from tests.cluster.clients import LegacyStudent, SeatedStudent, header, one_at_each_worker

BUFFERS = [b"\x00\x01\x02", b"", bytes(range(256)) * 300]
# What a widget's kernel side does: it answers each message with the same buffers, each turned round.
ECHO = """
def opened(comm, message):
    def turn(message):
        comm.send({"said": message["content"]["data"]}, buffers=[bytes(each)[::-1] for each in message["buffers"]])
    comm.on_msg(turn)
    turn(message)
get_ipython().kernel.comm_manager.register_target("echo", opened)
"""


@pytest.fixture
async def legacy(stack: Stack) -> AsyncIterator[LegacyStudent]:
    """A client that offers no subprotocol, at a kernel of its own."""
    async with LegacyStudent(stack.url, stack.token("legacy")) as student:
        await student.start()
        await student.open()
        yield student
        await student.delete()


# -- the framing of clients that offer no subprotocol -------------------------------------------------------------


async def test_cells_run_over_text_frames(legacy: LegacyStudent) -> None:
    outcome = await legacy.run("print('größer — 日本語')\n6 * 7")
    assert outcome.text == "größer — 日本語\n"
    (result,) = [one for one in outcome.said if one.kind == "execute_result"]
    assert result.content["data"]["text/plain"] == "42"
    assert {one.channel for one in outcome.said} == {"iopub", "shell"}


async def test_buffers_travel_both_ways_in_binary_frames(legacy: LegacyStudent) -> None:
    await legacy.run(ECHO)
    comm = uuid.uuid4().hex
    opening = {"comm_id": comm, "target_name": "echo", "data": {"n": 1}}
    for kind, content in (("comm_open", opening), ("comm_msg", {"comm_id": comm, "data": {"n": 2}})):
        await legacy.send_legacy("shell", header(legacy.session_id, kind), {}, {}, content, BUFFERS)
        while True:
            message, buffers = await legacy.receive_legacy()
            if message["msg_type"] == "comm_msg":
                break
        assert message["content"]["data"] == {"said": content["data"]}
        assert buffers == [each[::-1] for each in BUFFERS]


async def test_buffers_travel_both_ways_in_frames_of_the_subprotocol(stack: Stack) -> None:
    async with Student(stack.url, stack.token("modern")) as student:
        await student.start()
        await student.open()
        await student.run(ECHO)
        content = {"comm_id": uuid.uuid4().hex, "target_name": "echo", "data": {}}
        parts = [orjson.dumps(part) for part in (header(student.session_id, "comm_open"), {}, {}, content)]
        await student.send_raw(framing.pack("shell", parts + BUFFERS))
        assert student._socket is not None
        while True:
            channel, parts = framing.unpack((await student._socket.receive(10)).data)
            if orjson.loads(parts[0])["msg_type"] == "comm_msg":
                break
        assert (channel, parts[4:]) == ("iopub", [each[::-1] for each in BUFFERS])
        await student.delete()


# -- VS Code ------------------------------------------------------------------------------------------------------


async def test_vs_code_starts_a_session_and_runs_cells(stack: Stack) -> None:
    token = {"Authorization": f"token {stack.token('vscode')}"}
    async with aiohttp.ClientSession(stack.url, cookie_jar=aiohttp.DummyCookieJar()) as first:
        for path in ("/", "/tree?", "/login?"):  # is there a password, and which XSRF cookie
            async with first.get(path, allow_redirects=False) as answer:
                assert answer.status < 500
        assert "_xsrf" in answer.cookies
        async with first.get("/api", headers=token) as answer:
            assert (await answer.json())["version"]
    async with Student(stack.url, stack.token("vscode")) as student:
        student.http.headers.update(token)
        path = f"/home/me/{uuid.uuid4()}.ipynb"
        body = {"path": path, "name": "lesson.ipynb", "type": "notebook", "kernel": {"name": "python3"}}
        status, session, headers = await student.call("POST", "/api/sessions", body)
        assert (status, headers["Location"]) == (201, f"/api/sessions/{session['id']}")
        student.kernel_id = session["kernel"]["id"]
        await student.open()
        info = await student.outcome(await student.send("kernel_info_request", {}))
        assert info.reply["status"] == "ok"
        assert (await student.run("import os")).reply["status"] == "ok"
        assert (await student.run("print(os.name)")).text == "posix\n"
        where = f"/api/sessions/{session['id']}"
        status, renamed, _ = await student.call("PATCH", where, {"path": f"{path}.renamed", "name": "renamed"})
        assert (status, renamed["path"], renamed["name"]) == (200, f"{path}.renamed", "renamed")
        assert renamed["kernel"]["id"] == student.kernel_id
        assert (await student.call("DELETE", where))[0] == 204
        assert (await student.call("GET", where))[0] == 404
        assert (await student.call("GET", f"/api/kernels/{student.kernel_id}"))[0] == 404


# -- several connections of one user ------------------------------------------------------------------------------


@pytest.fixture
async def four(stack: Stack) -> AsyncIterator[list[SeatedStudent]]:
    """The same user at each of the four workers, connected to the same kernel from different tabs."""
    user = f"student-{uuid.uuid4().hex[:8]}"
    async with Student(stack.url, stack.token(user)) as first, AsyncExitStack() as room:
        await first.start()
        seated = await one_at_each_worker(stack, user, room)
        for each in seated:
            each.kernel_id = first.kernel_id
            await each.open()
        yield seated
        assert await first.delete() == 204


def handshake(student: Student) -> tuple[str, str]:
    """The slots of entry worker and owner, as the answer to the WebSocket's handshake named them."""
    assert student._socket is not None
    headers = student._socket._response.headers
    return headers[ENTRY_HEADER], headers[OWNER_HEADER]


async def test_the_second_cell_knows_the_first_from_any_worker(four: list[SeatedStudent]) -> None:
    told = [handshake(each) for each in four]
    assert [entry for entry, _ in told] == [each.entry for each in four]
    assert len({entry for entry, _ in told}) == 4
    assert len({owner for _, owner in told}) == 1
    for first in four:
        await first.run("import os")
        for second in four:
            assert (await second.run("print(os.name)")).text == "posix\n"
        await first.run("del os")


async def test_what_a_cell_puts_out_reaches_every_tab(four: list[SeatedStudent]) -> None:
    asker, *others = four
    asked = await asker.ask("for n in range(200): print(n)")
    expected = "".join(f"{n}\n" for n in range(200))
    assert (await asker.outcome(asked)).text == expected
    for other in others:
        said: list[Said] = []
        while not said or said[-1].content.get("execution_state") != "idle":
            one = await other.receive()
            if one.parent.get("msg_id") == asked:
                said.append(one)
        assert {one.channel for one in said} == {"iopub"}  # the reply is for the one who asked
        assert "".join(one.content["text"] for one in said if one.kind == "stream") == expected


async def test_input_is_asked_of_the_tab_that_ran_the_cell(four: list[SeatedStudent]) -> None:
    for asker in four:
        asked = await asker.ask("name = input('Who? '); print('Hello', name)", allow_stdin=True)
        while (one := await asker.receive()).kind != "input_request":
            pass
        assert (one.channel, one.content["prompt"], one.parent["msg_id"]) == ("stdin", "Who? ", asked)
        await asker.send("input_reply", {"value": asker.entry, "status": "ok"}, channel="stdin")
        assert (await asker.outcome(asked)).text == f"Hello {asker.entry}\n"
    for each in four:  # what was asked of the others came before what comes now
        mine = await each.ask("'done'")
        heard = []
        while (one := await each.receive()).parent.get("msg_id") != mine:
            heard.append(one.kind)
        assert "input_request" not in heard


async def listen(student: Student) -> None:
    """Receive until the socket is closed. Raises SocketClosed."""
    while True:
        await student.receive(10)


async def test_the_same_session_id_again_replaces_the_older_socket(four: list[SeatedStudent]) -> None:
    older, newer, witness, _ = four
    newer.session_id = older.session_id
    await newer.open()
    with pytest.raises(SocketClosed) as closed:
        await listen(older)
    assert closed.value.code == 1000  # on which Lab does not come back to take the place again
    assert (await newer.run("print('newer')")).text == "newer\n"
    assert (await witness.run("print('witness')")).text == "witness\n"


async def test_a_closed_tab_disturbs_nobody_and_is_not_counted(four: list[SeatedStudent], stack: Stack) -> None:
    gone, stays, *_ = four

    async def connections() -> int:
        async with Student(stack.url, "") as other:
            other.http.headers["Authorization"] = stays._headers["Authorization"]
            return int((await other.call("GET", f"/api/kernels/{stays.kernel_id}"))[1]["connections"])

    assert await connections() == 4
    await gone.close()
    async with asyncio.timeout(10):
        while await connections() != 3:
            pass
    assert (await stays.run("print('still here')")).text == "still here\n"
