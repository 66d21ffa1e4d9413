"""A request's body, read within bounds: its size is the application's matter, its time is bounded here.

Never looks into a body.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from server.api_errors import api_error

BODY_S: Final = 10.0  # for a usual body, which has 200 bytes
SLOWEST: Final = 500_000  # bytes a second (4 Mbit/s) of one that says how long it is: a notebook with pictures


async def read_body(request: web.Request) -> bytes:
    """Return the whole body. Raises 413 when it is too large, and a 408 ApiError when it has not come in time."""
    expected = min(request.content_length or 0, request.client_max_size)
    within_s = BODY_S + expected / SLOWEST
    try:
        async with asyncio.timeout(within_s):
            return await request.read()
    except TimeoutError:
        raise api_error(408, "Request Timeout", f"The body did not arrive within {within_s:.0f} s.") from None
