"""Another site: pages and files on an origin of their own, for tests of what a foreign page may do."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self


class Site:
    """`with Site(directory) as site:` serves the directory's files at `site.origin`, until the end of the block.

    By the name `localhost`: to a browser that is another site than 127.0.0.1, so no cookie of ours goes along.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(directory)))
        self._serving = threading.Thread(target=self._server.serve_forever, name="site")

    @property
    def origin(self) -> str:
        return f"http://localhost:{self._server.server_address[1]}"

    def put(self, name: str, text: str) -> str:
        """Write a file; its address."""
        (self._directory / name).write_text(text, encoding="utf-8")
        return f"{self.origin}/{name}"

    def __enter__(self) -> Self:
        self._serving.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._serving.join()
        self._server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        """A file that was put there anew is seen at once."""
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""
