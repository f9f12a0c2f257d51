"""The stream of events over real HTTP, read by a public client: at once, in order, and who returns misses nothing."""

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
from tests.support.api_server import OPERATOR, STUDIO, until
from tests.support.builders import NOW, an_event, writing
from tests.support.changing_server import ALL, LONG, STREAM, Watched, a_number, events, sequences, taken, watched
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


def unchunked(heard: bytes) -> bytes:
    """Return the body of a chunked answer, as far as it was heard."""
    body, rest = b"", heard.partition(b"\r\n\r\n")[2]
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


async def test_the_head_comes_at_once_and_the_client_learns_where_it_begins(homing: Watched) -> None:
    await homing.change(a_number(1), 1, 2)
    async with aconnect_sse(homing.client, "GET", "/v1/events") as stream:
        # Nothing happens here, and still there is an answer.
        assert stream.response.headers["content-type"].startswith(STREAM)
        assert stream.response.headers["cache-control"] == "no-store"
        first = await asyncio.wait_for(anext(aiter(stream.aiter_sse())), LONG.total_seconds())
        assert (first.id, first.data, first.retry) == ("2", "", 2000)


async def test_a_public_client_reads_what_was_committed_as_cloudevents(homing: Watched) -> None:
    async with aconnect_sse(homing.client, "GET", "/v1/events") as stream:
        pieces = events(stream.aiter_sse())
        await homing.change(a_number(1, tags=("ü\u2028",)), 1, 2)
        await homing.change(a_number(2), 1, name="succeeded")
        found = await taken(pieces, 3)
    kept = readable(await homing.tracker.store.events.read(after=0, limit=10))
    assert [each.data.encode() for each in found] == [structured(told, "urn:homing") for told in kept]
    assert [int(each.id) for each in found] == [told.cursor for told in kept]
    assert [each.event for each in found] == [told.type for told in kept]
    assert json.loads(found[0].data)["data"]["tags"] == ["ü\u2028"]


async def test_it_goes_on_from_a_cursor_and_the_one_that_a_client_comes_back_with_counts(homing: Watched) -> None:
    await homing.change(a_number(1), 1, 2, 3, 4)
    assert sequences(await homing.told(4, after=0)) == [1, 2, 3, 4]
    assert sequences(await homing.told(2, after=2)) == [3, 4]
    back = {"last-event-id": "3"}
    async with aconnect_sse(homing.client, "GET", "/v1/events?after=0", headers=back) as stream:
        assert sequences(await taken(events(stream.aiter_sse()), 1)) == [4]


async def test_what_is_asked_for_is_told_and_nothing_else(homing: Watched) -> None:
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


async def test_a_page_says_where_it_ended_and_whether_there_is_more(homing: Watched) -> None:
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


async def test_a_page_tells_what_was_committed_while_nobody_waited(homing: Watched) -> None:
    """The feed reads nothing then; one who asks must still be told all of it."""
    for sequence in range(1, 6):
        event = an_event(a_number(1), sequence)
        await homing.tracker.store.apply([writing(event.task, events=(event,))])
        assert len((await page(homing, after=sequence - 1))["events"]) == 1


async def test_a_connection_that_breaks_anywhere_misses_nothing_and_gets_nothing_twice(homing: Watched) -> None:
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
        enough, heard = random.randrange(1, 60_000), b""
        while len(heard) < enough and len(seen) + heard.count(b"\ndata: ") < total:
            piece = await asyncio.wait_for(reader.read(random.randrange(1, 4000)), LONG.total_seconds())
            assert piece, heard
            heard += piece
        writer.transport.abort()
        broken += 1
        # A client knows of whole blocks only.
        for block in unchunked(heard).split(b"\n\n")[:-1]:
            fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if line)
            last = fields.get(b"id", last.encode()).decode()
            if b"data" in fields:
                seen.append(int(json.loads(fields[b"data"])["sequence"]))
    await writing
    assert seen == list(range(1, total + 1))
    assert broken > 5


async def test_a_cursor_older_than_what_is_kept_is_told_so(homing: Watched) -> None:
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


async def test_what_was_deleted_while_nobody_waited_is_not_passed_over_in_silence(homing: Watched) -> None:
    feed, store = homing.tracker.feed, homing.tracker.store
    await homing.change(a_number(1, finished_at=NOW), 1, 2, name="succeeded")
    await store.retention.delete_old(until=NOW, now=NOW + timedelta(days=30), after=None, limit=10)
    await homing.change(a_number(2), 1)
    assert await feed.beyond(0, within=LONG)
    # A process may still remember what it wrote itself; whether all of it is there, the database says.
    assert (await feed.read(0))[-1].cursor == 3
    assert not await feed.reaches(0)
    assert await feed.reaches(2)


async def test_a_cursor_that_cannot_be_is_refused(homing: Watched) -> None:
    for query in (
        {"after": "-1"},
        {"after": "x"},
        {"type": "suceeded"},
        {"limit": "0"},
        {"wait": "56"},
    ):
        assert (await homing.client.get("/v1/events", params=query)).status_code == 400, query
    for told in ("x", "-1", "1" * 30):
        assert (await homing.client.get("/v1/events", headers={"last-event-id": told})).status_code == 400, told


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


async def test_who_reads_slowly_delays_nobody_and_gets_all_of_it(homing: Watched) -> None:
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
    heard = bytearray()
    while heard.count(b"\ndata: ") < total:
        heard += await asyncio.wait_for(reader.read(1 << 16), LONG.total_seconds())
    writer.transport.abort()
    found = re.findall(rb'"sequence":"([0-9]{10})"', unchunked(b"H" + bytes(heard)))
    numbers = [int(each) for each in found]
    assert numbers == list(range(1, total + 1))


async def test_the_end_of_the_server_ends_the_streams(url: str) -> None:
    async with watched(url) as homing, aconnect_sse(homing.client, "GET", "/v1/events") as stream:
        pieces = aiter(stream.aiter_sse())
        await anext(pieces)
        homing.tracker.feed.dismiss()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(pieces), 20)


async def test_whoever_hangs_up_is_told_no_more(homing: Watched) -> None:
    async def waiting(count: int) -> None:
        async def so_many() -> bool:
            return homing.tracker.feed.waiting == count

        await until(so_many)

    async with aconnect_sse(homing.client, "GET", "/v1/events") as stream:
        await anext(aiter(stream.aiter_sse()))
        await waiting(1)
    await waiting(0)


async def test_clients_are_told_of_their_own_tasks_and_of_no_alarm(url: str) -> None:
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
