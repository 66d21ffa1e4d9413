"""Following an execution to its end, wherever its owner is and however often that changes: the plain REST way.

Owns two more forms of answer to `POST …/execute` and `GET …/requests/{uid}`. With `?wait=<seconds>` it comes when the
execution is over (200), asks (300), or the time is (202); `outputs` is a list then. With `Accept: text/event-stream` it
is a stream of events, each with JSON: `output` (one more, or more of a stream), `clear`, `update` (`{index, output}`),
`input` (what to answer at `…/input`) and `done`. A client that comes back with `Last-Event-ID` gets what happened after
that, or when that is too long ago, `clear` and everything that is there.

Between workers the events go over an internal WebSocket, one JSON text each; the close code says why it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

import orjson
import structlog
from aiohttp import ClientWebSocketResponse, WSMsgType, web

from kernels.errors import KernelMoved, UnknownKernel
from server import app_keys
from server.api_errors import ApiError, api_error, request_id
from server.execution.api import collect, row_of
from server.execution.execution import Execution
from server.execution.feed import Place, dump_place, parse_place
from server.execution.table import Table
from server.links import CLOSE_MOVED
from server.owned import Handler
from server.request_keys import USER
from sharding.errors import PeerLost, PeerRefused
from sharding.member import Member

log = structlog.get_logger(__name__)

MAX_WAIT_S: Final = 300.0
PING_S: Final = 15.0  # a comment so often: proxies keep a silent stream open, and a client that has gone is noticed
RETRY_S: Final = 0.05
EVENT_STREAM: Final = "text/event-stream"
CLOSE_DONE: Final = 4000
Event = dict[str, Any]  # kind, id (None: nothing to come back to), data


def followed(handler: Handler) -> Handler:
    """`handler` (an owned one), and after it what is asked for beyond its answer."""

    async def answer(request: web.Request) -> web.StreamResponse:
        wait_s = _wait_s(request)
        is_stream = EVENT_STREAM in request.headers.get("Accept", "")
        if not is_stream and wait_s is None:
            return await (_patiently(handler, request) if request.method == "GET" else handler(request))
        place = parse_place(request.headers.get("Last-Event-ID"))
        uid = request.match_info.get("request_id")
        if uid is None:
            taken = await handler(request)
            if taken.status >= 400 or not isinstance(taken, web.Response):
                return taken
            assert isinstance(taken.body, bytes)
            uid = str(orjson.loads(taken.body)["request_id"])
        following = Following(request, uid, place, only_end=not is_stream)
        return await (_stream(following) if is_stream else _waited(following, wait_s or 0.0))

    return answer


async def _patiently(handler: Handler, request: web.Request) -> web.StreamResponse:
    """While no owner can be found the execution goes on, and that is the answer: the page gives up on any other."""
    try:
        return await handler(request)
    except ApiError as error:
        if error.status != HTTPStatus.SERVICE_UNAVAILABLE:
            raise
        told = {"pending": True, "reason": error.message}
        return web.json_response(told, status=202, headers={"Location": request.path})


def _wait_s(request: web.Request) -> float | None:
    text = request.query.get("wait")
    if text is None:
        return None
    with suppress(ValueError):
        if 0 <= (wait_s := float(text)) <= MAX_WAIT_S:
            return wait_s
    raise api_error(400, f"wait must be a number of seconds from 0 to {MAX_WAIT_S:g}")


# -- at the entry worker --------------------------------------------------------------------------------------------


class Following:
    """One client's way along an execution. `only_end`: it wants to hear of questions and of the end alone."""

    def __init__(self, request: web.Request, uid: str, place: Place | None, *, only_end: bool) -> None:
        self.request = request
        self.uid = uid
        self.kernel_id = request.match_info["kernel_id"]
        self._place = place
        self._only_end = only_end

    async def events(self) -> AsyncGenerator[Event, None]:
        """All events to the last one. Raises ApiError: 404, or 503 when no owner can be found."""
        while True:
            with suppress(KernelMoved, PeerLost):
                source = await self.request.app[app_keys.OWNERSHIP].at_owner(
                    self.request[USER], self._here, self._there
                )
                async with aclosing(source):
                    async for event in source:
                        self._place = parse_place(event["id"]) or self._place
                        yield event
                        if event["kind"] == "done":
                            return
            await asyncio.sleep(RETRY_S)

    async def _here(self) -> AsyncGenerator[Event, None]:
        try:
            table, row = await row_of(self.request, self.uid)
        except UnknownKernel as error:
            raise unknown(self.uid, self.kernel_id) from error
        return events_of(table, row, self._place, only_end=self._only_end)

    async def _there(self, owner: Member, epoch: int) -> AsyncGenerator[Event, None]:
        query = {"only_end": int(self._only_end)} | ({"place": dump_place(self._place)} if self._place else {})
        path = f"/api/kernels/{self.kernel_id}/requests/{self.uid}/events?{urlencode(query)}"
        try:
            socket = await self.request.app[app_keys.PEERS].websocket(
                owner, path, user=self.request[USER], request_id=request_id(self.request), epoch=epoch
            )
        except PeerRefused as refused:
            if refused.status == 404:
                raise unknown(self.uid, self.kernel_id) from refused
            raise PeerLost(f"{owner.name} cannot serve it now: {refused}") from refused
        return _from_peer(socket)


def unknown(uid: str, kernel_id: str) -> ApiError:
    """The 404."""
    return api_error(404, f"Execution request {uid} for kernel {kernel_id} does not exist")


async def _from_peer(socket: ClientWebSocketResponse) -> AsyncGenerator[Event, None]:
    try:
        while (received := await socket.receive()).type is WSMsgType.TEXT:
            yield orjson.loads(received.data)
        if socket.close_code != CLOSE_DONE:
            raise PeerLost(f"the connection to the owner ended ({socket.close_code})")
    finally:
        await socket.close()


async def _waited(following: Following, wait_s: float) -> web.Response:
    result: dict[str, Any] | None = None
    async with aclosing(following.events()) as events:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                async for event in events:
                    result = event["data"]
                    if event["kind"] in ("input", "done"):
                        break
    location = f"/api/kernels/{following.kernel_id}/requests/{following.uid}"
    if result is None or result["request_status"] in ("queued", "running"):
        told = result or {"request_id": following.uid, "request_url": location, "pending": True}
        return web.json_response(told, status=202, headers={"Location": location})
    if result["request_status"] == "input":
        headers = {"Location": f"/api/kernels/{following.kernel_id}/input"}
        return web.json_response(result, status=300, headers=headers)
    return web.json_response(result)


async def _stream(following: Following) -> web.StreamResponse:
    request = following.request
    events = following.events()
    first = asyncio.ensure_future(anext(events))  # a 404 is an answer and no stream
    await asyncio.wait((first,), timeout=PING_S)
    if first.done() and (problem := first.exception()):
        raise problem
    headers = {"Content-Type": EVENT_STREAM, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    headers["Location"] = f"/api/kernels/{following.kernel_id}/requests/{following.uid}"
    answer = web.StreamResponse(headers=headers)
    stopping = asyncio.ensure_future(request.app[app_keys.STOPPING].wait())
    try:
        await answer.prepare(request)
        await answer.write(b"retry: 1000\n\n")
        await _pass_on(events, first, stopping, answer)
        await answer.write_eof()
    except ApiError as error:  # no owner: the client comes back by itself
        log.info("stream_ended", request=following.uid, kernel=following.kernel_id, why=error.message)
    finally:
        stopping.cancel()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await events.aclose()
    return answer


async def _pass_on(
    events: AsyncGenerator[Event, None],
    coming: asyncio.Future[Event],
    stopping: asyncio.Future[Any],
    answer: web.StreamResponse,
) -> None:
    try:
        while not stopping.done():
            await asyncio.wait((coming, stopping), timeout=PING_S, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                await answer.write(b":\n\n")
                continue
            try:
                event = coming.result()
            except StopAsyncIteration:
                return
            await answer.write(_sse(event))
            coming = asyncio.ensure_future(anext(events))
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


def _sse(event: Event) -> bytes:
    place = f"id: {event['id']}\n" if event["id"] else ""
    return f"event: {event['kind']}\n{place}data: ".encode() + orjson.dumps(event["data"]) + b"\n\n"


# -- at the owner ---------------------------------------------------------------------------------------------------


async def events_of(
    table: Table, row: Execution, place: Place | None, *, only_end: bool
) -> AsyncGenerator[Event, None]:
    """What happened after `place` and what happens until the end. Raises KernelMoved."""
    kernel_id = table.kernel.kernel_id
    told, place = "", _means_the_same_here(place, row)
    while True:
        # A client may be further than an owner that has just taken over: what the kernel tells that one again is no
        # news for this one.
        if not only_end and (place is None or place < row.feed.place):
            happened, place = _after(row, place), row.feed.place
            for event in happened:
                yield event
            continue  # it may have gone on while that was sent
        if row.question and row.question.header["msg_id"] != told:
            told = row.question.header["msg_id"]
            yield {"kind": "input", "id": None, "data": row.result(kernel_id, as_list=True)}
            continue
        if row.state == "done":
            collect(table, row)
            data = row.result(kernel_id, as_list=True)
            if not only_end:
                del data["outputs"]
            yield {"kind": "done", "id": None, "data": data}
            return
        if table.moved:
            raise KernelMoved(str(table.moved))
        await row.news.wait()


def _means_the_same_here(place: Place | None, row: Execution) -> Place | None:
    """None where the kernel numbers nothing and the owner before has counted further: all of it is told anew."""
    return None if place and place > row.feed.place and not place[0] else place


def _after(row: Execution, place: Place | None) -> list[Event]:
    happened = row.feed.after(place) if place else None
    if happened is not None:
        return [{"kind": one.kind, "id": dump_place(one.place), "data": one.data} for one in happened]
    outputs = row.outputs.to_list()
    everything: list[Event] = [{"kind": "clear", "id": None, "data": {}}]
    everything += [{"kind": "output", "id": None, "data": output} for output in outputs]
    everything[-1]["id"] = dump_place(row.feed.place)  # whoever has got less than all begins again
    return everything


async def peer_events(request: web.Request) -> web.StreamResponse:
    """`GET /api/kernels/{kernel_id}/requests/{request_id}/events` on the internal socket."""
    table, row = await row_of(request)
    place = parse_place(request.query.get("place"))
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    sending = asyncio.create_task(
        _to_peer(socket, events_of(table, row, place, only_end=request.query["only_end"] == "1"))
    )
    receiving = asyncio.create_task(socket.receive())  # nothing comes but the end
    try:
        await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        sending.cancel()
        receiving.cancel()
        await asyncio.gather(sending, receiving, return_exceptions=True)
    await socket.close(code=CLOSE_MOVED if table.moved and row.state != "done" else CLOSE_DONE)
    return socket


async def _to_peer(socket: web.WebSocketResponse, events: AsyncGenerator[Event, None]) -> None:
    with suppress(ConnectionError, KernelMoved):
        async for event in events:
            await socket.send_str(orjson.dumps(event).decode())
