"""Install this checkout into `.venv`, then become the module that was asked for.

    python -m local.install EXTRAS always|if-changed MODULE [arguments]

Runs before any package is installed, so it uses the standard library alone. A stamp in `.venv` says what was
installed from which `pyproject.toml` and `constraints.txt`; pip's cache in the home directory is left alone.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from local.paths import ROOT, VENV

CONSTRAINTS = ROOT / "constraints.txt"
_STAMP = VENV / "kernelring-installed.json"
_EGG_INFO = ROOT / "kernelring.egg-info"
_SHOWN = ("Downloading ", "Using cached ", "Installing collected ")


class InstallError(Exception):
    """pip could not install something; the text is a sentence for whoever started us."""


def say(text: str) -> None:
    """One line for the person at the terminal, on stderr."""
    print(f"kernelring: {text}", file=sys.stderr, flush=True)


def install(extras: frozenset[str], *, always: bool) -> None:
    """Make `.venv` hold this checkout with `extras`. Raises InstallError."""
    with _alone():
        key = _key()
        there = _installed(key)
        if not always and there is not None and extras <= there:
            return
        wanted = sorted(extras | (there or frozenset()))
        say("installing pip and the build tool")
        # A pip as old as Debian 12's searches for minutes when a pin does not fit; a new one says so at once.
        _pip("pip", "setuptools")
        say(f"installing the server and {' and '.join(wanted)} packages (minutes, the first time)")
        _pip("--no-build-isolation", "--editable", f".[{','.join(wanted)}]")
        _STAMP.write_text(json.dumps({"key": key, "extras": wanted}))
        say("installed")


@contextmanager
def _alone() -> Iterator[None]:
    """Two commands started at once must not both change `.venv`."""
    with (VENV / "kernelring-installing").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another command that installs")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _key() -> str:
    files = [ROOT / "pyproject.toml", CONSTRAINTS]
    parts = [os.fsencode(ROOT), sys.version.encode(), *(each.read_bytes() for each in files)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _installed(key: str) -> frozenset[str] | None:
    """The extras that were installed from files with this key; None if it was never or from other files."""
    try:
        stamp = json.loads(_STAMP.read_text())
        return frozenset(stamp["extras"]) if stamp["key"] == key else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _pip(*arguments: str) -> None:
    """Run `pip install`, showing one line per step. Raises InstallError."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--progress-bar=off",
        "-c",
        str(CONSTRAINTS),
        *arguments,
    ]
    had_egg_info = _EGG_INFO.exists()
    lines: list[str] = []
    with subprocess.Popen(
        command, cwd=ROOT, env=_pip_environ(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            lines.append(line)
            if line.strip().startswith(_SHOWN):
                print(f"  {line.strip()[:100]}", file=sys.stderr, flush=True)
    if not had_egg_info:  # the build leaves it in the checkout; what is installed does not need it
        shutil.rmtree(_EGG_INFO, ignore_errors=True)
    if pip.returncode:
        sys.stderr.writelines(lines)
        raise InstallError("pip could not install what is needed; its lines above say why.")


def _pip_environ() -> dict[str, str]:
    mine = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0"}
    if "PIP_CACHE_DIR" not in os.environ:
        mine["PIP_NO_CACHE_DIR"] = "1"
    return {**os.environ, **mine}


def main() -> None:
    """Install, then replace this process by the module, which may import what was just installed."""
    extras, when, module, *arguments = sys.argv[1:]
    try:
        install(frozenset(extras.split(",")), always=when == "always")
    except InstallError as problem:
        say(str(problem))
        sys.exit(1)
    except KeyboardInterrupt:
        say("stopped; run it again to go on installing")
        sys.exit(130)
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
