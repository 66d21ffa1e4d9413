"""nbclient and jupyter_kernel_client run a notebook of twenty cells at four workers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import nbformat
import pytest
import websocket
from jupyter_kernel_client import JupyterKernelClient, JupyterSubprotocol
from jupyter_server.gateway.gateway_client import GatewayClient
from jupyter_server.gateway.managers import GatewayKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from local.stack import Stack
from tests.cluster.lesson import CELLS

CELL_S = 30


@pytest.fixture
def gateway(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """jupyter_server's gateway client, told where our server is.

    `GatewayKernelClient` opens its WebSocket without the token that the gateway client has been given (apache/airflow#73250), so it works only with
    servers that ask for none. The header is what has to be added; nothing else is changed.
    """
    token = stack.token("nbclient")
    monkeypatch.setattr(GatewayClient, "_instance", None)
    GatewayClient.instance(url=stack.url, auth_token=token)
    connect = partial(websocket.create_connection, header=[f"Authorization: token {token}"])
    monkeypatch.setattr("jupyter_server.gateway.managers.websocket.create_connection", connect)
    yield
    GatewayClient.clear_instance()


def notebook(cells: list[str]) -> Any:
    """A notebook with these code cells."""
    made = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    made.cells = [nbformat.v4.new_code_cell(code) for code in cells]
    return made


def nbclient(nb: Any, **options: Any) -> NotebookClient:
    """nbclient on a kernel of the gateway."""
    manager = f"{GatewayKernelManager.__module__}.{GatewayKernelManager.__qualname__}"
    return NotebookClient(nb, kernel_manager_class=manager, timeout=CELL_S, **options)


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
    with JupyterKernelClient(server_url=stack.url, token=stack.token("nbclient")) as client:
        assert [one["id"] for one in client.list_kernels()] == [client.id]


@pytest.mark.parametrize("subprotocol", list(JupyterSubprotocol), ids=lambda one: one.name.lower())
def test_jupyter_kernel_client_runs_twenty_cells(stack: Stack, subprotocol: JupyterSubprotocol) -> None:
    options = {"client_kwargs": {"subprotocol": subprotocol}}
    with JupyterKernelClient(server_url=stack.url, token=stack.token("remote"), **options) as client:
        for count, cell in enumerate(CELLS, start=1):
            reply = client.execute(cell.code, timeout=CELL_S)
            assert reply["status"] == ("error" if cell.fails else "ok"), reply
            cell.check(reply["outputs"])
            assert reply["execution_count"] == count
        assert client.get_variable("x") == 42


def test_jupyter_kernel_client_interrupts_and_restarts(stack: Stack) -> None:
    with JupyterKernelClient(server_url=stack.url, token=stack.token("remote")) as client:
        identity = client.id
        client.execute("x = 1")
        client.restart(timeout=CELL_S)
        reply = client.execute("print('x' in globals())", timeout=CELL_S)
        assert reply["outputs"][0]["text"] == "False\n"
        assert client.is_alive()
        assert client.id == identity


def test_jupyter_kernel_client_joins_a_kernel_that_runs(stack: Stack) -> None:
    options = {"server_url": stack.url, "token": stack.token("remote")}
    with JupyterKernelClient(**options) as first:
        first.execute("shared = 'here'")
        with JupyterKernelClient(kernel_id=first.id, **options) as second:
            assert second.execute("print(shared)")["outputs"][0]["text"] == "here\n"
        assert first.is_alive()  # leaving ends no kernel that one has not started
