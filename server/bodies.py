"""A request's body, read within bounds: its size is the application's matter, its time is bounded here.

Never looks into a body.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from server.api_errors import api_error

BODY_S: Final = 10.0  # the largest body (4 MiB, by default) over a line of 4 Mbit/s; a usual one has 200 bytes


async def read_body(request: web.Request) -> bytes:
    """Return the whole body. Raises 413 when it is too large, and a 408 ApiError when it has not come within BODY_S."""
    try:
        async with asyncio.timeout(BODY_S):
            return await request.read()
    except TimeoutError:
        raise api_error(408, "Request Timeout", f"The body did not arrive within {BODY_S:g} s.") from None
