"""The pages and files of the front ends: which address shows what, with which headers, and nothing beyond them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType

from server.frontend import events
from server.frontend.bundles import is_hashed
from server.frontend.frontend import FRONTEND
from tests.app.pages_kit import Pages, pages_in

NOTEBOOK = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
CONFIG = re.compile(r'<script id="jupyter-config-data" type="application/json">(.*?)</script>')


@pytest.fixture
async def pages(tmp_path: Path) -> AsyncIterator[Pages]:
    async with pages_in(tmp_path) as made:
        home = made.home()
        (home / "folder").mkdir()
        (home / "x y.ipynb").write_text(json.dumps(NOTEBOOK))
        (home / "a.txt").write_text("0123456789")
        yield made


async def config_of(pages: Pages, path: str, **more: Any) -> dict[str, Any]:
    answer = await pages.ask(path, **more)
    assert answer.status == 200, path
    assert answer.content_type == "text/html"
    found = CONFIG.search(await answer.text())
    assert found
    return dict(json.loads(found[1]))


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/tree", {"notebookPage": "tree", "treePath": ""}),
        ("/tree/folder", {"notebookPage": "tree", "treePath": "folder"}),
        ("/notebooks/x%20y.ipynb", {"notebookPage": "notebooks"}),
        ("/notebooks/missing.ipynb", {"notebookPage": "notebooks"}),
        ("/edit/a.txt", {"notebookPage": "edit"}),
        ("/edit/missing.txt", {"notebookPage": "edit"}),
        ("/consoles/1", {"notebookPage": "consoles"}),
        ("/lab", {"mode": "multiple-document", "workspace": "default", "treePath": ""}),
        ("/lab/tree/folder/b.ipynb", {"treePath": "folder/b.ipynb"}),
        ("/lab/workspaces/auto-1/tree/a.txt", {"workspace": "auto-1", "treePath": "a.txt"}),
        ("/doc/tree/a.txt", {"mode": "single-document", "treePath": "a.txt"}),
        ("/lab/nowhere", {"notFoundUrl": "/lab/nowhere"}),
    ],
)
async def test_each_address_shows_its_page(pages: Pages, path: str, shown: dict[str, str]) -> None:
    assert shown.items() <= (await config_of(pages, path)).items()


@pytest.mark.parametrize(
    ("path", "to"),
    [
        ("/tree/x%20y.ipynb", "/notebooks/x%20y.ipynb"),
        ("/tree/a.txt", "/files/a.txt"),
        ("/notebooks/folder", "/tree/folder"),
        ("/notebooks", "/tree/"),
        ("/lab/", "/lab"),
    ],
)
async def test_other_addresses_lead_to_it(pages: Pages, path: str, to: str) -> None:
    answer = await pages.ask(path)
    assert (answer.status, answer.headers["Location"]) == (302, to)


async def test_a_missing_folder_is_said_calmly_and_its_name_is_text(pages: Pages) -> None:
    answer = await pages.ask("/tree/%3Cscript%3E")
    assert answer.status == 404
    assert "<strong>&lt;script&gt;</strong>" in await answer.text()


async def test_pages_are_not_kept_and_not_framed_by_others(pages: Pages) -> None:
    headers = (await pages.ask("/tree")).headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Content-Security-Policy"].startswith("frame-ancestors 'self';")


async def test_who_may_frame_pages_is_a_setting(tmp_path: Path) -> None:
    async with pages_in(tmp_path, frame_ancestors=("'self'", "https://lms.example")) as pages:
        policy = (await pages.ask("/lab")).headers["Content-Security-Policy"]
        assert policy.startswith("frame-ancestors 'self' https://lms.example;")


async def test_the_page_is_told_nothing_of_other_hosts_and_directories_of_the_server(pages: Pages) -> None:
    for path in ("/tree", "/lab"):
        told = await config_of(pages, path)
        assert told["serverRoot"] == str(pages.home())
        assert "://" not in json.dumps(told)
        inside = json.dumps({name: value for name, value in told.items() if name != "serverRoot"})
        assert str(Path(__file__).parents[2]) not in inside
        assert "site-packages" not in inside
        assert "@jupyterlab/apputils-extension:announcements" in told["disabledExtensions"]
        assert "@datalayer/jupyter-server-nbmodel" in [each["name"] for each in told["federated_extensions"]]


async def test_what_the_pages_load_is_there_compressed_and_never_asked_for_again(pages: Pages) -> None:
    for path in ("/tree", "/lab"):
        script = re.findall(r'<script defer="defer" src="([^"?]+)', await (await pages.ask(path)).text())[0]
        answer = await pages.ask(script, headers={"Accept-Encoding": "gzip"})
        assert (answer.status, answer.headers["Content-Encoding"]) == (200, "gzip")
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.content_type == "text/javascript"
        plain = await pages.ask(script, headers={"Accept-Encoding": "identity"})
        assert "Content-Encoding" not in plain.headers
        assert await plain.text() == await answer.text()  # the client has unpacked it
        again = await pages.ask(script, headers={"Accept-Encoding": "gzip", "If-None-Match": answer.headers["ETag"]})
        assert again.status == 304


async def test_extensions_are_served_and_their_entry_is_where_the_page_looks(pages: Pages) -> None:
    told = await config_of(pages, "/lab")
    for each in told["federated_extensions"]:
        answer = await pages.ask(f"{told['fullLabextensionsUrl']}/{each['name']}/{each['load']}")
        assert (answer.status, answer.content_type) == (200, "text/javascript"), each["name"]


def test_hashed_names_are_told_from_others() -> None:
    assert is_hashed("main.a7084e35c3230587.js")
    assert is_hashed("620019ed9d1100b6.woff2")
    assert not is_hashed("package.json")
    assert not is_hashed("bootstrap.js")


@pytest.mark.parametrize("prefix", ["/static/lab/", "/static/notebook/", "/static/favicons/", "/lab/api/themes/"])
@pytest.mark.parametrize("escape", ["../", "..%2f", "%2e%2e%2f", "/", "%2f"])
async def test_no_path_leads_out_of_the_packages(pages: Pages, prefix: str, escape: str) -> None:
    for depth in (1, 12):
        answer = await pages.ask(f"{prefix}{escape * depth}etc/passwd")
        assert answer.status == 404


@pytest.mark.parametrize("name", ["..%2f..%2fetc/passwd", "@jupyter-widgets/..%2f..", "nobody/package.json", "%00/x"])
async def test_no_path_leads_out_of_extensions(pages: Pages, name: str) -> None:
    assert (await pages.ask(f"/lab/extensions/{name}")).status == 404


async def test_small_parts_that_pages_ask_for(pages: Pages) -> None:
    for path, status, kind in [
        ("/favicon.ico", 200, "image/vnd.microsoft.icon"),
        ("/static/favicons/favicon-busy-1.ico", 200, "image/vnd.microsoft.icon"),
        ("/static/notebook/favicons/favicon-console.ico", 200, "image/vnd.microsoft.icon"),
        ("/custom/custom.css", 200, "text/css"),
        ("/api/spec.yaml", 200, "text/x-yaml"),
        ("/lsp/status", 200, "application/json"),
        ("/api/config/notebook", 200, "application/json"),
        ("/api/nbconvert", 200, "application/json"),
        ("/api/terminals", 404, "application/json"),
        ("/lab/api/extensions", 404, "application/json"),
        ("/metrics", 404, "text/plain"),
    ]:
        answer = await pages.ask(path)
        assert (answer.status, answer.content_type) == (status, kind), path


async def test_a_page_hears_events_of_its_user_and_is_sent_away_when_the_worker_stops(pages: Pages) -> None:
    def listen(user: str) -> Any:
        return pages.client.ws_connect("/api/events/subscribe", headers={"X-User": user})

    async with listen("ada") as mine, listen("bob") as other:
        await events.publish(pages.app, "ada", "https://example/one", {"n": 1})
        assert await mine.receive_json(timeout=5) == {"schema_id": "https://example/one", "n": 1}
        await events.close_events(pages.app)
        for socket in (mine, other):
            closed = await socket.receive(timeout=5)
            assert (closed.type, closed.data) == (WSMsgType.CLOSE, 1012)


async def test_a_user_has_a_bounded_number_of_event_sockets(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PER_USER", 1)
    async with pages.client.ws_connect("/api/events/subscribe"):
        assert (await pages.ask("/api/events/subscribe")).status == 429


async def test_no_event_is_taken_from_a_page(pages: Pages) -> None:
    event = {"schema_id": "https://example/one", "version": "1", "data": {}}
    assert (await pages.ask("/api/events", "POST", json=event)).status == 400
    assert (await pages.ask("/api/events", "POST", json={"data": {}})).status == 400


async def test_a_first_request_that_is_broken_off_does_not_break_the_reading(pages: Pages) -> None:
    assert await pages.app[FRONTEND].catalogue() is await pages.app[FRONTEND].catalogue()
