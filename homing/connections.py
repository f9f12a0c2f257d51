"""What clients may hold open: how many connections, and how long one may be silent before its request.

uvicorn has no time limit for a request's head, and its bound on concurrency counts silent connections, so that a
thousand of them would keep everybody else out. Here a silent connection costs only itself.
"""

import asyncio
import resource
from datetime import timedelta
from typing import Any, Final, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from homing.strict_http import StrictConnection

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
            app,
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
        self.most = most
        self.silent = Silent(within=head_within)


class Silent:
    """The connections that no request is answered on, longest first; after a time each is closed.

    One timer looks after all of them: one for each, set and cancelled with every request, was a tenth of what the
    server itself spends on a request.
    """

    def __init__(self, *, within: timedelta) -> None:
        self._within = within.total_seconds()
        self._since: dict[BoundedConnection, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: "BoundedConnection") -> None:
        """Count from now on, where the connection is not silent already."""
        since = self._since.setdefault(connection, connection.loop.time())
        if self._timer is None:
            self._timer = connection.loop.call_at(since + self._within, self._look, connection.loop)

    def discard(self, connection: "BoundedConnection") -> None:
        self._since.pop(connection, None)

    def close_longest(self) -> None:
        next(iter(self._since)).close()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        over = loop.time() - self._within
        for connection in [connection for connection, since in self._since.items() if since <= over]:
            connection.close()
        if self._since:
            self._timer = loop.call_at(next(iter(self._since.values())) + self._within, self._look, loop)


class BoundedConnection(StrictConnection):
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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have an asyncio.Transport's methods but do not inherit from it.
        super().connection_made(cast("asyncio.Transport", transport))
        self._watch()
        if len(self.connections) > self._bounds.most:
            # The one that was silent longest gives way; where all others are being answered that is the new one.
            self._bounds.silent.close_longest()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._bounds.silent.discard(self)
        super().connection_lost(exc)

    def close(self) -> None:
        """Let the connection go at once, with whatever it has not read."""
        self._bounds.silent.discard(self)
        self.connections.discard(self)
        self.transport.abort()

    def _watch(self) -> None:
        if self._unanswered:
            self._bounds.silent.discard(self)
        else:
            # Neither may the rest of a body whose answer is out drip for ever, nor may that answer be left lying.
            self._bounds.silent.add(self)
