"""What this server knows about a request beyond HTTP: who it is for, and its id.

Owns the typed keys alone. The values never come from a header that a client could have sent: the user is set by
a middleware (`server.identity`, or the hop's), the id by the hop or by `api_errors.request_id` when it is first needed.
"""

from typing import Final

from aiohttp import web

from server.roles import Standing

# Who the request is for: the user's id, which is the shard key.
USER: Final = web.RequestKey("user", str)

# What the login of whoever asks allows; set for clients beside USER, where there is more than being a student.
STANDING: Final = web.RequestKey("standing", Standing)

# On whose behalf a request is made that is for somebody else (USER): role, a space, user. Set by `server.users_api` for
# clients that may, and by the hop.
ACTOR: Final = web.RequestKey("actor", str)

# Names one request in every log line about it, on the entry worker and on the owner. Read it by `request_id`.
REQUEST_ID: Final = web.RequestKey("request_id", str)
