"""Every setting of the server, read once from the environment into one frozen object.

`Settings` is the single table: each field states its variable, its default as a person would write it,
the parser that makes the value, and one line of meaning. README's table is tested against it. This module
opens no file and no connection, and it never prints a secret, in an error or in a `repr`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from kernels.confine.options import LEVELS
from server import parsers
from server.parsers import Parser

T = TypeVar("T")


class SettingsError(ValueError):
    """A setting cannot be used; the text is one sentence that names the variable and its value."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table: a variable, its default as text ("" is unset), its parser, its meaning."""

    variable: str
    default: str
    parse: Parser[object]
    meaning: str
    secret: bool = False

    def read(self, environ: Mapping[str, str]) -> object:
        """The parsed value; an empty variable counts as unset. Raises SettingsError."""
        text = environ.get(self.variable, "").strip()
        try:
            return self.parse(text or self.default)
        except ValueError as problem:
            shown = "(not shown)" if self.secret else repr(text)
            raise SettingsError(f"{self.variable}={shown}: {problem}.") from None


def _setting(variable: str, default: str, parse: Parser[T], meaning: str, *, secret: bool = False) -> T:
    """A field of `Settings` with its row; typed as the parser's result so that mypy checks the two."""
    row = Setting(variable, default, parse, meaning, secret)
    return cast("T", field(default=cast("Any", parse(default)), metadata={"row": row}, repr=not secret))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the server was told. Build it with `from_environ`; tests may name single fields."""

    redis_url: str = _setting(
        "REDIS_URL",
        "redis://localhost:6379/0",
        parsers.redis_url,
        "Redis with members, ring and login sessions: `redis://`, `rediss://` or `unix://`",
        secret=True,
    )
    port: int = _setting("PORT", "8000", parsers.whole(1, 65_535), "port to listen on")
    web_concurrency: int = _setting("WEB_CONCURRENCY", "4", parsers.whole(1, 64), "workers, 1 to 64")
    bind: tuple[str, ...] = _setting(
        "KERNELRING_BIND",
        "",
        parsers.addresses,
        "addresses to listen on instead, such as `127.0.0.1:8000`, separated by commas",
    )
    unconfined: bool = _setting(
        "KERNELRING_UNCONFINED",
        "0",
        parsers.flag,
        "`1` says that everyone who can log in is trusted: serves them where kernels cannot be confined, too",
    )
    confinement: str | None = _setting(
        "KERNELRING_CONFINEMENT",
        "",
        parsers.optional(parsers.one_of(*LEVELS)),
        f"how kernels are to be kept apart: {', '.join(f'`{level}`' for level in LEVELS)}, and no other way; unset, the"
        " first of these that this machine offers",
    )
    uids: tuple[int, int] = _setting(
        "KERNELRING_UIDS",
        "200000-265535",
        parsers.uid_range,
        "uids (and gids) that users are given, each one of their own; nobody else may have them",
    )
    runtime_dir: Path = _setting(  # noqa: RUF009 - a Path never changes
        "KERNELRING_RUNTIME_DIR",
        "/tmp/kernelring-<uid>",  # noqa: S108 - Host.open refuses a directory that is not ours alone
        parsers.runtime_dir,
        "private directory of this host's sockets, kernels and nursery; keep it short",
    )
    notebooks: Path = _setting(  # noqa: RUF009 - a Path never changes
        "KERNELRING_NOTEBOOKS",
        "notebooks",
        parsers.directory,
        "directory that holds each user's notebooks and files, in which their kernels start",
    )
    quota_mib: int = _setting(
        "KERNELRING_QUOTA_MIB",
        "1024",
        parsers.whole(0, 1_048_576),
        "MiB that one user's notebooks and files may take; `0` for no limit",
    )
    course: Path | None = _setting(  # noqa: RUF009 - a Path never changes
        "KERNELRING_COURSE",
        "",
        parsers.optional(parsers.directory),
        "folder of assignments that each user finds as `course`; it is only read, what they open is copied"
        ". Where kernels are confined, others must be able to read it",
    )
    jwt_secret: str | None = _setting(
        "KERNELRING_JWT_SECRET",
        "",
        parsers.optional(parsers.secret),
        "key of HS256 login tokens, 32 bytes or more",
        secret=True,
    )
    jwks_url: str | None = _setting(
        "KERNELRING_JWKS_URL",
        "",
        parsers.optional(parsers.http_url),
        "where the public keys of RS256 and ES256 login tokens are",
    )
    jwt_audience: str | None = _setting(
        "KERNELRING_JWT_AUDIENCE", "", parsers.optional(str), "`aud` that a login token must carry"
    )
    jwt_issuer: str | None = _setting(
        "KERNELRING_JWT_ISSUER", "", parsers.optional(str), "`iss` that a login token must carry"
    )
    role_claim: str = _setting(
        "KERNELRING_ROLE_CLAIM",
        "role",
        str,
        "claim of a login token that says `student`, `instructor` or `operator`; anything else is a student",
    )
    students_claim: str = _setting(
        "KERNELRING_STUDENTS_CLAIM",
        "students",
        str,
        "claim with the list of users whose kernels an instructor sees and may end (an operator: all)",
    )
    session_secret: str | None = _setting(
        "KERNELRING_SESSION_SECRET",
        "",
        parsers.optional(parsers.secret),
        "key that signs login cookies, 32 bytes or more; unset: made from another secret",
        secret=True,
    )
    session_hours: float = _setting(
        "KERNELRING_SESSION_HOURS", "12", parsers.number(0.01, 8_760), "hours that a login lasts"
    )
    guests: bool = _setting(
        "KERNELRING_GUESTS", "0", parsers.flag, "`1` lets each browser in as its own guest; loopback only"
    )
    allow_origin: tuple[str, ...] = _setting(
        "KERNELRING_ALLOW_ORIGIN",
        "",
        parsers.origins,
        "origins of other sites' pages that may call the API with a token, such as `https://school.example`",
    )
    behind_tls: bool = _setting(
        "KERNELRING_BEHIND_TLS",
        "0",
        parsers.flag,
        "`1` when a proxy serves HTTPS: makes login cookies secure",
    )
    frame_ancestors: tuple[str, ...] = _setting(
        "KERNELRING_FRAME_ANCESTORS",
        "'self'",
        parsers.frame_ancestors,
        "who may show the notebook pages in a frame: `'self'`, `'none'`, or origins such as `https://lms.example`",
    )
    lease_s: float = _setting(
        "KERNELRING_LEASE_S", "3", parsers.number(0.2, 60), "seconds until a silent worker loses its place"
    )
    beat_s: float = _setting(
        "KERNELRING_BEAT_S", "1", parsers.number(0.05, 30), "seconds between a worker's heartbeats"
    )
    nursery_grace_s: float = _setting(
        "KERNELRING_NURSERY_GRACE_S",
        "1800",
        parsers.number(1, 604_800),
        "seconds without any worker after which the nursery ends its kernels and itself",
    )
    backlog_mib: int = _setting(
        "KERNELRING_BACKLOG_MIB", "8", parsers.whole(1, 1_024), "MiB of output kept for each kernel"
    )
    recorder_mib: float = _setting(
        "KERNELRING_RECORDER_MIB",
        "4",
        parsers.number(0.1, 256),
        "MiB of its output that a Python kernel keeps in case the worker that serves it ends",
    )
    max_message_mib: int = _setting(
        "KERNELRING_MAX_MESSAGE_MIB", "64", parsers.whole(1, 1_024), "MiB of the largest WebSocket message"
    )
    max_body_mib: int = _setting(
        "KERNELRING_MAX_BODY_MIB", "32", parsers.whole(1, 1_024), "MiB of the largest request body, such as a notebook"
    )
    graceful_s: int = _setting(
        "KERNELRING_GRACEFUL_S", "20", parsers.whole(1, 600), "seconds that a stopping worker may take"
    )
    kernel_start_s: float = _setting(
        "KERNELRING_KERNEL_START_S", "60", parsers.number(1, 3_600), "seconds that a kernel's start may take"
    )
    preload: tuple[str, ...] = _setting(
        "KERNELRING_PRELOAD",
        "numpy,pandas,matplotlib",
        parsers.modules,
        "modules that Python kernels have imported before they start, where installed; `none` for none",
    )
    spares: int = _setting(
        "KERNELRING_SPARES", "4", parsers.whole(0, 4), "Python kernels kept waiting for their user, 0 to 4"
    )
    idle_minutes: float = _setting(
        "KERNELRING_IDLE_MINUTES",
        "60",
        parsers.number(0, 525_600),
        "minutes without use after which a kernel that runs no cell is ended, also under an open page; `0` for never"
        ". `metadata.cull_idle_timeout` (seconds) in a kernel.json comes first",
    )
    life_hours: float = _setting(
        "KERNELRING_LIFE_HOURS",
        "0",
        parsers.number(0, 8_760),
        "hours after its start at which a kernel is ended (told before; a cell that runs may take another tenth of "
        "them, 10 minutes at most); `0` for never",
    )
    user_kernels: int = _setting(
        "KERNELRING_USER_KERNELS",
        "10",
        parsers.whole(0, 10_000),
        "kernels that a user may have at once, those that have died and were not shut down too; `0` for no limit",
    )
    cell_minutes: float = _setting(
        "KERNELRING_CELL_MINUTES",
        "0",
        parsers.number(0, 100_000),
        "minutes that a cell may run, waiting for `input()` included; then it is interrupted. `0` for no limit",
    )
    host_kernels: int = _setting(
        "KERNELRING_HOST_KERNELS",
        "0",
        parsers.whole(0, 100_000),
        "kernels that may run on this machine; further ones wait. `0`: as many as there is memory for",
    )
    free_memory_mib: int = _setting(
        "KERNELRING_FREE_MEMORY_MIB",
        "256",
        parsers.whole(0, 1_048_576),
        "MiB that must be free, on the machine and in its container, for a kernel to start; else it waits",
    )
    start_wait_s: int = _setting(
        "KERNELRING_START_WAIT_S",
        "300",
        parsers.whole(1, 86_400),
        "seconds that a kernel may wait for such room; then its user is told that there is none",
    )
    kernel_memory_mib: int = _setting(
        "KERNELRING_KERNEL_MEMORY_MIB",
        "1024",
        parsers.whole(128, 1_048_576),
        "MiB of memory that a confined kernel, and each process that it starts, may have",
    )
    kernel_total_mib: int = _setting(
        "KERNELRING_KERNEL_TOTAL_MIB",
        "0",
        parsers.whole(0, 1_048_576),
        "MiB that a kernel and all that it has started may have together, with shared memory and `/dev/shm`; `0`: a "
        "quarter more than `KERNELRING_KERNEL_MEMORY_MIB` where kernels are confined, elsewhere no limit",
    )
    kernel_cpu_hours: float = _setting(
        "KERNELRING_KERNEL_CPU_HOURS",
        "0",
        parsers.number(0, 10_000),
        "hours of processor time that a kernel, and each process that it starts, may use; `0` for no limit",
    )
    kernel_nice: int = _setting(
        "KERNELRING_KERNEL_NICE",
        "5",
        parsers.whole(0, 19),
        "by how much kernels come after the server when both want the processor, as in nice(1)",
    )
    user_processes: int = _setting(
        "KERNELRING_USER_PROCESSES",
        "512",
        parsers.whole(32, 1_000_000),
        "processes and threads of a user whose kernels are confined (an idle kernel has about 12)",
    )
    kernel_files: int = _setting(
        "KERNELRING_KERNEL_FILES",
        "1024",
        parsers.whole(128, 1_048_576),
        "files and sockets that each process of a confined kernel may have open",
    )
    kernel_file_mib: int = _setting(
        "KERNELRING_KERNEL_FILE_MIB",
        "1024",
        parsers.whole(1, 1_048_576),
        "MiB of the largest file that a confined kernel may write",
    )
    kernel_env: tuple[str, ...] = _setting(
        "KERNELRING_KERNEL_ENV",
        "",
        parsers.kernel_env,
        "names of environment variables handed to kernels, separated by commas",
    )
    log_level: str = _setting(
        "KERNELRING_LOG_LEVEL",
        "info",
        parsers.one_of("debug", "info", "warning", "error"),
        "least level that is logged: `debug`, `info`, `warning` or `error`",
    )
    log_format: str = _setting(
        "KERNELRING_LOG_FORMAT",
        "text",
        parsers.one_of("text", "json"),
        "`text` (key=value) or `json`, one event a line",
    )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """The settings in `environ`. Raises SettingsError with one sentence for the first bad one."""
        made = cls(**{name: cast("Any", row.read(environ)) for name, row in _rows()})
        _check_together(made)
        return made


def _rows() -> list[tuple[str, Setting]]:
    return [(each.name, cast("Setting", each.metadata["row"])) for each in fields(Settings)]


def table() -> tuple[Setting, ...]:
    """All settings, in the order in which README lists them."""
    return tuple(row for _, row in _rows())


def _check_together(made: Settings) -> None:
    """What no single parser can see. Raises SettingsError."""
    if made.lease_s < 2 * made.beat_s:
        raise SettingsError(
            f"KERNELRING_LEASE_S={made.lease_s:g}: a lease must last at least two beats "
            f"(KERNELRING_BEAT_S={made.beat_s:g})."
        )
    if made.guests and made.jwt_secret is None:
        raise SettingsError("KERNELRING_GUESTS='1': guests need KERNELRING_JWT_SECRET, which is unset.")
