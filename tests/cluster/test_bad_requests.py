"""Who is asking, wrongly: tokens, headers, HTTP itself, and what of it gets into the log.

A refusal tells one sentence to the client and one line to the log, and neither ever has the token.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import jwt
import orjson
import pytest
import pytest_asyncio

from local.stack import Stack
from local.student import Student
from tests.cluster.attack import (
    Place,
    authorization,
    complaints,
    is_jupyters,
    place_at,
    say,
    undisturbed,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

SPY: Final = "cHJpdmF0ZS1ub3QtZm9yLXRoZS1sb2c"  # in every token and header here; must never be in the log
OTHER_SECRET: Final = "another-secret-of-more-than-32-bytes-in-length"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(stack: Stack) -> AsyncIterator[Place]:
    async with place_at(stack) as found:
        yield found


def unsigned(**header: Any) -> str:
    """A token whose header is given, with a good claim and no signature."""
    claims = {"sub": "somebody else", "exp": int(time.time()) + 3600, "jti": SPY}
    return (
        ".".join(base64.urlsafe_b64encode(orjson.dumps(part)).rstrip(b"=").decode() for part in (header, claims)) + "."
    )


def bad_tokens(stack: Stack) -> dict[str, str]:
    """Tokens that must let nobody in."""
    good = {"sub": "root", "exp": int(time.time()) + 3600, "jti": SPY}

    def sign(claims: dict[str, Any], key: str = stack.secret, algorithm: str = "HS256") -> str:
        return jwt.encode(claims, key, algorithm=algorithm)

    genuine = sign(good)
    return {
        "expired": sign(good | {"exp": int(time.time()) - 60}),
        "without expiry": sign({"sub": "root", "jti": SPY}),
        "not yet valid": sign(good | {"nbf": int(time.time()) + 3600}),
        "unsigned": unsigned(alg="HS256"),
        "without a user": sign({"exp": good["exp"], "jti": SPY}),
        "an empty user": sign(good | {"sub": ""}),
        "a user of 256 characters": sign(good | {"sub": "u" * 256}),
        "a user with a line break": sign(good | {"sub": 'root\n{"event": "forged"}'}),
        "a user with an escape": sign(good | {"sub": "root\x1b[2J"}),
        "a guest's": sign({"kernelring_guest": True, "exp": good["exp"], "jti": SPY}),
        "of another secret": sign(good, key=OTHER_SECRET),
        "HS512": sign(good, algorithm="HS512"),
        "alg none": unsigned(alg="none"),
        "alg None": unsigned(alg="None"),
        "alg RS256": unsigned(alg="RS256"),
        "alg is a list": unsigned(alg=["none"]),
        "alg is long": unsigned(alg="x" * 4000),
        "a key of its own": unsigned(alg="HS256", jwk={"kty": "oct", "k": SPY}),
        "a foreign key address": unsigned(alg="RS256", jku="http://127.0.0.1:1/", kid="../../../dev/null"),
        "an unknown critical field": unsigned(alg="HS256", crit=["exp"]),
        "signature cut": genuine[:-4],
        "signature gone": genuine.rpartition(".")[0] + ".",
        "claims exchanged": genuine.split(".")[0] + "." + unsigned(alg="x").split(".")[1] + "." + genuine.split(".")[2],
        "two dots": "..",
        "words": SPY,
        "four KiB": SPY * 130,
        "base64 of nothing": "e30.e30.e30",
    }


@pytest.mark.parametrize("how", ["Bearer", "token", "?token="])
async def test_a_bad_token_lets_nobody_in(place: Place, how: str) -> None:
    async with undisturbed(place), aiohttp.ClientSession(place.stack.url) as stranger:
        for name, token in bad_tokens(place.stack).items():
            headers = {} if how == "?token=" else {"Authorization": f"{how} {token}"}
            query = f"?token={token}" if how == "?token=" else ""
            for path in ("/api/kernels", f"/api/kernels/{place.attacker.kernel_id}"):
                mark = place.stack.mark()
                async with stranger.get(path + query, headers=headers) as answer:
                    assert (answer.status, is_jupyters(await answer.json())) == (403, True), (name, answer)
                (event,) = await place.told(mark, 1)
                assert event["status"] == 403
            mark = place.stack.mark()
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await stranger.ws_connect(f"/api/kernels/{place.attacker.kernel_id}/channels{query}", headers=headers)
            assert refused.value.status == 403, name
            await place.told(mark, 1)


async def test_a_login_with_a_bad_token_is_refused(place: Place) -> None:
    async with undisturbed(place), aiohttp.ClientSession(place.stack.url) as stranger:
        for name, token in bad_tokens(place.stack).items():
            mark = place.stack.mark()
            async with stranger.post("/login", json={"token": token}) as answer:
                assert (answer.status, is_jupyters(await answer.json())) == (403, True), (name, answer)
                assert "kernelring" not in answer.cookies
            await place.told(mark, 1)


BAD_LOGINS: Final[dict[str, tuple[bytes, str, int]]] = {
    "no JSON": (b"{", "application/json", 400),
    "brackets": (b"[" * 2**20, "application/json", 400),
    "a list": (b"[]", "application/json", 400),
    "a number for a token": (b'{"token": 1}', "application/json", 400),
    "no token": (b"{}", "application/json", 400),
    "no form": (b"\xff\xfe", "application/x-www-form-urlencoded", 400),
    "many fields": (b"&".join(b"a=1" for _ in range(100)), "application/x-www-form-urlencoded", 400),
    "another kind": (b"<token/>", "text/xml", 415),
    "no kind": (b"token", "", 415),
}


async def test_a_login_that_is_none_is_refused(place: Place) -> None:
    async with undisturbed(place), aiohttp.ClientSession(place.stack.url) as stranger:
        for name, (body, kind, status) in BAD_LOGINS.items():
            mark = place.stack.mark()
            async with stranger.post("/login", data=body, headers={"Content-Type": kind}) as answer:
                assert (answer.status, is_jupyters(await answer.json())) == (status, True), (name, answer)
            await place.told(mark, 1)


async def test_nobody_is_let_in_without_a_token(place: Place) -> None:
    headers: list[dict[str, str]] = [
        {},
        {"Authorization": "Basic cm9vdDpyb290"},
        {"Authorization": "Bearer"},
        {"Authorization": ""},
        {"Cookie": f"kernelring={SPY}"},
        {"Cookie": "kernelring=" + jwt.encode({"sub": "root", "sid": "1"}, place.stack.secret)},
        {"X-Kernelring-User": "root"},
    ]
    async with undisturbed(place), aiohttp.ClientSession(place.stack.url) as stranger:
        for given in headers:
            mark = place.stack.mark()
            async with stranger.get("/api/kernels", headers=given) as answer:
                assert (answer.status, is_jupyters(await answer.json())) == (403, True), (given, answer)
            await place.told(mark, 1)


async def test_a_header_never_says_who_somebody_is(place: Place) -> None:
    victim = (await place.neighbours[0].call("GET", "/api/me"))[1]["identity"]["username"]
    host_secret = (place.stack.runtime / "secret").read_text()
    own = (await place.ask("GET", "/api/me")).body["identity"]["username"]
    forged = {"User": victim, "Secret": host_secret, "Epoch": "1", "Request": str(uuid.uuid4())}
    async with undisturbed(place):
        for form in ("X-Kernelring-{}", "X_Kernelring_{}", "x-kernelring-{}", "X-KERNELRING-{}"):
            headers = {form.format(name): value for name, value in forged.items()}
            for _ in range(6):  # at the owner, and through other workers
                assert (await place.ask("GET", "/api/me", headers=headers)).body["identity"]["username"] == own
                kernels = (await place.ask("GET", "/api/kernels", headers=headers)).body
                assert [kernel["id"] for kernel in kernels] == [place.attacker.kernel_id]
            assert (await place.ask("GET", "/peer/ping", headers=headers)).status == 404


# -- HTTP itself ------------------------------------------------------------------------------------------------------


def malformed(place: Place) -> dict[str, bytes]:
    """Requests that are no HTTP, or not clearly one. With a good token, so that nothing else refuses them."""
    who = f"Host: x\r\nAuthorization: {authorization(place)}\r\n"
    post = f"POST /api/kernels HTTP/1.1\r\n{who}"
    chunked = f"{post}Transfer-Encoding: chunked\r\n"
    smuggled = "GET /api/kernels?smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    return {
        name: text.encode("latin-1")
        for name, text in {
            "a header of 9,000 bytes": f"GET /api HTTP/1.1\r\n{who}X: {SPY * 300}\r\n\r\n",
            "a token of 64 KiB": f"GET /api HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SPY * 2115}\r\n\r\n",
            "a token of 64 KiB in the address": f"GET /api?token={SPY * 2115} HTTP/1.1\r\n{who}\r\n",
            "1,000 headers": f"GET /api HTTP/1.1\r\n{who}" + "".join(f"X-{n}: {SPY}\r\n" for n in range(1000)) + "\r\n",
            "a header without a name": f"GET /api HTTP/1.1\r\n{who}: {SPY}\r\n\r\n",
            "a header with a space in its name": f"GET /api HTTP/1.1\r\n{who}X {SPY}: 1\r\n\r\n",
            "a header with a null character": f"GET /api HTTP/1.1\r\n{who}X: {SPY}\0\r\n\r\n",
            "a folded header": f"GET /api HTTP/1.1\r\n{who}X: 1\r\n {SPY}\r\n\r\n",
            "HTTP/9.9": f"GET /api HTTP/9.9\r\n{who}\r\n",
            "two lengths": f"{post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}x{smuggled}",
            "a negative length": f"{post}Content-Length: -1\r\n\r\n{smuggled}",
            "a length with a sign": f"{post}Content-Length: +2\r\n\r\n{{}}{smuggled}",
            "a length in words": f"{post}Content-Length: two\r\n\r\n{smuggled}",
            "a length and chunks": f"{chunked}Content-Length: 2\r\n\r\n0\r\n\r\n{smuggled}",
            "chunked twice": f"{chunked}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}",
            "chunked and something else": f"{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{smuggled}",
            "two hosts": f"GET /api HTTP/1.1\r\n{who}Host: y\r\n\r\n{smuggled}",
        }.items()
    }


async def test_what_is_no_http_is_refused_with_one_plain_line(place: Place) -> None:
    async with undisturbed(place):
        for name, request in malformed(place).items():
            mark = place.stack.mark()
            heard = await say(place, request)
            assert heard.split()[1] == b"400", (name, heard)
            assert heard.count(b"HTTP/1.") == 1, (name, "the rest was taken for a request of its own", heard)
            (event,) = await place.told(mark, 1)
            assert event["event"] == "request_malformed", (name, event)
            assert "exception" not in event
            assert SPY not in json.dumps(event), name


BAD_CHUNKS: Final = {
    "words": "xyz\r\nab\r\n0\r\n\r\n",
    "negative": "-1\r\n\r\n0\r\n\r\n",
    "a sign": "+2\r\n{}\r\n0\r\n\r\n",
    "2^64": "10000000000000000\r\n{}\r\n",
    "a line feed alone": "2\n{}\r\n0\r\n\r\n",
    "too long": "2\r\n{}xx\r\n0\r\n\r\n",
}


async def test_a_chunk_that_is_none_ends_the_request(place: Place) -> None:
    head = f"POST /api/kernels HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization(place)}\r\n"
    head += "Transfer-Encoding: chunked\r\n"
    async with undisturbed(place):
        for name, chunks in BAD_CHUNKS.items():
            mark = place.stack.mark()
            heard = await say(place, f"{head}\r\n{chunks}".encode())
            assert heard.split()[1] == b"400", (name, heard)
            assert heard.count(b"HTTP/1.") == 1, (name, heard)
            await place.told(mark, 1)
        assert len((await place.ask("GET", "/api/kernels")).body) == 1


# -- the log ----------------------------------------------------------------------------------------------------------

FORGED: Final = 'x\n{"event": "forged", "level": "info", "message": "forged"}\r\n\u2028\u0085\x1b[2K'


async def test_what_users_choose_stays_within_its_line(place: Place) -> None:
    async with undisturbed(place), aiohttp.ClientSession(place.stack.url) as stranger:
        mark = place.stack.mark()
        texts = {"path": FORGED, "name": FORGED, "type": FORGED}
        kernel = {"id": place.attacker.kernel_id}
        await place.ask("POST", "/api/sessions", json.dumps(texts | {"kernel": kernel}))
        await place.ask("POST", "/api/sessions", json.dumps(texts | {"path": f"{FORGED}2", "kernel": {"name": FORGED}}))
        await place.ask("POST", "/api/kernels", json.dumps({"name": FORGED, "path": FORGED}))
        await place.ask("POST", "/api/kernels", json.dumps({"kernel_id": FORGED}))
        await place.ask("GET", "/api/kernels/x%0a%7b%22event%22:%22forged%22%7d-b-c-d-e")
        await place.ask("GET", "/api/%0aforged?x=%0aforged", headers={"User-Agent": "x\t forged"})
        token = jwt.encode({"sub": FORGED, "exp": int(time.time()) + 60}, place.stack.secret)
        async with stranger.get("/api/kernels", headers={"Authorization": f"Bearer {token}"}) as answer:
            assert answer.status == 403
        await place.told(mark, 6)
    raw = place.stack.log_path.read_bytes()[mark:]
    lines = [json.loads(line) for line in raw.decode("ascii").splitlines()]  # each is JSON, and plain ASCII
    assert [line for line in lines if line["event"] == "forged"] == []
    assert not set(raw) & (set(range(32)) - {10})


async def test_no_secret_is_ever_in_the_log(place: Place) -> None:
    async with (
        undisturbed(place),
        aiohttp.ClientSession(place.stack.url) as browser,
        Student(place.stack.url, place.stack.token("logger")) as student,
    ):
        async with browser.get(f"/?token={place.stack.token('page')}", allow_redirects=False) as answer:
            assert answer.status == 302
        await student.call("GET", f"/api/kernels?token={place.stack.token('query')}")
        await student.start()
        await student.open()
        connection = place.stack.runtime / "k" / student.kernel_id / "connection.json"
        keys = [json.loads(connection.read_text())["key"]]
        await student.run("x = 1")
        await student.delete()
    keys += [json.loads(path.read_text())["key"] for path in place.stack.runtime.glob("k/*/connection.json")]
    host_secret = Path(place.stack.runtime / "secret").read_text().strip()
    logs = place.stack.log_path.read_text() + (place.stack.runtime / "nursery.log").read_text()
    for secret in (place.stack.secret, host_secret, SPY, OTHER_SECRET, *keys):
        assert secret
        assert secret not in logs
    tokens = authorization(place).split()[1].split(".")
    assert tokens[1] not in logs
    assert "eyJ" not in logs  # how every token begins
    assert [event for event in complaints(place.stack, 0) if event["level"] != "warning"] == []
