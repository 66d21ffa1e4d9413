"""What this server knows about a request beyond HTTP: who it is for, and its id.

Owns the typed keys alone. The values never come from a header that a client could have sent: the user is set by
a middleware (`server.identity`, or the hop's), the id by the hop or by `api_errors.request_id` when it is first needed.
"""

from typing import Final

from aiohttp import web

# Who the request is for: the user's id, which is the shard key.
USER: Final = web.RequestKey("user", str)

# Names one request in every log line about it, on the entry worker and on the owner. Read it by `request_id`.
REQUEST_ID: Final = web.RequestKey("request_id", str)
