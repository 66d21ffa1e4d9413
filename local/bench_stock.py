"""The floor of pages: stock `jupyter lab` and `jupyter notebook` of this environment, as `pip install` leaves them.

Owns these processes and their directory. They see the same prebuilt extensions as the server, but for the one that has
cells run by the server, which nobody has who has not asked for it. They take the same ipykernel.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from local import tied
from local.paths import with_venv_on_path
from local.stack import READY_S, free_port

STOP_S: Final = 10.0
_LEFT_OUT: Final = "@datalayer/jupyter-server-nbmodel"


class StockServer:
    """`with StockServer("lab") as stock:` answers at `stock.url` to whoever has `stock.token`."""

    def __init__(self, kind: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix=f"kr-stock-{kind}-")
        self._place = Path(self._directory.name)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.token = secrets.token_hex(16)
        self._command = [
            *("jupyter", kind, "--no-browser", "--allow-root", f"--ServerApp.port={self.port}"),
            *("--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={self._place / 'root'}"),
            "--ServerApp.jpserver_extensions={'jupyter_server_nbmodel': False}",
        ]

    def __enter__(self) -> Self:
        for name in ("root", "config/labconfig"):
            (self._place / name).mkdir(parents=True)
        page_config = {"disabledExtensions": {_LEFT_OUT: True}}
        (self._place / "config/labconfig/page_config.json").write_text(json.dumps(page_config))
        with (self._place / "log").open("wb") as log:
            self._process = subprocess.Popen(
                tied.command(self._command),
                cwd=self._place,
                env=self._environ(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_S
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                said = (self._place / "log").read_text(errors="replace")[-2000:]
                self.__exit__(None, None, None)
                raise RuntimeError(f"`{' '.join(self._command[:2])}` did not start:\n{said}")
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()  # it ends its kernels
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._directory.cleanup()

    def _answers(self) -> bool:
        """Whether it says that it runs; the file is written when it listens."""
        return any((self._place / "runtime").glob("jpserver-*.json"))

    def _environ(self) -> dict[str, str]:
        """Nothing of whoever runs the bench: no settings, no extensions, no history."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        own = {f"JUPYTER_{name.upper()}_DIR": str(self._place / name) for name in ("config", "data", "runtime")}
        return with_venv_on_path(kept | own | {"JUPYTER_TOKEN": self.token, "IPYTHONDIR": str(self._place / "ipython")})
