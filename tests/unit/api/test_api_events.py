"""Event visibility per client and memory use per stream, over a real tracker."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Scope

from tests.support.api_harness import ApiHarness, SharedApi, api_harness, shared_api
from tests.support.api_keys import LOCAL_ACCESS, LOCAL_HEADERS
from tests.support.builders import NOW, a_task, an_event, writing
from tests.support.published_events import an_event as published
from tests.support.published_events import readable
from tracker.api import Access, create_api
from tracker.api.events import EVENTS_PER_READ, frame, pieces
from tracker.errors import NotFound
from tracker.model.changes import RaisedAlarm
from tracker.model.event import Found, PublishedEvent, structured
from tracker.model.keys import NamedKey
from tracker.model.task import Alarm

CLIENTS = ("studio", "other", "local", "operator")
KEYS = tuple(NamedKey(name=name, key=f"made-up-key-of-{name}", sees_all=name == "operator") for name in CLIENTS)
PAGE = {"accept": "application/json"}
SOURCE = "urn:homing"


NUMBERS = count(1)


async def happen(api: ApiHarness, clients: Sequence[str | None]) -> list[PublishedEvent]:
    """Record an event for a task of each client, or an alarm for None. Return the events."""
    events = api.tracker.store.events
    before = await events.latest()
    writes = []
    for client in clients:
        number = next(NUMBERS)
        if client is None:
            # Only the first alarm of an hour creates an event.
            hour = NOW + number * timedelta(hours=1)
            alarm = RaisedAlarm(kind=Alarm.MISMATCH, provider="kling", at=hour, task_id=None, detail="made up")
            writes.append(writing(alarms=(alarm,)))
        else:
            task = a_task(number, client=client)
            writes.append(writing(task, events=(an_event(task, 2),)))
    if writes:
        await api.tracker.store.apply(writes)
        api.tracker.feed.signal_commit()
    return readable(await events.read(after=before, limit=1_000))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedApi]:
    with shared_api(api_harness(tmp_path_factory.mktemp("events"))) as one:
        yield one


@given(st.lists(st.sampled_from([*CLIENTS, None]), max_size=12), st.sampled_from(KEYS), st.integers(1, 5), st.data())
def test_key_gets_all_events_of_its_own_tasks_only(
    shared: SharedApi, clients: list[str | None], key: NamedKey, limit: int, data: st.DataObject
) -> None:
    """A client filter only narrows the result. A key for all clients also gets alarms."""
    requested = data.draw(st.sets(st.sampled_from(CLIENTS if key.sees_all else [key.name])))

    async def read() -> tuple[list[object], list[PublishedEvent]]:
        api, found, more = shared.api, list[dict[str, object]](), True
        after = await api.tracker.feed.now()
        events = await happen(api, clients)
        headers = {"authorization": f"Bearer {key.key}", **PAGE}
        async with api.client(Access(api_keys=KEYS), headers=headers) as client:
            while more:
                query = {"after": str(after), "limit": str(limit), "client": sorted(requested)}
                page = (await client.get("/v1/events", params=query)).json()
                found, after, more = found + page["events"], page["next"], page["more"]
        return [each["subject"] for each in found], events

    shown, events = shared.run(read())

    assert len(events) == len(clients)
    assert shown == [
        each.subject
        for each in events
        if (key.sees_all or each.client == key.name) and (not requested or each.client in requested)
    ]


async def test_events_of_another_client_are_forbidden(api: ApiHarness) -> None:
    headers = {"authorization": f"Bearer {KEYS[0].key}"}
    async with api.client(Access(api_keys=KEYS), headers=headers) as client:
        assert (await client.get("/v1/events?client=other")).status_code == 403
        assert (await client.get("/v1/events?client=studio&client=other")).status_code == 403


async def test_stream_reads_no_further_than_its_client(api: ApiHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream reads no more events until the client has received the previous part."""
    await happen(api, ["studio"] * (3 * EVENTS_PER_READ))
    reads: list[int] = []
    read = api.tracker.feed.read

    async def counted(after: int, *, limit: int) -> Sequence[Found]:
        reads.append(after)
        return await read(after, limit=limit)

    monkeypatch.setattr(api.tracker.feed, "read", counted)
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

    streaming = asyncio.create_task(create_api(api.tracker, LOCAL_ACCESS)(scope, receive, send))
    await taking.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert sent[2].count(b"\ndata: ") == EVENTS_PER_READ
    assert set(reads) == {0}, "events after the first part were read"
    streaming.cancel()
    await asyncio.gather(streaming, return_exceptions=True)


async def test_skipped_event_moves_cursor_of_client(api: ApiHarness) -> None:
    await happen(api, ["studio", "studio"])
    feed = api.tracker.feed

    stream = pieces(feed, lambda _: False, SOURCE, after=0, heartbeat=timedelta(milliseconds=1))
    assert await anext(stream) == b": homing\nretry: 2000\nid: 0\n\n"
    async with asyncio.timeout(20):
        while (heartbeat := await anext(stream)) == b":\n":
            continue
    heartbeats = [heartbeat, *[await anext(stream) for _ in range(2)]]
    await stream.aclose()  # type: ignore[attr-defined]

    assert heartbeats == [b"id: 2\n\n", b":\n", b":\n"]


def test_event_is_serialized_once_for_all_readers() -> None:
    event = published(a_task())
    assert structured(event, SOURCE) is structured(event, SOURCE)
    assert json.loads(frame(event, "https://elsewhere").split(b"data: ")[1])["source"] == "https://elsewhere"


async def test_head_request_returns_only_headers(api: ApiHarness) -> None:
    async with api.client() as client:
        answer = await client.head("/v1/events", headers={"accept": "text/event-stream"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_events_without_accept_stream_is_page(api: ApiHarness) -> None:
    (event,) = await happen(api, ["studio"])
    accepted = (None, "*/*", "application/json", "text/html,*/*;q=0.8", "application/json, text/event-stream")

    async with api.client() as client:
        client.headers.pop("accept", None)
        for accept in accepted:
            headers = {} if accept is None else {"accept": accept}
            answer = await client.get("/v1/events?after=0", headers=headers)
            assert [each["subject"] for each in answer.json()["events"]] == [event.subject], accept


async def test_unknown_task_has_no_events(api: ApiHarness) -> None:
    async with api.client() as client:
        answer = await client.get("/v1/events?task=nobody")
    assert answer.status_code == NotFound.status


@pytest.mark.parametrize("dismissed", [True, False])
async def test_stream_ends_with_its_feed(api: ApiHarness, dismissed: bool) -> None:  # noqa: FBT001 - a parameter
    feed = api.tracker.feed
    stream = pieces(feed, lambda _: True, SOURCE, after=0)
    await anext(stream)
    if dismissed:
        feed.dismiss()
    else:
        await feed.close()
    assert [piece async for piece in stream] == []
