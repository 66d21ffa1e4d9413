"""`jupyter lab --gateway-url` before four workers, used through its own REST and WebSocket API as a browser does."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator

import aiohttp
import psutil
import pytest

from local.stack import Stack
from local.student import Student
from server.owned import OWNER_HEADER
from tests.cluster.clients import LegacyStudent
from tests.cluster.jupyter_process import JupyterProcess

USER = "gateway-user"
RECOVERY_S = 10.0
TRY_S = 0.5


def lab_before(stack: Stack) -> JupyterProcess:
    """A Lab whose kernels run at `stack`, all of them for one user."""
    environ = {"JUPYTER_GATEWAY_AUTH_TOKEN": stack.token(USER)}
    return JupyterProcess("lab", f"--gateway-url={stack.url}", environ=environ)


@pytest.fixture(scope="module")
def lab(stack: Stack) -> Iterator[JupyterProcess]:
    with lab_before(stack) as running:
        yield running


@pytest.fixture
async def browser(lab: JupyterProcess) -> AsyncIterator[LegacyStudent]:
    """A page of Lab. Lab answers without a subprotocol when its kernels are at a gateway."""
    async with LegacyStudent(lab.url, lab.token) as page:
        yield page


@pytest.fixture
async def session(browser: LegacyStudent) -> AsyncIterator[str]:
    """The id of a session that the page has opened, with its kernel."""
    body = {"path": "lesson.ipynb", "name": "lesson.ipynb", "type": "notebook", "kernel": {"name": "python3"}}
    status, model, _ = await browser.call("POST", "/api/sessions", body)
    assert status == 201, model
    browser.kernel_id = model["kernel"]["id"]
    yield model["id"]
    await browser.call("DELETE", f"/api/sessions/{model['id']}")


async def test_lab_shows_the_kernelspecs_of_the_server_and_their_logos(browser: LegacyStudent, stack: Stack) -> None:
    status, model, _ = await browser.call("GET", "/api/kernelspecs")
    assert (status, model["default"]) == (200, "python3")
    spec = model["kernelspecs"]["python3"]
    assert spec["spec"]["language"] == "python"
    logo = spec["resources"]["logo-64x64"]
    async with browser.http.get(logo) as through_lab:
        assert (through_lab.status, through_lab.content_type) == (200, "image/png")
        image = await through_lab.read()
    assert image.startswith(b"\x89PNG")
    async with Student(stack.url, stack.token(USER)) as direct, direct.http.get(logo) as own:
        assert await own.read() == image


async def test_lab_runs_cells_and_lists_their_kernel(browser: LegacyStudent, session: str, stack: Stack) -> None:
    await browser.open()
    info = await browser.outcome(await browser.send("kernel_info_request", {}))
    assert info.reply["implementation"] == "ipython"
    assert (await browser.run("import os; x = 6 * 7; x")).reply["status"] == "ok"
    outcome = await browser.run("print(os.name, x)")
    assert outcome.text == "posix 42\n"
    kinds = [one.kind for one in outcome.said if one.channel == "iopub"]
    assert kinds == ["status", "execute_input", "stream", "status"]
    _, kernels, _ = await browser.call("GET", "/api/kernels")
    assert [kernel["id"] for kernel in kernels] == [browser.kernel_id]
    _, sessions, _ = await browser.call("GET", "/api/sessions")
    assert [(one["id"], one["kernel"]["id"]) for one in sessions] == [(session, browser.kernel_id)]
    async with Student(stack.url, stack.token(USER)) as direct:
        _, found, _ = await direct.call("GET", "/api/kernels")
    assert [(one["id"], one["connections"]) for one in found] == [(browser.kernel_id, 1)]


async def test_lab_interrupts_an_endless_loop(browser: LegacyStudent, session: str) -> None:
    await browser.open()
    asked = await browser.ask("print('on my way')\nwhile True: pass")
    while (await browser.receive()).kind != "stream":
        pass
    status, _, _ = await browser.call("POST", f"/api/kernels/{browser.kernel_id}/interrupt")
    assert status == 204
    assert (await browser.outcome(asked, 5)).reply["ename"] == "KeyboardInterrupt"
    assert (await browser.run("print('free again')")).text == "free again\n"


async def test_lab_restarts_the_kernel_under_the_same_id(browser: LegacyStudent, session: str) -> None:
    await browser.open()
    await browser.run("x = 1")
    path = f"/api/kernels/{browser.kernel_id}"
    status, model, _ = await browser.call("POST", f"{path}/restart")
    assert (status, model["id"]) == (200, browser.kernel_id)
    assert (await browser.run("print('x' in globals())")).text == "False\n"
    _, sessions, _ = await browser.call("GET", "/api/sessions")
    assert [(one["id"], one["kernel"]["id"]) for one in sessions] == [(session, browser.kernel_id)]


async def test_lab_deletes_the_kernel(browser: LegacyStudent, stack: Stack) -> None:
    status, model, _ = await browser.call("POST", "/api/kernels", {"name": "python3"})
    assert status == 201, model
    path = f"/api/kernels/{model['id']}"
    assert (await browser.call("GET", path))[0] == 200
    assert (await browser.call("DELETE", path))[0] == 204
    assert (await browser.call("GET", path))[0] == 404
    async with Student(stack.url, stack.token(USER)) as direct:
        assert (await direct.call("GET", path))[0] == 404


async def test_variables_outlive_a_killed_owner_and_a_killed_entry_worker(rough_stack: Stack) -> None:
    with lab_before(rough_stack) as lab:
        async with LegacyStudent(lab.url, lab.token) as browser:
            browser.kernel_id = (await browser.call("POST", "/api/kernels", {"name": "python3"}))[1]["id"]
            await browser.open()
            await browser.run("x = 41")
            owner, entry = await owner_of(rough_stack), entry_of(rough_stack, lab)
            took_s = await recovery_s(browser, rough_stack, owner)
            print(f"owner killed ({'also' if owner == entry else 'not'} the entry worker): {took_s:.2f} s")
            assert (await browser.run("x += 1; print(x)")).text == "42\n"
            print(f"entry worker killed: {await recovery_s(browser, rough_stack, entry_of(rough_stack, lab)):.2f} s")
            assert (await browser.run("x += 1; print(x)")).text == "43\n"
            assert await browser.delete() == 204


async def owner_of(stack: Stack) -> int:
    """The pid of the worker that owns the gateway's kernels."""
    async with Student(stack.url, stack.token(USER)) as direct:
        return stack.worker_of((await direct.call("GET", "/api/kernels"))[2][OWNER_HEADER])


def entry_of(stack: Stack, lab: JupyterProcess) -> int:
    """The pid of the worker at the other end of Lab's only lasting connection: its WebSocket."""
    ours = {each.laddr.port for each in psutil.Process(lab.pid).net_connections("tcp") if each.status == "ESTABLISHED"}
    for pid in stack.worker_pids():
        for each in psutil.Process(pid).net_connections("tcp"):
            if each.laddr.port == stack.port and each.raddr and each.raddr.port in ours:
                return pid
    raise AssertionError("no worker has a connection from Lab")


async def recovery_s(browser: LegacyStudent, stack: Stack, victim: int) -> float:
    """Kill a worker; return the seconds until the kernel answers the page again."""
    started = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    async with asyncio.timeout(RECOVERY_S):
        while True:
            # What a page sends while Lab reconnects to its gateway, Lab drops: so it asks until it is answered.
            try:
                await browser.outcome(await browser.send("kernel_info_request", {}), TRY_S)
            except TimeoutError:
                continue
            break
    took_s = time.monotonic() - started
    await asyncio.to_thread(stack.wait_ready)
    return took_s


async def test_a_token_that_is_not_the_gateways_sees_nothing(lab: JupyterProcess) -> None:
    async with aiohttp.ClientSession(lab.url) as stranger, stranger.get("/api/kernels") as answer:
        assert answer.status == 403
