"""The runtime directory: one per host and user, with the host's id, its secret and all sockets.

Opening it makes what is missing and refuses what somebody else could have placed there. The only thing that it
removes are the sockets of workers that do not run any more; all else belongs to whoever made it.
"""

import os
import secrets
import stat
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

SOCKET_PATH_BYTES = 107  # sun_path of unix(7) has 108 bytes, the last one is the null
KERNEL_ID_CHARS = 36  # a uuid4 as text
ID_BYTES = 6  # 12 hex characters
SECRET_BYTES = 32


class HostError(Exception):
    """The runtime directory cannot be used; the text is one sentence that says why."""


@dataclass(frozen=True, slots=True)
class Host:
    """An opened runtime directory: who this host is, and where its sockets are (all absolute)."""

    id: str
    secret: str = field(repr=False)
    runtime: Path
    nursery_socket: Path
    workers_dir: Path
    kernels_dir: Path

    @classmethod
    def open(cls, runtime: Path) -> Self:
        """Make or check `runtime` (an absolute path). Any number of processes may open it at once.

        Raises HostError when it is too long, belongs to somebody else or can be entered by others.
        """
        _check_length(runtime)
        workers_dir, kernels_dir = runtime / "w", runtime / "k"
        try:
            runtime.parent.mkdir(parents=True, exist_ok=True)
            for directory in (runtime, workers_dir, kernels_dir):
                _own_directory(directory)
            host_id = _own_word(runtime / "host", ID_BYTES)
            secret = _own_word(runtime / "secret", SECRET_BYTES)
        except OSError as problem:
            raise HostError(f"The runtime directory {runtime} cannot be used: {problem}.") from problem
        return cls(host_id, secret, runtime, runtime / "nursery.sock", workers_dir, kernels_dir)

    def sweep_sockets(self, killed: Collection[int] = ()) -> None:
        """Remove the sockets (`<pid>-<random>.sock`) of workers that were killed: nobody else would.

        `killed`: pids of those that were sent SIGKILL, which may take a moment to be gone.
        """
        for path in self.workers_dir.glob("*-*.sock"):
            pid = path.name.partition("-")[0]
            if pid.isdecimal() and (int(pid) in killed or not Path("/proc", pid).exists()):
                path.unlink(missing_ok=True)


def _check_length(runtime: Path) -> None:
    longest = runtime / "k" / ("0" * KERNEL_ID_CHARS) / "s" / "s-5"
    too_many = len(os.fsencode(longest)) - SOCKET_PATH_BYTES
    if not runtime.is_absolute():
        raise HostError(f"The runtime directory {runtime} must be given as an absolute path.")
    if too_many > 0:
        raise HostError(
            f"The runtime directory {runtime} is {too_many} bytes too long for the sockets in it "
            f"(the system allows {SOCKET_PATH_BYTES}): name a shorter one."
        )


def _own_directory(path: Path) -> None:
    """Make `path` with mode 0700, or check that it is a directory that only we can look into.

    Confined kernels pass through some of them (0711). One that is open further is refused and not closed: it could be
    /tmp, or somebody's home, named by mistake.
    """
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise HostError(f"{path} is not a directory: remove it or name another runtime directory.")
    if found.st_uid != os.geteuid():
        raise HostError(f"{path} belongs to user {found.st_uid}, not to {os.geteuid()}: name another one.")
    if found.st_mode & 0o066:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        raise HostError(f"{path} is open to others (mode {mode}): name one that only we can enter.")


def _own_word(path: Path, n_bytes: int) -> str:
    """The random hex word kept in `path`, made by whoever comes first.

    Two processes may come at once. Were the file made first and filled afterwards, the second could read it
    empty in between. So each fills a file of its own and links it to the name: link(2) lets one win, and
    both read the winner's.
    """
    if not os.path.lexists(path):
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        _write_new(draft, secrets.token_hex(n_bytes))
        try:
            with suppress(FileExistsError):
                path.hardlink_to(draft)
        finally:
            draft.unlink()
    word = _read_own(path)
    if len(word) != 2 * n_bytes or not set(word) <= set("0123456789abcdef"):
        raise HostError(f"{path} is damaged: remove it while no server runs, and a new one is made.")
    return word


def _write_new(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(text)


def _read_own(path: Path) -> str:
    """The text of a small regular file that is ours; never follows a link or waits on a FIFO."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), errors="replace") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise HostError(f"{path} is not a private file of ours: remove it.")
        return file.read(4 * SECRET_BYTES).strip()
