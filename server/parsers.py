"""Turn the text of a setting into its value.

A parser takes text and returns the value, or raises ValueError with what is wrong as the end of a sentence.
Parsers know no variable names but those that a kernel must never get, and they read nothing but their text.
"""

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")
Parser = Callable[[str], T]

SECRET_BYTES = 32  # RFC 7518, section 3.2: an HS256 key is at least as long as the hash
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PAGE_ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?:[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::(?P<port>[1-9][0-9]{0,4}))?"
)
# An origin as CSP has it, with the wildcard for all hosts below a domain; nothing that could end the directive.
_ORIGIN = re.compile(r"https?://(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*(:[0-9]{1,5})?")
_NEVER_FOR_KERNELS = ("KERNELRING_", "REDIS_URL", "JPY_PARENT_PID")


def flag(text: str) -> bool:
    """`0` or `1`."""
    if text not in {"0", "1"}:
        raise ValueError("it must be 0 or 1")
    return text == "1"


def whole(low: int, high: int) -> Parser[int]:
    """A whole number from `low` to `high`, both included."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise ValueError(f"it must be a whole number from {low} to {high}")
        return int(text)

    return parse


def number(low: float, high: float) -> Parser[float]:
    """A number from `low` to `high`, both included."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise ValueError(f"it must be a number from {low:g} to {high:g}")
        return value

    return parse


def one_of(*words: str) -> Parser[str]:
    """One of `words`, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"it must be one of {', '.join(words)}")
        return text.lower()

    return parse


def optional(parse: Parser[T]) -> Parser[T | None]:
    """Like `parse`, and None when the setting is unset."""
    return lambda text: parse(text) if text else None


def secret(text: str) -> str:
    """A key of at least SECRET_BYTES bytes; its text is never part of an error."""
    length = len(text.encode(errors="surrogateescape"))
    if length < SECRET_BYTES:
        raise ValueError(f"it is {length} bytes long and must have at least {SECRET_BYTES}")
    return text


def redis_url(text: str) -> str:
    """A URL that redis-py can open. The text may hold a password and is never part of an error."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:  # its own text quotes the URL, which may hold a password
        raise ValueError("its host or port cannot be read") from None
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("it must begin with redis://, rediss:// or unix://")
    if not (parts.path if parts.scheme == "unix" else parts.hostname):
        raise ValueError("it names no server")
    return text


def http_url(text: str) -> str:
    """An http or https URL with a host."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("it must be an http:// or https:// address")
    return text


def addresses(text: str) -> tuple[str, ...]:
    """Addresses separated by commas; which of them are allowed is `server.bind`'s business."""
    return tuple(each.strip() for each in text.split(",") if each.strip())


def origins(text: str) -> tuple[str, ...]:
    """Origins of web pages, separated by commas or spaces, each exactly as a browser writes it."""
    return tuple(dict.fromkeys(_origin(each) for each in text.replace(",", " ").split()))


def _origin(text: str) -> str:
    """A browser's Origin header is compared with this whole, so what could never be equal to one is refused here."""
    matched = _PAGE_ORIGIN.fullmatch(text)
    if not matched:
        raise ValueError(
            f"{text!r} is no origin: write https://host or https://host:port, in lower case and no pattern"
        )
    scheme, port = matched["scheme"], matched["port"]
    if port and (int(port) > 65_535 or port == {"http": "80", "https": "443"}[scheme]):
        raise ValueError(f"{text!r} has a port that no browser writes")
    return text


def directory(text: str) -> Path:
    """An absolute path; relative text is taken from the working directory."""
    if "\0" in text:
        raise ValueError("a path cannot hold a null character")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError("it begins with ~ and no such home is known") from None


def runtime_dir(text: str) -> Path:
    """An absolute path in which `<uid>` stands for the number of the user who runs the server."""
    return directory(text.replace("<uid>", str(os.getuid())))


def kernel_env(text: str) -> tuple[str, ...]:
    """Names of environment variables, none of which is the server's own."""
    names = addresses(text)
    for name in names:
        if not _ENV_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of an environment variable")
        if name.startswith(_NEVER_FOR_KERNELS):
            raise ValueError(f"{name} belongs to the server and must not reach kernels")
    return names


def modules(text: str) -> tuple[str, ...]:
    """Names of Python modules separated by commas; the word `none` for no module at all."""
    names = () if text.lower() == "none" else addresses(text)
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"{name!r} is no name of a module")
    return names


def frame_ancestors(text: str) -> tuple[str, ...]:
    """Sources of the directive frame-ancestors, separated by spaces: `'self'`, `'none'` alone, or http(s) origins."""
    sources = tuple(text.lower().split())
    if "'none'" in sources and len(sources) > 1:
        raise ValueError("'none' stands alone")
    for source in sources:
        if source not in {"'self'", "'none'"} and not _ORIGIN.fullmatch(source):
            raise ValueError(f"{source!r} is neither 'self' nor an origin such as https://lms.example")
    return sources
