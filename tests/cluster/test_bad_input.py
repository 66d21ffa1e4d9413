"""Requests that are wrong: bodies, ids, sizes. Each gets one sentence in Jupyter's form and one line in the log.

Nobody else notices: see `undisturbed`.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio

from local.stack import Stack
from local.student import Student
from server.bodies import BODY_S
from tests.cluster.attack import Answer, Place, authorization, is_jupyters, place_at, plug, read_head, say, undisturbed

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

MIB: Final = 2**20
NOBODY: Final = "00000000-0000-4000-8000-000000000000"
LONG: Final = "x" * 5000
NOT_OBJECTS: Final = {
    "half an object": b"{",
    "words": b"nonsense",
    "a list": b"[1]",
    "a text": b'"x"',
    "a number": b"1",
    "null": b"null",
    "NaN": b"NaN",
    "NaN in a field": b'{"name": NaN}',
    "infinity": b'{"name": -Infinity}',
    "a MiB of brackets": b"[" * MIB,
    "a MiB of objects": b'{"a":' * (MIB // 5),
    "a number beyond floats": b'{"name": 1e999}',
    "a number of 100,000 digits": b'{"name": ' + b"9" * 100_000 + b"}",
    "half a surrogate pair": b'{"name": "\\ud800"}',
    "Latin-1": b'{"name": "\xe9"}',
    "UTF-16": '{"name": "x"}'.encode("utf-16"),
    "a null character": b"\0",
    "two objects": b"{}{}",
}
WRONG_TYPES: Final = [1, 1.5, True, [], ["x"], {}, {"x": 1}, LONG]
NOT_OBJECT_TYPES: Final = [1, True, "x", [], [{}]]


def wrong_kernels() -> list[Any]:
    """Bodies of `POST /api/kernels` with one wrong field."""
    wrong: list[Any] = [{field: value} for field in ("name", "path", "kernel_id") for value in WRONG_TYPES]
    ids = [
        "",
        "x",
        "../../../etc",
        "a-b-c-d-e",
        f"{NOBODY}/..",
        f"{NOBODY}\n",
        f"\0{NOBODY}",
        "x" * 4000,
        NOBODY[:-1] + "A",
    ]
    return wrong + [{"kernel_id": value} for value in ids]


def wrong_sessions(*, new: bool) -> list[Any]:
    """Bodies of `POST /api/sessions` (`new`) or of `PATCH` with one wrong field."""
    good: dict[str, Any] = {"path": f"{uuid.uuid4().hex}.ipynb", "type": "notebook"} if new else {}
    wrong: list[Any] = [good | {field: value} for field in ("path", "type", "name") for value in WRONG_TYPES]
    wrong += [good | {field: value} for field in ("kernel", "notebook") for value in NOT_OBJECT_TYPES]
    wrong += [good | {"kernel": {field: value}} for field in ("id", "name") for value in WRONG_TYPES]
    wrong += [{"notebook": {"path": value}} for value in WRONG_TYPES if value]
    if new:
        wrong += [{}, {"path": "x"}, {"type": "x"}, {"path": None, "type": "x"}]
    else:
        wrong += [{"kernel": {"id": NOBODY}}]
    return wrong


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(stack: Stack) -> AsyncIterator[Place]:
    async with place_at(stack) as found:
        yield found


async def session_of(place: Place) -> str:
    """A session at the attacker's kernel."""
    body = {"path": "held.ipynb", "type": "notebook", "kernel": {"id": place.attacker.kernel_id}}
    return str((await place.ask("POST", "/api/sessions", json.dumps(body)))[1]["id"])


async def refused_once(place: Place, method: str, path: str, body: bytes, status: int, **options: Any) -> Answer:
    """Send one bad request: refused with `status` in Jupyter's form, and logged once."""
    mark = place.stack.mark()
    answer = await place.ask(method, path, body, **options)
    shown = (method, path[:80], body[:80])
    assert answer.status == status, (shown, answer)
    assert is_jupyters(answer.body), (shown, answer.body)
    (event,) = await place.told(mark, 1)
    assert (event["event"], event["status"], event["method"]) == ("request_refused", status, method), (shown, event)
    return answer


@pytest.mark.parametrize("endpoint", ["POST /api/kernels", "POST /api/sessions", "PATCH /api/sessions/{}"])
async def test_a_body_that_is_no_json_object_is_refused(place: Place, endpoint: str) -> None:
    method, path = endpoint.format(await session_of(place)).split()
    async with undisturbed(place):
        for name, body in NOT_OBJECTS.items():
            answer = await refused_once(place, method, path, body, 400)
            assert "JSON" in answer.body["message"], (name, answer)


@pytest.mark.parametrize("endpoint", ["POST /api/kernels", "POST /api/sessions", "PATCH /api/sessions/{}"])
async def test_a_field_of_a_wrong_kind_is_refused(place: Place, endpoint: str) -> None:
    method, path = endpoint.format(await session_of(place)).split()
    bodies = wrong_kernels() if "kernels" in path else wrong_sessions(new=method == "POST")
    async with undisturbed(place):
        for body in bodies:
            await refused_once(place, method, path, json.dumps(body).encode(), 400)
        kernels = (await place.ask("GET", "/api/kernels")).body
    assert [kernel["id"] for kernel in kernels] == [place.attacker.kernel_id]  # none was started in passing


# Kernelspecs and folders that cannot be are found out by looking, so what they are called does not matter.
ODD_NAMES: Final = [
    "nope",
    "../../etc",
    "a\0b",
    "x" * 4000,
    'a\n{"event": "forged"}',
    "\u202e\u2028\x1b[2J",
    "\U0001f980",
]


@pytest.mark.parametrize("path", ["/api/kernels", "/api/sessions"])
async def test_a_kernelspec_that_cannot_be_is_refused(place: Place, path: str) -> None:
    async with undisturbed(place):
        for name in ODD_NAMES:
            body: Any = {"name": name}
            if path == "/api/sessions":
                body = {"path": uuid.uuid4().hex, "type": "console", "kernel": body}
            answer = await refused_once(place, "POST", path, json.dumps(body).encode(), 501)
            assert name in answer.body["message"]
        assert len((await place.ask("GET", "/api/kernels")).body) == 1


async def test_a_path_that_leads_nowhere_is_the_users_own_directory(place: Place) -> None:
    paths = ["a\0b", "../../../../etc/x", "/etc/passwd", "\n", "x/" * 2000, "~root/x", "\U0001f980" * 1000]
    async with undisturbed(place), Student(place.stack.url, place.stack.token(f"walker-{uuid.uuid4().hex}")) as walker:
        for path in paths:
            status, model, _ = await walker.call("POST", "/api/kernels", {"path": path})
            assert status == 201
            walker.kernel_id = model["id"]
            await walker.open()
            where = (await walker.run("import os; print(os.getcwd())")).text
            assert "/notebooks/walker-" in where, (path, where)
            assert await walker.delete() == 204


BAD_IDS: Final = [
    "x",
    "..",
    "%2e%2e",
    "..%2f..%2fetc%2fpasswd",
    f"{NOBODY}%00",
    f"{NOBODY}%0a",
    f"{NOBODY}%2f..",
    f"..%2f{NOBODY}",
    "a-b-c-d-e",
    "%C3%A9-%C3%A9-%C3%A9-%C3%A9-%C3%A9",
    "%ED%A0%80-b-c-d-e",
    "%-b-c-d-e",
    f"{'x' * 3000}-b-c-d-e",
    "%0d%0aX-Forged:%20yes",
]
VERBS: Final = [
    ("GET", "/api/kernels/{}"),
    ("DELETE", "/api/kernels/{}"),
    ("POST", "/api/kernels/{}/interrupt"),
    ("POST", "/api/kernels/{}/restart"),
    ("GET", "/api/kernels/{}/channels"),
    ("GET", "/api/sessions/{}"),
    ("PATCH", "/api/sessions/{}"),
    ("DELETE", "/api/sessions/{}"),
    ("GET", "/api/kernelspecs/{}"),
]


async def raw_answer(place: Place, method: str, target: str, body: bytes = b"", extra: str = "") -> Answer:
    """One request whose target is sent as it is written, which aiohttp's client would tidy up."""
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization(place)}\r\nConnection: close\r\n"
    heard = await say(place, f"{head}Content-Length: {len(body)}\r\n{extra}\r\n".encode() + body)
    top, _, rest = heard.partition(b"\r\n\r\n")
    lines = top.decode("latin-1").split("\r\n")
    headers = {name: value for name, _, value in (line.partition(": ") for line in lines[1:])}
    kind = headers.get("Content-Type", "")
    return Answer(int(lines[0].split()[1]), json.loads(rest) if "json" in kind else rest, headers)


async def test_an_id_that_is_none_is_not_found(place: Place) -> None:
    async with undisturbed(place):
        for method, path in VERBS:
            for bad in BAD_IDS:
                mark = place.stack.mark()
                answer = await raw_answer(place, method, path.format(bad), b"{}" if method == "PATCH" else b"")
                assert answer.status == 404, (method, path, bad, answer)
                assert is_jupyters(answer.body), (method, path, bad, answer)
                assert "X-Forged" not in answer.headers
                (event,) = await place.told(mark, 1)
                assert len(event["path"]) <= 200


async def test_an_id_longer_than_a_line_may_be_is_refused(place: Place) -> None:
    async with undisturbed(place):
        for method, path in VERBS:
            mark = place.stack.mark()
            answer = await raw_answer(place, method, path.format("x" * 10_000))
            assert answer.status == 400, answer
            (event,) = await place.told(mark, 1)
            assert event["event"] == "request_malformed"
            assert "xxx" not in json.dumps(event)


async def test_files_outside_a_kernelspec_are_not_found(place: Place) -> None:
    names = ["../kernel.json", "..%2f..%2f..%2fetc/passwd", "%2fetc%2fpasswd", "a%00b", "x" * 4000, "%2e%2e/%2e%2e/x"]
    async with undisturbed(place):
        for name in names:
            mark = place.stack.mark()
            answer = await raw_answer(place, "GET", f"/kernelspecs/python3/{name}")
            assert answer.status == 404, (name, answer)
            assert len(await asyncio.to_thread(place.stack.events, None, mark)) <= 1


async def test_somebody_elses_ids_are_not_found(place: Place) -> None:
    theirs = place.neighbours
    async with undisturbed(place):
        for victim in theirs:
            for method, path in VERBS[:4]:
                answer = await refused_once(place, method, path.format(victim.kernel_id), b"", 404)
                assert answer.body["message"] == f"Kernel does not exist: {victim.kernel_id}"
            _, session, _ = await victim.call(
                "POST", "/api/sessions", {"path": "p", "type": "notebook", "kernel": {"id": victim.kernel_id}}
            )
            for method, path in VERBS[5:8]:
                await refused_once(place, method, path.format(session["id"]), b"{}", 404)
            mark = place.stack.mark()
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await place.attacker.http.ws_connect(f"/api/kernels/{victim.kernel_id}/channels")
            assert refused.value.status == 404
            await place.told(mark, 1)
            body = json.dumps({"path": "q", "type": "notebook", "kernel": {"id": victim.kernel_id}}).encode()
            await refused_once(place, "POST", "/api/sessions", body, 404)
            await refused_once(place, "PATCH", f"/api/sessions/{await session_of(place)}", body, 400)
            taken = json.dumps({"kernel_id": victim.kernel_id}).encode()
            await refused_once(place, "POST", "/api/kernels", taken, 409)
            assert (await victim.call("GET", f"/api/kernels/{victim.kernel_id}"))[0] == 200


async def test_more_sessions_than_a_kernel_can_note_are_refused(place: Place) -> None:
    async with undisturbed(place):
        statuses = []
        for number in range(8):
            body = {"path": f"{number}" + "\U0001f980" * 4000, "type": "x", "kernel": {"id": place.attacker.kernel_id}}
            mark = place.stack.mark()
            answer = await place.ask("POST", "/api/sessions", json.dumps(body))
            statuses.append(answer.status)
            if answer.status != 201:
                assert is_jupyters(answer.body)
                await place.told(mark, 1)
        assert set(statuses) == {201, 400}, statuses
        assert len((await place.ask("GET", "/api/kernels")).body) == 1


# -- sizes ------------------------------------------------------------------------------------------------------------


async def pieces(total: int) -> AsyncIterator[bytes]:
    """A body that is sent in chunks."""
    piece = b"x" * 65536
    for _ in range(total // len(piece)):
        yield piece


@pytest.mark.parametrize("path", ["/api/kernels", "/login"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_of_50_mib_is_refused(place: Place, path: str, *, chunked: bool) -> None:
    headers = {"Content-Type": "application/json"}
    async with undisturbed(place):
        mark = place.stack.mark()
        body = pieces(50 * MIB) if chunked else io.BytesIO(b"x" * (50 * MIB))
        answer = await place.ask("POST", path, body, headers=headers)
        assert answer.status == 413
        if path != "/login":
            assert is_jupyters(answer.body)
            await place.told(mark, 1)


async def test_a_body_that_unpacks_to_50_mib_is_refused(place: Place) -> None:
    async with undisturbed(place):
        packed = gzip.compress(b"[" * (50 * MIB))
        await refused_once(place, "POST", "/api/kernels", packed, 413, headers={"Content-Encoding": "gzip"})


async def test_a_body_that_is_not_what_its_headers_say_is_refused(place: Place) -> None:
    async with undisturbed(place):
        for encoding in ("gzip", "deflate"):
            mark = place.stack.mark()
            answer = await place.ask("POST", "/api/kernels", b"nonsense", headers={"Content-Encoding": encoding})
            assert (answer.status, is_jupyters(answer.body)) == (400, True), answer
            await place.told(mark, 1)
        for kind in ("text/\xe9", "x" * 4000, "a/b; charset=nonsense", "\t", "a/b; charset=\x7f"):
            for _ in range(6):  # so that some reach the owner through another worker
                mark = place.stack.mark()
                extra = f"Content-Type: {kind}\r\n"
                answer = await raw_answer(place, "POST", "/api/kernels", b'{"name": "nope"}', extra)
                assert answer.status in (400, 501), (kind, answer)
                await place.told(mark, 1)


async def test_a_body_that_stalls_is_given_up(place: Place) -> None:
    head = f"POST /api/kernels HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization(place)}\r\n"
    loop = asyncio.get_running_loop()
    stalls = ["Content-Length: 100\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n5\r\n{"]
    stalls += ["Transfer-Encoding: chunked\r\n\r\n5;" + "x" * 10_000]  # an extension that does not end

    async def stall(rest: str) -> None:
        with await plug(place) as line:
            await loop.sock_sendall(line, (head + rest).encode())
            heard = await read_head(line, 2 * BODY_S)
            assert heard.startswith(b"HTTP/1.1 408 "), (rest[:50], heard)

    async with undisturbed(place):
        mark = place.stack.mark()
        await asyncio.gather(*map(stall, stalls))
        await place.told(mark, len(stalls))
