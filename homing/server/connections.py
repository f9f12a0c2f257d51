"""Limits of client connections: their number, how long one may be silent, and how much one may leave unread.

uvicorn has no time limit for a request's head, and none for a client that does not read its answers. Its limit on
concurrency counts silent connections, so a thousand of them would block all other clients. Here a connection that
waits for its client is closed after a time without traffic, or earlier if another connection needs its place.
"""

import asyncio
import fcntl
import resource
import sys
import termios
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from homing.server.strict_http import StrictConnection
from tracker.api.http.capacity import DEFAULT_CONNECTIONS

HEAD_WITHIN: Final = timedelta(seconds=10)
BACKLOG: Final = 1024
FILES: Final = 8192
# A client that takes less of its answer than this within HEAD_WITHIN does not read it.
LEAST_READ_BYTES: Final = 1024
# The most that all clients together may leave unread. Beyond it, those that have not read for longest are closed.
UNREAD_BYTES: Final = 256 << 20


def open_files() -> int:
    """Return how many files the process may have open, raised to ``FILES`` if that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def most_connections(files: int) -> int:
    """Return how many connections may be open; the other half of the files is for those being accepted."""
    return max(1, min(DEFAULT_CONNECTIONS, files // 2))


def backlog(files: int) -> int:
    """Return how many connections asyncio may accept in one go, before the first of them is counted."""
    return max(1, min(BACKLOG, files // 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The limits of client connections.

    ``head_within`` is how long a connection may wait for its client, ``connections`` how many there may be (as many as
    the process may have where None), ``unread_bytes`` how much all clients together may leave unread.
    """

    head_within: timedelta = HEAD_WITHIN
    connections: int | None = None
    unread_bytes: int = UNREAD_BYTES


class BoundedConfig(uvicorn.Config):
    """The server's settings, with the limits and the waiting connections, longest first."""

    def __init__(self, app: ASGIApp, bounds: Bounds, *, grace: timedelta) -> None:
        files = open_files()
        super().__init__(
            app,
            http=BoundedConnection,
            access_log=False,  # uvicorn would log callback URLs; Homing logs routes
            log_config=None,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,  # a header must not make a remote client look like this machine
            backlog=backlog(files),
            timeout_graceful_shutdown=int(grace.total_seconds()),
        )
        self.most = most_connections(files) if bounds.connections is None else bounds.connections
        self.silent = Silent(within=bounds.head_within)
        self.unread = Unread(bounds.unread_bytes)


class Silent:
    """The connections that wait for their client, longest first; one that does not move for a time is closed.

    That are those without a request, and those whose client does not read its answer.

    One timer serves all of them. One timer per connection, set and canceled with every request, took a tenth of the
    server's own time per request.
    """

    def __init__(self, *, within: timedelta) -> None:
        self._within = within.total_seconds()
        self._since: dict[BoundedConnection, float] = {}
        # How many bytes the client had not taken when the wait began; only of those with any.
        self._unread: dict[BoundedConnection, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: "BoundedConnection") -> None:
        """Count from now on, where the connection is not silent already."""
        if connection in self._since:
            return
        since = self._since[connection] = connection.loop.time()
        if unread := connection.unread():
            self._unread[connection] = unread
        if self._timer is None:
            self._timer = connection.loop.call_at(since + self._within, self._look, connection.loop)

    def discard(self, connection: "BoundedConnection") -> None:
        if self._since.pop(connection, None) is not None:
            self._unread.pop(connection, None)

    def renew(self, connection: "BoundedConnection") -> None:
        """Count from now on, also where the connection was silent already."""
        self.discard(connection)
        self.add(connection)

    def close_longest(self) -> None:
        next(iter(self._since)).close()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        over = loop.time() - self._within
        for connection in [connection for connection, since in self._since.items() if since <= over]:
            # A client on a slow line takes its answer in small pieces for as long as it needs.
            if self._unread.get(connection, 0) - connection.unread() >= LEAST_READ_BYTES:
                self.renew(connection)
            else:
                connection.close()
        if self._since and self._timer is None:
            self._timer = loop.call_at(next(iter(self._since.values())) + self._within, self._look, loop)


class Unread:
    """How much is written to clients that do not read, over all connections; the sum is bounded by ``most`` bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._total = 0
        self._sizes: OrderedDict[BoundedConnection, int] = OrderedDict()

    def add(self, connection: "BoundedConnection", size: int) -> None:
        """Count a connection whose client has stopped reading; close others, longest first, where it is too much."""
        self.discard(connection)
        self._sizes[connection] = size
        self._total += size
        while self._total > self._most and len(self._sizes) > 1:
            next(iter(self._sizes)).close()

    def discard(self, connection: "BoundedConnection") -> None:
        self._total -= self._sizes.pop(connection, 0)


class BoundedConnection(StrictConnection):
    """A connection that is closed if its client neither sends nor reads, or if another needs its place."""

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

    def pause_writing(self) -> None:
        super().pause_writing()
        self._bounds.silent.renew(self)
        self._bounds.unread.add(self, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._bounds.unread.discard(self)
        # A whole buffer was read, so the wait for the rest of it is a new one.
        self._bounds.silent.discard(self)
        super().resume_writing()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def close(self) -> None:
        """Let the connection go at once, with whatever it has not read."""
        self._forget()
        self.connections.discard(self)
        self.transport.abort()

    def unread(self) -> int:
        """Return how many bytes the client has not taken; 0 where none wait for the socket."""
        size = self.transport.get_write_buffer_size()
        return size and size + _queued(self.transport)

    def _forget(self) -> None:
        self._bounds.silent.discard(self)
        self._bounds.unread.discard(self)

    def _watch(self) -> None:
        if self._unanswered and not self.flow.write_paused:
            self._bounds.silent.discard(self)
        else:
            # Neither may the rest of a body whose answer is out drip for ever, nor may that answer be left lying.
            self._bounds.silent.add(self)


def _queued(transport: asyncio.Transport) -> int:
    """Return how many bytes the kernel holds for the peer; 0 on systems that do not say.

    The buffer in front of the socket moves in steps that a slow client takes minutes for: Linux wakes a writer when
    a third of the socket's own buffer, which may be megabytes, is free again.
    """
    try:
        queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):
        return 0
    return int.from_bytes(queued, sys.byteorder)
