"""Where a checkout's local commands keep things: `.venv`, `.kernelring` and one runtime directory."""

import hashlib
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STATE = ROOT / ".kernelring"  # secrets, notebooks and caches of this checkout; git ignores it


def state_dir() -> Path:
    """STATE, made if it is missing; only its owner can look into it. Kernels pass through to their notebooks."""
    STATE.mkdir(mode=0o711, exist_ok=True)
    if STATE.stat().st_mode & 0o777 == 0o700:
        STATE.chmod(0o711)
    return STATE


def runtime_dir() -> Path:
    """A short path, so that socket names fit, that belongs to this checkout and user alone."""
    checkout = hashlib.sha256(os.fsencode(ROOT)).hexdigest()[:8]
    return Path(f"/tmp/kernelring-{os.getuid()}-{checkout}")  # noqa: S108 - Host.open refuses others' directories


def with_venv_on_path(environ: dict[str, str]) -> dict[str, str]:
    """A copy of `environ` in which commands of `.venv` come first."""
    return environ | {"PATH": os.pathsep.join([str(VENV / "bin"), environ.get("PATH", os.defpath)])}
