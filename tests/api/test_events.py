"""The event stream over real HTTP, read by a public client: immediate, ordered, and complete after a reconnect."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from random import Random
from typing import Any

import httpx
import pytest
from httpx_sse import aconnect_sse

from tests.support.api_keys import LOCAL_LINE
from tests.support.api_server import OPERATOR, STUDIO
from tests.support.builders import NOW, an_event, writing
from tests.support.changing_server import ALL, LONG, STREAM, Watched, a_number, events, sequences, taken, watched
from tests.support.conditions import until
from tests.support.published_events import readable
from tracker.model.changes import Change, RaisedAlarm, RecordChange
from tracker.model.event import structured
from tracker.model.task import Alarm
from tracker.service.tracker import Tracker

PAGE = {"accept": "application/json"}


@pytest.fixture
async def homing(url: str) -> AsyncIterator[Watched]:
    async with watched(url) as running:
        yield running


def unchunked(received: bytes) -> bytes:
    """Return the received part of a chunked response body."""
    body, rest = b"", received.partition(b"\r\n\r\n")[2]
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size or b"0", 16)
        body, rest = body + rest[:length], rest[length + 2 :]
    return body


async def raise_alarm(tracker: Tracker) -> None:
    alarm = RaisedAlarm(kind=Alarm.MISMATCH, provider="kling", at=NOW, task_id=None, detail="made up")
    await tracker.store.apply([RecordChange(Change(result=None, alarms=(alarm,)))])


async def page(homing: Watched, **query: Any) -> dict[str, Any]:
    answer = await homing.client.get("/v1/events", params=query, headers=PAGE)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_stream_head_arrives_at_once_with_cursor(homing: Watched) -> None:
    await homing.change(a_number(1), 1, 2)
    async with aconnect_sse(homing.client, "GET", "/v1/events") as stream:
        # The stream answers although no event happens.
        assert stream.response.headers["content-type"].startswith(STREAM)
        assert stream.response.headers["cache-control"] == "no-store"
        first = await asyncio.wait_for(anext(aiter(stream.aiter_sse())), LONG.total_seconds())
        assert (first.id, first.data, first.retry) == ("2", "", 2000)


async def test_stream_sends_commits_as_cloudevents(homing: Watched) -> None:
    async with aconnect_sse(homing.client, "GET", "/v1/events") as stream:
        pieces = events(stream.aiter_sse())
        await homing.change(a_number(1, tags=("ü\u2028",)), 1, 2)
        await homing.change(a_number(2), 1, name="succeeded")
        found = await taken(pieces, 3)
    kept = readable(await homing.tracker.store.events.read(after=0, limit=10))
    assert [each.data.encode() for each in found] == [structured(event, "urn:homing") for event in kept]
    assert [int(each.id) for each in found] == [event.cursor for event in kept]
    assert [each.event for each in found] == [event.type for event in kept]
    assert json.loads(found[0].data)["data"]["tags"] == ["ü\u2028"]


async def test_stream_resumes_from_last_event_id(homing: Watched) -> None:
    await homing.change(a_number(1), 1, 2, 3, 4)
    assert sequences(await homing.events(4, after=0)) == [1, 2, 3, 4]
    assert sequences(await homing.events(2, after=2)) == [3, 4]
    back = {"last-event-id": "3"}
    async with aconnect_sse(homing.client, "GET", "/v1/events?after=0", headers=back) as stream:
        assert sequences(await taken(events(stream.aiter_sse()), 1)) == [4]


async def test_stream_filters_events(homing: Watched) -> None:
    red, blue = a_number(1, tags=("red",)), a_number(2, tags=("blue",), client="local")
    for sequence in (1, 2):
        await homing.change(red, sequence)
        await homing.change(blue, sequence)
    await homing.change(red, 3, name="succeeded")
    await raise_alarm(homing.tracker)
    for query, expected in (
        ({"type": "succeeded"}, ["succeeded"]),
        ({"type": ["succeeded", "homing.alarm.*"]}, ["succeeded", "mismatch"]),
        ({"tag": "blue"}, ["processing"] * 2),
        ({"client": "studio"}, ["processing", "processing", "succeeded"]),
        ({"task": red.id, "type": "processing"}, ["processing"] * 2),
        ({"kind": "images/*", "provider": "kling", "tag": "red"}, ["processing", "processing", "succeeded"]),
        ({"kind": "videos/*"}, []),
    ):
        found = (await page(homing, after=0, **query))["events"]
        assert [each["type"].rpartition(".")[2] for each in found] == expected, query


async def test_page_returns_cursor_and_has_more(homing: Watched) -> None:
    await homing.change(a_number(1), *range(1, 8))
    first = await page(homing, after=0, limit=5)
    assert ([each["sequence"] for each in first["events"]][-1], first["next"], first["more"]) == ("0000000005", 5, True)
    rest = await page(homing, after=first["next"])
    assert (len(rest["events"]), rest["next"], rest["more"]) == (2, 7, False)
    assert await page(homing) == {"events": [], "next": 7, "more": False}
    waiting = asyncio.create_task(page(homing, after=7, wait=55))

    async def waits() -> bool:
        return homing.tracker.feed.waiting > 0

    await until(waits)
    await homing.change(a_number(1), 8)
    assert [each["sequence"] for each in (await waiting)["events"]] == ["0000000008"]


async def test_page_includes_commits_made_while_idle(homing: Watched) -> None:
    """An idle feed reads nothing. A later request must still return every event."""
    for sequence in range(1, 6):
        event = an_event(a_number(1), sequence)
        await homing.tracker.store.apply([writing(event.task, events=(event,))])
        assert len((await page(homing, after=sequence - 1))["events"]) == 1


async def test_broken_stream_resumes_without_loss_or_repeat(homing: Watched) -> None:
    random = Random(7)
    total, seen, last = 400, list[int](), "0"

    async def write() -> None:
        for sequence in range(1, total + 1):
            await homing.change(a_number(1), sequence)

    writing = asyncio.create_task(write())
    broken = 0
    while len(seen) < total:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(homing.url).port)
        accept = "Accept: text/event-stream"
        request = ["GET /v1/events HTTP/1.1", "Host: 127.0.0.1", accept, LOCAL_LINE, f"Last-Event-ID: {last}", "", ""]
        writer.write("\r\n".join(request).encode())
        enough, received = random.randrange(1, 60_000), b""
        while len(received) < enough and len(seen) + received.count(b"\ndata: ") < total:
            piece = await asyncio.wait_for(reader.read(random.randrange(1, 4000)), LONG.total_seconds())
            assert piece, received
            received += piece
        writer.transport.abort()
        broken += 1
        # A client processes only complete blocks.
        for block in unchunked(received).split(b"\n\n")[:-1]:
            fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if line)
            last = fields.get(b"id", last.encode()).decode()
            if b"data" in fields:
                seen.append(int(json.loads(fields[b"data"])["sequence"]))
    await writing
    assert seen == list(range(1, total + 1))
    assert broken > 5


async def test_expired_cursor_is_reported(homing: Watched) -> None:
    await homing.change(a_number(1, finished_at=NOW), 1, 2, name="succeeded")
    await homing.change(a_number(2), 1)
    await homing.tracker.store.retention.delete_old(until=NOW, now=NOW + timedelta(days=30), after=None, limit=10)
    for path, headers in (("/v1/events?after=1", {}), ("/v1/events", {"last-event-id": "0"})):
        answer = await homing.client.get(path, headers=headers)
        assert answer.status_code == 410
        assert answer.json()["type"] == "urn:homing:problem:gone"
        assert "after=0" in answer.json()["detail"]
    assert [each["sequence"] for each in (await page(homing, after=0))["events"]] == ["0000000001"]
    assert (await page(homing, after=2))["next"] == 3


async def test_events_deleted_while_idle_are_reported(homing: Watched) -> None:
    feed, store = homing.tracker.feed, homing.tracker.store
    await homing.change(a_number(1, finished_at=NOW), 1, 2, name="succeeded")
    await store.retention.delete_old(until=NOW, now=NOW + timedelta(days=30), after=None, limit=10)
    await homing.change(a_number(2), 1)
    assert await feed.beyond(0, within=LONG)
    # A process may still cache its own events. Only the database knows whether older events were deleted.
    assert (await feed.read(0))[-1].cursor == 3
    assert not await feed.reaches(0)
    assert await feed.reaches(2)


async def test_invalid_cursor_is_refused(homing: Watched) -> None:
    for query in (
        {"after": "-1"},
        {"after": "x"},
        {"type": "suceeded"},
        {"limit": "0"},
        {"wait": "56"},
    ):
        assert (await homing.client.get("/v1/events", params=query)).status_code == 400, query
    for cursor in ("x", "-1", "1" * 30):
        assert (await homing.client.get("/v1/events", headers={"last-event-id": cursor})).status_code == 400, cursor


async def test_cursor_of_another_database_is_gone(homing: Watched) -> None:
    await homing.change(a_number(1), 1)

    beyond = await homing.client.get("/v1/events", params={"after": "5"})
    assert beyond.status_code == 410
    assert "restored" in beyond.json()["detail"]

    await homing.tracker.store.continue_numbers()
    page = await homing.client.get("/v1/events", params={"after": "5", "wait": "0"})
    assert page.json() == {"events": [], "next": 5, "more": False}, (
        "it is a cursor from before the database was restored"
    )


async def test_slow_reader_delays_nobody_and_gets_all(homing: Watched) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(homing.url).port, limit=1)
    head = f"GET /v1/events?after=0 HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n{LOCAL_LINE}"
    writer.write(f"{head}\r\n\r\n".encode())
    await reader.readexactly(1)
    total = 3000
    large = a_number(1, request={"prompt": "p" * 5000})
    async with aconnect_sse(homing.client, "GET", "/v1/events") as quick:
        for start in range(1, total, 100):
            await homing.change(large, *range(start, start + 100))
        assert len(await taken(events(quick.aiter_sse()), total)) == total
    received = bytearray()
    while received.count(b"\ndata: ") < total:
        received += await asyncio.wait_for(reader.read(1 << 16), LONG.total_seconds())
    writer.transport.abort()
    found = re.findall(rb'"sequence":"([0-9]{10})"', unchunked(b"H" + bytes(received)))
    numbers = [int(each) for each in found]
    assert numbers == list(range(1, total + 1))


async def test_server_stop_ends_streams(url: str) -> None:
    async with watched(url) as homing, aconnect_sse(homing.client, "GET", "/v1/events") as stream:
        pieces = aiter(stream.aiter_sse())
        await anext(pieces)
        homing.tracker.feed.dismiss()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(pieces), 20)


async def test_disconnected_stream_gets_no_more_events(homing: Watched) -> None:
    async def waiting(count: int) -> None:
        async def so_many() -> bool:
            return homing.tracker.feed.waiting == count

        await until(so_many)

    async with aconnect_sse(homing.client, "GET", "/v1/events") as stream:
        await anext(aiter(stream.aiter_sse()))
        await waiting(1)
    await waiting(0)


async def test_client_gets_own_task_events_and_no_alarms(url: str) -> None:
    async with watched(url, keys=ALL, key=STUDIO) as homing:
        for number, client in enumerate(("studio", "other", "studio"), start=1):
            await homing.change(a_number(number, client=client), 1)
        await raise_alarm(homing.tracker)
        mine = await page(homing, after=0)
        assert {each["data"]["client"] for each in mine["events"]} == {"studio"}
        assert (len(mine["events"]), mine["next"]) == (2, 4)
        assert (await homing.client.get("/v1/events?client=other", headers=PAGE)).status_code == 403
        assert (await homing.client.get(f"/v1/events?task={a_number(2).id}", headers=PAGE)).status_code == 404
        everything = {"authorization": f"Bearer {OPERATOR.key}", **PAGE}
        answer = await homing.client.get("/v1/events?after=0", headers=everything)
        assert len(answer.json()["events"]) == 4
