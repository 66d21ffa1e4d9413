"""The kernel provisioner that starts kernels in the nursery and can attach to them again.

Owns the step from a kernelspec to a `SpawnOrder`, and the process end of a `NurseryKernelManager`. It works
under that manager alone: the manager has the nursery's client, the user and the directory. It speaks to no
ZMQ socket and decides nothing: when to start again is the owner's matter.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import orjson
import structlog
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase

from kernels.errors import KernelsError, SpawnRefused, UnknownKernel
from kernels.records import Exit, KernelRecord, SpawnOrder

if TYPE_CHECKING:
    from kernels.kernel_manager import NurseryKernelManager

LAUNCH = "launch.json"
"""Holds what a kernel was launched with (environment, working directory), for an adopter that restarts it."""

INSIDE = str(Path(__file__).resolve().parent / "inside" / "__main__.py")
"""Run by its path: see there."""

log = structlog.get_logger(__name__)


class NurseryProvisioner(KernelProvisionerBase):
    """One kernel through all of its incarnations. Shaped like `Popen`, as jupyter_client asks for."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.record: KernelRecord | None = None
        self._managed = False
        self._exited = asyncio.Event()
        self._unwatch: Callable[[], None] = _nothing

    @property
    def manager(self) -> NurseryKernelManager:
        """The manager that this provisioner works for."""
        return cast("NurseryKernelManager", self.parent)

    @property
    def has_process(self) -> bool:
        """True from launch (or attach) until `wait` has told how it ended."""
        return self._managed

    async def poll(self) -> int | None:
        """None while the process runs, else its exit code, minus the signal, or 255 if unknown. No I/O."""
        if self.record is None:
            return 0
        return None if self.record.exit is None else self.record.exit.returncode

    async def until_exit(self) -> KernelRecord:
        """Returns the record once the process has exited. Woken by the nursery's event."""
        await self._exited.wait()
        assert self.record is not None
        return self.record

    async def wait(self) -> int | None:
        """As `until_exit`, and from then on there is no process (until the next launch)."""
        if not self._managed:
            return 0
        record = await self.until_exit()
        self._managed = False
        return record.exit.returncode if record.exit else 0

    async def send_signal(self, signum: int) -> None:
        """To the whole process group. One that has exited gets none, and that is fine."""
        if not self._managed or self._exited.is_set():
            return
        try:
            await self.manager.nursery.signal(self.kernel_id, signum)
        except UnknownKernel:
            self._gone()

    async def kill(self, restart: bool = False) -> None:
        """SIGKILL. With `restart` the next call will be a launch."""
        await self.send_signal(9)

    async def terminate(self, restart: bool = False) -> None:
        """SIGTERM, which a kernel can catch. With `restart` the next call will be a launch."""
        await self.send_signal(15)

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Makes the directory (at the first start) and the connection file, resolves command and environment.

        Raises SpawnRefused when the directory is there already: the id is another kernel's.
        """
        manager = self.manager
        kwargs["env"] = dict(kwargs.get("env", manager.env))
        kwargs["cwd"] = str(kwargs.get("cwd") or manager.cwd)
        extra_arguments = kwargs.pop("extra_arguments", [])
        if self.record is None:
            _make_directory(manager.directory)
        _write_private(manager.directory / LAUNCH, {"env": kwargs["env"], "cwd": kwargs["cwd"]})
        manager.write_connection_file(jupyter_session=kwargs["env"].get("JPY_SESSION_NAME", ""))
        self.connection_info = manager.get_connection_info()
        command = manager.format_kernel_cmd(extra_arguments=extra_arguments)
        return await super().pre_launch(cmd=command, **kwargs)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Has the nursery start the next incarnation. Raises SpawnRefused, NurseryUnavailable."""
        first = self.record is None
        manager, incarnation = self.manager, self.record.incarnation + 1 if self.record else 1
        ours = (f"--RingApp.incarnation={incarnation}", f"--RingApp.recorder_mib={manager.recorder_mib:g}")
        command = with_recorder(cmd, manager.connection_file, ours)
        order = self._order(command, kwargs["env"], Path(kwargs["cwd"]))
        try:
            record = await self.manager.nursery.spawn(order)
        except SpawnRefused as error:
            if first:
                await self._undo(error.reason)
            raise
        self._attach(record)
        return self.connection_info

    async def cleanup(self, restart: bool = False) -> None:
        """Ends what is left of the kernel, with its directory; not when it is only being restarted."""
        if not restart:
            self.let_go()
            await self.manager.nursery.end(self.kernel_id, self.manager.end_reason)
            self._managed = False

    async def get_provisioner_info(self) -> dict[str, Any]:
        """What `load_provisioner_info` needs: ids, connection and the nursery's record as JSON."""
        info = await super().get_provisioner_info()
        return info | {"record": self.record.to_json() if self.record else None}

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        """Attaches to a kernel that is already there, running or exited."""
        await super().load_provisioner_info(provisioner_info)
        self._attach(KernelRecord.from_json(provisioner_info["record"]))

    def resolve_path(self, path: str) -> str | None:
        """A path as the kernel sees it: relative to its working directory."""
        if self.record is None:
            return None
        found = self.record.cwd / Path(path)
        return str(found) if found.exists() else None

    def let_go(self) -> None:
        """Stops listening for the kernel's exit. The kernel stays as it is."""
        self._unwatch()
        self._unwatch = _nothing

    def _order(self, command: list[str], env: dict[str, str], cwd: Path) -> SpawnOrder:
        # With JPY_PARENT_PID, ipykernel would end itself when that process does.
        kept = {name: value for name, value in env.items() if name != "JPY_PARENT_PID"}
        return SpawnOrder(
            kernel_id=self.kernel_id,
            user=self.manager.user,
            kernel_name=self.manager.kernel_name,
            incarnation=self.record.incarnation + 1 if self.record else 1,
            directory=self.manager.directory,
            argv=tuple(str(Path(part).expanduser()) if part.startswith("~") else part for part in command),
            env=kept,
            cwd=cwd,
            recorder=INSIDE in command,
            forkable=is_forkable(command),
            claim_epoch=self.manager.claim[0],
            claim_boot=self.manager.claim[1],
            notes=self.manager.notes,
            farewell=self.manager.farewell,
            bounds=self.manager.bounds,
        )

    def _attach(self, record: KernelRecord) -> None:
        self.let_go()
        self.record = record
        self._managed = True
        self._exited = asyncio.Event()
        if record.state == "exited":
            self._exited.set()
        self._unwatch = self.manager.nursery.watch(record.kernel_id, self._heard)

    def _heard(self, record: KernelRecord | None) -> None:
        if record is None:
            self._gone()
        elif self.record is not None and record.incarnation == self.record.incarnation:
            # A late word of an earlier incarnation must not end this one.
            self.record = record
            self._exited.set()

    def _gone(self) -> None:
        """Somebody else has ended it, and its record with it."""
        if self.record is not None and self.record.exit is None:
            self.record = replace(self.record, state="exited", exit=Exit(None, None, "ended by somebody else"))
        self._exited.set()

    async def _undo(self, why: str) -> None:
        try:
            await self.manager.nursery.end(self.kernel_id, f"could not be started: {why}")
        except KernelsError as error:  # the nursery sweeps the directory later
            log.warning("kernel_directory_left", kernel=self.kernel_id, error=str(error))


def with_recorder(command: list[str], connection_file: str, ours: tuple[str, ...]) -> list[str]:
    """A kernelspec's command; one that runs ipykernel with our own interpreter gets the recorder into it."""
    at = 1
    while at < len(command) and command[at].startswith("-X"):
        at += 1
    run = ["-m", "ipykernel_launcher", "-f", connection_file]
    if command[0] != sys.executable or command[at : at + len(run)] != run:
        return command
    return [*command[:at], INSIDE, "-f", connection_file, *ours, *command[at + len(run) :]]


def is_forkable(command: list[str]) -> bool:
    """Whether a zygote's child can do what the command does: it knows no other options and arguments.

    `-Xfrozen_modules=off`, which `ipython kernel install` puts into its kernelspecs, only lets the debugger step into
    the standard library.
    """
    if INSIDE not in command:
        return False
    at = command.index(INSIDE)
    own = ("--RingApp.incarnation=", "--RingApp.recorder_mib=")
    return set(command[1:at]) <= {"-Xfrozen_modules=off"} and all(part.startswith(own) for part in command[at + 3 :])


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        raise SpawnRefused(f"there is a kernel {directory.name} already") from None
    except OSError as error:
        raise SpawnRefused(f"cannot make {directory}: {error.strerror}") from error


def _write_private(path: Path, content: dict[str, Any]) -> None:
    fresh = path.with_suffix(".new")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(orjson.dumps(content))
        fresh.replace(path)
    except OSError as error:
        raise SpawnRefused(f"cannot write {path}: {error.strerror}") from error


def _nothing() -> None:
    """No watch is on."""
