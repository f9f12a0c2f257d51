"""Strict HTTP/1.1: a request that another server could read differently is refused, and its connection closed.

llhttp, the parser in httptools, is strict about bytes (bare line feeds, folded headers, repeated lengths). This module
adds the checks that llhttp lacks. It also handles three cases that uvicorn does not: the body of a request that offers
an upgrade, the order of answers if a later request is invalid, and a client that disconnects while several of its
requests wait.

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

# The limit of h11 and nginx for a whole head. Here it also limits the bytes between two pieces of a body.
MAX_HEAD_BYTES: Final = 64 * 1024
# The bytes that are read at once. The limits are checked after each piece. Most requests are shorter.
PIECE_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 100
# The head of an answer is joined with a body of up to this size. A larger body is not copied.
MAX_JOINED_BYTES: Final = 16 * 1024
# How many requests of one connection may wait while another one is answered.
MAX_WAITING_REQUESTS: Final = 16
DEFAULT_PORTS: Final = {b"http": b":80", b"https": b":443"}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
REFUSED: Final = "Invalid HTTP request received."

Headers = Sequence[tuple[bytes, bytes]]


def unambiguous(method: bytes, target: bytes, version: str, headers: Headers) -> bool:
    """Return whether every server reads a head that llhttp accepts in the same way.

    It must have one Host header, the same host in a target that is a whole URL, and at most one credential. The only
    transfer coding is one "chunked", in HTTP/1.1. See RFC 9112, 3.2 and 6.1, and RFC 9110, 11.6.2.
    """
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if len(names) > MAX_HEADERS or hosts > 1 or method == b"CONNECT" or names.count(b"authorization") > 1:
        return False
    if target[:1] != b"/" and target != b"*" and not names_host(target, dict(headers).get(b"host", b"")):
        return False
    if b"transfer-encoding" in names:
        coded = [value.lower() for name, value in headers if name == b"transfer-encoding"]
        return version == "1.1" and hosts == 1 and coded == [b"chunked"]
    return version == "1.0" or (version == "1.1" and hosts == 1)


def names_host(target: bytes, host: bytes) -> bool:
    """Return whether a URL in the request line has the host of the Host header, and no user name."""
    scheme, _, rest = target.lower().partition(b"://")
    authority = rest.partition(b"/")[0].partition(b"?")[0]
    port = DEFAULT_PORTS.get(scheme)
    return port is not None and bool(authority) and authority.removesuffix(port) == host.lower().removesuffix(port)


def without_upgrade(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """Return a head without its offer to switch to another protocol. A server may always ignore that offer."""
    fields: Iterable[bytes] = (b"%b: %b\r\n" % field for field in headers if field[0] != b"upgrade")
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version.encode(), b"".join(fields))


class HeadWithBody(asyncio.Transport):
    """Holds the head of an answer until its body begins, so that one system call and one packet send both.

    A client sees a streamed answer with its first piece.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._head = b""
        self._begun = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._begun or data == CONTINUE:
            if len(data) > MAX_JOINED_BYTES:
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
    """A connection that reads requests in order. It sends pending answers before it refuses an ambiguous request."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # A "cycle" of uvicorn is a request and its answer. It is created when the head is complete.
        self._unanswered: deque[RequestResponseCycle] = deque()
        self._arriving: RequestResponseCycle | None = None  # the request whose body is not complete
        self._undecided = 0  # the number of bytes that are not yet part of a request or body
        self._plain_head = b""
        self._refused = False
        self._held = False  # the next request waits until the client has read the previous answers

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            if self._refused:
                return
            try:
                self._read(data[start : start + PIECE_BYTES])
            except httptools.HttpParserError:
                self._refuse()

    def on_header(self, name: bytes, value: bytes) -> None:
        # As in uvicorn, but without the spaces that llhttp leaves after a value.
        name, value = name.lower(), value.rstrip(b" \t")
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if self.parser.should_upgrade() and method != b"CONNECT":
            self._plain_head = without_upgrade(method, self.url, version, self.headers)
            return
        if len(self._unanswered) > MAX_WAITING_REQUESTS or not unambiguous(method, self.url, version, self.headers):
            raise httptools.HttpParserError("ambiguous head")
        if version == "1.0":
            self.expect_100_continue = False  # HTTP/1.0 does not have it
        super().on_headers_complete()
        self.cycle.transport = HeadWithBody(self.transport)
        self._unanswered.append(self.cycle)
        self._arriving = self.cycle
        self._undecided = 0
        # Trailers are dropped, because they must not change the checked head.
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
        # As in uvicorn, but without a timer for each answer. `IdleConnections` closes idle connections.
        self.server_state.total_requests += 1
        self._held = self.flow.write_paused
        if not self._held:
            self._continue()
        if self._refused:
            self._send_refusal()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._held:
            self._held = False
            self._continue()

    def connection_lost(self, exc: Exception | None) -> None:
        for cycle in self._unanswered:
            _leave(cycle)
        super().connection_lost(exc)

    def _continue(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())

    def _read(self, piece: bytes) -> None:
        self._undecided += len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as offered:
            # llhttp assumes that the other protocol follows, but Homing supports none.
            (end,) = offered.args
            self._read(self._plain_head + piece[end:])
        if self._undecided > MAX_HEAD_BYTES:
            raise httptools.HttpParserError("head too long")

    def _refuse(self) -> None:
        """Stop reading. Answer the earlier requests, but not the one whose body is incomplete."""
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
        self._send_refusal()

    def _send_refusal(self) -> None:
        if not self._unanswered and not self.transport.is_closing():
            self.send_400_response(REFUSED)


def _leave(cycle: RequestResponseCycle) -> None:
    """Notify the application that its client disconnected."""
    cycle.disconnected = True
    cycle.message_event.set()
