"""The environment that `local/run` gives to the server: what the developer set, and defaults for the rest."""

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from local.paths import runtime_dir, state_dir, with_venv_on_path

# On a developer's machine guests may come in, so nothing may be reached from outside.
_NEVER = ("KERNELRING_UNCONFINED", "KERNELRING_BIND", "KERNELRING_GUESTS")


def launch_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` with defaults for all that the server needs. Makes the JWT secret if there is none."""
    state = state_dir()
    defaults = {
        "KERNELRING_RUNTIME_DIR": str(runtime_dir()),
        "KERNELRING_NOTEBOOKS": str(state / "notebooks"),
    }
    given = {name: value for name, value in environ.items() if value and name not in _NEVER}
    if "KERNELRING_JWT_SECRET" not in given:
        defaults["KERNELRING_JWT_SECRET"] = _kept_secret(state / "jwt-secret")
    return with_venv_on_path(defaults | given | {"KERNELRING_GUESTS": "1"})


def _kept_secret(path: Path) -> str:
    """The secret in `path`, made at the first run, so that logins stay valid from one run to the next."""
    with (
        suppress(FileExistsError),
        os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new,
    ):
        new.write(secrets.token_hex(32))
    return path.read_text().strip()
