"""jupyter_client's kernel manager over a kernel that lives in the nursery.

Owns what makes it one: sockets of fixed names in the kernel's private directory, an environment that is
given and never inherited, and the way to take over a kernel that another process has started. Starting,
interrupting, restarting and shutting down are AsyncKernelManager's own. It never restarts a kernel by
itself, and it never removes the directory: the nursery does, at the end.
"""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path
from typing import Any, Self

import orjson
import structlog
import zmq
import zmq.asyncio
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

from kernels.bounds import Bounds
from kernels.errors import KernelsError, SpawnRefused
from kernels.nursery_client import NurseryClient
from kernels.nursery_disk import CONNECTION
from kernels.provisioner import LAUNCH, NurseryProvisioner
from kernels.records import KernelRecord

SOCKETS = 16 * 1024
"""A context's sockets: five for a kernel, and some more (libzmq's default is 1,023)."""

PORTS = {"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "hb_port": 4, "control_port": 5}
"""The sockets are `<directory>/s/s-1` to `s-5`; the nursery makes `s`."""

_OURS = ("kernelring-nursery", "local-provisioner")

log = structlog.get_logger(__name__)


def kernel_context() -> zmq.asyncio.Context:
    """A ZMQ context for all the kernels of one process. Its maker destroys it."""
    context = zmq.asyncio.Context()
    context.set(zmq.MAX_SOCKETS, SOCKETS)
    return context


class NurseryKernelManager(AsyncKernelManager):
    """One kernel. `await start_kernel(cwd=..., env=...)` starts it; `adopt` attaches to a running one.

    `env` is the kernel's complete environment. `zmq_context` is shared by the whole process (see
    `kernel_context`) and never closed here. Errors: KernelsError, and NoSuchKernel of jupyter_client.
    """

    recorder_mib: float = 4.0
    """How much of its output a Python kernel remembers; its owner may set it before the start. So it may `claim` and
    `notes`: the epoch and boot id under which the kernel is claimed with its first start, and what is kept with it. And
    before a restart `farewell`, which the next process' record carries (see `KernelRecord`). `bounds`: what every start
    may have."""

    def __init__(
        self,
        *,
        kernel_id: str,
        kernel_name: str,
        user: str,
        nursery: NurseryClient,
        zmq_context: zmq.Context[Any],
        directory: Path | None = None,
        cwd: Path = Path("/"),
        env: dict[str, str] | None = None,
        kernel_spec_manager: KernelSpecManager | None = None,
    ) -> None:
        given = {} if kernel_spec_manager is None else {"kernel_spec_manager": kernel_spec_manager}
        self.nursery = nursery
        self.user = user
        self.directory = directory or nursery.kernels_dir / kernel_id
        self.cwd = cwd
        self.env = env or {}
        self.end_reason = "shut down"
        self.claim: tuple[int, str] = (0, "")
        self.notes: dict[str, Any] = {}
        self.farewell = ""
        self.bounds = Bounds()
        super().__init__(
            context=_for_asyncio(zmq_context),
            kernel_name=kernel_name,
            transport="ipc",
            ip=str(self.directory / "s" / "s"),
            connection_file=str(self.directory / CONNECTION),
            transport_encryption="disabled",
            autorestart=False,
            **PORTS,
            **given,
        )
        self.kernel_id = kernel_id

    @classmethod
    async def start(
        cls,
        *,
        kernel_name: str,
        user: str,
        nursery: NurseryClient,
        zmq_context: zmq.Context[Any],
        cwd: Path,
        env: dict[str, str],
        kernel_id: str | None = None,
        kernel_spec_manager: KernelSpecManager | None = None,
    ) -> Self:
        """A new kernel, started. It answers a little later."""
        manager = cls(
            kernel_id=kernel_id or str(uuid.uuid4()),
            kernel_name=kernel_name,
            user=user,
            nursery=nursery,
            zmq_context=zmq_context,
            cwd=cwd,
            env=env,
            kernel_spec_manager=kernel_spec_manager,
        )
        await manager.start_kernel(cwd=str(cwd), env=env)
        return manager

    @classmethod
    async def adopt(
        cls,
        record: KernelRecord,
        nursery: NurseryClient,
        zmq_context: zmq.Context[Any],
        *,
        kernel_spec_manager: KernelSpecManager | None = None,
    ) -> Self:
        """A manager of a kernel that is already there, running or exited, whoever started it.

        Raises KernelsError when the kernel's directory cannot be read.
        """
        manager = cls(
            kernel_id=record.kernel_id,
            kernel_name=record.kernel_name,
            user=record.user,
            nursery=nursery,
            zmq_context=zmq_context,
            directory=record.directory,
            cwd=record.cwd,
            kernel_spec_manager=kernel_spec_manager,
        )
        manager._load_key()
        await manager._take_over(record)
        return manager

    @property
    def kernel_record(self) -> KernelRecord | None:
        """The newest record that this manager has seen; None before the start."""
        return self._nursery_provisioner.record if self.provisioner else None

    async def until_exit(self) -> KernelRecord:
        """Returns once the process has exited, with `exit.reason` saying why."""
        return await self._nursery_provisioner.until_exit()

    def let_go(self) -> None:
        """Detaches from the kernel, which runs on. This manager is of no use afterwards."""
        self._close_control_socket()
        if self.provisioner is not None:
            self._nursery_provisioner.let_go()

    @property
    def _nursery_provisioner(self) -> NurseryProvisioner:
        assert isinstance(self.provisioner, NurseryProvisioner), "no kernel was started or adopted"
        return self.provisioner

    # -- what differs from AsyncKernelManager

    async def _async_pre_start_kernel(self, **kw: Any) -> tuple[list[str], dict[str, Any]]:
        if self.provisioner is None:
            self.provisioner = self._make_provisioner()
        return await super()._async_pre_start_kernel(**kw)

    async def _async_post_start_kernel(self, **kw: Any) -> None:
        # Not the original: it opens a control socket at once, one more for every kernel, which is needed only
        # to interrupt by message and to shut down, and is opened then.
        assert self.provisioner is not None
        await self.provisioner.post_launch(**kw)

    async def _async_start_kernel(self, **kw: Any) -> None:
        # The original's steps without its wrapper, which logs a traceback for every refusal and adds 10 ms.
        self._attempted_start = True
        command, kw = await self._async_pre_start_kernel(**kw)
        await self._async_launch_kernel(command, **kw)
        await self._async_post_start_kernel(**kw)
        self._be_ready()

    start_kernel = _async_start_kernel

    async def _async_wait(self, pollinterval: float = 0.1) -> None:
        # The nursery tells: no polling.
        if self.has_kernel:
            await self._nursery_provisioner.until_exit()

    def cleanup_connection_file(self) -> None:
        """Does nothing. The original also runs when a manager is collected, as one is in a worker that has
        released the kernel: the next owner needs the file."""

    def _make_provisioner(self) -> NurseryProvisioner:
        spec = self.kernel_spec
        wanted = spec.metadata.get("kernel_provisioner", {}).get("provisioner_name") if spec else None
        if wanted is not None and wanted not in _OURS:
            raise SpawnRefused(f"the kernelspec {self.kernel_name} asks for the provisioner {wanted}")
        return NurseryProvisioner(kernel_id=self.kernel_id, kernel_spec=spec, parent=self)

    def _load_key(self) -> None:
        """Only the key is taken from the file: the kernel could have written other addresses into it."""
        try:
            found = orjson.loads((self.directory / CONNECTION).read_bytes())
            self.session.key = found["key"].encode()
            self.session.signature_scheme = found["signature_scheme"]
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise KernelsError(f"kernel {self.kernel_id} cannot be adopted: {error!r}") from error
        self._connection_file_written = True

    async def _take_over(self, record: KernelRecord) -> None:
        self._launch_args = self._launched_with()
        provisioner = self._make_provisioner()
        info = {"kernel_id": record.kernel_id, "connection_info": self.get_connection_info()}
        await provisioner.load_provisioner_info(info | {"record": record.to_json()})
        self.provisioner = provisioner
        self._attempted_start = True
        self._be_ready()

    def _be_ready(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)

    def _launched_with(self) -> dict[str, Any]:
        """What a restart launches with: the same as the start did."""
        found: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            found = orjson.loads((self.directory / LAUNCH).read_bytes())
        if not isinstance(found.get("env"), dict):
            log.warning("kernel_launch_unknown", kernel=self.kernel_id)
            found = {"env": {}}
        self.env = found["env"]
        return {"cwd": str(self.cwd), "env": self.env}


def _for_asyncio(context: zmq.Context[Any]) -> zmq.asyncio.Context:
    """The same context, as AsyncKernelManager wants it."""
    return context if isinstance(context, zmq.asyncio.Context) else zmq.asyncio.Context(context)
