"""Events as a stream (Server-Sent Events) or in pages. A client that continues with its cursor misses nothing.

A connection has a cursor and no queue. For a slow client, later events are read from the feed or the database.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tracker.api.http.base_schemas import Nothing
from tracker.api.http.disconnect import CLIENT_LEFT, while_connected
from tracker.api.http.endpoint import ApiEndpoint, ApiRequest, Header
from tracker.api.sink_schemas import EventQuery, EventsShown
from tracker.errors import Forbidden, Gone, InvalidRequest, NotFound, Overloaded, TooMany
from tracker.model.event import JSON_TYPE, PublishedEvent, structured
from tracker.model.event_filter import read_filter
from tracker.service.feed import Feed

STREAM_TYPE: Final = "text/event-stream"
LAST_EVENT_ID: Final = Header("Last-Event-ID", 19)
HEARTBEAT: Final = timedelta(seconds=15)
# The pause of a client that lost its connection.
RECONNECT_AFTER: Final = timedelta(seconds=2)
# How many events are read and sent at once. A connection holds no more in memory.
EVENTS_PER_READ: Final = 100
DEFAULT_PAGE_SIZE: Final = 100
# How often a page reads without a match before it returns its cursor.
READS_PER_PAGE: Final = 50
NO_TIME: Final = timedelta()

EventFilter = Callable[[PublishedEvent], bool]
EventRequest = ApiRequest[EventQuery, Nothing]


class Stream(StreamingResponse):
    """An answer that is sent piece by piece while its client is connected."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - an ASGI app is called so
        await while_connected(receive, self.stream_response(send))


async def list_events(request: EventRequest) -> Response:
    """Stream events (Server-Sent Events), or return a page of them."""
    query = request.query
    is_page = query.wait is not None or query.limit is not None or not _wants_stream(request.http)
    if request.http.method != "HEAD" and (query.wait or not is_page):
        request.resources.wait()
    newest = await request.tracker.feed.now()
    after, takes = await _start(request, newest), await _filter_of(request)
    if is_page:
        page = await while_connected(request.http.receive, _page(request, takes, after=after, newest=newest))
        return Response(status_code=CLIENT_LEFT) if page is None else page
    # A proxy that buffers an answer would delay every event.
    headers = {"x-accel-buffering": "no"}
    if request.http.method == "HEAD":
        return Response(media_type=STREAM_TYPE, headers=headers)
    stream = pieces(request.tracker.feed, takes, request.tracker.source, after=after)
    return Stream(stream, media_type=STREAM_TYPE, headers=headers)


def _wants_stream(request: Request) -> bool:
    """Return whether the client accepts a stream and no JSON. Only such a client can read a stream."""
    accepted = ",".join(request.headers.getlist("accept")).lower()
    types = {part.partition(";")[0].strip() for part in accepted.split(",")}
    return STREAM_TYPE in types and JSON_TYPE not in types


async def _start(request: EventRequest, newest: int) -> int:
    """Return the cursor to continue from: the Last-Event-ID, the requested one, or the newest."""
    feed, last, after = request.tracker.feed, request.http.headers.get(LAST_EVENT_ID.name), request.query.after
    if last:
        if not (last.isascii() and last.isdecimal() and len(last) < LAST_EVENT_ID.max_length):
            raise InvalidRequest(f"{LAST_EVENT_ID.name} is not a cursor of this server")
        after = int(last)
    elif after == 0:
        return await feed.horizon()
    if after is None:
        return newest
    if after > newest and after > await feed.highest_number():
        raise Gone(
            f"no event has the cursor {after} yet, the newest is {newest}. The cursor is from another database, "
            "or this one was restored. Read GET /v1/tasks, then continue without a cursor or with after=0"
        )
    if after < await feed.horizon():
        raise _gone(after)
    return after


def _gone(after: int) -> Gone:
    return Gone(
        f"events after {after} have been deleted with their tasks. Read GET /v1/tasks, "
        "then continue without a cursor, or with after=0 from the oldest stored event"
    )


async def _filter_of(request: EventRequest) -> EventFilter:
    """Return the filter for the requested events that the client may see. Only keys for all clients may see alarms."""
    query, client = request.query, request.client
    if not client.sees_all and not set(query.client) <= {client.name}:
        raise Forbidden("this key sees only its own client's events")
    clients = query.client if client.sees_all else [client.name]
    options = {"type": query.type, "provider": query.provider, "kind": query.kind, "client": clients, "tag": query.tag}
    try:
        takes = read_filter(options).takes
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    if query.task is None:
        return takes
    task = await request.tracker.get(client, query.task)
    return lambda event: event.task is not None and event.task.id == task.id and takes(event)


async def pieces(
    feed: Feed, takes: EventFilter, source: str, *, after: int, heartbeat: timedelta = HEARTBEAT
) -> AsyncIterator[bytes]:
    """Yield the pieces of a stream. The first comes at once, because the server holds the head of the answer for it.

    An ID without data is not an event. It moves the cursor of the client past events of other clients.
    """
    now = asyncio.get_running_loop().time
    cursor = known = after
    yield b": homing\nretry: %d\nid: %d\n\n" % (RECONNECT_AFTER / timedelta(milliseconds=1), cursor)
    due = now() + heartbeat.total_seconds()
    while not feed.dismissed:
        page = await feed.read(cursor, limit=EVENTS_PER_READ)
        if not await feed.reaches(cursor):
            return  # Events are deleted faster than the client reads. When it connects again, it gets 410.
        cursor = page[-1].cursor if page else cursor
        found = [event for event in page if isinstance(event, PublishedEvent) and takes(event)]
        if found:
            known = found[-1].cursor
            yield b"".join(frame(event, source) for event in found)
        elif now() >= due:
            yield b":\n" if cursor == known else b"id: %d\n\n" % cursor
            known = cursor
        else:
            if not page:
                await feed.beyond(cursor, within=timedelta(seconds=due - now()))
            continue
        due = now() + heartbeat.total_seconds()


def frame(event: PublishedEvent, source: str) -> bytes:
    """Return the bytes of one event in a stream."""
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.cursor, event.type.encode(), structured(event, source))


async def _page(request: EventRequest, takes: EventFilter, *, after: int, newest: int) -> Response:
    found, cursor, more = await _read_page(request, takes, after=after, newest=newest)
    events = [msgspec.Raw(structured(event, request.tracker.source)) for event in found]
    page = msgspec.json.encode({"events": events, "next": cursor, "more": more})
    return Response(page, media_type=JSON_TYPE)


async def _read_page(
    request: EventRequest, takes: EventFilter, *, after: int, newest: int
) -> tuple[list[PublishedEvent], int, bool]:
    """Return the events of a page, the cursor after it, and whether there may be more."""
    feed, now = request.tracker.feed, asyncio.get_running_loop().time
    end = now() + (request.query.wait or 0)
    found: list[PublishedEvent] = []
    for _ in range(READS_PER_PAGE):
        page = await feed.read(after, limit=EVENTS_PER_READ)
        if not await feed.reaches(after):
            raise _gone(after)
        for event in page:
            after = event.cursor
            if isinstance(event, PublishedEvent) and takes(event):
                found.append(event)
            if len(found) == (request.query.limit or DEFAULT_PAGE_SIZE):
                return found, after, True
        if not page:
            # While no client waits, the feed does not read.
            least = feed.scan_interval if after < newest else NO_TIME
            within = max(timedelta(seconds=end - now()), least) if not found or least else NO_TIME
            if not await feed.beyond(after, within=within):
                return found, after, False
    return found, after, True


EVENTS: Final = (
    ApiEndpoint(
        "GET",
        "/v1/events",
        list_events,
        EventsShown,
        group="events",
        streams=STREAM_TYPE,
        errors=(Forbidden, Gone, NotFound, TooMany, Overloaded),
        headers=(LAST_EVENT_ID,),
    ),
)
