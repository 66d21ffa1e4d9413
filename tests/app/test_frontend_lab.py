"""JupyterLab's own API: settings and workspaces of each user, and the files and exports of their notebooks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.frontend import preferences
from tests.app.pages_kit import Pages, pages_in

THEMES = "/lab/api/settings/@jupyterlab/apputils-extension:themes"
SPACE = "/lab/api/workspaces/"


@pytest.fixture
async def pages(tmp_path: Path) -> AsyncIterator[Pages]:
    async with pages_in(tmp_path) as made:
        yield made


async def told(pages: Pages, path: str, **more: Any) -> Any:
    answer = await pages.ask(path, **more)
    assert answer.status == 200, await answer.text()
    return await answer.json()


def raw(**settings: object) -> dict[str, str]:
    return {"raw": json.dumps(settings)}


# -- settings ---------------------------------------------------------------------------------------------------------


async def test_settings_are_kept_for_each_user_alone(pages: Pages) -> None:
    assert (await pages.ask(THEMES, "PUT", json=raw(theme="JupyterLab Dark"))).status == 204
    mine, other = await told(pages, THEMES), await told(pages, THEMES, user="bob")
    assert (mine["settings"], other["settings"]) == ({"theme": "JupyterLab Dark"}, {})
    assert mine["schema"] == other["schema"]
    listed = {each["id"]: each for each in (await told(pages, "/lab/api/settings"))["settings"]}
    assert listed[mine["id"]] == mine
    assert (await pages.ask(THEMES, "PUT", json=raw(theme="JupyterLab Light"))).status == 204
    assert (await told(pages, THEMES))["settings"] == {"theme": "JupyterLab Light"}


async def test_nothing_of_it_lies_among_the_notebooks(pages: Pages) -> None:
    await pages.ask(THEMES, "PUT", json=raw(theme="JupyterLab Dark"))
    assert [*pages.home().rglob("*")] == []


async def test_the_list_of_ids_names_the_same_plugins(pages: Pages) -> None:
    whole = (await told(pages, "/lab/api/settings"))["settings"]
    ids = (await told(pages, "/lab/api/settings?ids_only=true"))["settings"]
    assert ids == [{"id": each["id"]} for each in whole]


async def test_outputs_are_recovered_because_our_overrides_say_so(pages: Pages) -> None:
    plugin = "@datalayer/jupyter-server-nbmodel:notebook-cell-executor"
    found = await told(pages, f"/lab/api/settings/{plugin}")
    assert found["schema"]["properties"]["outputRecovery"]["default"] is True


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"raw": 1}', b'{"raw": "{"}', b'{"raw": "{\\"theme\\": 3}"}', b'{"other": "{}"}']
)
async def test_bad_settings_are_refused_and_change_nothing(pages: Pages, body: bytes) -> None:
    answer = await pages.ask(THEMES, "PUT", data=body)
    assert answer.status == 400
    assert (await answer.json())["message"]
    assert (await told(pages, THEMES))["settings"] == {}


@pytest.mark.parametrize("plugin", ["nobody:x", "..%2f..%2fada:x", "%2fetc%2fpasswd:x", "x"])
async def test_only_plugins_that_are_there_have_settings(pages: Pages, plugin: str) -> None:
    (pages.home() / "x.json").write_text("{}")
    for method in ("GET", "PUT"):
        answer = await pages.ask(f"/lab/api/settings/{plugin}", method, json=raw())
        assert answer.status in (403, 404, 405)
    assert [*pages.root.rglob("*.jupyterlab-settings")] == []


async def test_settings_are_bounded(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preferences, "MAX_FILE_BYTES", 100)
    large = {"raw": "//" + "x" * 100 + '\n{"theme": "a"}'}
    assert (await pages.ask(THEMES, "PUT", json=large)).status == 413
    monkeypatch.setattr(preferences, "MAX_FILES", 0)
    assert (await pages.ask(THEMES, "PUT", json=raw(theme="a"))).status == 507
    assert (await told(pages, THEMES))["settings"] == {}


# -- workspaces -------------------------------------------------------------------------------------------------------


def space(name: str) -> dict[str, Any]:
    return {"data": {"layout": name}, "metadata": {"id": name}}


async def test_workspaces_are_kept_for_each_user_alone(pages: Pages) -> None:
    assert (await told(pages, SPACE + "one"))["data"] == {}
    assert (await pages.ask(SPACE + "one", "PUT", json=space("one"))).status == 204
    assert (await told(pages, SPACE + "one"))["data"] == {"layout": "one"}
    assert (await told(pages, "/lab/api/workspaces"))["workspaces"]["ids"] == ["one"]
    assert (await told(pages, "/lab/api/workspaces", user="bob"))["workspaces"]["ids"] == []
    assert (await pages.ask(SPACE + "one", "DELETE", user="bob")).status == 404
    assert (await pages.ask(SPACE + "one", "DELETE")).status == 204
    assert (await pages.ask(SPACE + "one", "DELETE")).status == 404


async def test_a_workspace_that_is_none_is_refused(pages: Pages) -> None:
    for body in (b"{", b"[]", b"{}", json.dumps(space("two")).encode()):
        assert (await pages.ask(SPACE + "one", "PUT", data=body)).status == 400
    assert (await told(pages, "/lab/api/workspaces"))["workspaces"]["ids"] == []


async def test_of_many_workspaces_those_that_lab_made_go_first(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preferences, "MAX_FILES", 2)
    for name in ("mine", "auto-1", "auto-2"):
        assert (await pages.ask(SPACE + name, "PUT", json=space(name))).status == 204
    assert sorted((await told(pages, "/lab/api/workspaces"))["workspaces"]["ids"]) == ["auto-2", "mine"]
    await pages.ask(SPACE + "other", "PUT", json=space("other"))
    assert (await pages.ask(SPACE + "third", "PUT", json=space("third"))).status == 507


# -- languages, themes, licences --------------------------------------------------------------------------------------


async def test_languages_themes_licences_and_listings_answer_as_jupyterlab_server_does(pages: Pages) -> None:
    assert "en" in (await told(pages, "/lab/api/translations"))["data"]
    assert "not valid" in (await told(pages, "/lab/api/translations/nowhere"))["message"]
    theme = await pages.ask("/lab/api/themes/@jupyterlab/theme-dark-extension/index.css")
    assert (theme.status, theme.content_type) == (200, "text/css")
    bundles = (await told(pages, "/lab/api/licenses?full_text=false"))["bundles"]
    assert "@jupyterlab/application-top" in bundles
    one = await pages.ask("/lab/api/licenses?format=csv&bundles=(a%2B)%2B%24&download=1")
    assert one.headers["Content-Disposition"].startswith("attachment")
    listed = await told(pages, "/lab/api/listings/@jupyterlab/extensionmanager-extension/listings.json")
    assert listed["blocked_extensions"] == []


# -- files ------------------------------------------------------------------------------------------------------------


async def test_files_come_as_they_are_and_in_a_sandbox(pages: Pages) -> None:
    (pages.home() / "a page.html").write_text("<script>1</script>")
    answer = await pages.ask("/files/a%20page.html")
    assert (answer.status, await answer.text()) == (200, "<script>1</script>")
    assert answer.headers["Content-Security-Policy"].endswith("; sandbox allow-scripts")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Content-Disposition" not in answer.headers
    kept = await pages.ask("/files/a%20page.html?download=1")
    assert kept.headers["Content-Disposition"] == "attachment; filename*=UTF-8''a%20page.html"
    assert (await pages.ask("/files/a%20page.html", user="bob")).status == 404


async def test_files_come_in_parts_and_not_twice(pages: Pages) -> None:
    (pages.home() / "n.bin").write_bytes(b"0123456789")

    async def ask(**headers: str) -> tuple[int, str, str | None]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await pages.ask("/files/n.bin", headers=named)
        return answer.status, await answer.text(), answer.headers.get("Content-Range")

    tag = (await pages.ask("/files/n.bin")).headers["ETag"]
    assert await ask(Range="bytes=2-4") == (206, "234", "bytes 2-4/10")
    assert await ask(Range="bytes=-3") == (206, "789", "bytes 7-9/10")
    assert await ask(Range="bytes=8-") == (206, "89", "bytes 8-9/10")
    assert (await ask(Range="bytes=10-"))[::2] == (416, "bytes */10")
    assert (await ask(Range="bytes=2-4", If_Range='"another"'))[0] == 200
    assert (await ask(Range="bytes=2-4", If_Range=tag))[0] == 206
    assert (await ask(If_None_Match=tag))[:2] == (304, "")
    head = await pages.ask("/files/n.bin", "HEAD")
    assert (head.status, head.headers["Content-Length"]) == (200, "10")


@pytest.mark.parametrize("path", ["../bob/secret", "..%2fbob%2fsecret", "folder", ".hidden", "%00", "link"])
async def test_no_path_leads_out_of_the_users_folder(pages: Pages, path: str) -> None:
    home = pages.home()
    (pages.home("bob") / "secret").write_text("bob's")
    (home / "folder").mkdir()
    (home / ".hidden").write_text("hidden")
    (home / "link").symlink_to(pages.home("bob") / "secret")
    for prefix in ("/files/", "/nbconvert/html/"):
        answer = await pages.ask(prefix + path)
        assert answer.status in (302, 400, 403, 404)


# -- sections of configuration ----------------------------------------------------------------------------------------


async def test_sections_of_configuration_are_kept_for_each_user_alone(pages: Pages) -> None:
    section = "/api/config/notebook"
    assert await told(pages, section) == {}
    assert (await pages.ask(section, "PUT", json={"a": {"b": 1, "c": 2}, "d": 3})).status == 204
    assert await told(pages, section, method="PATCH", json={"a": {"b": None}, "e": 5}) == {
        "a": {"c": 2},
        "d": 3,
        "e": 5,
    }
    assert await told(pages, section) == {"a": {"c": 2}, "d": 3, "e": 5}
    assert await told(pages, section, user="bob") == {}
    assert await told(pages, "/api/config/tree") == {}
    assert [*pages.home().rglob("*")] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{", 400),
        (b'{"d": {"x": 1}}', 400),
        (b'{"a":' * 900 + b"1" + b"}" * 900, 400),
        (b'{"a": "%s"}' % (b"x" * preferences.MAX_FILE_BYTES), 413),
    ],
)
async def test_a_bad_section_is_refused_and_changes_nothing(pages: Pages, body: bytes, status: int) -> None:
    await pages.ask("/api/config/notebook", "PUT", json={"d": 3})
    answer = await pages.ask("/api/config/notebook", "PATCH", data=body)
    assert (answer.status, bool((await answer.json())["message"])) == (status, True)
    assert await told(pages, "/api/config/notebook") == {"d": 3}


async def test_names_of_sections_lead_nowhere_else(pages: Pages) -> None:
    for name, status in [("..%2fa", 404), ("a.b", 404), ("a" * 101, 400)]:
        assert (await pages.ask(f"/api/config/{name}", "PUT", json={})).status == status


async def test_the_old_name_of_the_contents_api_leads_to_it(pages: Pages) -> None:
    answer = await pages.ask("/api/notebooks/a%20b.ipynb")
    assert (answer.status, answer.headers["Location"]) == (302, "/api/contents/a%20b.ipynb")
