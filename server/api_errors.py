"""Errors as Jupyter's clients expect them: JSON `{"message": ..., "reason": ...}`.

Owns the form of an error and its one log line. Bad input is logged once, as a warning; an unexpected
exception once, as an error with its traceback, of which the client sees only the request's id.
It never decides that something is an error, and never logs a query string, a header or a body
(tokens travel there).
"""

import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from server.request_keys import REQUEST_ID, USER

log = structlog.get_logger(__name__)

LOGGED_PATH_CHARS: Final = 200


class ApiError(web.HTTPError):
    """An HTTP error in Jupyter's form: `message` is the sentence, `reason` (optional) says why."""

    def __init__(
        self,
        status: int,
        message: str,
        reason: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status_code = status
        self.message = message
        self.why = reason
        super().__init__(text=_body(message, reason), content_type="application/json", headers=headers)


def api_error(
    status: int, message: str, reason: str | None = None, *, headers: Mapping[str, str] | None = None
) -> ApiError:
    """The exception to raise for a client's mistake, or for a service that is away (503)."""
    return ApiError(status, message, reason, headers=headers)


def is_api(request: web.BaseRequest) -> bool:
    """True when the client is a program that reads Jupyter's JSON, false for pages."""
    return request.path == "/api" or request.path.startswith(("/api/", "/lab/api/", "/lsp/"))


def request_id(request: web.Request) -> str:
    """The request's id; made here when no peer has named the request before."""
    known = request.get(REQUEST_ID)
    if known is None:
        # In the form of a kernel's id: a kernel started by the request is named by it.
        known = request[REQUEST_ID] = str(uuid.uuid4())
    return known


@web.middleware
async def json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost middleware: gives every error its form and its log line.

    A plain HTTP error of a page (a 404 for /favicon.ico, say) passes untouched.
    """
    try:
        return await handler(request)
    except web.HTTPError as error:
        if is_api(request) or isinstance(error, ApiError):
            _log_refusal(request, error)
            _to_json(error)
        raise
    except web.HTTPException:
        raise
    except Exception as error:
        if _is_clients(request, error):
            return _client_gone(request, error)
        log.exception("request_failed", **_about(request))
        return _internal_error(request)


def _body(message: str, reason: str | None) -> str:
    return orjson.dumps({"message": message, "reason": reason}).decode()


def _about(request: web.Request) -> dict[str, str | None]:
    return {
        "request": request_id(request),
        "user": request.get(USER),
        "method": request.method,
        # Percent-encoded and without the query: no line breaks from a client, no token.
        "path": request.rel_url.raw_path[:LOGGED_PATH_CHARS],
    }


def _log_refusal(request: web.Request, error: web.HTTPError) -> None:
    message, why = _said(error)
    log.warning("request_refused", status=error.status, message=message, reason=why, **_about(request))


def _said(error: web.HTTPError) -> tuple[str, str | None]:
    """The sentence and the reason of any HTTP error; aiohttp's own carry their sentence as text."""
    if isinstance(error, ApiError):
        return error.message, error.why
    phrase = _phrase(error)
    if error.content_type != "text/plain" or error.text == f"{error.status}: {error.reason}":
        return phrase, None
    return phrase, error.text


def _phrase(error: web.HTTPError) -> str:
    if error.reason:
        return error.reason
    return HTTPStatus(error.status).phrase


def _to_json(error: web.HTTPError) -> None:
    """Rewrite the error in place, so that its headers (Allow, Retry-After) and cookies stay."""
    if not isinstance(error, ApiError):
        error.text = _body(*_said(error))
        error.content_type = "application/json"


def _is_clients(request: web.Request, error: Exception) -> bool:
    """A lost connection is the client's own doing only when it is the client's connection that is lost."""
    if isinstance(error, ConnectionError):
        return request.transport is None or request.transport.is_closing()
    return isinstance(error, web.RequestPayloadError)


def _client_gone(request: web.Request, error: Exception) -> web.StreamResponse:
    """The client went away in mid-message, or sent a body that is not what its headers say.

    Nobody may be there to read the answer; the line in the log is for the operator.
    """
    log.warning("request_broken_off", error=type(error).__name__, **_about(request))
    _hang_up_if_started(request)
    request.content.feed_eof()  # else aiohttp goes on reading it, and logs the same error as its own
    answer = web.json_response({"message": "Bad Request", "reason": "The body broke off."}, status=400)
    answer.force_close()
    return answer


def _internal_error(request: web.Request) -> web.StreamResponse:
    _hang_up_if_started(request)
    if is_api(request):
        return web.json_response({"message": "Internal error", "reason": request_id(request)}, status=500)
    return web.Response(status=500, text=f"Internal error. Request {request_id(request)}.\n")


def _hang_up_if_started(request: web.Request) -> None:
    """A second response must never follow one that has begun (a WebSocket, a stream).

    With the transport closed aiohttp takes the response written next for a client that went away.
    """
    if request.writer.output_size > 0 and request.transport is not None:
        request.transport.abort()
