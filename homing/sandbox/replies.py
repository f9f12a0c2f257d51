"""Faulty answers: late, byte by byte, or never.

A connection is dropped by closing its socket. ASGI cannot do that, so `Wire` knows the server. With an unknown server,
a reply that should be dropped hangs and then ends in an error.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import uvicorn
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

JSON = "application/json"
_MAX_PIECES = 500


class Wire:
    """The server functions that a faulty answer needs: cut a connection, and learn that the server is closing."""

    def __init__(self) -> None:
        self.server: uvicorn.Server | None = None
        self._closing = asyncio.Event()

    def end_pauses(self) -> None:
        """End all pauses, so that no deliberately hanging answer delays the shutdown."""
        self._closing.set()

    async def pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    def cut(self, client: object) -> None:
        """Close the client's socket without an answer, if it is still open."""
        connections = self.server.server_state.connections if self.server else ()
        for connection in connections:
            if isinstance(connection, H11Protocol) and client is not None and connection.client == client:
                connection.transport.abort()


class Lost(Response):
    """An answer that never comes: the connection hangs for a while and is then cut."""

    def __init__(self, wire: Wire, hang_for: float) -> None:
        super().__init__()
        self._wire = wire
        self._hang_for = hang_for

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - nothing is sent
        gone = asyncio.ensure_future(_disconnected(receive))
        timeout = asyncio.ensure_future(self._wire.pause(self._hang_for))
        try:
            await asyncio.wait((gone, timeout), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                return
            if self._wire.server is None:
                raise ClientDisconnect("the sandbox lost this reply on purpose")
            self._wire.cut(scope.get("client"))
            await gone
        finally:
            gone.cancel()
            timeout.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def dripping(reply: Response, wire: Wire, pause: float) -> Response:
    """Return the answer with its body sent byte by byte (a long body in 500 pieces)."""
    body = bytes(reply.body)
    size = max(1, len(body) // _MAX_PIECES)

    async def drops() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]
            await wire.pause(pause)

    headers = {"content-length": str(len(body))}
    return StreamingResponse(drops(), reply.status_code, headers, media_type=reply.media_type)
