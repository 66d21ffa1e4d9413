"""What every test gets: Jupyter, IPython and matplotlib folders of its own instead of the developer's."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Jupyter's and IPython's libraries look at these when they are imported, which is before any fixture runs.
_HOME = tempfile.TemporaryDirectory(prefix="kernelring-test-home-")
for _name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR"):
    os.environ[_name] = str(Path(_HOME.name) / _name.lower())


@pytest.fixture
def runtime_dir() -> Iterator[Path]:
    """A runtime directory that does not exist yet, on a path short enough for sockets; removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="kr-") as parent:
        yield Path(parent) / "r"


def pytest_unconfigure() -> None:
    """Remove the home of this run."""
    _HOME.cleanup()
