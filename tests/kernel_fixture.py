"""Kernels started through the manager, and a client of jupyter_client's to talk to them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpecManager

from kernels.kernel_manager import NurseryKernelManager
from kernels.nursery_client import NurseryClient
from tests.nursery_fixture import PROGRAMS, kernel_env

READY_S = 30.0


def programs() -> KernelSpecManager:
    """Finds the kernelspecs of `tests/programs` and no others."""
    return KernelSpecManager(kernel_dirs=[str(PROGRAMS)], ensure_native_kernel=False)


async def started(
    nurse: NurseryClient, context: zmq.Context[Any], kernel_name: str = "python3", **given: Any
) -> NurseryKernelManager:
    spec: dict[str, Any] = {} if kernel_name == "python3" else {"kernel_spec_manager": programs()}
    return await NurseryKernelManager.start(
        kernel_name=kernel_name,
        user="ann",
        nursery=nurse,
        zmq_context=context,
        cwd=Path("/"),
        env=kernel_env(),
        **spec,
        **given,
    )


@asynccontextmanager
async def talking(manager: NurseryKernelManager) -> AsyncIterator[AsyncKernelClient]:
    """A client of jupyter_client's, once the kernel has answered it."""
    talk = manager.client()
    talk.start_channels()
    try:
        await talk.wait_for_ready(timeout=READY_S)
        yield talk
    finally:
        talk.stop_channels()


async def said(talk: AsyncKernelClient, code: str) -> str:
    """What the code printed."""
    printed: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    reply = await talk.execute_interactive(code, output_hook=hear, timeout=READY_S, allow_stdin=False)
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(printed).strip()
