"""One event, one line: structlog and the standard library's logging through one formatter, on stdout.

A line is either `key=value` text or one JSON object. Values may come from users: whatever could end a line,
hide text or move a terminal's cursor is escaped, and very long values are cut. gunicorn's own lines go the
same way. There is no access log unless gunicorn is given one. Stdout, because platforms show all that comes
on stderr as errors.
"""

import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from aiohttp.http import HttpProcessingError
from aiohttp.web import RequestPayloadError
from gunicorn.glogging import Logger
from structlog.typing import EventDict, Processor, WrappedLogger

VALUE_CHARS = 16_384  # a long traceback fits; a 50 MiB body that got into a message does not
_FIRST = ("time", "level", "event", "logger", "pid")
_LEVELS = {name: getattr(logging, name.upper()) for name in ("debug", "info", "warning", "error")}


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send all logging of this process to `stream` (default: stdout); `form` is `text` or `json`.

    Calling it again replaces what was configured before. Workers inherit it from the arbiter.
    """
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(_formatter(form))
    handler.addFilter(_without_clients_bytes)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*_shared(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _without_clients_bytes(record: logging.LogRecord) -> bool:
    """Make one plain line of a client's malformed bytes. Passes every record.

    aiohttp logs them as a failure of its own, with a traceback, and quotes them: a header that is too long may be a
    token. Only the kind of mistake is told. Here, and not in a logger, because aiohttp is given more than one.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError | RequestPayloadError):
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg, record.args, record.exc_info, record.exc_text = "request_malformed", (), None, None
        record.why = type(error).__name__
    return True


def _shared() -> list[Processor]:
    """What is added to every event, whichever library it comes from."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]


def _formatter(form: str) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(allow=["why"]), *_shared()],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _in_order,
            _as_json if form == "json" else _as_text,
        ],
    )


def _in_order(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["pid"] = os.getpid()
    return {**{key: event[key] for key in _FIRST if key in event}, **event}


def _as_text(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return " ".join(f"{_word(str(key))}={_word(_text(value))}" for key, value in event.items())


def _as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """One JSON object; `message` repeats the event, because platforms show and search that field."""
    # ASCII only: JSON itself escapes no U+2028 and no U+0085, at which some readers break lines.
    named = {str(key): _plain(value) for key, value in event.items()}
    return json.dumps(named | {"message": named.get("message", named.get("event"))}, ensure_ascii=True)


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else str(value)


def _word(text: str) -> str:
    """`text` as one word of a line: bare when it is harmless, else in quotes with escapes."""
    text = _cut(text)
    if text and text.isprintable() and not set(text) & set(' "=\\'):
        return text
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    """One character of a quoted word. Not printable are controls, line separators, surrogates, and marks that
    turn the direction of text."""
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()


def _plain(value: object) -> object:
    """`value` as JSON can say it; what it cannot (bytes, infinity, objects) becomes text."""
    if isinstance(value, Mapping):
        return {_cut(str(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _cut(str(value))


def _cut(text: str) -> str:
    if len(text) <= VALUE_CHARS:
        return text
    return f"{text[:VALUE_CHARS]}… ({len(text) - VALUE_CHARS} more)"


class GunicornLog(Logger):  # type: ignore[misc]  # gunicorn is not typed
    """gunicorn's logger without handlers of its own: its lines reach the root's handler like all others."""

    def setup(self, cfg: Any) -> None:
        """Called by gunicorn at start and at each reload."""
        self.cfg = cfg
        self._access_log_enabled = cfg.accesslog is not None
        for log in (self.error_log, self.access_log):
            log.handlers.clear()
            log.propagate = True
        self.error_log.setLevel(logging.NOTSET)
        self.access_log.setLevel(logging.INFO)
