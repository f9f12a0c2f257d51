"""The API over real HTTP for tests of waiting clients; tests change tasks as a callback would."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
from httpx_sse import ServerSentEvent, aconnect_sse
from sqlalchemy import Engine, event
from starlette.applications import Starlette

from homing.server.web_server import address, listen, running
from tests.support.api_keys import LOCAL_KEY
from tests.support.api_server import OPERATOR, OTHER, STUDIO
from tests.support.builders import a_task, an_event, writing
from tracker.api import Access, Limits, routes
from tracker.app import create_tracker
from tracker.model.keys import NamedKey
from tracker.model.task import ClientIdentity, Task
from tracker.service.tracker import Tracker
from tracker.settings import Settings

ALL = (STUDIO, OTHER, OPERATOR)
EVERYTHING = ClientIdentity(name="operator", sees_all=True)
LONG = timedelta(seconds=60)
STREAM = "text/event-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    url: str
    tracker: Tracker
    client: httpx.AsyncClient

    async def change(self, task: Task, *sequences: int, name: str = "processing") -> None:
        """Commit changes of a task in one go, each with its event."""
        events = tuple(an_event(task, sequence, name) for sequence in sequences)
        await self.tracker.store.apply([writing(events[-1].task, events=events)])
        self.tracker.feed.signal_commit()

    async def events(self, count: int, **query: Any) -> list[ServerSentEvent]:
        """Read so many events from a stream of their own."""
        async with aconnect_sse(self.client, "GET", "/v1/events", params=query) as stream:
            return await taken(aiter(events(stream.aiter_sse())), count)


async def events(pieces: AsyncIterator[ServerSentEvent]) -> AsyncIterator[ServerSentEvent]:
    """Skip messages with an ID and without data, as a browser does."""
    async for piece in pieces:
        if piece.data:
            yield piece


async def taken(stream: AsyncIterator[ServerSentEvent], count: int) -> list[ServerSentEvent]:
    return [await asyncio.wait_for(anext(stream), LONG.total_seconds()) for _ in range(count)]


def sequences(found: list[ServerSentEvent]) -> list[int]:
    return [int(json.loads(each.data)["sequence"]) for each in found]


@asynccontextmanager
async def watched(
    database_url: str, *, keys: tuple[NamedKey, ...] = (LOCAL_KEY,), key: NamedKey = LOCAL_KEY
) -> AsyncIterator[Watched]:
    """Serve on loopback; ``key`` is the client's."""
    tracker = create_tracker(Settings(database_url=database_url, api_keys=keys))
    app = Starlette(routes=routes(tracker, Access(api_keys=keys), limits=Limits(waits_per_client=2000)))
    with closing(listen("127.0.0.1", 0)) as listener:
        url = address(listener)
        headers = {"authorization": f"Bearer {key.key}"}
        limits = httpx.Limits(max_connections=None)
        async with (
            tracker,
            running(app, listener, ending=tracker.feed.dismiss),
            httpx.AsyncClient(
                base_url=url, headers=headers, trust_env=False, timeout=LONG.total_seconds(), limits=limits
            ) as client,
        ):
            yield Watched(url=url, tracker=tracker, client=client)


@contextmanager
def counted() -> Iterator[list[str]]:
    """Collect every statement that this process sends to a database inside the block."""
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def a_number(number: int, client: str = "studio", **changes: Any) -> Task:
    return a_task(number, client=client, version=1, **changes)
