"""Reading a body with a size limit and a timeout."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from starlette.requests import Request

from tracker.api.http.body import Truncated, read_body
from tracker.api.http.capacity import Capacity, Limits, RequestResources
from tracker.errors import Overloaded, TooLarge, TooSlow

Message = dict[str, Any]
SOON = timedelta(milliseconds=50)
LATER = timedelta(seconds=30)


def chunk(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def a_request(receive: Callable[[], Awaitable[Message]], **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive)


def sent(messages: Sequence[Message], **headers: str) -> Request:
    rest = iter(messages)

    async def receive() -> Message:
        try:
            return next(rest)
        except StopIteration:
            await asyncio.Event().wait()
            raise

    return a_request(receive, **headers)


def holding() -> RequestResources:
    return RequestResources(Capacity(Limits()))


async def test_body_in_pieces_is_read_whole() -> None:
    request = sent([chunk(b"ab"), chunk(b""), chunk(b"cd", more=False)])
    assert await read_body(request, holding(), limit=4, within=LATER) == b"abcd"


async def test_one_byte_beyond_limit_is_too_large() -> None:
    with pytest.raises(TooLarge):
        await read_body(sent([chunk(b"abcde", more=False)]), holding(), limit=4, within=LATER)


async def test_endless_body_stops_at_limit() -> None:
    taken = 0

    async def receive() -> Message:
        nonlocal taken
        taken += 1
        return chunk(b"x" * 100)

    with pytest.raises(TooLarge):
        await read_body(a_request(receive), holding(), limit=1000, within=LATER)
    assert taken == 11


@pytest.mark.parametrize("announced", ["1001", "9" * 5000])
async def test_announced_length_too_large_is_refused_unread(announced: str) -> None:
    async def receive() -> Message:
        raise AssertionError("the body was read")

    with pytest.raises(TooLarge):
        await read_body(a_request(receive, content_length=announced), holding(), limit=1000, within=LATER)


@pytest.mark.parametrize("announced", ["", "-5", "ten", "¹²", "0x10"])
async def test_invalid_length_is_ignored(announced: str) -> None:
    assert (
        await read_body(sent([chunk(b"ab", more=False)], content_length=announced), holding(), limit=4, within=LATER)
        == b"ab"
    )


async def test_stalled_body_is_too_slow() -> None:
    with pytest.raises(TooSlow):
        await read_body(sent([chunk(b"ab")]), holding(), limit=4, within=SOON)


async def test_dripping_body_is_too_slow() -> None:
    async def receive() -> Message:
        await asyncio.sleep(0.001)
        return chunk(b"x")

    with pytest.raises(TooSlow):
        await read_body(a_request(receive), holding(), limit=10**6, within=SOON)


async def test_closed_connection_is_truncated_body() -> None:
    with pytest.raises(Truncated):
        await read_body(sent([chunk(b"ab"), {"type": "http.disconnect"}]), holding(), limit=4, within=LATER)


async def test_bytes_count_on_arrival_not_as_announced() -> None:
    capacity = Capacity(Limits(body_capacity=90))
    announcing, other = RequestResources(capacity), RequestResources(capacity)

    with pytest.raises(TooSlow):
        await read_body(sent([chunk(b"a")], content_length="80"), announcing, limit=80, within=SOON)
    assert capacity.bodies.left == 89, "reserved until the request ends"
    assert len(await read_body(sent([chunk(b"b" * 50, more=False)]), other, limit=80, within=LATER)) == 50
    with pytest.raises(Overloaded):
        await read_body(sent([chunk(b"c" * 50)]), announcing, limit=80, within=LATER)

    announcing.release()
    other.release_bytes()
    assert capacity.bodies.left == 90
    other.release()
    assert capacity.bodies.left == 90
