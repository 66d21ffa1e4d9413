"""Reading what a kernel says: it may say what it likes. Pure."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import orjson


def object_in(part: bytes) -> dict[str, Any]:
    """A part of a message as an object; an empty one for what is none."""
    try:
        found = orjson.loads(part)
    except orjson.JSONDecodeError:
        found = _odd_json(part)
    return found if isinstance(found, dict) else {}


def _odd_json(part: bytes) -> Any:
    """What Python takes for JSON although it is none: NaN, half of a surrogate pair."""
    with suppress(ValueError, RecursionError):
        odd = json.loads(part.decode(errors="replace"), parse_constant=lambda _: None)
        return orjson.loads(json.dumps(odd, ensure_ascii=False).encode(errors="replace"))
    return None
