"""Ambiguous requests over raw sockets: each is refused, together with everything after it."""

import asyncio
import logging
from collections.abc import Iterator
from itertools import repeat

import pytest
from starlette.types import Receive, Scope, Send

from homing.server.strict_http import MAX_HEADERS, MAX_WAITING_REQUESTS
from tests.support.odd_requests import BODIES, CHUNKED, FLOODS, GOOD, HEADS, HOST, TARGETS, get
from tests.support.raw_sockets import CLOSING, REQUEST, WITHIN, Line, Place, post, serving, stalled

MUCH = 4 << 20


@pytest.fixture(autouse=True)
def _nothing_goes_wrong(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Assert that bad input causes no traceback and no log line above a warning."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.WARNING] == []


def refused(received: bytes) -> bool:
    return (
        received.startswith(b"HTTP/1.1 400 ") and received.count(b"HTTP/1.1") == 1 and b"connection: close" in received
    )


async def test_ambiguous_head_is_refused_with_all_behind_it() -> None:
    place = Place()
    async with serving(place):
        for name, head in HEADS.items():
            async with place.line() as line:
                await line.say(head + REQUEST)
                assert refused(await line.rest()), name
                assert not place.asked.is_set(), name


async def test_ambiguous_body_never_completes() -> None:
    place = Place(reads=True)
    async with serving(place):
        for name, body in BODIES.items():
            place.scopes.clear()
            place.left.clear()
            async with place.line() as line:
                await line.say(post(CHUNKED, body=body) + REQUEST)
                assert refused(await line.rest()), name
                await asyncio.wait_for(place.left.wait(), WITHIN)
                assert len(place.scopes) == 1, name
    assert place.bodies == []


async def test_early_answer_does_not_follow_a_refusal() -> None:
    place = Place(answer=b"a" * (4 << 20))
    async with serving(place):
        for name, body in BODIES.items():
            async with place.line() as line:
                # An unread answer keeps the connection open.
                await line.say(REQUEST)
                await place.asked.wait()
                place.asked.clear()
                await line.say(post(CHUNKED, body=body))
                received = await line.rest()
                assert [part[:4] for part in received.split(b"HTTP/1.1 ")] == [b"", b"200 ", b"400 "], name


async def test_incomplete_request_is_not_read_forever() -> None:
    place = Place(reads=True)
    async with serving(place):
        for name, (opening, filler) in FLOODS.items():
            async with place.line() as line:
                assert await poured(line, opening, filler) < MUCH, name
    assert place.bodies == []


async def poured(line: Line, opening: bytes, filler: bytes) -> int:
    """Send until the server closes, or up to `MUCH` bytes. Return the number of bytes sent."""
    sent = 0
    try:
        await line.say(opening)
        while sent < MUCH and not line.reader.at_eof():
            await line.say(filler)
            sent += len(filler)
            await asyncio.sleep(0)
    except ConnectionError:
        pass
    return sent


async def test_longest_allowed_head_is_read() -> None:
    place = Place()
    async with serving(place), place.line() as line:
        for _ in range(3):
            await line.say(get(HOST, *repeat(b"x: " + b"a" * 600, MAX_HEADERS - 1)))
            assert b" 200 " in await line.hear(b"here")
    assert len(place.scopes[0]["headers"]) == MAX_HEADERS


async def test_body_may_arrive_in_many_pieces() -> None:
    place = Place(reads=True)
    async with serving(place), place.line() as line:
        await line.say(post(CHUNKED, body=b"1\r\na\r\n" * 30_000 + b"0\r\n\r\n"))
        assert b" 200 " in await line.hear(b"here")
        await line.say(post(b"content-length: 300000", body=b"a" * 300_000))
        assert b" 200 " in await line.hear(b"here")
    assert place.bodies == [b"a" * 30_000, b"a" * 300_000]


async def test_request_is_the_same_however_split() -> None:
    place = Place(reads=True)
    async with serving(place):
        for name, (request, body) in GOOD.items():
            for size in (1, 7, len(request)):
                place.bodies.clear()
                place.scopes.clear()
                async with place.line() as line:
                    for start in range(0, len(request), size):
                        await line.say(request[start : start + size])
                        await asyncio.sleep(0)
                    assert b" 200 " in await line.hear(b"here"), name
                    await line.say(CLOSING)
                    assert (await line.rest()).count(b" 200 ") == 1, name
                assert place.bodies == [body, b""], name
                assert [scope["method"] for scope in place.scopes] == [request.split()[0].decode(), "GET"], name
                names = [field for field, _ in place.scopes[0]["headers"]]
                assert names.count(b"host") == 1, name
                assert b"webhook-id" not in names, name
                assert all(value == value.strip() for _, value in place.scopes[0]["headers"]), name


async def test_odd_targets_are_answered() -> None:
    place = Place()
    async with serving(place), place.line() as line:
        for target, expected in TARGETS.items():
            await line.say(get(HOST, line=b"OPTIONS %b HTTP/1.1" % target))
            assert b" 200 " in await line.hear(b"here"), target
            assert (place.scopes[-1]["path"], place.scopes[-1]["query_string"]) == expected


async def test_http_1_0_gets_one_answer() -> None:
    place = Place(reads=True, answer=b"a" * (4 << 20))
    async with serving(place):
        for fields in ((), (HOST,), (HOST, b"connection: keep-alive"), (HOST, b"expect: 100-continue")):
            for behind in (b"", REQUEST, b"NONSENSE\r\n\r\n"):
                async with place.line() as line:
                    await line.say(get(*fields, line=b"GET / HTTP/1.0") + behind)
                    received = await line.rest()
                    assert received.startswith(b"HTTP/1.1 200 ")
                    assert received.count(b"HTTP/1.1") == 1
                    assert b"connection: close" in received
                    assert b"transfer-encoding" not in received


async def test_connection_close_gets_one_answer() -> None:
    place = Place()
    async with serving(place), place.line() as line:
        await line.say(CLOSING + REQUEST)
        assert (await line.rest()).count(b"HTTP/1.1") == 1


async def test_expect_continue_is_sent_when_body_is_read() -> None:
    place = Place(reads=True)
    async with serving(place), place.line() as line:
        await line.say(post(b"expect: 100-continue", b"content-length: 5"))
        assert await line.hear(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await line.say(b"hello")
        assert b" 200 " in await line.hear(b"here")


async def test_pending_answers_precede_a_refusal() -> None:
    for bad in (b"NONSENSE\r\n\r\n", get(), post(CHUNKED, body=b"five\r\n")):
        place = Place(gate=asyncio.Event())
        async with serving(place), place.line() as line:
            await line.say(REQUEST * 2 + bad + REQUEST)
            await place.asked.wait()
            assert place.gate is not None
            place.gate.set()
            received = await line.rest()
            assert [part[:4] for part in received.split(b"HTTP/1.1 ")] == [b"", b"200 ", b"200 ", b"400 "]
            assert len(place.scopes) == 2


async def test_input_behind_refused_request_is_not_read() -> None:
    place = Place(gate=asyncio.Event())
    taken: list[int] = []
    async with serving(place), place.line() as line:

        async def pour() -> None:
            await line.say(REQUEST + b"NONSENSE\r\n\r\n")
            for number in range(200):
                await line.say(bytes(1 << 20))
                taken.append(number)

        pouring = asyncio.create_task(pour())
        await place.asked.wait()
        assert await stalled(place, lambda: len(taken) + 1) < 50
        pouring.cancel()
        line.writer.transport.abort()
        assert place.gate is not None
        place.gate.set()


async def test_broken_body_ends_started_answer() -> None:
    place = Begun(gate=asyncio.Event())
    async with serving(place), place.line() as line:
        await line.say(post(CHUNKED))
        await line.hear(b"begun\r\n")
        await line.say(b"five\r\n" + REQUEST)
        assert await line.rest() == b""
        assert place.gate is not None
        place.gate.set()
        await asyncio.wait_for(place.left.wait(), WITHIN)
    assert len(place.scopes) == 1


class Begun(Place):
    """An app that starts its answer and continues when its gate opens."""

    async def answered(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the shape of an app
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        assert self.gate is not None
        await self.gate.wait()
        await send({"type": "http.response.body", "body": b"ended", "more_body": False})
        self.left.set()


async def test_request_queue_is_bounded() -> None:
    place = Place(gate=asyncio.Event(), reads=True)
    async with serving(place), place.line() as line:
        await line.say(REQUEST * 5000)
        await place.asked.wait()
        assert place.gate is not None
        place.gate.set()
        received = await line.rest()
    assert received.count(b" 200 ") == 1 + MAX_WAITING_REQUESTS
    assert received.count(b" 400 ") == 1
    assert len(place.scopes) == 1 + MAX_WAITING_REQUESTS


async def test_disconnect_cancels_waiting_requests() -> None:
    place = Watching()
    async with serving(place):
        async with place.line() as line:
            await line.say(REQUEST * 3)
            await place.asked.wait()
        await asyncio.wait_for(place.left.wait(), WITHIN)
    assert len(place.scopes) == 1


class Watching(Place):
    """An app that never answers and records when its client disconnects."""

    async def answered(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the shape of an app
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left.set()
