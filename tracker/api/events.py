"""Events as a stream (Server-Sent Events) or page by page: whoever comes back with a cursor misses nothing.

A connection has a cursor and nothing else. What it is slow to take is read later, from the feed or the database: there
is no queue for anybody.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tracker.api.http.disconnect import CLIENT_LEFT, while_there
from tracker.api.http.endpoint import AnyEndpoint, Ask, Endpoint, Header
from tracker.api.http.problems import PROBLEMS
from tracker.api.http.schemas import Nothing
from tracker.api.sink_schemas import EventQuery, EventsShown
from tracker.delivery.sinks.filters import read_filter
from tracker.errors import Forbidden, Gone, InvalidRequest, NotFound, Overloaded, TooMany
from tracker.model.event import JSON_TYPE, PublishedEvent, structured
from tracker.service.feed import LOOK, Feed

GROUP: Final = "events"
STREAM_TYPE: Final = "text/event-stream"
LAST_EVENT_ID: Final = Header("Last-Event-ID", 19)
HEARTBEAT: Final = timedelta(seconds=15)
# What a client that lost its connection waits before it comes back.
RETRY: Final = timedelta(seconds=2)
# Read and sent in one go: the most that a connection holds in memory.
PIECE: Final = 100
PAGE: Final = 100
# A page looks through so many pieces of what nobody wanted before it says how far it has come.
LOOKS: Final = 50
NONE: Final = timedelta()

Takes = Callable[[PublishedEvent], bool]
Asked = Ask[EventQuery, Nothing]


class Stream(StreamingResponse):
    """Pieces as they come, for as long as the client is there."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - an ASGI app is called so
        await while_there(receive, self.stream_response(send))


async def _events(ask: Asked) -> Response:
    if ask.request.method != "HEAD" and _waits(ask):
        ask.held.wait()
    newest = await ask.tracker.feed.now()
    after, takes = await _start(ask, newest), await _wanted(ask)
    if _is_page(ask):
        page = await while_there(ask.request.receive, _page(ask, takes, after=after, newest=newest))
        return Response(status_code=CLIENT_LEFT) if page is None else page
    # A proxy that gathers an answer before it passes it on would keep everything back.
    headers = {"x-accel-buffering": "no"}
    if ask.request.method == "HEAD":
        return Response(media_type=STREAM_TYPE, headers=headers)
    telling = pieces(ask.tracker.feed, takes, ask.tracker.source, after=after)
    return Stream(telling, media_type=STREAM_TYPE, headers=headers)


def _wants_stream(request: Request) -> bool:
    """Return whether the client names the type of a stream and not JSON too: only such a client can read one."""
    accepted = ",".join(request.headers.getlist("accept")).lower()
    types = {part.partition(";")[0].strip() for part in accepted.split(",")}
    return STREAM_TYPE in types and JSON_TYPE not in types


def _is_page(ask: Asked) -> bool:
    return ask.query.wait is not None or ask.query.limit is not None or not _wants_stream(ask.request)


def _waits(ask: Asked) -> bool:
    return bool(ask.query.wait) or not _is_page(ask)


async def _start(ask: Asked, newest: int) -> int:
    """Return the cursor to go on from: the one that a client comes back with, the one it asked for, or now."""
    feed, told, after = ask.tracker.feed, ask.request.headers.get(LAST_EVENT_ID.name), ask.query.after
    if told:
        if not (told.isascii() and told.isdecimal() and len(told) < LAST_EVENT_ID.longest):
            raise InvalidRequest(f"{LAST_EVENT_ID.name} is no cursor of ours")
        after = int(told)
    elif after == 0:
        return await feed.horizon()
    if after is None:
        return newest
    if after > newest and after > await feed.given():
        raise Gone(
            f"no event has the cursor {after} yet, the newest is {newest}: the cursor is from another database, "
            "or this one was restored. Read GET /v1/tasks, then continue without a cursor or with after=0"
        )
    if after < await feed.horizon():
        raise _gone(after)
    return after


def _gone(after: int) -> Gone:
    return Gone(
        f"events after {after} have been deleted with their tasks: look at GET /v1/tasks for what is, "
        "then go on without a cursor, or with after=0 from the oldest event that is kept"
    )


async def _wanted(ask: Asked) -> Takes:
    """Make the rule of what to tell: what the caller asked for and may see, which of alarms is all or none."""
    query, caller = ask.query, ask.caller
    if not caller.sees_all and not set(query.client) <= {caller.name}:
        raise Forbidden("this key sees only its own client's events")
    clients = query.client if caller.sees_all else [caller.name]
    options = {"type": query.type, "provider": query.provider, "kind": query.kind, "client": clients, "tag": query.tag}
    try:
        takes = read_filter(options).takes
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    if query.task is None:
        return takes
    task = await ask.tracker.get(caller, query.task)
    return lambda told: told.task is not None and told.task.id == task.id and takes(told)


async def pieces(
    feed: Feed, takes: Takes, source: str, *, after: int, heartbeat: timedelta = HEARTBEAT
) -> AsyncIterator[bytes]:
    """Yield what to send, the first piece at once: our server holds an answer's head until then.

    An id without data is no event, and moves the cursor that the client comes back with past what was not for it.
    """
    now = asyncio.get_running_loop().time
    cursor = known = after
    yield b": homing\nretry: %d\nid: %d\n\n" % (RETRY / timedelta(milliseconds=1), cursor)
    due = now() + heartbeat.total_seconds()
    while not feed.dismissed:
        page = await feed.read(cursor, limit=PIECE)
        if not await feed.reaches(cursor):
            return  # slower than events are deleted: it comes back, and is told so
        cursor = page[-1].cursor if page else cursor
        found = [event for event in page if isinstance(event, PublishedEvent) and takes(event)]
        if found:
            known = found[-1].cursor
            yield b"".join(frame(told, source) for told in found)
        elif now() >= due:
            yield b":\n" if cursor == known else b"id: %d\n\n" % cursor
            known = cursor
        else:
            if not page:
                await feed.beyond(cursor, within=timedelta(seconds=due - now()))
            continue
        due = now() + heartbeat.total_seconds()


def frame(told: PublishedEvent, source: str) -> bytes:
    """Write one event of a stream."""
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (told.cursor, told.type.encode(), structured(told, source))


async def _page(ask: Asked, takes: Takes, *, after: int, newest: int) -> Response:
    found, cursor, more = await _look(ask, takes, after=after, newest=newest)
    events = [msgspec.Raw(structured(told, ask.tracker.source)) for told in found]
    return Response(
        msgspec.json.encode({"events": events, "next": cursor, "more": more}), HTTPStatus.OK, media_type=JSON_TYPE
    )


async def _look(ask: Asked, takes: Takes, *, after: int, newest: int) -> tuple[list[PublishedEvent], int, bool]:
    """Return the events of a page, the cursor behind it, and whether there may be more."""
    feed, now = ask.tracker.feed, asyncio.get_running_loop().time
    end = now() + (ask.query.wait or 0)
    found: list[PublishedEvent] = []
    for _ in range(LOOKS):
        page = await feed.read(after, limit=PIECE)
        if not await feed.reaches(after):
            raise _gone(after)
        for event in page:
            after = event.cursor
            if isinstance(event, PublishedEvent) and takes(event):
                found.append(event)
            if len(found) == (ask.query.limit or PAGE):
                return found, after, True
        if not page:
            # While nobody waited the feed may not have read what is there.
            least = LOOK if after < newest else NONE
            within = max(timedelta(seconds=end - now()), least) if not found or least else NONE
            if not await feed.beyond(after, within=within):
                return found, after, False
    return found, after, True


EVENTS: Final[tuple[AnyEndpoint, ...]] = (
    Endpoint(
        method="GET",
        path="/v1/events",
        name="list_events",
        summary="Tell events as they come (Server-Sent Events), or a page of them",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_events,
        query=EventQuery,
        body=Nothing,
        reply=EventsShown,
        streams=STREAM_TYPE,
        errors=(Forbidden, Gone, NotFound, TooMany, Overloaded),
        headers=(LAST_EVENT_ID,),
    ),
)
