"""Kernels that nobody uses are ended, and nobody wonders why; kernels that run a cell are not."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from kernels.house_rules import LOST
from local.stack import Event, Stack
from local.student import Said, SocketClosed, Student
from tests.cluster.conftest import LEAN, all_again, running, warmed
from tests.cluster.side_by_side import SideBySide, Told
from tests.redis_server import RedisServer

pytestmark = pytest.mark.timeout(240)

IDLE_S = 3.0
PATIENT_S = 12.0
LIFE_S = 20
SENTENCE = "Your kernel was idle for 3 seconds and was ended to make room."
QUICK = LEAN | {"KERNELRING_IDLE_MINUTES": str(IDLE_S / 60)}
NEVER, SOON = "never-idle", "soon-idle"

beside = SideBySide()


def with_kernelspecs(folder: Path) -> dict[str, str]:
    """The settings, with kernelspecs that say themselves how long a kernel may be idle."""
    for name, idle_s in ((NEVER, 0), (SOON, 1)):
        place = folder / "kernels" / name
        place.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": name, "language": "python", "metadata": {"cull_idle_timeout": idle_s}}
        (place / "kernel.json").write_text(json.dumps(spec))
    return QUICK | {"JUPYTER_PATH": str(folder)}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Three workers that end a kernel after three seconds."""
    settings = with_kernelspecs(tmp_path_factory.mktemp("jupyter"))
    with RedisServer() as server, running(server, workers=3, settings=settings) as stack:
        warmed(stack)
        yield stack


@pytest.fixture(scope="module")
def patient() -> Iterator[Stack]:
    """Two workers, to be killed, that end a kernel after so long that there is time to."""
    settings = LEAN | {"KERNELRING_IDLE_MINUTES": str(PATIENT_S / 60)}
    with RedisServer() as server, running(server, workers=2, settings=settings) as stack:
        warmed(stack)
        yield stack
        all_again(stack)


@pytest.fixture(scope="module")
def mortal() -> Iterator[Stack]:
    """A worker whose kernels do not get old."""
    settings = LEAN | {"KERNELRING_LIFE_HOURS": str(LIFE_S / 3600)}
    with RedisServer() as server, running(server, workers=1, settings=settings) as stack:
        warmed(stack)
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def told(request: pytest.FixtureRequest) -> Told:
    """Each waits for the end of a kernel that nobody uses; and all at once."""
    return await beside.tell(request)


def student(stack: Stack) -> Student:
    return Student(stack.url, stack.token(f"ada-{uuid.uuid4().hex}"))


async def culled(stack: Stack, kernel_id: str) -> Event:
    """The log's line about this kernel, once it is there."""

    async with asyncio.timeout(30):
        while True:  # in no thread: there are few, and many that wait
            if found := [event for event in stack.events("kernel_culled") if event["kernel"] == kernel_id]:
                (event,) = found
                return event
            await asyncio.sleep(0.05)


async def gone(one: Student) -> Any:
    """The reason of the kernel's 404."""
    status, body, _ = await one.call("GET", f"/api/kernels/{one.kernel_id}")
    assert status == 404
    return body["reason"]


async def until_closed(one: Student) -> tuple[list[Said], SocketClosed]:
    said = []
    while True:
        try:
            said.append(await one.receive())
        except SocketClosed as closed:
            return said, closed


@beside
async def test_an_idle_kernel_is_ended_under_an_open_page_which_is_told_first(quick: Stack) -> None:
    async with student(quick) as ada:
        await ada.start()
        await ada.open()
        await ada.run("a = 1", 60)
        began = datetime.now(UTC)
        said, closed = await until_closed(ada)
        assert (datetime.now(UTC) - began).total_seconds() > IDLE_S - 0.5
        (told,) = [one.content["text"] for one in said if one.kind == "stream" and not one.parent]
        assert told == f"[kernelring] {SENTENCE} {LOST}\n"
        assert said[-1].content == {"execution_state": "dead"}
        assert (closed.code, closed.reason) == (1000, SENTENCE)
        assert await gone(ada) == SENTENCE
        event = await culled(quick, ada.kernel_id)
        assert event["idle_s"] >= IDLE_S
        assert event["user"].startswith("ada-")
        assert (await ada.call("GET", "/api/kernels"))[1] == []


@beside
async def test_what_an_open_page_says_by_itself_does_not_keep_it(quick: Stack) -> None:
    async with student(quick) as ada:
        await ada.start()
        await ada.open()
        await ada.run("a = 1", 60)

        async def chatter() -> None:
            while True:
                for kind in ("kernel_info_request", "comm_info_request"):
                    await ada.send(kind, {})
                await ada.call("GET", f"/api/kernels/{ada.kernel_id}")
                await asyncio.sleep(0.01)

        talking = asyncio.create_task(chatter())
        _, closed = await until_closed(ada)
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
        assert closed.reason == SENTENCE


@beside
async def test_what_its_user_does_keeps_it(quick: Stack) -> None:
    async with student(quick) as ada:
        await ada.start()
        await ada.open()
        for _ in range(6):
            await ada.run("a = 1", 60)
            await asyncio.sleep(IDLE_S / 3)
        await ada.outcome(await ada.send("complete_request", {"code": "a", "cursor_pos": 1}))
        assert (await ada.call("GET", f"/api/kernels/{ada.kernel_id}"))[0] == 200
        await culled(quick, ada.kernel_id)


@beside
async def test_a_cell_that_runs_keeps_it_with_nobody_there_and_its_idle_time_begins_after_it(quick: Stack) -> None:
    async with student(quick) as ada:
        await ada.start()
        await ada.open()
        await ada.ask(f"import time; time.sleep({2.5 * IDLE_S})")
        began = datetime.now(UTC)
        await ada.close()
        await culled(quick, ada.kernel_id)
        assert (datetime.now(UTC) - began).total_seconds() > 3 * IDLE_S


@beside
async def test_a_cell_that_waits_for_input_keeps_it(quick: Stack) -> None:
    async with student(quick) as ada:
        await ada.start()
        await ada.open()
        asked = await ada.ask("input()", allow_stdin=True)
        while (await ada.receive(60)).kind != "input_request":
            pass
        await asyncio.sleep(2 * IDLE_S)  # what must not happen in that time has no event
        await ada.send("input_reply", {"status": "ok", "value": "x"}, "stdin")
        assert (await ada.outcome(asked)).reply["status"] == "ok"
        await culled(quick, ada.kernel_id)


@beside
async def test_cells_on_the_servers_account_keep_it_also_those_that_wait(quick: Stack) -> None:
    async with student(quick) as ada:
        await ada.start()
        path = f"/api/kernels/{ada.kernel_id}/execute"
        for _ in range(2):
            await ada.call("POST", path, {"code": f"import time; time.sleep({1.3 * IDLE_S})"})
        _, last, _ = await ada.call("POST", f"{path}?wait=60", {"code": "print('done')"}, within_s=60)
        assert last["status"] == "ok"
        await culled(quick, ada.kernel_id)


@beside
async def test_what_no_page_has_seen_is_in_the_notebook_when_its_kernel_is_ended(quick: Stack) -> None:
    async with student(quick) as ada:
        await ada.start()
        await ada.open()  # somebody is connected, so that it is not written before
        cell: dict[str, Any] = {
            "cell_type": "code",
            "id": "one",
            "source": "6*7",
            "metadata": {},
            "outputs": [],
            "execution_count": None,
        }
        notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        await ada.call("PUT", "/api/contents/it.ipynb", {"type": "notebook", "content": notebook})
        run = {"code": "6*7", "metadata": {"cell_id": "one", "document_path": "it.ipynb"}}
        await ada.call("POST", f"/api/kernels/{ada.kernel_id}/execute", run)
        await culled(quick, ada.kernel_id)
        _, found, _ = await ada.call("GET", "/api/contents/it.ipynb")
        (output,) = found["content"]["cells"][0]["outputs"]
        assert output["data"]["text/plain"] == "42"


async def test_a_cell_that_comes_at_that_moment_runs_or_is_told_that_it_does_not(quick: Stack) -> None:
    async with asyncio.TaskGroup() as group:
        races = [group.create_task(race(quick, 0.2 + 0.12 * turn)) for turn in range(16)]
    assert {race.result() for race in races} <= {(True, True), (False, False)}
    assert len({race.result() for race in races}) == 2


async def race(stack: Stack, after_s: float) -> tuple[bool, bool]:
    """Run a cell when the kernel is about to be ended; whether it was answered, and whether it ran."""
    async with student(stack) as one:
        await one.start(SOON)
        await one.open()
        await one.run("a = 1", 60)
        await asyncio.sleep(after_s)
        try:
            answered = (await one.run("open('it-ran', 'w').close()")).reply["status"] == "ok"
        except SocketClosed:
            answered = not (await gone(one)).startswith("Your kernel was idle for 1 second")
        return answered, (await one.call("GET", "/api/contents/it-ran?content=0"))[0] == 200


@beside
async def test_a_kernelspec_says_how_long_its_kernels_may_be_idle(quick: Stack) -> None:
    async with student(quick) as ada, student(quick) as ben:
        await ada.start(NEVER)
        await ben.start(SOON)
        await culled(quick, ben.kernel_id)
        assert await gone(ben) == "Your kernel was idle for 1 second and was ended to make room."
        await asyncio.sleep(2 * IDLE_S)  # what must not happen in that time has no event
        assert (await ada.call("GET", f"/api/kernels/{ada.kernel_id}"))[0] == 200
        assert await ada.delete() == 204


@beside
async def test_a_takeover_neither_ends_it_at_once_nor_begins_the_time_anew(patient: Stack) -> None:
    async with student(patient) as ada:
        await ada.start()
        await ada.open()
        await ada.run("a = 1", 60)
        began = datetime.now(UTC)
        model = (await ada.call("GET", f"/api/kernels/{ada.kernel_id}"))[1]
        for _ in range(2):
            await asyncio.sleep(PATIENT_S / 4)
            mark = patient.mark()
            os.kill(patient.worker_of(await owner_of(ada)), 9)
            await asyncio.to_thread(patient.wait_event, "kernel_attached", mark)
        assert (await ada.call("GET", f"/api/kernels/{ada.kernel_id}"))[1]["last_activity"] >= model["last_activity"]
        await culled(patient, ada.kernel_id)
        assert PATIENT_S - 1 < (datetime.now(UTC) - began).total_seconds() < 1.6 * PATIENT_S
        assert len(patient.events("kernel_culled")) == 1


async def owner_of(one: Student) -> str:
    return (await one.call("GET", f"/api/kernels/{one.kernel_id}"))[2]["X-Kernelring-Owner"]


@beside
async def test_at_the_end_of_its_life_a_cell_is_told_and_has_some_time_more(mortal: Stack) -> None:
    async with student(mortal) as ada, student(mortal) as ben:
        await ben.start()
        await ada.start()
        await ada.open()
        await ada.ask("import time; time.sleep(3600)")
        said, closed = await until_closed(ada)
        told = [one.content["text"] for one in said if one.kind == "stream" and not one.parent]
        assert f"will be ended in 2 seconds, when it is {LIFE_S} seconds old" in told[0]
        sentence = f"Your kernel was {LIFE_S} seconds old, and no kernel gets older here."
        assert told[1] == f"[kernelring] {sentence} {LOST}\n"
        assert [one.content["evalue"] for one in said if one.kind == "execute_reply"] == [f"{sentence} {LOST}"]
        assert closed.reason == sentence
        events = {(await culled(mortal, one.kernel_id))["time"]: one for one in (ada, ben)}
        assert events[max(events)] is ada  # the other, which ran nothing, went before
