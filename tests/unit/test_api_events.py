"""Who is told what, and how little a connection holds: the stream's rules over a stand-in tracker."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Scope

from tests.keys import LOCAL_ACCESS, LOCAL_HEADERS
from tests.unit.api_stand_in import ALARM, NOW, StandIn, a_task, asking
from tracker.api import Access, create_api
from tracker.api.events import PIECE, frame, pieces
from tracker.errors import NotFound
from tracker.model.event import PublishedEvent, structured
from tracker.model.keys import NamedKey
from tracker.service.feed import Feed

CLIENTS = ("studio", "other", "local", "operator")
KEYS = tuple(NamedKey(name=name, key=f"made-up-key-of-{name}", sees_all=name == "operator") for name in CLIENTS)
PAGE = {"accept": "application/json"}
SOURCE = "urn:homing"


def told(cursor: int, client: str | None = "studio", sequence: int = 1) -> PublishedEvent:
    """Make an event of a client's task, or an alarm."""
    if client is None:
        return PublishedEvent(cursor=cursor, type="homing.alarm.mismatch", sequence=1, at=NOW, alarm=ALARM)
    task = replace(a_task(cursor, client=client), version=sequence)
    return PublishedEvent(cursor=cursor, type="homing.task.processing", sequence=sequence, at=NOW, task=task)


@asynccontextmanager
async def opened(tracker: StandIn) -> AsyncIterator[StandIn]:
    await tracker.feed.open()
    try:
        yield tracker
    finally:
        await tracker.feed.close()


@given(st.lists(st.sampled_from([*CLIENTS, None]), max_size=12), st.sampled_from(KEYS), st.integers(1, 5), st.data())
def test_a_key_is_told_of_its_own_tasks_all_of_them_and_nothing_else(
    whose: list[str | None], key: NamedKey, limit: int, data: st.DataObject
) -> None:
    """Whatever filter of clients it asks for; who sees all is told of everybody's tasks and of alarms."""
    tracker = StandIn(told=[told(cursor, client) for cursor, client in enumerate(whose, start=1)])
    wished = data.draw(st.sets(st.sampled_from(CLIENTS if key.sees_all else [key.name])))

    async def read() -> list[object]:
        headers = {"authorization": f"Bearer {key.key}", **PAGE}
        found, after, more = list[dict[str, object]](), 0, True
        async with opened(tracker), asking(create_api(tracker, Access(api_keys=KEYS)), headers=headers) as client:
            while more:
                query = {"after": str(after), "limit": str(limit), "client": sorted(wished)}
                page = (await client.get("/v1/events", params=query)).json()
                found, after, more = found + page["events"], page["next"], page["more"]
        return [each["subject"] for each in found]

    mine = [
        each.subject
        for each in tracker.told
        if (key.sees_all or each.client == key.name) and (not wished or each.client in wished)
    ]
    assert asyncio.run(read()) == mine


async def test_another_clients_events_cannot_be_asked_for() -> None:
    tracker = StandIn()
    headers = {"authorization": f"Bearer {KEYS[0].key}"}
    async with asking(create_api(tracker, Access(api_keys=KEYS)), headers=headers) as client:
        assert (await client.get("/v1/events?client=other")).status_code == 403
        assert (await client.get("/v1/events?client=studio&client=other")).status_code == 403


async def test_a_connection_reads_no_further_than_its_client() -> None:
    """Sending is all that a stream waits for: while a piece is not taken, nothing more is read for it."""
    tracker = StandIn(told=[told(cursor) for cursor in range(1, 10 * PIECE)])
    looks: list[int] = []

    class Counted(StandIn):
        async def events(self, *, after: int, limit: int) -> list[PublishedEvent]:
            looks.append(after)
            return list(await tracker.events(after=after, limit=limit))

    counted = Counted(told=tracker.told)
    taking = asyncio.Event()
    sent: list[bytes] = []
    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/events",
        "raw_path": b"/v1/events",
        "query_string": b"after=0",
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"accept", b"Text/Event-Stream; charset=utf-8"),
            (b"authorization", LOCAL_HEADERS["authorization"].encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "scheme": "http",
        "root_path": "",
    }

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))
        if len(sent) == 3:
            taking.set()
            await asyncio.Event().wait()

    async with opened(counted):
        app = create_api(counted, LOCAL_ACCESS)
        streaming = asyncio.create_task(app(scope, receive, send))
        await taking.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(looks) == 1
        assert sent[2].count(b"\ndata: ") == PIECE
        streaming.cancel()
        await asyncio.gather(streaming, return_exceptions=True)


async def test_what_was_not_for_it_moves_a_clients_cursor_too() -> None:
    tracker = StandIn(told=[told(1), told(2)])
    async with opened(tracker):
        stream = pieces(tracker.feed, lambda _: False, SOURCE, after=0, heartbeat=timedelta(milliseconds=1))
        assert await anext(stream) == b": homing\nretry: 2000\nid: 0\n\n"
        beats = [await anext(stream) for _ in range(3)]
        assert beats == [b"id: 2\n\n", b":\n", b":\n"]
        await stream.aclose()  # type: ignore[attr-defined]


async def test_an_event_is_written_once_however_many_are_told() -> None:
    event = told(1)
    assert structured(event, SOURCE) is structured(event, SOURCE)
    assert json.loads(frame(event, "https://elsewhere").split(b"data: ")[1])["source"] == "https://elsewhere"


async def test_only_the_head_is_given_where_only_the_head_is_asked_for() -> None:
    async with asking(create_api(StandIn(), LOCAL_ACCESS)) as client:
        answer = await client.head("/v1/events", headers={"accept": "text/event-stream"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    "accept", [None, "*/*", "application/json", "text/html,*/*;q=0.8", "application/json, text/event-stream"]
)
async def test_events_without_accepting_a_stream_is_a_page(accept: str | None) -> None:
    tracker = StandIn(told=[told(1)])
    headers = {} if accept is None else {"accept": accept}
    async with opened(tracker), asking(create_api(tracker, LOCAL_ACCESS)) as client:
        client.headers.pop("accept", None)
        answer = await client.get("/v1/events?after=0", headers=headers)
    assert [event["subject"] for event in answer.json()["events"]] == [tracker.told[0].subject]


async def test_an_unknown_task_has_no_events() -> None:
    tracker = StandIn(fails=None)
    async with asking(create_api(tracker, LOCAL_ACCESS)) as client:
        answer = await client.get("/v1/events?task=nobody")
    assert answer.status_code == NotFound.status


@pytest.mark.parametrize("dismissed", [True, False])
async def test_a_stream_ends_with_its_feed(dismissed: bool) -> None:  # noqa: FBT001 - a parameter
    feed = Feed(StandIn())
    await feed.open()
    stream = pieces(feed, lambda _: True, SOURCE, after=0)
    await anext(stream)
    if dismissed:
        feed.dismiss()
    else:
        await feed.close()
    assert [piece async for piece in stream] == []
    await feed.close()
