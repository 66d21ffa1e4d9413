"""Notebooks in other formats: what is exported, what a page of an export loads, and the bounds on a conversion."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.frontend import nbconvert
from tests.app.pages_kit import Pages, pages_in

CELL: dict[str, Any] = {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": None, "outputs": []}
TEXT: dict[str, Any] = {"cell_type": "markdown", "id": "b", "metadata": {}}
WIDGET = {"application/vnd.jupyter.widget-view+json": {"model_id": "x", "version_major": 2, "version_minor": 0}}
NOTEBOOK: dict[str, Any] = {"cells": [CELL | {"source": "1 + 1"}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
# All that has nbconvert refer to other hosts: mathematics, a diagram, a widget.
RICH = NOTEBOOK | {
    "cells": [
        TEXT | {"source": "$x^2$\n\n```mermaid\ngraph TD; A-->B\n```"},
        CELL
        | {
            "source": "slider",
            "outputs": [{"output_type": "display_data", "metadata": {}, "data": WIDGET | {"text/plain": "IntSlider"}}],
        },
    ],
    "metadata": {
        "widgets": {"application/vnd.jupyter.widget-state+json": {"version_major": 2, "version_minor": 0, "state": {}}}
    },
}
LOADED = re.compile(r"""(?:\bsrc=|<link[^>]*\bhref=|\bimport\(|\bfrom |\burl\(|Src = |Url = )\s*["']?([^"')\s>]*)""")


@pytest.fixture
async def pages(tmp_path: Path) -> AsyncIterator[Pages]:
    async with pages_in(tmp_path) as made:
        yield made


async def test_a_notebook_is_exported_in_a_sandbox(pages: Pages) -> None:
    (pages.home() / "n.ipynb").write_text(json.dumps(NOTEBOOK))
    shown = await pages.ask("/nbconvert/html/n.ipynb")
    assert (shown.status, shown.content_type) == (200, "text/html")
    assert shown.headers["Content-Security-Policy"].endswith("; sandbox allow-scripts")
    kept = await pages.ask("/nbconvert/python/n.ipynb?download=true")
    assert "1 + 1" in await kept.text()
    assert kept.headers["Content-Disposition"] == "attachment; filename*=UTF-8''n.py"


async def test_what_cannot_be_exported_is_said(pages: Pages) -> None:
    (pages.home() / "bad.ipynb").write_text("{")
    for path, status in [("html/bad.ipynb", 500), ("webpdf/bad.ipynb", 404), ("html/missing.ipynb", 404)]:
        answer = await pages.ask(f"/nbconvert/{path}")
        assert (answer.status, bool((await answer.json())["message"])) == (status, True), path


async def test_an_export_that_takes_too_long_is_ended(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbconvert, "TIME_S", 0.01)
    (pages.home() / "n.ipynb").write_text(json.dumps(NOTEBOOK))
    answer = await pages.ask("/nbconvert/html/n.ipynb")
    assert answer.status == 500
    assert "longer than" in (await answer.json())["message"]


async def test_of_too_many_exports_the_last_are_told_to_come_back(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nbconvert, "WAITING", 0)
    begun, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def convert(*_: object) -> tuple[dict[str, str], bytes]:
        begun.release()
        await go_on.wait()
        return {"mime": "text/html", "name": "n.html"}, b""

    monkeypatch.setattr(nbconvert, "_convert", convert)
    (pages.home() / "n.ipynb").write_text(json.dumps(NOTEBOOK))
    first = [asyncio.create_task(pages.ask("/nbconvert/html/n.ipynb")) for _ in range(nbconvert.AT_ONCE)]
    for _ in first:
        await begun.acquire()
    last = await pages.ask("/nbconvert/html/n.ipynb")
    assert (last.status, last.headers["Retry-After"]) == (503, "5")
    go_on.set()
    assert {answer.status for answer in await asyncio.gather(*first)} == {200}


async def test_a_shown_export_loads_nothing_from_another_host(pages: Pages) -> None:
    (pages.home() / "n.ipynb").write_text(json.dumps(RICH))
    shown = await (await pages.ask("/nbconvert/html/n.ipynb")).text()
    assert "IntSlider" in shown
    assert "graph TD" in shown
    loaded = [address for address in LOADED.findall(shown) if not address.startswith(("data:", "#"))]
    assert [address for address in loaded if "//" in address] == []
    [mathjax] = [address for address in loaded if "MathJax.js" in address]
    script = await pages.ask(mathjax)
    assert (script.status, script.content_type) == (200, "text/javascript")
    font = await pages.ask("/static/mathjax/fonts/HTML-CSS/STIX-Web/woff/STIXMathJax_Main-Regular.woff")
    assert (font.status, font.headers["Access-Control-Allow-Origin"]) == (200, "*")


async def test_what_needs_scripts_of_other_hosts_is_a_file_and_no_page(pages: Pages) -> None:
    (pages.home() / "n.ipynb").write_text(json.dumps(RICH))
    slides = await pages.ask("/nbconvert/slides/n.ipynb")
    assert slides.headers["Content-Disposition"] == "attachment; filename*=UTF-8''n.slides.html"


async def test_a_notebook_in_the_body_is_exported(pages: Pages) -> None:
    answer = await pages.ask("/nbconvert/python", "POST", json={"name": "\0n.ipynb", "content": NOTEBOOK})
    assert (answer.status, "1 + 1" in await answer.text()) == (200, True)
    for kind, body, status in [("python", {}, 400), ("pdf", {"content": NOTEBOOK}, 404)]:
        assert (await pages.ask(f"/nbconvert/{kind}", "POST", json=body)).status == status


async def test_an_export_that_makes_too_much_is_ended(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbconvert, "MAX_MADE_BYTES", 2**20)
    long = NOTEBOOK | {"cells": [CELL | {"source": "x" * 2**21}]}
    (pages.home() / "n.ipynb").write_text(json.dumps(long))
    answer = await pages.ask("/nbconvert/python/n.ipynb")
    assert (answer.status, (await answer.json())["message"]) == (500, "nbconvert failed: it makes more than 1 MiB")


async def test_an_export_that_needs_too_much_memory_is_ended(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbconvert, "MEMORY_MIB", 96)
    picture = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "A" * (24 * 2**20)}}
    (pages.home() / "n.ipynb").write_text(
        json.dumps(NOTEBOOK | {"cells": [CELL | {"source": "", "outputs": [picture]}]})
    )
    answer = await pages.ask("/nbconvert/html/n.ipynb")
    assert (answer.status, (await answer.json())["message"]) == (500, "nbconvert failed: it needs more than 96 MiB")
    (pages.home() / "n.ipynb").write_text(json.dumps(NOTEBOOK))
    assert (await pages.ask("/nbconvert/python/n.ipynb")).status == 200
