"""nbclient and jupyter_kernel_client run a notebook of twenty cells at four workers."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import nbformat
import pytest
import websocket
from jupyter_kernel_client import JupyterKernelClient, KernelHttpManager
from jupyter_server.gateway.gateway_client import GatewayClient
from jupyter_server.gateway.managers import GatewayKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from local.stack import Stack
from tests.cluster.lesson import CELLS

CELL_S = 30
v4: Any = nbformat.v4  # untyped

# These libraries leave the closing of their sockets to the garbage collector, which says so.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collect the garbage of the clients before another test is blamed for it."""
    yield
    gc.collect()


@pytest.fixture
def gateway(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """jupyter_server's gateway client, told where our server is.

    `GatewayKernelClient` opens its WebSocket without the token that the gateway client has been given
    (apache/airflow#73250), so it works only with servers that ask for none. The header is what has to be added;
    nothing else is changed.
    """
    token = stack.token("nbclient")
    monkeypatch.setattr(GatewayClient, "_instance", None)
    GatewayClient.instance(url=stack.url, auth_token=token)
    connect = partial(websocket.create_connection, header=[f"Authorization: token {token}"])
    monkeypatch.setattr("jupyter_server.gateway.managers.websocket.create_connection", connect)
    yield
    GatewayClient.clear_instance()


@contextmanager
def remote(stack: Stack, **options: Any) -> Iterator[Any]:
    """jupyter_kernel_client with a kernel at our server.

    When it stops, its reading thread and the one that closes race for the close frame; if the reader loses, it is
    waited for ten seconds (measured: at jupyter_server just so). Nobody here waits for that.
    """
    with JupyterKernelClient(server_url=stack.url, token=stack.token("remote"), **options) as client:
        yield client
        client._manager.client.timeout = 0.1


def notebook(cells: list[str]) -> Any:
    """A notebook with these code cells."""
    made = v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    made.cells = [v4.new_code_cell(code) for code in cells]
    return made


def nbclient(nb: Any, **options: Any) -> NotebookClient:
    """nbclient on a kernel of the gateway."""
    manager = f"{GatewayKernelManager.__module__}.{GatewayKernelManager.__qualname__}"
    # Its own limit is 4 s from a cell's reply to the last of its output, which is short for 5 MB on a busy machine.
    return NotebookClient(nb, kernel_manager_class=manager, timeout=CELL_S, iopub_timeout=CELL_S, **options)


@pytest.mark.usefixtures("gateway")
def test_nbclient_runs_a_notebook_of_twenty_cells() -> None:
    nb = notebook([cell.code for cell in CELLS])
    nbclient(nb, allow_errors=True).execute()
    for count, (cell, ran) in enumerate(zip(CELLS, nb.cells, strict=True), start=1):
        cell.check(ran.outputs)
        assert ran.execution_count == count
    nbformat.validate(nb)


@pytest.mark.usefixtures("gateway")
def test_nbclient_stops_at_the_cell_that_fails() -> None:
    nb = notebook(["print('before')", "raise ValueError('stop here')", "print('after')"])
    with pytest.raises(CellExecutionError, match="stop here"):
        nbclient(nb).execute()
    assert nb.cells[0].outputs[0].text == "before\n"
    assert nb.cells[2].outputs == []


@pytest.mark.usefixtures("gateway")
def test_nbclient_leaves_no_kernel_behind(stack: Stack) -> None:
    nbclient(notebook(["1"])).execute()
    manager = KernelHttpManager(server_url=stack.url, token=stack.token("nbclient"))
    assert manager.list_kernels() == []


def test_jupyter_kernel_client_runs_twenty_cells(stack: Stack) -> None:
    with remote(stack) as client:
        for count, cell in enumerate(CELLS, start=1):
            reply = client.execute(cell.code, timeout=CELL_S)
            assert reply["status"] == ("error" if cell.fails else "ok"), reply
            cell.check(reply["outputs"])
            assert reply["execution_count"] == count
        assert client.get_variable("x") == 42


def test_jupyter_kernel_client_interrupts_and_restarts(stack: Stack) -> None:
    with remote(stack) as client:
        identity = client.id
        client.execute("x = 1")
        client.restart(timeout=CELL_S)
        reply = client.execute("print('x' in globals())", timeout=CELL_S)
        assert reply["outputs"][0]["text"] == "False\n"
        assert client.is_alive()
        assert client.id == identity


def test_jupyter_kernel_client_joins_a_kernel_that_runs(stack: Stack) -> None:
    with remote(stack) as first:
        first.execute("shared = 'here'")
        with remote(stack, kernel_id=first.id) as second:
            assert second.execute("print(shared)")["outputs"][0]["text"] == "here\n"
        assert first.is_alive()  # leaving ends no kernel that one has not started
