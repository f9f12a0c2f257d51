"""What clients may hold open: how many connections, and how long one may be silent before its request.

uvicorn has no time limit for a request's head, and its bound on concurrency counts silent connections, so that a
thousand of them would keep everybody else out. Here a silent connection costs only itself.
"""

import asyncio
import resource
from datetime import timedelta
from typing import Any, Final

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

HEAD_WITHIN: Final = timedelta(seconds=10)
# Far above what one process answers at once.
CONNECTIONS: Final = 4000
BACKLOG: Final = 1024
FILES: Final = 8192


def open_files() -> int:
    """Give how many files the process may have open, raised to ``FILES`` where that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def most_connections(files: int) -> int:
    """Give how many connections may be open; the other half of the files is for those that are just being accepted."""
    return max(1, min(CONNECTIONS, files // 2))


def backlog(files: int) -> int:
    """Give how many connections asyncio may accept in one go, before the first of them is counted."""
    return max(1, min(BACKLOG, files // 8))


class BoundedConfig(uvicorn.Config):
    """The server's settings, with the bounds and the connections that no request is answered on, longest first."""

    def __init__(self, app: ASGIApp, *, head_within: timedelta, most: int, backlog: int, grace: timedelta) -> None:
        super().__init__(
            OneLength(app),
            http=BoundedConnection,
            access_log=False,  # it would log callback addresses; ours logs routes
            log_config=None,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,  # a header must not be able to say that a stranger is this machine
            backlog=backlog,
            timeout_graceful_shutdown=int(grace.total_seconds()),
        )
        self.head_within = head_within.total_seconds()
        self.most = most
        self.silent: dict[BoundedConnection, asyncio.TimerHandle] = {}


class BoundedConnection(H11Protocol):
    """A connection that is closed where it sends no complete head in time, or when its place is needed by another."""

    def __init__(
        self,
        config: BoundedConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounds = config
        # uvicorn's "cycle" is a request and its answer, made when the head is complete.
        self._answered: RequestResponseCycle | None = self.cycle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > self._bounds.most:
            # The one that was silent longest gives way; where all others are being answered that is the new one.
            next(iter(self._bounds.silent)).close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        self._answered = self.cycle
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def close(self) -> None:
        """Let the connection go at once, with whatever it has not read."""
        self._forget()
        self.connections.discard(self)
        self.transport.abort()

    def _watch(self) -> None:
        if self.cycle is not self._answered:
            self._forget()
        elif self not in self._bounds.silent and not self.transport.is_closing():
            # Also the rest of a body whose answer is out already may not drip for ever.
            self._bounds.silent[self] = self.loop.call_later(self._bounds.head_within, self.close)

    def _forget(self) -> None:
        timer = self._bounds.silent.pop(self, None)
        if timer is not None:
            timer.cancel()


class OneLength:
    """Refuses a request that tells its body's length in two ways: whoever stands before us may have read the other."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = {name for name, _ in scope.get("headers", ())}
        app = self._app
        if {b"content-length", b"transfer-encoding"} <= names:
            words = "Content-Length and Transfer-Encoding contradict each other"
            app = PlainTextResponse(words, 400, headers={"connection": "close"})
        await app(scope, receive, send)
