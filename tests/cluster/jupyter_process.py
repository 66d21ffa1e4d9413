"""Jupyter's own programs as processes of a test: `jupyter lab` before our server, `jupyter server` beside it.

Each has configuration, data and runtime folders of its own and ends with the test. What it logs is kept, line by line,
and can be waited for.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Self

from local import tied
from local.paths import with_venv_on_path
from local.stack import free_port

START_S = 30.0
STOP_S = 15.0
TURN_S = 0.01
TOKEN = "a-token-for-the-browser-of-this-test"


class JupyterProcess:
    """`with JupyterProcess("lab", "--gateway-url=…") as lab:` answers at `lab.url` to `TOKEN`."""

    def __init__(self, program: str, *arguments: str, environ: dict[str, str] | None = None) -> None:
        self.port = free_port()
        self.log: list[str] = []
        self.token = TOKEN
        self._folder = tempfile.TemporaryDirectory(prefix="kr-jupyter-")
        self._news = threading.Condition()
        self._command = self._command_line(program, arguments)
        self._environ = self._own_environ() | (environ or {})
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where a browser would go."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            tied.command(self._command),
            cwd=self._folder.name,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        try:
            self.wait_line("is running at:", within_s=START_S)
            self._wait_listening()  # it says so a moment before it is true
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, with its kernels if it has any of its own."""
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._reader is not None
        self._reader.join(STOP_S)
        self._process.stdout.close()
        self._folder.cleanup()

    def wait_line(self, text: str, since: int = 0, within_s: float = 10.0) -> str:
        """Return the first line of its log, from the line number `since` on, that has `text`."""
        deadline = time.monotonic() + within_s
        with self._news:
            while True:
                for line in self.log[since:]:
                    if text in line:
                        return line
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError(f"{text!r} was not logged:\n{''.join(self.log[-30:])}")
                self._news.wait(left_s)

    def _wait_listening(self, within_s: float = 5.0) -> None:
        deadline = time.monotonic() + within_s
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(TURN_S)

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            with self._news:
                self.log.append(line)
                self._news.notify_all()

    def _command_line(self, program: str, arguments: tuple[str, ...]) -> list[str]:
        options = ("--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={self.port}")
        module = {"lab": "jupyterlab", "server": "jupyter_server"}[program]
        return [sys.executable, "-m", module, *options, "--ServerApp.port_retries=0", *arguments]

    def _own_environ(self) -> dict[str, str]:
        folder = Path(self._folder.name)
        own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
        own |= {"IPYTHONDIR": str(folder / "ipython"), "HOME": str(folder), "JUPYTER_TOKEN": self.token}
        return with_venv_on_path({"PATH": os.environ["PATH"], "LANG": "C.UTF-8"} | own)
