"""Strict HTTP/1.1: a request that another server could read differently is refused, and its connection closed.

llhttp, below httptools, is strict about bytes (bare line feeds, folded headers, repeated lengths). This module adds the
checks that it lacks, and handles what uvicorn loses: the body of a request that offers an upgrade, the order of answers
if a later request is bad, and a client that leaves while several of its requests wait.

uvicorn has no public class for this, so ``StrictConnection`` builds on its private ones. ``pyproject.toml`` allows the
versions that were tested, and a test fails when the source of one of these classes changes.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

import httptools
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

# What h11 and nginx allow for a head in all; here also what may stand between two pieces of a body.
HEAD_BYTES: Final = 64 * 1024
# Read at once: the bounds are looked at in between. A whole request is usually shorter.
PIECE: Final = 16 * 1024
HEADERS: Final = 100
# Up to this size the head of an answer and its body are joined; a larger body is not copied.
JOINED_BYTES: Final = 16 * 1024
# Requests that one connection may have waiting behind the one that is being answered.
PIPELINED: Final = 16
PORTS: Final = {b"http": b":80", b"https": b":443"}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
REFUSED: Final = "Invalid HTTP request received."

Headers = Sequence[tuple[bytes, bytes]]


def unambiguous(method: bytes, target: bytes, version: str, headers: Headers) -> bool:
    """Return whether a head that llhttp lets pass means one thing to everybody.

    That is one Host, the same in a target that is a whole address, at most one credential, and no transfer coding but
    one "chunked", which HTTP/1.0 does not know: RFC 9112, 3.2 and 6.1, RFC 9110, 11.6.2.
    """
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if len(names) > HEADERS or hosts > 1 or method == b"CONNECT" or names.count(b"authorization") > 1:
        return False
    if target[:1] != b"/" and target != b"*" and not names_host(target, dict(headers).get(b"host", b"")):
        return False
    if b"transfer-encoding" in names:
        coded = [value.lower() for name, value in headers if name == b"transfer-encoding"]
        return version == "1.1" and hosts == 1 and coded == [b"chunked"]
    return version == "1.0" or (version == "1.1" and hosts == 1)


def names_host(target: bytes, host: bytes) -> bool:
    """Return whether an address in the request line has the host of the Host field, and no user name."""
    scheme, _, rest = target.lower().partition(b"://")
    authority = rest.partition(b"/")[0].partition(b"?")[0]
    port = PORTS.get(scheme)
    return port is not None and bool(authority) and authority.removesuffix(port) == host.lower().removesuffix(port)


def without_upgrade(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """Write a head again that does not offer to go on in another protocol; a server may always pass that over."""
    fields: Iterable[bytes] = (b"%b: %b\r\n" % field for field in headers if field[0] != b"upgrade")
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version.encode(), b"".join(fields))


class HeadWithBody(asyncio.Transport):
    """Holds the head of one answer back until its body begins: both go out in one system call and one packet.

    A streamed answer is seen by its client with its first piece.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._head = b""
        self._begun = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._begun or data == CONTINUE:
            if len(data) > JOINED_BYTES:
                self.flush()
            self._transport.write(self._head + data if self._head else data)
            self._head = b""
        else:
            self._begun = True
            self._head = bytes(data)

    def flush(self) -> None:
        """Send a head that no body follows."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class StrictConnection(HttpToolsProtocol):
    """A connection that takes requests in order. It sends pending answers before it refuses an ambiguous one."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # uvicorn's "cycle" is a request and its answer, made when the head is complete.
        self._unanswered: deque[RequestResponseCycle] = deque()
        self._arriving: RequestResponseCycle | None = None  # its body is not complete
        self._undecided = 0  # bytes that are no request yet, and no part of a body
        self._plain_head = b""
        self._refused = False
        self._held = False  # the next request waits until the client has read the answers before it

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            if self._refused:
                return
            try:
                self._read(data[start : start + PIECE])
            except httptools.HttpParserError:
                self._refuse()

    def on_header(self, name: bytes, value: bytes) -> None:
        # As uvicorn does it, but without the spaces that llhttp leaves behind a value.
        name, value = name.lower(), value.rstrip(b" \t")
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if self.parser.should_upgrade() and method != b"CONNECT":
            self._plain_head = without_upgrade(method, self.url, version, self.headers)
            return
        if len(self._unanswered) > PIPELINED or not unambiguous(method, self.url, version, self.headers):
            raise httptools.HttpParserError("not to be answered")
        if version == "1.0":
            self.expect_100_continue = False  # which HTTP/1.0 does not know either
        super().on_headers_complete()
        self.cycle.transport = HeadWithBody(self.transport)
        self._unanswered.append(self.cycle)
        self._arriving = self.cycle
        self._undecided = 0
        # Trailers go nowhere: what was checked in the head must not change behind it.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        self._undecided = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            self._arriving = None
            super().on_message_complete()

    def on_response_complete(self) -> None:
        cycle = self._unanswered.popleft()
        assert isinstance(cycle.transport, HeadWithBody)
        cycle.transport.flush()
        # What uvicorn does here, but for a timer for each answer: silent connections are `connections.Silent`'s.
        self.server_state.total_requests += 1
        self._held = self.flow.write_paused
        if not self._held:
            self._go_on()
        if self._refused:
            self._say_so()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._held:
            self._held = False
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        for cycle in self._unanswered:
            _leave(cycle)
        super().connection_lost(exc)

    def _go_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())

    def _read(self, piece: bytes) -> None:
        self._undecided += len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as offered:
            # llhttp takes what follows for the other protocol; nobody here speaks one.
            (end,) = offered.args
            self._read(self._plain_head + piece[end:])
        if self._undecided > HEAD_BYTES:
            raise httptools.HttpParserError("too long")

    def _refuse(self) -> None:
        """Read no more; a request whose own body is broken off is not answered, those before it are."""
        self._refused = True
        self.flow.pause_reading()
        self.logger.warning(REFUSED)
        if self._arriving is not None:
            if self._arriving.response_started:
                self.transport.close()
                return
            self._unanswered.pop()
            if self._unanswered:
                self.pipeline.popleft()
            _leave(self._arriving)
        self._say_so()

    def _say_so(self) -> None:
        if not self._unanswered and not self.transport.is_closing():
            self.send_400_response(REFUSED)


def _leave(cycle: RequestResponseCycle) -> None:
    """Notify the application that its client disconnected."""
    cycle.disconnected = True
    cycle.message_event.set()
