"""The floor of the bench: the same kernels, started cold and without any server.

Owns the kernels that it starts. They get the environment and the kind of sockets that the server gives to its own.
"""

from __future__ import annotations

import os
import signal
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from jupyter_client.manager import KernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from local.bench_links import RawPlace
from server.workdir import kernel_environment

PORTS: Final = {"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "hb_port": 4, "control_port": 5}


class RawKernel:
    """One ipykernel over ipc. The constructor returns when its process has been started."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="kr-raw-")
        here = Path(self._directory.name)
        self._manager = KernelManager(
            kernel_name="python3", transport="ipc", ip=str(here / "s"), connection_file=str(here / "c.json"), **PORTS
        )
        self._manager.kernel_id = str(uuid.uuid4())
        self._manager.start_kernel(cwd=str(here), env=kernel_environment((), here))

    @property
    def place(self) -> RawPlace:
        """Where a client finds it."""
        info = self._manager.get_connection_info()
        shell, iopub = (f"ipc://{info['ip']}-{info[port]}" for port in ("shell_port", "iopub_port"))
        return RawPlace(shell, iopub, self._manager.session.key)

    @property
    def pid(self) -> int:
        """Of its process."""
        assert isinstance(self._manager.provisioner, LocalProvisioner)
        assert self._manager.provisioner.pid is not None
        return self._manager.provisioner.pid

    def kill(self) -> None:
        """Kill it; `end` is still to be called."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill it, wait for it and remove what it left."""
        self._manager.shutdown_kernel(now=True)
        self._directory.cleanup()


def end_all(kernels: Sequence[RawKernel]) -> None:
    """End them together: jupyter_client looks after each only ten times a second."""
    for kernel in kernels:
        kernel.kill()
    for kernel in kernels:
        kernel.end()
