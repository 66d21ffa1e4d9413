"""`local/run`: the main job on a developer's machine, and the end of everything that it started.

Starts Redis if none is given or found, then the `web:` line of Procfile, waits until `/readyz` says yes, and
prints the address to open. What it starts runs in sessions of its own, so that Ctrl-C reaches only this
process, which then ends the rest in order. It serves nothing itself and knows no kernel.
"""

import fcntl
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local import tied
from local.environ import launch_environ
from local.install import say
from local.own_redis import OwnRedis, OwnRedisError, answers, find_binary
from local.paths import ROOT, state_dir
from local.readiness import readiness
from server.host import Host, HostError
from server.settings import Settings, SettingsError

_STOP = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_WATCHED = _STOP | {signal.SIGCHLD}
_KERNELS_STOP_S = 20.0
_MARGIN_S = 5.0  # beyond the graceful stop that gunicorn itself allows
_PROBE_S = 0.2


class LaunchError(Exception):
    """The job cannot run; the text is one sentence for whoever started it."""


def main() -> int:
    """Run until Ctrl-C or until gunicorn ends; the exit code is gunicorn's, 0 after Ctrl-C."""
    if sys.argv[1:]:
        say("local/run takes no arguments; settings are environment variables (see README), such as PORT=8001")
        return 2
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)  # from here on they are waited for, never handled
    try:
        with _alone():
            return _run(launch_environ(os.environ))
    except (LaunchError, OwnRedisError, HostError, SettingsError) as problem:
        say(str(problem))
        return 1


@contextmanager
def _alone() -> Iterator[None]:
    """Two in one checkout would share a nursery, and the first to end would end the other's kernels."""
    with (state_dir() / "running").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LaunchError("local/run is running already in this checkout.") from None
        yield


def _run(environ: dict[str, str]) -> int:
    settings = Settings.from_environ(environ)
    _refuse_taken(settings.port)
    host = Host.open(settings.runtime_dir)
    settings.notebooks.mkdir(parents=True, exist_ok=True)
    redis = _redis(environ, host.runtime)
    server: subprocess.Popen[bytes] | None = None
    try:
        if redis:
            redis.start()
            environ = environ | {"REDIS_URL": redis.url}
        say(f"starting {settings.web_concurrency} workers")
        server = _spawn(web_command(), environ)
        return _watch(server, redis, settings.port, environ)
    finally:
        _end(server, redis, settings, environ)


def _refuse_taken(port: int) -> None:
    """Raise LaunchError if somebody listens on `port`: gunicorn would only say so after a row of retries."""
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
        except PermissionError:
            raise LaunchError(f"Port {port} needs root; choose another one: PORT=8001 local/run") from None
        except OSError:
            if _listens(address, port):
                raise LaunchError(
                    f"Port {port} is taken by another program; choose another one: PORT={port + 1} local/run"
                ) from None


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def _redis(environ: dict[str, str], runtime: Path) -> OwnRedis | None:
    """The Redis to start, or None when one is given or answers; says which it is."""
    if environ.get("REDIS_URL"):
        say("using the Redis at REDIS_URL")
        return None
    if answers(6379):
        say("using the Redis on localhost:6379")
        return None
    binary = find_binary()
    say(f"starting a Redis of its own ({binary.name})")
    return OwnRedis(binary, runtime / "redis")


def web_command() -> list[str]:
    """The production command: the `web:` line of Procfile, without the `exec` that is meant for its shell."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    line = next(each.removeprefix("web:").strip() for each in lines if each.startswith("web:"))
    return shlex.split(line.removeprefix("exec "))


def _spawn(command: list[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        tied.command(command), cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, start_new_session=True
    )


def _wait(timeout_s: float) -> int | None:
    """The next signal (a stop, or the end of a child), or None after `timeout_s`."""
    found = signal.sigtimedwait(_WATCHED, timeout_s)
    return found.si_signo if found else None


def _watch(server: subprocess.Popen[bytes], redis: OwnRedis | None, port: int, environ: dict[str, str]) -> int:
    """Until a stop is asked for or gunicorn ends; says the address once the server is ready."""
    ready, complain_at = False, time.monotonic() + 15
    while True:
        if _wait(60 if ready else _PROBE_S) in _STOP:
            return 0
        if (code := server.poll()) is not None:
            say(f"gunicorn ended by itself (exit code {code})")
            return code if code > 0 else 1
        if redis and redis.ended():
            say("its Redis has ended; starting it again")
            redis.start()
        if ready:
            continue
        ready, answer = readiness(port)
        if ready:
            _say_address(port, environ)
        elif time.monotonic() > complain_at:
            say(f"still not ready: {answer}")
            complain_at = time.monotonic() + 60


def _say_address(port: int, environ: dict[str, str]) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "server.token", "--guest"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise LaunchError(f"No guest token could be made: {made.stderr.strip()}")
    address = f"http://localhost:{port}/tree?token={made.stdout.strip()}"
    print(f"\nkernelring is ready. Open\n\n    {address}\n\nCtrl-C ends it, and all kernels.\n", flush=True)


def _end(
    server: subprocess.Popen[bytes] | None,
    redis: OwnRedis | None,
    settings: Settings,
    environ: dict[str, str],
) -> None:
    """End all, in this order. First gunicorn: its workers leave the ring, nobody starts kernels any more.
    Then the nursery, which ends the kernels and itself. Redis goes last: workers talk to it until they end.
    """
    if server:
        say("stopping the workers (Ctrl-C again hurries)")
        _end_server(server, settings.graceful_s + _MARGIN_S)
        say("stopping the kernels")
        stop = [sys.executable, "-m", "kernels", "stop", "--runtime", str(settings.runtime_dir)]
        if not _wait_for(_spawn(stop, environ), _KERNELS_STOP_S):
            say(f"not all kernels could be ended; what is left is in {settings.runtime_dir}")
    if redis:
        redis.stop()
    say("ended")


def _end_server(server: subprocess.Popen[bytes], graceful_s: float) -> None:
    """SIGTERM, then SIGINT (gunicorn's quick stop) on the next Ctrl-C, and SIGKILL on the one after it."""
    rising = iter((signal.SIGINT, signal.SIGKILL))
    deadline = time.monotonic() + graceful_s
    _signal_session(server, signal.SIGTERM)
    while server.poll() is None:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or _wait(left_s) in _STOP:
            _signal_session(server, next(rising, signal.SIGKILL) if left_s > 0 else signal.SIGKILL)
            deadline = max(deadline, time.monotonic() + 1)


def _signal_session(server: subprocess.Popen[bytes], signum: int) -> None:
    """SIGKILL goes to gunicorn's workers too, which are in its process group; all else to gunicorn alone."""
    if server.poll() is not None:
        return
    if signum == signal.SIGKILL:
        os.killpg(server.pid, signum)
    else:
        server.send_signal(signum)


def _wait_for(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Whether it ended well in time; if not, it is killed. Ctrl-C does not cut it short."""
    try:
        return process.wait(timeout_s) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


if __name__ == "__main__":
    sys.exit(main())
