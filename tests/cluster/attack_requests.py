"""How requests of one student against another are sent: as bytes, so that no client tidies them up."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Final, NamedTuple

import aiohttp

from local.stack import Stack
from tests.cluster.attack_ground import LIVES_S, Ground

COOKIE: Final = "kernelring"


class Try(NamedTuple):
    """One request. `who`: mallory with a token, nobody, or ada's browser, which another site's page has made ask."""

    method: str
    target: str
    refused: int
    headers: str = ""
    body: Any = None
    who: str = "mallory"


class Known(NamedTuple):
    """The ground, all that mallory may have come to know, and what she does not."""

    ground: Ground
    told: dict[str, str]
    cookie: str  # ada's


async def logged_in(stack: Stack, user: str, planted: str = "") -> str:
    """The cookie of a browser that has just logged in, and had another before."""
    headers = {"Cookie": f"{COOKIE}={planted}"}
    async with (
        aiohttp.ClientSession(stack.url, headers=headers) as browser,
        browser.post("/login", json={"token": stack.token(user)}) as answer,
    ):
        assert answer.status == 200
        return answer.cookies[COOKIE].value


def head(known: Known, attack: Try) -> bytes:
    """The whole request."""

    def filled(text: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda name: known.told[name[1]], text)

    body = filled(json.dumps(attack.body)) if attack.body is not None else ""
    who = {
        "mallory": f"Authorization: Bearer {known.told['token']}\r\n",
        "browser": f"Cookie: {COOKIE}={known.cookie}; _xsrf=planted\r\n",
        "nobody": "",
    }[attack.who]
    kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    start = f"{attack.method} {filled(attack.target)} HTTP/1.1\r\nHost: {known.told['host']}\r\n"
    return f"{start}{who}{kind}{filled(attack.headers)}\r\n{body}".encode("latin-1")


async def heard(stack: Stack, request: bytes, until: bytes = b"\r\n\r\n") -> bytes:
    """What comes back, at least until that, and what has come with it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    async with asyncio.timeout(LIVES_S):
        writer.write(request)
        said = b""
        while until not in said and (piece := await reader.read(65536)):
            said += piece
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", said)
        missing = int(length[1]) - len(said.partition(b"\r\n\r\n")[2]) if length else 0
        said += await reader.readexactly(missing) if missing > 0 else b""
    writer.close()
    return said
