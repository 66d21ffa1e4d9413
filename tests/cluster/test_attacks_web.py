"""What one student tries against another by requests, while the other's cell runs; it is whole in the end.

Each request is sent as bytes, so that no client tidies it up, and several times, so that it comes to the owner and
through another worker. Where kernels share a uid what is tried is what touches files and kernels: the rest is the same.

Attacks by requests that are elsewhere, and not here again: `test_bad_requests` (bad tokens, forged identities with the
host's own secret, smuggling by lengths and chunks, forged log lines, secrets in the log), `test_bad_input` (others'
ids, paths of kernelspecs, bodies), `test_bad_frames` and `test_bad_floods` (WebSockets), `test_roles` (others'
kernels), `app/test_contents_attacks` (links, FIFOs and odd notebooks), `app/test_identity`, `app/test_cross_origin` and
`app/test_login` (other sites' pages, cookies, redirects), `contract/test_peer_site` and `contract/test_peers` (the
hop). Cells are in `test_attacks_kernel`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest
import pytest_asyncio

from local.stack import Stack
from tests.cluster.attack_ground import DIARY, LIVES_S, attacked
from tests.cluster.attack_requests import COOKIE, Known, Try, head, heard, logged_in
from tests.cluster.confined import told
from tests.cluster.conftest import LEAN
from tests.cluster.levels import WITH_UIDS, stack_at

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

AGAIN: Final = 4  # connections for each attack: two workers take them as they come
EVIL: Final = "Origin: https://evil.example\r\n"
UPGRADE: Final = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
STREAM: Final = "Accept: text/event-stream\r\n"
HOP: Final = (
    "X-Kernelring-User: ada\r\nX-Kernelring-Request: r\r\nX-Kernelring-Epoch: 1\r\n"
    "X-Kernelring-Behalf: operator%20mallory\r\nX-Kernelring-Secret: {secret}\r\n"
)
KERNEL: Final = "/api/kernels/{ada}"
CHANNELS: Final = f"{KERNEL}/channels"
RESULT: Final = f"{KERNEL}/requests/{{result}}"


class Poison:
    """What a server that unpickles would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("exit 1",)


PICKLE: Final = base64.b64encode(pickle.dumps(Poison())).decode()
UNSIGNED: Final = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=") + ".eyJzdWIiOiJhZGEifQ."
OF_HER: Final = {
    # what her kernel says, by every transport
    "her channels": Try("GET", CHANNELS, 404, UPGRADE),
    "her channels by her session": Try("GET", CHANNELS + "?session_id={session}", 404, UPGRADE),
    "her channels from where she is": Try("GET", CHANNELS + "?session_id={session}&last_seq=1.0", 404, UPGRADE),
    "her channels in the newer form": Try(
        "GET", CHANNELS, 404, f"{UPGRADE}Sec-WebSocket-Protocol: v1.kernel.websocket.jupyter.org\r\n"),
    "her channels by a token in the address": Try("GET", CHANNELS + "?token={token}", 404, UPGRADE, who="nobody"),
    "her channels without a login": Try("GET", CHANNELS, 403, UPGRADE, who="nobody"),
    "her channels with the words of the hop": Try("GET", CHANNELS, 404, UPGRADE + HOP),
    "her channels with the hop and no login": Try("GET", CHANNELS, 403, UPGRADE + HOP, who="nobody"),
    "the workers' own events of her cell": Try("GET", f"{RESULT}/events", 404, UPGRADE + HOP),
    "all that she runs": Try("GET", f"{KERNEL}/execute", 404),
    "a result of hers": Try("GET", RESULT, 404),
    "a result of hers with the hop": Try("GET", RESULT, 404, HOP),
    "a result of hers as events": Try("GET", RESULT, 404, STREAM),
    "a result of hers when it is there": Try("GET", f"{RESULT}?wait=5", 404),
    "a result of hers through another kernel": Try("GET", "/api/kernels/{mine}/requests/{result}", 404),
    "its events through another kernel": Try("GET", "/api/kernels/{mine}/requests/{result}", 404, STREAM),
    # her kernel
    "her kernel": Try("GET", KERNEL, 404),
    "to end her kernel": Try("DELETE", KERNEL, 404),
    "to interrupt her cell": Try("POST", f"{KERNEL}/interrupt", 404),
    "to restart her kernel": Try("POST", f"{KERNEL}/restart", 404),
    "to run code in it": Try("POST", f"{KERNEL}/execute", 404, body={"code": "print(said)"}),
    "to run code in it and see": Try("POST", f"{KERNEL}/execute", 404, STREAM, {"code": "print(said)"}),
    "to answer what it asks": Try("POST", f"{KERNEL}/input", 404, body={"input": "x"}),
    "to cancel what waits in it": Try("DELETE", RESULT, 404),
    "a kernel of the same id": Try("POST", "/api/kernels", 409, body={"kernel_id": "{ada}"}),
    "a session with it": Try("POST", "/api/sessions", 404, body={
        "path": "x.ipynb", "name": "", "type": "notebook", "kernel": {"id": "{ada}"}}),
    "to end it as an instructor": Try("DELETE", "/api/users/ada/kernels/{ada}", 404),
    "to see it as an operator": Try("GET", "/api/users/ada/kernels", 404, HOP),
    "a place of the workers' own": Try("GET", "/peer/ping", 404, HOP),
    # her files
    "to write into her folder": Try("PUT", "/api/contents/..%2fada%2fx.txt", 404, body={
        "type": "file", "format": "text", "content": "x"}),
    "to copy from her folder": Try("POST", "/api/contents", 404, body={"copy_from": "../ada/diary.txt"}),
    "to move into her folder": Try("PATCH", "/api/contents/page.txt", 404, body={"path": "../ada/page.txt"}),
    "to move out of her folder": Try("PATCH", "/api/contents/..%2fada%2fdiary.txt", 404, body={"path": "d.txt"}),
    "to remove a file of hers": Try("DELETE", "/api/contents/..%2fada%2fdiary.txt", 404),
    "checkpoints of a file of hers": Try("GET", "/api/contents/..%2fada%2fdiary.txt/checkpoints", 404),
    "a checkpoint in her folder": Try("POST", "/api/contents/..%2fada%2fdiary.txt/checkpoints", 404),
}  # fmt: skip
"""Tried where kernels share a uid, too: who answers has the rights of all of them."""

OF_THE_WEB: Final = {
    # her browser, made to ask by another site's page
    "a cross-site WebSocket": Try("GET", CHANNELS, 403, UPGRADE + EVIL, who="browser"),
    "a WebSocket from a page of nowhere": Try("GET", CHANNELS, 403, f"{UPGRADE}Origin: null\r\n", who="browser"),
    "a WebSocket from another port": Try("GET", CHANNELS, 403, f"{UPGRADE}Origin: http://{{host}}0\r\n", who="browser"),
    "a cross-site form": Try("POST", f"{KERNEL}/execute", 403, EVIL, {"code": "1"}, "browser"),
    "a form that says nothing of its site": Try("POST", f"{KERNEL}/execute", 403, body={"code": "1"}, who="browser"),
    "a form with a cookie that was planted": Try(
        "POST", f"{KERNEL}/execute", 403, f"{EVIL}X-XSRFToken: planted\r\n", {"code": "1"}, "browser"),
    "a cross-site end of her kernel": Try("DELETE", KERNEL, 403, EVIL, who="browser"),
    "a cross-site logout": Try("POST", "/logout", 403, EVIL, who="browser"),
    # cookies
    "a pickle for a cookie": Try("GET", KERNEL, 403, f"Cookie: {COOKIE}={PICKLE}\r\n", who="nobody"),
    "a cookie without a signature": Try("GET", KERNEL, 403, f"Cookie: {COOKIE}={UNSIGNED}\r\n", who="nobody"),
    "a cookie that names her": Try("GET", KERNEL, 403, f"Cookie: {COOKIE}=ada; user=ada\r\n", who="nobody"),
}  # fmt: skip


@pytest.fixture(scope="module", params=["uids", "landlock"])
def confining(request: pytest.FixtureRequest) -> Iterator[Stack]:
    with stack_at(request.param, **LEAN) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def known(confining: Stack) -> AsyncIterator[Known]:
    async with attacked(confining) as ground:
        _, taken, _ = await ground.ada.call("POST", f"/api/kernels/{ground.ada.kernel_id}/execute", {"code": "1 + 1"})
        await told(ground.mallory, "open('page.txt', 'w').close()")
        cookie = await logged_in(ground.stack, "ada")
        names = {
            "ada": ground.ada.kernel_id,
            "mine": ground.mallory.kernel_id,
            "session": ground.ada.session_id,
            "result": taken["request_id"],
            "token": ground.stack.token("mallory"),
            "secret": (ground.stack.runtime / "secret").read_text().strip(),
            "host": f"127.0.0.1:{ground.stack.port}",
        }
        yield Known(ground, names, cookie)
        (ground.home("ada") / "enough").touch()
        path = f"/api/kernels/{ground.ada.kernel_id}/requests/{taken['request_id']}?wait=60"
        _, result, _ = await ground.ada.call("GET", path, within_s=LIVES_S)
        assert result["status"] == "ok"  # nobody has cancelled it
        assert result["outputs"][0]["data"]["text/plain"] == "2"


@pytest.mark.parametrize("name", OF_HER)
async def test_what_is_hers_is_refused(known: Known, name: str) -> None:
    await refused(known, OF_HER[name])


@WITH_UIDS
@pytest.mark.parametrize("name", OF_THE_WEB)
async def test_what_another_site_or_a_forged_cookie_asks_is_refused(known: Known, name: str) -> None:
    await refused(known, OF_THE_WEB[name])


async def refused(known: Known, attack: Try) -> None:
    """Again and again."""
    async with known.ground.unharmed():
        for _ in range(AGAIN):
            said = await heard(known.ground.stack, head(known, attack))
            assert int(said.split()[1]) == attack.refused, said
            assert DIARY.encode() not in said


ROOTS: Final = {
    "/files": "diary.txt",
    "/api/contents": "diary.txt",
    "/nbconvert/html": "diary.ipynb",
    "/kernelspecs/python3": "diary.txt",
    "/lab/extensions": "diary.txt",
    "/static/lab": "diary.txt",
    "/static": "diary.txt",
    "/lab/api/themes": "diary.txt",
    "/lab/api/settings": "diary.txt",
}
WAYS: Final = [
    "../ada/{file}",
    "..%2fada%2f{file}",
    "%2e%2e/ada/{file}",
    "%2e%2e%2fada%2f{file}",
    "%252e%252e%252fada%252f{file}",
    "..%5cada%5c{file}",
    "x/../../ada/{file}",
    "..%00/ada/{file}",
    "%c0%ae%c0%ae/ada/{file}",
    "/{home}/{file}",
    "%2f{home}%2f{file}",
    "../../../../../../../../{home}/{file}",
    "..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f{home}%2f{file}",
]


async def test_what_the_others_look_for_is_there(known: Known) -> None:
    for path in ("/files/diary.txt", "/api/contents/diary.txt", "/nbconvert/html/diary.ipynb"):
        status, body, _ = await known.ground.ada.call("GET", path, within_s=LIVES_S)
        assert (status, DIARY in str(body)) == (200, True)


@pytest.mark.parametrize("root", ROOTS)
async def test_no_way_leads_into_anothers_folder(known: Known, root: str) -> None:
    stack, home = known.ground.stack, str(known.ground.home("ada")).lstrip("/")
    async with known.ground.unharmed():
        for way in WAYS:
            attack = Try("GET", f"{root}/{way.format(home=home, file=ROOTS[root])}", 404)
            said = await heard(stack, head(known, attack))
            assert int(said.split()[1]) in (400, 403, 404), (way, said)
            assert DIARY.encode() not in said


LINKS: Final = """
import os
os.mkdir("course-work")
os.symlink({home!r}, "hers")
os.symlink({home!r}, "course-work/.ipynb_checkpoints")
os.symlink({home!r} + "/new.txt", "new.txt")
open("course-work/a.txt", "w").close()
"""
FILE: Final = {"type": "file", "format": "text", "content": "of mallory"}
THROUGH_LINKS: Final[list[tuple[str, str, Any]]] = [
    ("PUT", "hers/x.txt", FILE),
    ("PUT", "hers/diary.txt", FILE),
    ("PUT", "hers/folder", {"type": "directory"}),
    ("POST", "hers", {"type": "notebook"}),
    ("POST", "hers", {"copy_from": "page.txt"}),
    ("PATCH", "page.txt", {"path": "hers/page.txt"}),
    ("PATCH", "hers/diary.txt", {"path": "diary.txt"}),
    ("DELETE", "hers/diary.txt", None),
    ("POST", "hers/diary.txt/checkpoints", None),
    ("PUT", "new.txt", FILE),
    ("POST", "course-work/a.txt/checkpoints", None),
]


async def test_no_link_leads_the_server_to_write_into_anothers_folder(known: Known) -> None:
    ground = known.ground
    home = ground.home("ada")
    await told(ground.mallory, LINKS.format(home=str(home)))
    before = sorted((path.name, path.lstat().st_uid, path.lstat().st_mtime_ns) for path in home.iterdir())
    async with ground.unharmed():
        for method, path, body in THROUGH_LINKS:
            status, said, _ = await ground.mallory.call(method, f"/api/contents/{path}", body)
            assert (400 <= status < 500, DIARY in str(said)) == (True, False), (method, path, said)
    assert sorted((path.name, path.lstat().st_uid, path.lstat().st_mtime_ns) for path in home.iterdir()) == before


async def test_what_a_cell_shows_is_written_into_no_notebook_of_another(known: Known) -> None:
    """The server writes it, when no page is there to see it."""
    ground = known.ground
    cell: dict[str, Any] = {
        "cell_type": "code",
        "id": "a",
        "execution_count": None,
        "metadata": {},
        "source": "",
        "outputs": [],
    }
    page = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    model = {"type": "notebook", "format": "json", "content": page}
    assert (await ground.ada.call("PUT", "/api/contents/hers.ipynb", model))[0] == 201
    before = (ground.home("ada") / "hers.ipynb").read_bytes()
    async with ground.unharmed():
        mark = ground.stack.mark()
        for path in ("../ada/hers.ipynb", f"{ground.home('ada')}/hers.ipynb", "hers.ipynb"):
            asked = {"code": "print('of mallory')", "metadata": {"cell_id": "a", "document_path": path}}
            run = f"/api/kernels/{ground.mallory.kernel_id}/execute?wait=60"
            assert (await ground.mallory.call("POST", run, asked, within_s=LIVES_S))[0] == 200
        await ground.mallory.close()
        assert (await ground.mallory.call("GET", "/api/contents/hers.ipynb"))[0] == 404
        assert (ground.home("ada") / "hers.ipynb").read_bytes() == before
        assert not [event for event in ground.stack.events(since=mark) if event["level"] == "error"]
        await ground.mallory.open()


@WITH_UIDS
async def test_a_session_that_was_planted_is_not_the_one_that_a_login_makes(known: Known) -> None:
    stack = known.ground.stack
    planted = await logged_in(stack, "mallory")
    fresh = await logged_in(stack, "ada", planted)
    assert await status_of(known, fresh) == {200}
    async with asyncio.timeout(LIVES_S):
        # It was mallory's, and has ended, which another worker may learn some seconds later.
        while (found := await status_of(known, planted)) != {403}:
            assert found <= {403, 404}


async def status_of(known: Known, cookie: str) -> set[int]:
    """What ada's kernel says to who has a cookie."""
    attack = Try("GET", KERNEL, 0, f"Cookie: {COOKIE}={cookie}\r\n", who="nobody")
    said = [await heard(known.ground.stack, head(known, attack)) for _ in range(AGAIN)]
    return {int(each.split()[1]) for each in said}


SMUGGLED: Final = "DELETE /api/kernels/{ada} HTTP/1.1\r\nHost: x\r\n" + HOP + "\r\n"
CHUNKED: Final = "Transfer-Encoding: chunked\r\n"
SMUGGLING: Final = {
    "a space before the colon": "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a vertical tab before chunked": "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunked in another list": "Transfer-Encoding: x, chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "lengths in a list": "Content-Length: 2, 3\r\n\r\n{{}}x",
    "a length in hexadecimal": "Content-Length: 0x2\r\n\r\n{{}}",
    "a carriage return alone": "X: y\rContent-Length: 2\r\n\r\n{{}}",
    "a length behind a null character": "X: \0\r\nContent-Length: 2\r\n\r\n{{}}",
    "a chunk's length with a space": f"{CHUNKED}\r\n2 2\r\n{{{{}}}}\r\n0\r\n\r\n",
    "a chunk without an end": f"{CHUNKED}\r\n2\r\n{{{{}}}}0\r\n\r\n",
}


@WITH_UIDS
@pytest.mark.parametrize("name", SMUGGLING)
async def test_a_request_in_a_request_is_refused_with_it(known: Known, name: str) -> None:
    text = f"POST /api/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {{token}}\r\n{SMUGGLING[name]}{SMUGGLED}"
    async with known.ground.unharmed():
        said = await heard(known.ground.stack, text.format(**known.told).encode("latin-1"), b"no end")
        assert (int(said.split()[1]), said.count(b"HTTP/1.")) == (400, 1), said


@WITH_UIDS
@pytest.mark.parametrize("name", ["a body that is a request", "a body where none is wanted", "a trailer"])
async def test_the_connections_between_workers_carry_nobody_elses_request(known: Known, name: str) -> None:
    """Whole and well-formed, so it is answered; what looks like a request in it comes to nobody."""
    ground = known.ground
    smuggled = SMUGGLED.format(**known.told)
    start = f"{{}} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {known.told['token']}\r\n"
    length = f"Content-Length: {len(smuggled)}\r\n\r\n{smuggled}"
    trailer = HOP.format(**known.told)
    request, status = {
        "a body that is a request": (start.format("POST /api/sessions") + length, 400),
        "a body where none is wanted": (start.format("GET /api/kernels") + length, 200),
        "a trailer": (f"{start.format('GET /api/kernels')}{CHUNKED}\r\n0\r\n{trailer}\r\n", 200),
    }[name]  # fmt: skip
    async with ground.unharmed():
        for _ in range(2 * AGAIN):
            said = await heard(ground.stack, request.encode(), b"no end")
            assert (int(said.split()[1]), said.count(b"HTTP/1.")) == (status, 1), said
            assert ground.ada.kernel_id.encode() not in said
            kernels = (await ground.ada.call("GET", "/api/kernels"))[1]
            assert [kernel["id"] for kernel in kernels] == [ground.ada.kernel_id]


@WITH_UIDS
async def test_no_token_cookie_or_key_is_in_a_log(known: Known) -> None:
    ground, stack = known.ground, known.ground.stack
    token, cookie = stack.token("logged"), known.cookie
    for target in ("/", "/tree", "/login", "/api/nothing", "/api/kernels", "/files/x", "/embed/x.ipynb", CHANNELS):
        for place in (f"{target}?token={token}", target):
            headers = (
                f"Referer: http://x{target}?token={token}\r\nUser-Agent: {token}\r\nAuthorization: token {token}\r\n"
            )
            for given in (headers, f"Cookie: {COOKIE}={cookie}\r\n", f"Authorization: Bearer {token}x\r\n"):
                await heard(stack, head(known, Try("GET", place, 0, given, who="nobody")))
    keys = [json.loads(path.read_text())["key"] for path in stack.runtime.glob("k/*/connection.json")]
    logs = [stack.log_path, stack.runtime / "nursery.log", *stack.runtime.glob("k/*/log")]
    text = "".join(path.read_text(errors="replace") for path in logs if path.exists())
    assert ground.ada.kernel_id in text
    for secret in (*(part for part in token.split(".")[1:]), *cookie.split(".")[1:], known.told["secret"], *keys):
        assert secret not in text
