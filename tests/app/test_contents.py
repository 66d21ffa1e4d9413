"""Jupyter's contents API on one user's directory: every verb, with jupyter_server's answers."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from nbformat.sign import NotebookNotary

from tests.app.contents_kit import Desk, desk_in, notebook, text


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_in(tmp_path) as made:
        yield made


async def test_a_notebook_is_saved_and_comes_back(desk: Desk) -> None:
    saved = await desk.call("PUT", "Lesson 1.ipynb", notebook("1 + 1"))
    assert saved.status == 201
    assert saved.headers["Location"] == "/api/contents/Lesson%201.ipynb"
    assert saved.headers["Last-Modified"].endswith("GMT")
    assert saved.model["content"] is None
    assert saved.model["format"] is None
    again = await desk.call("PUT", "Lesson 1.ipynb", notebook("1 + 2"))
    assert again.status == 200
    found = await desk.call("GET", "Lesson 1.ipynb")
    assert found.model["content"]["cells"][0]["source"] == "1 + 2"
    assert (found.model["type"], found.model["format"]) == ("notebook", "json")
    assert json.loads((desk.home / "Lesson 1.ipynb").read_text())["cells"][0]["source"] == ["1 + 2"]


async def test_models_are_those_of_jupyter_server(desk: Desk) -> None:
    """All but the moment at which they were asked for."""
    await desk.call("PUT", "a.ipynb", notebook("1"))
    await desk.call("PUT", "folder", {"type": "directory"})
    await desk.call("PUT", "folder/b.txt", text("é"))
    (desk.home / "folder" / "c.bin").write_bytes(b"\xff\x00")
    (desk.home / "folder" / "link.txt").symlink_to("b.txt")
    (desk.home / "folder" / "__pycache__").mkdir()
    (desk.home / "folder" / ".hidden").touch()
    notary: Any = NotebookNotary  # neither is typed
    manager: Any = LargeFileManager
    stock = manager(root_dir=str(desk.home), notary=notary(data_dir=str(desk.state)))
    for path, options in [
        ("a.ipynb", {}),
        ("a.ipynb", {"content": "0", "hash": "1"}),
        ("a.ipynb", {"type": "file"}),
        ("folder", {}),
        ("folder", {"content": "0"}),
        ("", {}),
        ("folder/b.txt", {}),
        ("folder/b.txt", {"format": "base64", "hash": "1"}),
        ("folder/c.bin", {}),
        ("folder/link.txt", {}),
    ]:
        ours = await desk.call("GET", path, **options)
        asked: dict[str, Any] = {name: value for name, value in options.items() if name in ("type", "format")}
        content, require_hash = options.get("content") != "0", options.get("hash") == "1"
        theirs = stock.get(path, content=content, require_hash=require_hash, **asked)
        assert (ours.status, plain(ours.model)) == (200, plain(theirs)), path


def plain(model: Any) -> Any:
    """A model without order, and with times as they are on the wire."""
    if isinstance(model, dict):
        kept = {name: plain(value) for name, value in model.items()}
        if kept.get("type") == "directory" and kept.get("content"):
            kept["content"].sort(key=lambda each: str(each["name"]))
        return kept
    if isinstance(model, list):
        return [plain(each) for each in model]
    return model.isoformat().replace("+00:00", "Z") if isinstance(model, datetime) else model


async def test_a_hash_changes_with_the_file_and_times_keep_their_digits(desk: Desk) -> None:
    await desk.call("PUT", "a.txt", text("one"))
    first = (await desk.call("GET", "a.txt", content="0", hash="1")).model
    os.utime(desk.home / "a.txt", ns=(0, 1_700_000_000_123_456_000))
    second = (await desk.call("GET", "a.txt", content="0", hash="1")).model
    assert second["last_modified"] == "2023-11-14T22:13:20.123456Z"
    assert (first["hash"], first["hash_algorithm"]) == (second["hash"], "sha256")
    await desk.call("PUT", "a.txt", text("two"))
    assert (await desk.call("GET", "a.txt", content="0", hash="1")).model["hash"] != first["hash"]
    assert (await desk.call("GET", "a.txt", content="0")).model["hash"] is None


async def test_new_files_get_names_of_their_own(desk: Desk) -> None:
    names = []
    asked = [{"type": "notebook"}, {"type": "notebook"}, {"type": "file", "ext": ".py"}, {"type": "directory"}, None]
    for body in asked:
        made = await desk.call("POST", "", body)
        assert made.status == 201
        assert made.headers["Location"] == f"/api/contents/{made.model['path']}".replace(" ", "%20")
        names.append(made.model["path"])
    assert names == ["Untitled.ipynb", "Untitled1.ipynb", "untitled.py", "Untitled Folder", "untitled"]
    assert (await desk.call("POST", "untitled.py", {"type": "file"})).status == 400
    assert (await desk.call("POST", "nowhere", {"type": "file"})).status == 404


async def test_copies(desk: Desk) -> None:
    await desk.call("PUT", "a.ipynb", notebook("1"))
    await desk.call("PUT", "d", {"type": "directory"})
    copies = [await desk.call("POST", to, {"copy_from": "/a.ipynb"}) for to in ("", "", "d")]
    assert [(each.status, each.model["path"]) for each in copies] == [
        (201, "a-Copy1.ipynb"),
        (201, "a-Copy2.ipynb"),
        (201, "d/a.ipynb"),
    ]
    folder = await desk.call("POST", "", {"copy_from": "d"})
    assert (folder.status, folder.model["path"]) == (201, "d-Copy1")
    assert (desk.home / "d-Copy1" / "a.ipynb").read_bytes() == (desk.home / "a.ipynb").read_bytes()
    assert (await desk.call("POST", "", {"copy_from": "nothing.txt"})).status == 404
    assert (await desk.call("POST", "d", {"copy_from": "d"})).status == 400


async def test_renaming_takes_the_checkpoint_along_and_never_overwrites(desk: Desk) -> None:
    await desk.call("PUT", "a.ipynb", notebook("1"))
    await desk.call("PUT", "b.ipynb", notebook("2"))
    await desk.call("PUT", "d", {"type": "directory"})
    moved = await desk.call("PATCH", "a.ipynb", {"path": "d/c.ipynb"})
    assert (moved.status, moved.model["path"], moved.model["name"]) == (200, "d/c.ipynb", "c.ipynb")
    assert len((await desk.call("GET", "d/c.ipynb/checkpoints")).model) == 1
    assert (await desk.call("GET", "a.ipynb")).status == 404
    assert (await desk.call("PATCH", "d/c.ipynb", {"path": "b.ipynb"})).status == 409
    assert (await desk.call("PATCH", "a.ipynb", {"path": "x.ipynb"})).status == 404
    assert (await desk.call("PATCH", "b.ipynb", {"path": "no/x.ipynb"})).status == 404
    assert (await desk.call("PATCH", "b.ipynb")).status == 400
    assert (await desk.call("PATCH", "d", {"path": "d/e"})).status == 400


async def test_deleting(desk: Desk) -> None:
    await desk.call("PUT", "d", {"type": "directory"})
    await desk.call("PUT", "d/a.ipynb", notebook("1"))
    refused = await desk.call("DELETE", "d")
    assert (refused.status, refused.said) == (400, "Directory d not empty")
    assert (await desk.call("DELETE", "d/a.ipynb")).status == 204
    assert (await desk.call("DELETE", "d")).status == 204  # although a folder of checkpoints is in it
    assert (await desk.call("DELETE", "d")).status == 404
    assert (await desk.call("DELETE", "")).status == 400
    assert list(desk.home.iterdir()) == []


async def test_checkpoints(desk: Desk) -> None:
    await desk.call("PUT", "a.txt", text("old"))
    made = await desk.call("POST", "a.txt/checkpoints")
    assert (made.status, made.model["id"]) == (201, "checkpoint")
    assert made.headers["Location"] == "/api/contents/a.txt/checkpoints/checkpoint"
    await desk.call("PUT", "a.txt", text("new"))
    assert (await desk.call("GET", "a.txt/checkpoints")).model == [made.model]
    assert (await desk.call("POST", "a.txt/checkpoints/checkpoint")).status == 204
    assert (await desk.call("GET", "a.txt")).model["content"] == "old"
    assert (await desk.call("DELETE", "a.txt/checkpoints/checkpoint")).status == 204
    assert (await desk.call("DELETE", "a.txt/checkpoints/checkpoint")).status == 404
    assert (await desk.call("POST", "a.txt/checkpoints/checkpoint")).status == 404
    assert (await desk.call("GET", "a.txt/checkpoints")).model == []
    assert (await desk.call("POST", "none.txt/checkpoints")).status == 404


async def test_trust_is_kept_and_is_each_users_own(desk: Desk) -> None:
    shown = {"output_type": "display_data", "data": {"text/html": "<script>1</script>"}, "metadata": {}}
    model = notebook("1")
    model["content"]["cells"][0]["outputs"] = [shown]
    for user in ("ada", "bob"):
        await desk.call("PUT", "a.ipynb", model, user=user)
        found = await desk.call("GET", "a.ipynb", user=user)
        assert found.model["content"]["cells"][0]["metadata"]["trusted"] is False
    assert (await desk.call("POST", "a.ipynb/trust", user="ada")).status == 201
    for user, trusted in (("ada", True), ("bob", False)):
        found = await desk.call("GET", "a.ipynb", user=user)
        assert found.model["content"]["cells"][0]["metadata"]["trusted"] is trusted


async def test_an_upload_in_chunks_appears_as_a_whole(desk: Desk) -> None:
    parts = [os.urandom(1000) for _ in range(4)]
    for chunk, part in zip((1, 2, 3, -1), parts, strict=True):
        assert not (desk.home / "big.bin").exists()
        body = {"type": "file", "format": "base64", "content": base64.b64encode(part).decode(), "chunk": chunk}
        answer = await desk.call("PUT", "big.bin", body)
        assert (answer.status, answer.model["path"], answer.model["name"]) == (201, "big.bin", "big.bin")
        if chunk in (2, -1):  # sent again, as when a worker died before it answered
            await desk.call("PUT", "big.bin", body, request="again")
    assert (desk.home / "big.bin").read_bytes() == b"".join(parts)
    assert [each.name for each in desk.home.iterdir()] == ["big.bin"]
    body = {"type": "file", "format": "text", "content": "x", "chunk": 2}
    assert (await desk.call("PUT", "big.bin", body)).status == 400


async def test_two_users_see_their_own(desk: Desk) -> None:
    await desk.call("PUT", "a.txt", text("ada's"), user="ada")
    assert (await desk.call("GET", "a.txt", user="bob")).status == 404
    assert (await desk.call("GET", "", user="bob")).model["content"] == []
