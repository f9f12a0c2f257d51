"""Clients that hold connections open, over raw sockets."""

import asyncio
import resource
from contextlib import AsyncExitStack

import pytest
from starlette.types import Receive, Scope, Send

from homing.server.connections import MAX_OPEN_FILES, backlog, max_connections, open_files
from homing.server.strict_http import MAX_WAITING_REQUESTS
from tests.support.raw_sockets import (
    CLOSING,
    REQUEST,
    SHORT,
    WITHIN,
    Place,
    drips,
    post,
    serving,
    stalled,
)
from tracker.api.http.capacity import DEFAULT_CONNECTIONS

MIB = 1 << 20
ENDLESS = 200


async def test_silent_connection_is_closed() -> None:
    place = Place()
    async with serving(place, idle_timeout=SHORT), place.line() as line:
        assert await line.rest() == b""


async def test_dripping_head_is_cut_off() -> None:
    place = Place()
    async with serving(place, idle_timeout=SHORT), place.line() as line:
        await line.say(b"GET / HTTP/1.1\r\nx: ")
        await drips(line)
        assert not place.asked.is_set()


async def test_dripping_body_after_answer_is_cut_off() -> None:
    place = Place()
    async with serving(place, idle_timeout=SHORT), place.line() as line:
        await line.say(b"POST / HTTP/1.1\r\nhost: homing.test\r\ncontent-length: 1000000\r\n\r\n")
        assert b" 200 " in await line.hear(b"here")
        await drips(line)


async def test_running_request_is_not_cut_off() -> None:
    place = Place(gate=asyncio.Event())
    async with serving(place, idle_timeout=SHORT), place.line() as line:
        await line.say(REQUEST)
        await place.asked.wait()
        async with place.line() as silent:
            assert await silent.rest() == b""
        async with place.line() as another:
            assert await another.rest() == b""
        assert place.gate is not None
        place.gate.set()
        assert b" 200 " in await line.hear(b"here")
        assert await line.rest() == b"", "an idle kept-alive connection is closed as well"


async def test_connection_serves_requests_in_turn() -> None:
    place = Place()
    async with serving(place), place.line() as line:
        for _ in range(3):
            await line.say(REQUEST)
            assert b" 200 " in await line.hear(b"here")
        await line.say(REQUEST + CLOSING)
        assert (await line.rest()).count(b" 200 ") == 2


async def test_silent_connections_block_no_new_client() -> None:
    place = Place()
    async with serving(place, connections=3), place.line() as first, place.line(), place.line():
        async with place.line() as line:
            await line.say(CLOSING)
            assert b" 200 " in await line.rest()
        assert await first.rest() == b"", "the connection that was silent longest is closed"


async def test_closed_connections_are_not_evicted() -> None:
    place = Place()
    async with serving(place, connections=1):
        for _ in range(3):
            async with place.line() as line:
                await line.say(CLOSING)
                await line.rest()
        async with place.line() as first, place.line():
            assert await first.rest() == b""


@pytest.mark.parametrize("files", [1, 256, 1024, MAX_OPEN_FILES, 1 << 20])
def test_connections_leave_a_free_file_descriptor(files: int) -> None:
    assert 1 <= max_connections(files) <= DEFAULT_CONNECTIONS
    # asyncio needs three loop iterations to count or close the connections that it accepted in one.
    assert max_connections(files) + 3 * backlog(files) < max(files, 5)


def test_open_file_limit_covers_connections() -> None:
    files = open_files()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 0 < files <= MAX_OPEN_FILES
    assert soft == resource.RLIM_INFINITY or files <= soft


async def test_excess_connection_closes_when_all_are_busy() -> None:
    place = Place(gate=asyncio.Event())
    async with serving(place, connections=1), place.line() as line:
        await line.say(CLOSING)
        await place.asked.wait()
        async with place.line() as another:
            assert await another.rest() == b""
        assert place.gate is not None
        place.gate.set()
        assert b" 200 " in await line.rest()


async def test_every_silent_connection_is_closed() -> None:
    place = Place()
    async with serving(place, idle_timeout=SHORT), AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(place.line()) for _ in range(20)]
        assert [await line.rest() for line in lines] == [b""] * 20


async def test_unread_answer_frees_its_place() -> None:
    place = Place(answer=b"a" * (16 * MIB))
    async with serving(place, idle_timeout=SHORT, connections=1), place.line() as line:
        await line.say(CLOSING)
        await place.asked.wait()
        place.answer = b"here"
        async with asyncio.timeout(WITHIN):
            while not await _answered(place):
                pass


async def test_unread_pipelined_answers_free_their_place() -> None:
    place = Place(answer=b"a" * (4 * MIB))
    async with serving(place, idle_timeout=SHORT, connections=1), place.line() as line:
        await line.say(REQUEST * (1 + MAX_WAITING_REQUESTS))
        await place.asked.wait()
        place.answer = b"here"
        async with asyncio.timeout(WITHIN):
            while not await _answered(place):
                pass


async def test_stalled_connections_are_evicted_early() -> None:
    place = Place(answer=b"a" * (4 * MIB))
    async with serving(place, connections=2), place.line() as line, place.line() as another:
        for each in (line, another):
            place.asked.clear()
            await each.say(REQUEST * 3)
            await place.asked.wait()
        place.answer = b"here"
        assert await _answered(place)


async def test_unread_answers_are_not_made_ahead() -> None:
    place = Place(answer=b"a" * (4 * MIB))
    async with serving(place), place.line() as line:
        await line.say(REQUEST * (1 + MAX_WAITING_REQUESTS))
        assert await stalled(place, lambda: len(place.scopes)) == 1
        assert len(await line.reader.readexactly(8 * MIB)) == 8 * MIB, "a client that reads on gets the next answer"


async def test_slow_but_active_reader_is_not_cut_off() -> None:
    place = Place(answer=b"a" * (4 * MIB))
    async with serving(place, idle_timeout=SHORT), place.slow_line() as line:
        await line.say(CLOSING)
        received, began = 0, asyncio.get_running_loop().time()
        while piece := await asyncio.wait_for(line.reader.read(128 * 1024), WITHIN):
            received += len(piece)
            await asyncio.sleep(0.025)
        assert received > len(place.answer)
        assert asyncio.get_running_loop().time() - began > SHORT.total_seconds()


async def test_unread_answers_have_a_total_limit() -> None:
    place = Place(answer=b"a" * (4 * MIB))
    async with serving(place, unread_bytes=6 * MIB), place.slow_line() as first, place.slow_line() as second:
        for line in (first, second):
            place.asked.clear()
            await line.say(CLOSING)
            await place.asked.wait()
        assert len(await first.rest()) < len(place.answer)
        assert len(await second.rest()) > len(place.answer)


async def _answered(place: Place) -> bool:
    async with place.line() as line:
        try:
            await line.say(CLOSING)
        except ConnectionError:
            return False
        return b" 200 " in await line.rest()


class Torrent(Place):
    """An app that sends without end and counts the sent chunks."""

    sent = 0

    async def answered(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the shape of an app
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(ENDLESS):
            await send({"type": "http.response.body", "body": bytes(MIB), "more_body": True})
            self.sent += 1
        self.left.set()


async def test_unread_stream_is_closed() -> None:
    place = Torrent()
    async with serving(place, idle_timeout=SHORT), place.line() as line:
        await line.say(REQUEST)
        await asyncio.wait_for(place.left.wait(), WITHIN)


async def test_non_reading_client_is_sent_no_more() -> None:
    place = Torrent()
    async with serving(place), place.line() as line:
        await line.say(REQUEST)
        assert await stalled(place, lambda: place.sent) < ENDLESS / 4
        line.writer.transport.abort()


async def test_unread_request_body_is_not_buffered() -> None:
    place = Place(gate=asyncio.Event())
    taken: list[int] = []
    async with serving(place), place.line() as line:

        async def pour() -> None:
            await line.say(post(b"content-length: %d" % (ENDLESS * MIB)))
            for number in range(ENDLESS):
                await line.say(bytes(MIB))
                taken.append(number)

        pouring = asyncio.create_task(pour())
        await place.asked.wait()
        assert await stalled(place, lambda: len(taken)) < ENDLESS / 4
        pouring.cancel()
        line.writer.transport.abort()
        assert place.gate is not None
        place.gate.set()
