"""Clients that hold connections open, over raw sockets."""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from homing.connections import CONNECTIONS, FILES, backlog, most_connections, open_files
from homing.web_server import listen, running

SHORT = timedelta(milliseconds=100)
LONG = timedelta(minutes=5)
WITHIN = 20
REQUEST = b"GET / HTTP/1.1\r\nhost: homing.test\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nhost: homing.test\r\nconnection: close\r\n\r\n"


@dataclass
class Line:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    async def hear(self, until: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(until), WITHIN)

    async def rest(self) -> bytes:
        """Wait for the end; a reset is one too."""
        try:
            return await asyncio.wait_for(self.reader.read(), WITHIN)
        except ConnectionError:
            return b""


@dataclass
class Place:
    """Answers at once without reading a body, or waits at its gate where it has one."""

    port: int = 0
    gate: asyncio.Event | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        await PlainTextResponse("here")(scope, receive, send)

    @asynccontextmanager
    async def line(self) -> AsyncIterator[Line]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Line(reader, writer)
        finally:
            writer.close()


@asynccontextmanager
async def serving(place: Place, *, head_within: timedelta = LONG, connections: int = 100) -> AsyncIterator[None]:
    with closing(listen("127.0.0.1", 0)) as listener:
        place.port = listener.getsockname()[1]
        async with running(place, listener, head_within=head_within, connections=connections):
            yield


async def drips(line: Line) -> None:
    """Send byte after byte until the other end has had enough."""
    try:
        async with asyncio.timeout(WITHIN):
            while not line.reader.at_eof():
                await line.say(b"x")
                await asyncio.sleep(0.01)
    except ConnectionError:
        return


async def test_a_silent_connection_is_closed() -> None:
    place = Place()
    async with serving(place, head_within=SHORT), place.line() as line:
        assert await line.rest() == b""


async def test_a_head_that_drips_is_not_waited_for() -> None:
    place = Place()
    async with serving(place, head_within=SHORT), place.line() as line:
        await line.say(b"GET / HTTP/1.1\r\nx: ")
        await drips(line)
        assert not place.asked.is_set()


async def test_the_rest_of_a_body_whose_answer_is_out_may_not_drip_for_ever() -> None:
    place = Place()
    async with serving(place, head_within=SHORT), place.line() as line:
        await line.say(b"POST / HTTP/1.1\r\nhost: homing.test\r\ncontent-length: 1000000\r\n\r\n")
        assert b" 200 " in await line.hear(b"here")
        await drips(line)


async def test_a_request_that_is_being_answered_is_not_cut_off() -> None:
    place = Place(gate=asyncio.Event())
    async with serving(place, head_within=SHORT), place.line() as line, place.line() as silent:
        await line.say(REQUEST)
        await place.asked.wait()
        assert await silent.rest() == b""
        async with place.line() as another:
            assert await another.rest() == b""
        assert place.gate is not None
        place.gate.set()
        assert b" 200 " in await line.hear(b"here")
        assert await line.rest() == b"", "a kept connection that says nothing more is closed as well"


async def test_a_connection_serves_one_request_after_the_other() -> None:
    place = Place()
    async with serving(place), place.line() as line:
        for _ in range(3):
            await line.say(REQUEST)
            assert b" 200 " in await line.hear(b"here")
        await line.say(REQUEST + CLOSING)
        assert (await line.rest()).count(b" 200 ") == 2


async def test_silent_connections_keep_nobody_out() -> None:
    place = Place()
    async with serving(place, connections=3), place.line() as first, place.line(), place.line():
        async with place.line() as line:
            await line.say(CLOSING)
            assert b" 200 " in await line.rest()
        assert await first.rest() == b"", "the one that was silent longest gives way"


@pytest.mark.parametrize("files", [1, 256, 1024, FILES, 1 << 20])
def test_connections_never_take_the_last_file(files: int) -> None:
    assert 1 <= most_connections(files) <= CONNECTIONS
    # asyncio takes three rounds of its loop to count, or to close, what it has accepted in one.
    assert most_connections(files) + 3 * backlog(files) < max(files, 5)


def test_as_many_files_may_be_open_as_are_counted_on() -> None:
    files = open_files()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 0 < files <= FILES
    assert soft == resource.RLIM_INFINITY or files <= soft


async def test_a_connection_too_many_gives_way_itself_where_all_others_are_being_answered() -> None:
    place = Place(gate=asyncio.Event())
    async with serving(place, connections=1), place.line() as line:
        await line.say(CLOSING)
        await place.asked.wait()
        async with place.line() as another:
            assert await another.rest() == b""
        assert place.gate is not None
        place.gate.set()
        assert b" 200 " in await line.rest()


async def test_a_body_whose_length_is_told_in_two_ways_is_refused_and_nothing_behind_it_is_answered() -> None:
    place = Place()
    both = b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    async with serving(place), place.line() as line:
        await line.say(b"POST / HTTP/1.1\r\nhost: homing.test\r\n" + both + REQUEST)
        told = await line.rest()
    assert told.startswith(b"HTTP/1.1 400 ")
    assert told.count(b"HTTP/1.1") == 1
    assert not place.asked.is_set()
