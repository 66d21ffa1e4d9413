"""A whole installation of its own: nursery and gunicorn with N workers, on a spare port, in their own directory.

What tests, bench and chaos break and measure. It owns every process that it starts and never touches another; the
Redis is given. The log is JSON, so that whoever breaks things can wait for an event and not for a time.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from kernels import nursery_call
from kernels.__main__ import end_all
from local import own_uids, tied
from local.launch import web_command
from local.paths import ROOT, with_venv_on_path
from server.tokens import mint_user

READY_S: Final = 60.0  # four workers that start on a machine that has other work, too
STOP_S: Final = 30.0
TURN_S: Final = 0.02

_KEPT: Final = (
    "PATH",
    "HOME",
    "LANG",
    "TMPDIR",
    "JUPYTER_PATH",
    "JUPYTER_DATA_DIR",
    "JUPYTER_CONFIG_DIR",
    "IPYTHONDIR",
)

Event = dict[str, Any]


class StackError(RuntimeError):
    """The installation did not do in time what was waited for; the text ends with the last lines of its log."""


class Stack:
    """`with Stack(redis_url) as stack:` is ready for clients at `stack.url`. All methods block."""

    def __init__(
        self,
        redis_url: str,
        *,
        workers: int = 4,
        settings: Mapping[str, str] | None = None,
        runtime: Path | None = None,
        confined: bool = False,
        uid: int | None = None,
    ) -> None:
        """`confined`: as far as this machine can. `uid`: all of it runs as that one, and has no right of root's."""
        self.directory = Path(tempfile.mkdtemp(prefix="kr-"))
        given = dict(settings or {})
        if confined:  # kernels of other uids find their way in
            self.directory.chmod(0o711)
            given = {"KERNELRING_UIDS": "{}-{}".format(*own_uids.claim())} | given
        else:  # its directory is closed to other uids, and that there are other levels is another test's matter
            given = {"KERNELRING_CONFINEMENT": "uids"} | given
        self.uid = uid
        if uid is not None:
            os.chown(self.directory, uid, uid)
        self.runtime = runtime or self.directory / "r"
        self.log_path = self.directory / "log"
        self.secret = secrets.token_hex(32)
        self.workers = workers
        self.port = free_port()
        self._given = {"REDIS_URL": redis_url, **given}
        self.gunicorn: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def uids(self) -> tuple[int, int]:
        """The first and the last of those that users are given where each has their own."""
        first, _, last = self.environ()["KERNELRING_UIDS"].partition("-")
        return int(first), int(last)

    def token(self, user: str, lifetime_s: float = 3600.0) -> str:
        """A token for `user`."""
        return mint_user(self.secret, user, lifetime_s=lifetime_s)

    def environ(self) -> dict[str, str]:
        """The environment of gunicorn: the settings, and nothing of the caller's that is not needed."""
        base = {name: os.environ[name] for name in _KEPT if name in os.environ}
        if self.uid is not None:  # the caller's directories are closed to it
            home = {"HOME": str(self.directory), "USER": "somebody"}
            base = {name: base[name] for name in ("PATH", "LANG") if name in base} | home
        return with_venv_on_path(
            base
            | {
                "PORT": str(self.port),
                "WEB_CONCURRENCY": str(self.workers),
                "KERNELRING_RUNTIME_DIR": str(self.runtime),
                "KERNELRING_NOTEBOOKS": str(self.directory / "notebooks"),
                "KERNELRING_JWT_SECRET": self.secret,
                "KERNELRING_LOG_FORMAT": "json",
            }
            | self._given
        )

    # -- life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Stack:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *, ready: bool = True) -> None:
        """Start gunicorn with the production command (and with it the nursery, unless that runs)."""
        with self.log_path.open("ab") as log:
            self.gunicorn = subprocess.Popen(
                tied.command(web_command()),
                cwd=ROOT,
                env=self.environ(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **as_uid(self.uid),
            )
        if ready:
            self.wait_ready()

    def stop_gunicorn(self, signum: int = signal.SIGTERM) -> int:
        """End gunicorn alone; the kernels run on. Returns its exit code. SIGKILL kills its workers as well."""
        gunicorn = self.gunicorn
        if gunicorn is None:
            return 0
        if signum == signal.SIGKILL:
            os.killpg(gunicorn.pid, signum)
        else:
            gunicorn.send_signal(signum)
        try:
            return gunicorn.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(gunicorn.pid, signal.SIGKILL)
            raise StackError(f"gunicorn did not end\n{self.tail()}") from None
        finally:
            self.gunicorn = None

    def stop(self) -> None:
        """End everything, in the order of `local/run`, and remove the directory."""
        try:
            self.stop_gunicorn()
        finally:
            try:
                self.stop_kernels()
            finally:
                shutil.rmtree(self.directory, ignore_errors=True)

    def stop_kernels(self) -> None:
        """End the nursery and all kernels, as `python -m kernels stop` does. Raises KernelsError if they do not end."""
        end_all(self.runtime)

    # -- looking --------------------------------------------------------------------------------------------------

    def readyz(self) -> Event | None:
        """What one of the workers says of itself; None when nobody answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:  # noqa: S310
                return dict(json.load(answer))
        except urllib.error.HTTPError as answer:
            return dict(json.load(answer))
        except (OSError, ValueError):
            return None

    def wait_ready(self, members: int | None = None) -> Event:
        """Wait until a worker is ready and its ring has `members` (default: all)."""
        wanted = self.workers if members is None else members

        def ready() -> Event | None:
            found = self.readyz()
            return found if found and found["status"] == "ready" and len(found["members"]) == wanted else None

        return dict(self.wait(ready, f"{wanted} workers ready"))

    def wait(self, what: Callable[[], Any], name: str, within_s: float = READY_S) -> Any:
        """Return the first true result of `what`. Raises StackError, with the log, after `within_s`."""
        deadline = time.monotonic() + within_s
        while not (found := what()):
            if time.monotonic() > deadline:
                raise StackError(f"waited {within_s:g} s for: {name}\n{self.tail()}")
            time.sleep(TURN_S)
        return found

    def events(self, name: str | None = None, since: int = 0) -> list[Event]:
        """The log's events (those called `name`) after the byte `since`."""
        found = []
        with self.log_path.open("rb") as log:
            log.seek(since)
            lines = log.read().splitlines()
        for line in lines:
            if name is not None and name.encode() not in line:  # most are not; to read them as JSON takes time
                continue
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if name is None or event.get("message") == name:
                found.append(event)
        return found

    def mark(self) -> int:
        """How long the log is now, for `events(since=…)`."""
        return self.log_path.stat().st_size

    def wait_event(self, name: str, since: int = 0, count: int = 1, within_s: float = READY_S) -> list[Event]:
        """Wait for the `count`-th event called `name` after `since`; return all of them."""

        def seen() -> list[Event]:
            found = self.events(name, since)
            return found if len(found) >= count else []

        return list(self.wait(seen, f"{count} x {name}", within_s))

    def worker_of(self, slot_name: str) -> int:
        """The pid of the worker that holds a slot now, by the log."""
        slot = int(slot_name.rpartition("/")[2])
        return int([event["pid"] for event in self.events("worker_registered") if event["slot"] == slot][-1])

    def worker_pids(self) -> list[int]:
        """gunicorn's children."""
        assert self.gunicorn is not None
        children = Path(f"/proc/{self.gunicorn.pid}/task/{self.gunicorn.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def nursery(self) -> Event:
        """What the nursery says of itself: pid, up_s, workers, kernels."""
        return nursery_call.ask(self.runtime, "status", STOP_S)

    def tail(self, lines: int = 40) -> str:
        """The end of the log."""
        if not self.log_path.exists():
            return "(no log)"
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


def as_uid(uid: int | None) -> dict[str, Any]:
    """For `subprocess`: as that uid, with the gid of that number and no other; None: as who calls."""
    return {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}


def free_port() -> int:
    """A loopback TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
