"""What this server knows about a request beyond HTTP: who it is for, and its id.

Owns the typed keys alone. The values are set by middlewares (`server.identity`, `server.api_errors`),
never by a handler and never from a header that a client could have sent.
"""

from typing import Final

from aiohttp import web

# Who the request is for: the user's id, which is the shard key.
USER: Final = web.RequestKey("user", str)

# Names one request in every log line about it, on the entry worker and on the owner.
REQUEST_ID: Final = web.RequestKey("request_id", str)
