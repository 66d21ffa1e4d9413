"""`GET /files/{path}`: a user's file as it is, for pictures in notebooks and for downloads.

Owns ranges, tags and content types of what `Contents` opens; it opens nothing itself. What a file holds was written by
anybody: a browser runs scripts in it as of an origin of their own.
"""

from __future__ import annotations

import asyncio
import mimetypes
import os
from typing import Final
from urllib.parse import quote

from aiohttp import ETag, hdrs, web

from server import app_keys
from server.frontend.headers import sandboxed
from server.request_keys import USER

CHUNK_BYTES: Final = 256 * 1024
NOTEBOOK: Final = "application/x-ipynb+json"


async def user_file(request: web.Request) -> web.StreamResponse:
    """The file; with `?download=1` to be kept and not shown."""
    path = request.match_info["path"].strip("/")
    opened = await request.app[app_keys.CONTENTS].open_file(request[USER], path)
    try:
        return await _sent(request, path.rpartition("/")[2], opened.fd, opened.stat)
    finally:
        os.close(opened.fd)


def attachment(name: str) -> str:
    """The header that has a browser keep a file under this name."""
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"


def content_type(name: str) -> str:
    """As jupyter_server tells it of a name."""
    if name.lower().endswith(".ipynb"):
        return NOTEBOOK
    told, encoding = mimetypes.guess_type(name)
    if encoding is not None:  # RFC 6713; the others have no type of their own
        return "application/gzip" if encoding == "gzip" else "application/octet-stream"
    if told is None:
        return "application/octet-stream"
    return f"{told}; charset=UTF-8" if told == "text/plain" else told


async def _sent(request: web.Request, name: str, fd: int, told: os.stat_result) -> web.StreamResponse:
    headers = sandboxed(request) | {hdrs.CONTENT_TYPE: content_type(name), hdrs.ACCEPT_RANGES: "bytes"}
    if request.query.get("download"):
        headers[hdrs.CONTENT_DISPOSITION] = attachment(name)
    tag = f"{told.st_mtime_ns:x}-{told.st_size:x}"
    if _has(request, tag, told.st_mtime):
        response = web.StreamResponse(status=304, headers=headers)
        response.etag = tag
        await response.prepare(request)
        return response
    start, end, status = _range(request, tag, told)
    response = web.StreamResponse(status=status, headers=headers)
    response.etag, response.last_modified = tag, told.st_mtime
    response.content_length = end - start
    if status == 206:
        response.headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{end - 1}/{told.st_size}"
    await response.prepare(request)
    if request.method != hdrs.METH_HEAD:
        await _copy(response, fd, start, end)
    return response


def _has(request: web.Request, tag: str, changed_s: float) -> bool:
    """Whether the client has it already."""
    if request.if_none_match is not None:
        return any(each.value in ("*", tag) for each in request.if_none_match)
    since = request.if_modified_since
    return since is not None and int(changed_s) <= since.timestamp()


def _range(request: web.Request, tag: str, told: os.stat_result) -> tuple[int, int, int]:
    """(from, to, status) of what to send. Raises 416."""
    size = told.st_size
    if hdrs.RANGE not in request.headers or not _is_same(request, tag, told):
        return 0, size, 200
    try:
        start, end, _ = request.http_range.indices(size)
    except ValueError:
        start, end = size, size
    if start >= end:
        raise web.HTTPRequestRangeNotSatisfiable(headers={hdrs.CONTENT_RANGE: f"bytes */{size}"})
    return start, end, 206


def _is_same(request: web.Request, tag: str, told: os.stat_result) -> bool:
    """Whether the part goes with what the client has of it: If-Range is a tag or a time."""
    asked = request.headers.get(hdrs.IF_RANGE)
    if asked is None:
        return True
    if request.if_range is not None:
        return int(told.st_mtime) <= request.if_range.timestamp()
    return asked == str(ETag(tag).value) or asked == f'"{tag}"'


async def _copy(response: web.StreamResponse, fd: int, start: int, end: int) -> None:
    """Send the bytes. A file that was cut meanwhile ends the connection: its length was told before."""
    while start < end:
        part = await asyncio.to_thread(os.pread, fd, min(CHUNK_BYTES, end - start), start)
        if not part:
            raise ConnectionResetError("the file has become shorter")
        await response.write(part)
        start += len(part)
    await response.write_eof()
