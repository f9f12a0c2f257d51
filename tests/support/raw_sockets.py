"""Raw sockets to a test server, for the tests of connections and of unusual HTTP."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import timedelta

from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from homing.server.connections import MAX_UNREAD_BYTES, Bounds
from homing.server.web_server import listen, running
from tests.support.stream_sending import send

# Long enough for the request that a test sends at once, on a slow machine too.
SHORT = timedelta(milliseconds=500)
LONG = timedelta(minutes=5)
WITHIN = 20
SMALL = 64 * 1024
REQUEST = b"GET / HTTP/1.1\r\nhost: homing.test\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nhost: homing.test\r\nconnection: close\r\n\r\n"


def post(*fields: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    """Return a request with ``fields`` as its body headers."""
    return b"\r\n".join([b"POST / HTTP/" + version, b"host: homing.test", *fields, b"", body])


@dataclass
class Line:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, raw: bytes) -> None:
        await send(self.writer, raw)

    async def hear(self, until: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(until), WITHIN)

    async def rest(self) -> bytes:
        """Wait for the end; a reset is one too."""
        received = bytearray()
        try:
            async with asyncio.timeout(WITHIN):
                while piece := await self.reader.read(1 << 16):
                    received += piece
        except ConnectionError:
            pass
        return bytes(received)


@dataclass
class Place:
    """Answer at once without reading the body, or wait for the gate if there is one; with ``reads``, read first.

    Requests for /beat are always answered at once and not recorded.
    """

    port: int = 0
    gate: asyncio.Event | None = None
    reads: bool = False
    answer: bytes = b"here"
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    scopes: list[Scope] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/beat":
            await PlainTextResponse("here")(scope, receive, send)
            return
        self.scopes.append(scope)
        self.asked.set()
        await self.answered(scope, receive, send)

    async def answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.reads and not await self._read(receive):
            self.left.set()
            return
        if self.gate is not None:
            await self.gate.wait()
        await PlainTextResponse(self.answer)(scope, receive, send)

    async def _read(self, receive: Receive) -> bool:
        body = bytearray()
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                self.bodies.append(bytes(body))
                return True
        return False

    @asynccontextmanager
    async def slow_line(self) -> AsyncIterator[Line]:
        """Connect with a small window, so that unread data stays at the server."""
        plain = socket.create_connection(("127.0.0.1", self.port))
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        reader, writer = await asyncio.open_connection(sock=plain, limit=SMALL)
        try:
            yield Line(reader, writer)
        finally:
            writer.close()

    @asynccontextmanager
    async def line(self) -> AsyncIterator[Line]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Line(reader, writer)
        finally:
            writer.close()


@asynccontextmanager
async def serving(
    place: Place, *, idle_timeout: timedelta = LONG, connections: int = 100, unread_bytes: int = MAX_UNREAD_BYTES
) -> AsyncIterator[None]:
    bounds = Bounds(idle_timeout=idle_timeout, connections=connections, unread_bytes=unread_bytes)
    with closing(listen("127.0.0.1", 0)) as listener:
        place.port = listener.getsockname()[1]
        async with running(place, listener, bounds=bounds):
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


async def stalled(place: Place, count: Callable[[], int]) -> int:
    """Wait until ``count`` stands still while others are answered, and give it."""
    async with asyncio.timeout(WITHIN), place.line() as line:
        while True:
            before = count()
            for _ in range(20):
                await line.say(b"GET /beat HTTP/1.1\r\nhost: homing.test\r\n\r\n")
                await line.hear(b"here")
            if 0 < before == count():
                return before
