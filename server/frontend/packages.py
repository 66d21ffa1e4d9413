"""The two applications whose pages are served, imported without the process that one of them would start for that.

`gunicorn.py` has this imported before workers are forked. It imports nothing else of this server's.
"""

from __future__ import annotations

from typing import Any

from jupyterlab import commands

_commands: Any = commands
# To know its own version, LabApp looks at what a build of JupyterLab would need, and so asks Yarn for its registry: a
# Node process, half a second of processor time at each start. This is the answer of a machine without Node.
_commands._yarn_config = lambda _logger: {"yarn config": {}, "npm config": {}}

from jupyterlab.labapp import LabApp  # noqa: E402 - after that
from notebook.app import JupyterNotebookApp, NotebookHandler  # noqa: E402

__all__ = ["JupyterNotebookApp", "LabApp", "NotebookHandler"]
