"""`local/test`: every check of this repository, in the order in which they are quick. Arguments go to pytest.

All of them run, also after one has failed; the exit code is 1 if any did. Caches are kept in `.kernelring`.
Of the tests two files run at a time: single parts, whole installations, pages in a browser, one kind after the other.
"""

import os
import shlex
import subprocess
import sys

from local.browser import ensure_chromium
from local.paths import ROOT, VENV, state_dir, with_venv_on_path

INTERRUPTED = 130
AT_A_TIME = 2
KINDS = (("tests/pure", "tests/app", "tests/contract"), ("tests/cluster",), ("tests/browser",))


def checks(pytest_arguments: list[str]) -> list[list[str]]:
    """The command line of each check."""
    cache = state_dir() / "cache"
    cache.mkdir(exist_ok=True)
    ruff = [sys.executable, "-m", "ruff"]
    pytest = [sys.executable, "-m", "pytest", "-o", f"cache_dir={cache / 'pytest'}"]
    # In their own order: sorted by their number of tests, the longest would come last, and alone.
    side_by_side = [*pytest, "-n", str(AT_A_TIME), "--dist=loadfile", "--no-loadscope-reorder"]
    whole = [[*side_by_side, *kind] for kind in KINDS]
    return [
        [*ruff, "check", f"--cache-dir={cache / 'ruff'}", "."],
        [*ruff, "format", "--check", f"--cache-dir={cache / 'ruff'}", "."],
        [sys.executable, "-m", "mypy", f"--cache-dir={cache / 'mypy'}"],
        [str(VENV / "bin" / "lint-imports"), f"--cache-dir={cache / 'import-linter'}"],
        *([[*pytest, *pytest_arguments]] if pytest_arguments else whole),
    ]


def main() -> int:
    """Run them all; 0 if all passed."""
    environ = with_venv_on_path(dict(os.environ))
    environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(state_dir() / "cache" / "hypothesis")
    ensure_chromium()
    failed = []
    for command in checks(sys.argv[1:]):
        shown = shlex.join(command).replace(f"{ROOT}{os.sep}", "")
        print(f"\n== {shown}", flush=True)
        if subprocess.run(command, cwd=ROOT, env=environ).returncode:
            failed.append(shown)
    print("\nAll checks passed." if not failed else "\nFailed:\n  " + "\n  ".join(failed), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
