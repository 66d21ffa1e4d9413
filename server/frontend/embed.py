"""One notebook for a frame in a lesson: Notebook 7's page without its header and menus.

Owns `/embed/{path}`, who may see it, and what a frame shows to whoever may not. A page whose address has a token is
told a token of its own (`server/page_tokens.py`) and works with that, because browsers keep cookies from frames on
other sites' pages; it leaves the login of this browser as it is. Without a token the login cookie counts, as on
every page: for frames on pages of our own site.
"""

from __future__ import annotations

import html
from typing import Final

import structlog
from aiohttp import hdrs, web

from server import app_keys
from server.api_errors import request_id
from server.frontend.headers import page_headers
from server.frontend.pages import page
from server.identity import token_of
from server.login import LOGIN_FAILURES, session_user, status_and_sentence
from server.login_page import RETRY_SOON
from server.page_tokens import FILES, FILES_COOKIE
from server.request_keys import USER

log = structlog.get_logger(__name__)

NOBODY: Final = "Nobody is logged in here."
# As text: the standard library knows the last word only from Python 3.14 on. Without HTTPS a browser keeps no such
# cookie (but for its own machine), and shows no pictures that lie beside the notebook.
_FOR_FILES: Final = f"Path={FILES}; Secure; HttpOnly; SameSite=None; Partitioned"
_PRIVATE: Final = {"Referrer-Policy": "no-referrer"}  # the address has held a token
# The login page shows itself in no frame, and a lesson knows its way to a new token better than a student.
_REFUSED: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Not shown</title>
<style>:root {{ color-scheme: light dark; }} body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 1.5rem; }}</style>
<p role="alert">The notebook cannot be shown. {sentence} Load the lesson again, or log in there.</p>
"""


async def embed(request: web.Request) -> web.Response:
    """`GET /embed/{path}?token=…`; and `/embedded/notebooks/{path}`, as the page then calls its address."""
    logins = request.app[app_keys.LOGINS]
    token, _ = token_of(request)
    try:
        user = await session_user(request) if token is None else await logins.named(token)
    except LOGIN_FAILURES as error:
        return _refused(request, *status_and_sentence(error))
    if user is None:
        return _refused(request, 403, NOBODY)
    request[USER] = user
    own = None if token is None else logins.pages.make(user)
    response = await page(request, "notebook", "embed.html", **({"token": own, "appendToken": "true"} if own else {}))
    response.headers.update(_PRIVATE)
    if own:
        response.headers.add(hdrs.SET_COOKIE, f"{FILES_COOKIE}={own}; {_FOR_FILES}")
    return response


def _refused(request: web.Request, status: int, sentence: str) -> web.Response:
    log.warning("embed_refused", status=status, reason=sentence, request=request_id(request))
    headers = page_headers(request) | _PRIVATE | (RETRY_SOON if status == 503 else {})
    text = _REFUSED.format(sentence=html.escape(sentence))
    return web.Response(status=status, text=text, content_type="text/html", headers=headers)
