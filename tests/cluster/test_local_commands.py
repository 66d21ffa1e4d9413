"""README's commands, as a new user types them: `local/run` from start to Ctrl-C, and `local/bench`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener

import pytest

from local.paths import ROOT, runtime_dir
from local.stack import free_port

READY_S = 60.0
ENDED_S = 40.0


@pytest.fixture
def job() -> Iterator[subprocess.Popen[str]]:
    """`local/run` on a spare port, with no Redis given. Skips the installation, which `local/test` has done."""
    unset = ("REDIS_URL", "KERNELRING_JWT_SECRET")
    environ = {name: value for name, value in os.environ.items() if name not in unset} | {"PORT": str(free_port())}
    command = [sys.executable, "-m", "local.launch"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait(ENDED_S)
    assert process.stdout is not None
    process.stdout.close()


def address_of(job: subprocess.Popen[str]) -> str:
    """Read what it says until the address comes."""
    assert job.stdout is not None
    said = []
    deadline = time.monotonic() + READY_S
    for line in job.stdout:
        said.append(line)
        if found := re.search(r"http://localhost:\d+/tree\?token=\S+", line):
            return found.group()
        assert time.monotonic() < deadline, "".join(said)
    raise AssertionError("".join(said))


def members(browser: OpenerDirector, base: str) -> list[str]:
    """The workers on the ring."""
    with browser.open(f"{base}/readyz", timeout=10) as answer:
        return list(json.load(answer)["members"])


def test_local_run_prints_an_address_that_logs_a_guest_in_and_ctrl_c_ends_all(job: subprocess.Popen[str]) -> None:
    address = address_of(job)
    browser = build_opener(HTTPCookieProcessor(CookieJar()))
    with browser.open(address, timeout=10) as page:
        assert page.url.endswith("/tree")  # their notebooks, with the token out of the address
    base = address.partition("/tree?")[0]
    with browser.open(f"{base}/", timeout=10) as page:
        assert "guest-" in page.read().decode()
    deadline = time.monotonic() + READY_S  # the address comes with the first worker
    while len(members(browser, base)) < 4:
        assert time.monotonic() < deadline, members(browser, base)
        time.sleep(0.05)
    job.send_signal(signal.SIGINT)
    assert job.stdout is not None
    rest = job.stdout.read()
    assert job.wait(ENDED_S) == 0, rest
    runtime = runtime_dir()
    assert [path for path in runtime.rglob("*") if path.is_socket()] == []
    assert processes_naming(runtime) == []


def test_local_bench_prints_a_ratio_to_a_floor_of_the_same_run(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "local.bench_main", "--quick", "--only", "roundtrip", "--json", str(figures)]
    bench = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert bench.returncode == 0, bench.stderr
    assert "ratio" in bench.stdout
    assert json.loads(figures.read_text())


@pytest.mark.timeout(240)
def test_local_bench_measures_the_pages_against_stock_jupyter(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "local.bench_main", "--quick", "--only", "pages", "--json", str(figures)]
    bench = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=230)
    assert bench.returncode == 0, bench.stderr
    found = {figure["name"]: figure for figure in json.loads(figures.read_text())["figures"]}
    assert {"Lab: page ready", "Notebook: first output, from the key", "list of files ready"} < set(found)
    assert all(figure["ratio"] > 0 for figure in found.values())


def processes_naming(directory: Path) -> list[str]:
    """Processes whose command line names the directory."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(directory) in command:
            found.append(command.replace(b"\0", b" ").decode())
    return found
