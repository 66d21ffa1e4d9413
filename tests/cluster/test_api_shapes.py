"""Our REST answers beside those of a real `jupyter_server`: same requests, status codes, keys and kinds of values.

Where ours differ on purpose, the table says how and why.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import pytest
from yarl import URL

from local.stack import Stack
from local.student import Student
from server.owned import ENTRY_HEADER, OWNER_HEADER
from tests.cluster.jupyter_process import JupyterProcess

NOBODY: Final = "00000000-0000-4000-8000-000000000000"
NOTEBOOK: Final = {"path": "a.ipynb", "name": "a.ipynb", "type": "notebook", "kernel": {"name": "python3"}}
MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")
UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Ask(NamedTuple):
    """A request; `{kernel}`, `{other}` and `{session}` stand for the ids that earlier answers gave."""

    method: str
    path: str
    body: Any = None
    keep: str = ""  # under which name the answer's id is kept


# In this order. A body of bytes is sent as it is.
JOURNEY: Final[dict[str, Ask]] = {
    "version": Ask("GET", "/api"),
    "status": Ask("GET", "/api/status"),
    "me": Ask("GET", "/api/me"),
    "me without permissions": Ask("GET", "/api/me?permissions="),
    "me with permissions": Ask("GET", '/api/me?permissions={"kernels":["read","write"]}'),
    "me with broken permissions": Ask("GET", "/api/me?permissions=["),
    "me with a list of permissions": Ask("GET", "/api/me?permissions=[1]"),
    "me with odd permissions": Ask("GET", '/api/me?permissions={"kernels":1}'),
    "no kernels": Ask("GET", "/api/kernels"),
    "kernelspecs": Ask("GET", "/api/kernelspecs"),
    "kernelspec": Ask("GET", "/api/kernelspecs/python3"),
    "unknown kernelspec": Ask("GET", "/api/kernelspecs/nope"),
    "start": Ask("POST", "/api/kernels", {"name": "python3"}, keep="kernel"),
    "start without a body": Ask("POST", "/api/kernels", b"", keep="other"),
    "start in a folder that cannot be": Ask("POST", "/api/kernels", {"path": f"{'a' * 300}/x.ipynb"}, keep="third"),
    "start an unknown kernelspec": Ask("POST", "/api/kernels", {"name": "nope"}),
    "start with broken JSON": Ask("POST", "/api/kernels", b"{"),
    "start with a list": Ask("POST", "/api/kernels", b"[1]"),
    "start with an id that is taken": Ask("POST", "/api/kernels", {"kernel_id": "{kernel}"}),
    "kernel": Ask("GET", "/api/kernels/{kernel}"),
    "kernels": Ask("GET", "/api/kernels"),
    "unknown kernel": Ask("GET", f"/api/kernels/{NOBODY}"),
    "delete an unknown kernel": Ask("DELETE", f"/api/kernels/{NOBODY}"),
    "interrupt an unknown kernel": Ask("POST", f"/api/kernels/{NOBODY}/interrupt"),
    "restart an unknown kernel": Ask("POST", f"/api/kernels/{NOBODY}/restart"),
    "no such method": Ask("PUT", "/api/kernels", {}),
    "restart": Ask("POST", "/api/kernels/{kernel}/restart"),
    "interrupt": Ask("POST", "/api/kernels/{kernel}/interrupt"),
    "delete": Ask("DELETE", "/api/kernels/{kernel}"),
    "deleted": Ask("GET", "/api/kernels/{kernel}"),
    "session": Ask("POST", "/api/sessions", NOTEBOOK, keep="session"),
    "the same session again": Ask("POST", "/api/sessions", NOTEBOOK),
    "console": Ask("POST", "/api/sessions", NOTEBOOK | {"type": "console", "path": "c-1"}, keep="console"),
    "session of the old form": Ask("POST", "/api/sessions", {"notebook": {"path": "old.ipynb"}, "name": "o"}),
    "session with a kernel that runs": Ask(
        "POST", "/api/sessions", NOTEBOOK | {"path": "b.ipynb", "kernel": {"id": "{other}"}}
    ),
    "session with an empty path": Ask("POST", "/api/sessions", NOTEBOOK | {"path": ""}),
    "session with an unknown kernelspec": Ask(
        "POST", "/api/sessions", NOTEBOOK | {"path": "d", "kernel": {"name": "n"}}
    ),
    "session without a body": Ask("POST", "/api/sessions", b""),
    "session without a path": Ask("POST", "/api/sessions", {"type": "notebook"}),
    "session without a type": Ask("POST", "/api/sessions", {"path": "e.ipynb"}),
    "session again": Ask("GET", "/api/sessions/{session}"),
    "sessions": Ask("GET", "/api/sessions"),
    "unknown session": Ask("GET", f"/api/sessions/{NOBODY}"),
    "rename": Ask("PATCH", "/api/sessions/{session}", {"path": "renamed.ipynb", "name": "renamed.ipynb"}),
    "another kernel by name": Ask("PATCH", "/api/sessions/{session}", {"kernel": {"name": "python3"}}),
    "another kernel by id": Ask("PATCH", "/api/sessions/{session}", {"kernel": {"id": "{third}"}}),
    "another kernel that is unknown": Ask("PATCH", "/api/sessions/{session}", {"kernel": {"id": NOBODY}}),
    "another kernel of an unknown kernelspec": Ask("PATCH", "/api/sessions/{session}", {"kernel": {"name": "nope"}}),
    "rename an unknown session": Ask("PATCH", f"/api/sessions/{NOBODY}", {"name": "x"}),
    "rename without a body": Ask("PATCH", "/api/sessions/{session}", b""),
    "delete the session": Ask("DELETE", "/api/sessions/{session}"),
    "delete the session again": Ask("DELETE", "/api/sessions/{session}"),
    "status of some kernels": Ask("GET", "/api/status"),
}

SENTENCE: Final = {"message": "str", "reason": "str"}
NO_REASON: Final = {"message": "str", "reason": "NoneType"}
# Ours, where it is another status or shape on purpose.
OTHERWISE: Final[dict[str, tuple[int, Any, str]]] = {
    "start an unknown kernelspec": (501, SENTENCE, "theirs is a 500 here, and a 501 for a session"),
    "start with a list": (400, NO_REASON, "theirs is an unhandled error"),
    "start with an id that is taken": (409, NO_REASON, "theirs answers the one that runs"),
    "restart an unknown kernel": (404, NO_REASON, "theirs is a 500"),
    "deleted": (404, SENTENCE, "`reason` says how it ended, for the page that shows it"),
    "session with an unknown kernelspec": (501, SENTENCE, "`reason`, as in all errors, for `short_message`"),
    "another kernel of an unknown kernelspec": (501, SENTENCE, "`reason`, as in all errors, for `short_message`"),
    "me": (200, None, "`updatable_fields` is empty: who somebody is comes from the login"),
    "me without permissions": (200, None, "as above"),
    "me with permissions": (200, None, "as above"),
}


class Answer(NamedTuple):
    """One answer."""

    status: int
    body: Any
    headers: Mapping[str, str]


def shape(value: Any) -> Any:
    """The keys and the kinds of the values; texts that are moments or ids say so."""
    match value:
        case dict():
            return {key: shape(each) for key, each in value.items()}
        case list():
            return [shape(each) for each in value[:1]]
        case str() if MOMENT.fullmatch(value):
            return "moment"
        case str() if UUID.fullmatch(value):
            return "id"
        case _:
            return type(value).__name__


async def travel(url: str, token: str) -> dict[str, Answer]:
    """Send every request of the journey; return the answers."""
    answers: dict[str, Answer] = {}
    known: dict[str, str] = {}

    def fill(text: str) -> str:
        for name, value in known.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    async with Student(url, token) as student:
        for name, ask in JOURNEY.items():
            body = ask.body if isinstance(ask.body, bytes) else fill(json.dumps(ask.body)).encode()
            data = None if ask.body is None else body
            async with student.http.request(ask.method, fill(ask.path), data=data) as answer:
                raw = await answer.read()
                answers[name] = Answer(answer.status, json.loads(raw) if raw else None, dict(answer.headers))
            if ask.keep:
                known[ask.keep] = answers[name].body["id"]
        for kernel in (await student.call("GET", "/api/kernels"))[1]:
            await student.call("DELETE", f"/api/kernels/{kernel['id']}")
    return answers


@pytest.fixture(scope="module")
def theirs() -> Iterator[dict[str, Answer]]:
    """The answers of a real jupyter_server."""
    with JupyterProcess("server") as server:
        yield asyncio.run(travel(server.url, server.token))


@pytest.fixture(scope="module")
def ours(stack: Stack) -> dict[str, Answer]:
    """The answers of our server."""
    return asyncio.run(travel(stack.url, stack.token(f"traveller-{uuid.uuid4().hex}")))


@pytest.mark.parametrize("name", [name for name in JOURNEY if name not in OTHERWISE])
def test_an_answer_is_jupyter_servers(name: str, ours: dict[str, Answer], theirs: dict[str, Answer]) -> None:
    own, other = ours[name], theirs[name]
    assert (own.status, shape(own.body)) == (other.status, shape(other.body))
    assert own.headers.get("Content-Type", "").split(";")[0] == other.headers.get("Content-Type", "")
    assert UUID.sub("id", own.headers.get("Location", "")) == UUID.sub("id", other.headers.get("Location", ""))


@pytest.mark.parametrize("name", OTHERWISE)
def test_an_answer_differs_only_as_the_table_says(
    name: str, ours: dict[str, Answer], theirs: dict[str, Answer]
) -> None:
    status, expected, why = OTHERWISE[name]
    own, other = ours[name], theirs[name]
    if expected is None:
        expected = shape(other.body)
        expected["permissions"]["updatable_fields"] = []
    assert (own.status, shape(own.body)) == (status, expected), why
    assert (own.status, shape(own.body)) != (other.status, shape(other.body)), "no difference any more: off the table"


def test_kernelspecs_are_the_same_in_every_word(ours: dict[str, Answer], theirs: dict[str, Answer]) -> None:
    assert ours["kernelspecs"].body == theirs["kernelspecs"].body
    assert ours["kernelspec"].body == theirs["kernelspec"].body


def test_errors_say_the_same(ours: dict[str, Answer], theirs: dict[str, Answer]) -> None:
    for name in ("unknown kernel", "deleted", "unknown session", "unknown kernelspec", "no such method"):
        assert UUID.sub("id", ours[name].body["message"]) == UUID.sub("id", theirs[name].body["message"])


def test_answers_about_kernels_name_the_entry_worker_and_the_owner(ours: dict[str, Answer]) -> None:
    about = [name for name, ask in JOURNEY.items() if re.match(r"/api/(kernels|sessions|status)\b", ask.path)]
    about.remove("no such method")  # no worker owns what does not exist
    for name in about:  # refusals too
        assert {ENTRY_HEADER, OWNER_HEADER} <= set(ours[name].headers), name
        assert re.fullmatch(r"[0-9a-f]{12}/[0-3]", ours[name].headers[ENTRY_HEADER])
    assert len({ours[name].headers[OWNER_HEADER] for name in about}) == 1  # one user, one owner


@pytest.mark.parametrize("file", ["nope.png", "..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "a%00b", "a" * 300, "."])
async def test_only_a_file_of_the_kernelspec_is_served(stack: Stack, file: str) -> None:
    async with Student(stack.url, stack.token("reader")) as student:
        url = URL(f"{stack.url}/kernelspecs/python3/{file}", encoded=True)
        async with student.http.get(url) as answer:
            assert answer.status == 404
            assert (await answer.json())["message"]


def test_a_user_is_who_the_token_says(ours: dict[str, Answer]) -> None:
    identity = ours["me"].body["identity"]
    assert identity["username"].startswith("traveller-")
    assert ours["me with permissions"].body["permissions"]["kernels"] == ["read", "write"]
