"""What this host offers to keep users apart, found out once at the start.

Owns the questions and the answer in words. The answer is a trial: a child goes where a kernel is to go, and tries to
read what a kernel has to. Nothing of the host stays changed.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import resource
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from kernels.confine import common_uid, landlock, seccomp
from kernels.confine.options import LANDLOCK, LEVELS, NAMESPACES, NONE, UIDS, Options, Walls

_MIB: Final = 2**20
_NEEDED: Final = {0: "CHOWN", 1: "DAC_OVERRIDE", 3: "FOWNER", 5: "KILL", 6: "SETGID", 7: "SETUID"}
"""Of capabilities(7). Docker gives all of them by default."""

_HIDDEN: Final = ("/tmp", "/var/tmp", "/dev", "/lost+found")  # noqa: S108 (they are kept from kernels)
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts")
_WRITABLE: Final = ("/dev/shm",)  # noqa: S108 (POSIX shared memory has no other place)
_PACKAGE: Final = Path(__file__).resolve().parent.parent
_LIMIT_BYTES_LOCKED: Final = 64 * _MIB

MOST_PROCESSES: Final = 8192
"""And threads, of all kernels together where they have one uid. Our figure: four hundred kernels, and some room."""


@dataclass(frozen=True, slots=True)
class Report:
    """`level` is one of LEVELS or "none", `layers` what is in force besides, `missing` what is not, and why."""

    level: str
    layers: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """In one word."""
        return "+".join((self.level, *self.layers))


def probe(options: Options, runtime: Path) -> tuple[Report, Walls]:
    """What there is, and what a kernel is put behind. Forks; the caller must have one thread."""
    missing: list[str] = []
    for level in [options.level] if options.level else LEVELS:
        found = _TRIALS[level](options, runtime, missing)
        if found is not None:
            abi = found.landlock
            layers = ((f"landlock{abi}",) if abi else ()) + (("seccomp",) if found.seccomp else ())
            return Report(level, layers, tuple(missing)), found
    return Report(NONE, missing=tuple(missing)), Walls()


def _uids(options: Options, runtime: Path, missing: list[str]) -> Walls | None:
    """The walls of kernels that have uids, or None. Says in `missing` why not, or what is not there besides."""
    if why := list(_why_no_uids(options, runtime)):
        missing += why
        return None
    abi, program = landlock.version(), _filter(missing)
    if not abi:
        missing.append("Landlock: this Linux has none, or it is switched off (Linux 5.13, and `lsm=` with landlock)")
    return Walls(
        landlock=abi,
        readable=tuple(_readable(options.notebooks, runtime)) if abi else (),
        writable=_WRITABLE,
        devices=tuple(_devices(_DEVICES)),
        seccomp=program,
        limits=tuple(_limits(options)),
    )


def _namespaces(options: Options, runtime: Path, missing: list[str]) -> Walls | None:
    """As `_uids`, of kernels in user namespaces."""
    abi, program = landlock.version(), _filter(missing)
    if why := list(common_uid.why_not(abi, program, needed=1)):
        missing += why
        return None
    walls = replace(
        without_uids(options, runtime, program),
        devices=tuple(_devices(_DEVICES)),
        limits=tuple(_limits(options)),
        level=NAMESPACES,
        covered=(str(options.notebooks.resolve()), str(runtime.resolve())),
        memory_mib=options.memory_mib,
    )
    if told := common_uid.tried(walls, _must_read()):
        missing.append(f"user namespaces: {told}")
        return None
    return walls


def _landlock(options: Options, runtime: Path, missing: list[str]) -> Walls | None:
    """As `_uids`, of kernels that have the server's own uid."""
    abi, program = landlock.version(), _filter(missing, shared_uid=True)
    if why := list(common_uid.why_not(abi, program, needed=common_uid.ALONE)):
        missing += why
        return None
    walls = without_uids(options, runtime, program)
    if told := common_uid.tried(walls, _must_read()):
        missing.append(told)
        return None
    return walls


def without_uids(options: Options, runtime: Path, program: bytes = b"") -> Walls:
    """What a process with the server's own uid is put behind. Not whether that can be done. `program`: its filter."""
    return Walls(
        landlock=landlock.version(),
        readable=tuple(common_uid.readable(_PACKAGE, [options.notebooks.resolve(), runtime.resolve()])),
        devices=tuple(_devices(common_uid.DEVICES)),
        seccomp=program or seccomp.compiled(shared_uid=True),
        limits=tuple(_limits(options, shared_uid=True)),
        level=LANDLOCK,
    )


_TRIALS: Final = {UIDS: _uids, NAMESPACES: _namespaces, LANDLOCK: _landlock}


def _filter(missing: list[str], *, shared_uid: bool = False) -> bytes:
    try:
        return seccomp.compiled(shared_uid=shared_uid)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        missing.append(f"seccomp: {error} (install libseccomp2)")
        return b""


# -- uids ---------------------------------------------------------------------------------------------------------


def _why_no_uids(options: Options, runtime: Path) -> Iterator[str]:
    """Sentences; none when users can have uids."""
    if os.geteuid() != 0:
        yield "the server does not run as root, which alone can give each user a uid: start it as root"
        return
    if lacking := _lacking_capabilities():
        yield f"root lacks the capabilities {', '.join(lacking)}: give them to the container"
        return
    first, last = options.uids
    if taken := _taken(first, last):
        yield f"the uids {first}-{last} are not free ({taken}): name others with KERNELRING_UIDS"
    if told := _without_owners(options.notebooks, first):
        yield f"{options.notebooks} lies where files keep no owner ({told}): name another directory"
    if told := _tried(first, [*_must_read(), *_must_pass(options.notebooks, runtime)]):
        yield told


def _lacking_capabilities() -> list[str]:
    with Path("/proc/self/status").open() as lines:
        effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    return [name for bit, name in _NEEDED.items() if not effective >> bit & 1]


def _taken(first: int, last: int) -> str:
    """Who has some of these uids already."""
    for entry in pwd.getpwall():
        if first <= entry.pw_uid <= last:
            return f"{entry.pw_name} has {entry.pw_uid}"
    for path in ("/etc/subuid", "/etc/subgid"):
        with suppress(OSError):
            for line in Path(path).read_text().splitlines():
                name, _, numbers = line.partition(":")
                start, _, count = numbers.partition(":")
                if start.isdecimal() and count.isdecimal() and int(start) <= last and int(start) + int(count) > first:
                    return f"{path} gives {start}-{int(start) + int(count) - 1} to {name}"
    return ""


def _without_owners(notebooks: Path, uid: int) -> str:
    """Why nothing there can be given to a uid; "" when it can, or when there is nothing yet."""
    if not notebooks.is_dir():
        return ""
    try:
        with tempfile.TemporaryDirectory(prefix=".kernelring-", dir=notebooks) as tried:
            os.chown(tried, uid, uid)
            return "" if Path(tried).stat().st_uid == uid else "chown has no effect"
    except OSError as error:
        return error.strerror or str(error)


def _must_read() -> list[str]:
    """What a kernel reads, or imports late."""
    found = [sys.executable, os.__file__, str(_PACKAGE / "inside" / "__main__.py")]
    for name in ("ipykernel", "zmq"):
        spec = importlib.util.find_spec(name)
        if spec and spec.origin:
            found.append(spec.origin)
    return found


def _must_pass(notebooks: Path, runtime: Path) -> list[str]:
    """The directories above those of kernels, as far as they are there; the rest is made by the server."""
    found = []
    for path in (notebooks, runtime):
        above = path.parent
        while not above.exists():
            above = above.parent
        found.append(f"{above}/")
    return found


def _tried(uid: int, paths: list[str]) -> str:
    """What is wrong when a child becomes the uid and tries to read; "" when nothing is. A directory it only enters."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, _try(uid, paths).encode(errors="replace"))
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        found = told.read().decode()
    os.waitpid(pid, 0)
    return found.removesuffix("\n") if found.endswith("\n") else "a child that took on a uid has ended at once"


def _try(uid: int, paths: list[str]) -> str:
    """In the child. The sentence, and a line's end to show that it came to its own."""
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        return f"a process cannot become uid {uid} ({error.strerror}): name others with KERNELRING_UIDS\n"
    for path in paths:
        if not os.access(path, os.X_OK if path.endswith("/") else os.R_OK):
            return f"other users cannot {'enter' if path.endswith('/') else 'read'} {path}: {_advice(path)}\n"
    return "\n"


def _advice(path: str) -> str:
    if path.endswith("/"):
        return f"name another directory, or `chmod o+x` {path} and those above it"
    return "install Python and this server where others can read them, such as /opt, and not below a closed home"


# -- walls --------------------------------------------------------------------------------------------------------


def _readable(notebooks: Path, runtime: Path) -> Iterator[str]:
    """All of the machine but shared scratch, the server's own directories and other users' work."""
    hidden = {Path(path) for path in _HIDDEN} | {notebooks.resolve(), runtime.resolve()}
    seen = set()
    needed = [Path(sys.prefix), Path(sys.base_prefix), _PACKAGE, *map(Path, filter(None, sys.path))]
    for path in [*_beside(Path("/"), hidden), *map(Path.resolve, needed)]:
        if path not in seen and not any(above in seen for above in path.parents) and path not in _above(hidden):
            seen.add(path)
            yield str(path)


def _beside(directory: Path, hidden: set[Path]) -> Iterator[Path]:
    """What is in a directory, but for `hidden` and what that lies in, of which the same is told."""
    for path in sorted(directory.iterdir()):
        if path.is_symlink() or path in hidden:
            continue
        if path in _above(hidden):
            yield from _beside(path, hidden)
        else:
            yield path


def _above(paths: set[Path]) -> set[Path]:
    return {above for path in paths for above in path.parents} | paths


def _devices(names: Iterable[str]) -> Iterator[str]:
    """Those, and what computes, where its owner has opened it to others."""
    yield from (f"/dev/{name}" for name in names)
    yield from (str(path) for pattern in ("nvidia*", "dri", "kfd") for path in sorted(Path("/dev").glob(pattern)))


def _limits(options: Options, *, shared_uid: bool = False) -> Iterator[tuple[int, int]]:
    """For setrlimit. None is raised above what this process may have.

    With the server's uid all processes of all kernels count together: each kernel's are bounded by the nursery's watch,
    and the limit is one for all of them, to keep a bomb small until it is seen.
    """
    wanted = {
        resource.RLIMIT_DATA: options.memory_mib * _MIB,  # RLIMIT_AS would count what is reserved and never used
        resource.RLIMIT_NPROC: max(MOST_PROCESSES, options.processes) if shared_uid else options.processes,
        resource.RLIMIT_NOFILE: options.files,
        resource.RLIMIT_FSIZE: options.file_mib * _MIB,
        resource.RLIMIT_MEMLOCK: _LIMIT_BYTES_LOCKED,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_RTPRIO: 0,
        resource.RLIMIT_NICE: 0,
    }
    for what, most in wanted.items():
        hard = resource.getrlimit(what)[1]
        yield what, most if hard == resource.RLIM_INFINITY else min(most, hard)
