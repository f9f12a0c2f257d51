"""Limits of client connections: their number, how long one may be idle, and how much one may leave unread.

uvicorn has no time limit for a request's head, and none for a client that does not read its answers. Its limit on
concurrency counts idle connections, so a thousand of them would block all other clients. Here a connection that waits
for its client is closed after a time without traffic. It is closed earlier if another connection needs its slot.
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

IDLE_TIMEOUT: Final = timedelta(seconds=10)
BACKLOG: Final = 1024
MAX_OPEN_FILES: Final = 8192
# A client that reads fewer bytes of its answer than this within IDLE_TIMEOUT counts as not reading.
MIN_READ_BYTES: Final = 1024
# The maximum of unread bytes over all clients. Above it, Homing closes the clients that have not read for longest.
MAX_UNREAD_BYTES: Final = 256 << 20


def open_files() -> int:
    """Raise the number of files that the process may open to ``MAX_OPEN_FILES``, if allowed. Return the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def max_connections(files: int) -> int:
    """Return how many connections may be open. Half of the files stay free for connections that are being accepted."""
    return max(1, min(DEFAULT_CONNECTIONS, files // 2))


def backlog(files: int) -> int:
    """Return how many connections asyncio may accept at once, before the first of them is counted."""
    return max(1, min(BACKLOG, files // 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The limits of client connections.

    ``idle_timeout`` is how long a connection may wait for its client. ``connections`` is how many there may be; None
    means as many as the process may open. ``unread_bytes`` is how much all clients together may leave unread.
    """

    idle_timeout: timedelta = IDLE_TIMEOUT
    connections: int | None = None
    unread_bytes: int = MAX_UNREAD_BYTES


class BoundedConfig(uvicorn.Config):
    """The settings of the server, its limits, and its idle connections."""

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
        self.max_connections = max_connections(files) if bounds.connections is None else bounds.connections
        self.idle = IdleConnections(timeout=bounds.idle_timeout)
        self.unread = UnreadAnswers(bounds.unread_bytes)


class IdleConnections:
    """The connections that wait for their client, the longest first. Each is closed after a time without traffic.

    A connection waits if it has no request, or if its client does not read the answer. One timer serves all of them.
    One timer per connection, set and canceled with every request, took a tenth of the server's own time per request.
    """

    def __init__(self, *, timeout: timedelta) -> None:
        self._timeout_seconds = timeout.total_seconds()
        self._since: dict[BoundedConnection, float] = {}
        # The number of unread bytes when the wait began, if there were any.
        self._unread: dict[BoundedConnection, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: "BoundedConnection") -> None:
        """Measure the idle time from now on, unless the connection is already idle."""
        if connection in self._since:
            return
        since = self._since[connection] = connection.loop.time()
        if unread := connection.unread():
            self._unread[connection] = unread
        if self._timer is None:
            self._timer = connection.loop.call_at(since + self._timeout_seconds, self._close_expired, connection.loop)

    def discard(self, connection: "BoundedConnection") -> None:
        if self._since.pop(connection, None) is not None:
            self._unread.pop(connection, None)

    def renew(self, connection: "BoundedConnection") -> None:
        """Measure the idle time from now on, also if the connection is already idle."""
        self.discard(connection)
        self.add(connection)

    def close_longest(self) -> None:
        next(iter(self._since)).close()

    def _close_expired(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        limit = loop.time() - self._timeout_seconds
        for connection in [connection for connection, since in self._since.items() if since <= limit]:
            # A client on a slow line may read its answer in small pieces, for as long as it needs.
            if self._unread.get(connection, 0) - connection.unread() >= MIN_READ_BYTES:
                self.renew(connection)
            else:
                connection.close()
        if self._since and self._timer is None:
            first = next(iter(self._since.values()))
            self._timer = loop.call_at(first + self._timeout_seconds, self._close_expired, loop)


class UnreadAnswers:
    """The bytes of answers that clients have not read, over all connections: at most ``limit_bytes``."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._total = 0
        self._sizes: OrderedDict[BoundedConnection, int] = OrderedDict()

    def add(self, connection: "BoundedConnection", size: int) -> None:
        """Count a connection whose client stopped reading. Over the limit, close the ones that wait longest."""
        self.discard(connection)
        self._sizes[connection] = size
        self._total += size
        while self._total > self._limit_bytes and len(self._sizes) > 1:
            next(iter(self._sizes)).close()

    def discard(self, connection: "BoundedConnection") -> None:
        self._total -= self._sizes.pop(connection, 0)


class BoundedConnection(StrictConnection):
    """A connection that is closed if its client does not send or read, or if another connection needs its slot."""

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
        if len(self.connections) > self._bounds.max_connections:
            # The connection that is idle for longest is closed. If all others are being answered, it is the new one.
            self._bounds.idle.close_longest()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._bounds.idle.renew(self)
        self._bounds.unread.add(self, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._bounds.unread.discard(self)
        # The client read a whole buffer, so the idle time starts again.
        self._bounds.idle.discard(self)
        super().resume_writing()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def close(self) -> None:
        """Close the connection at once. Unread data is lost."""
        self._forget()
        self.connections.discard(self)
        self.transport.abort()

    def unread(self) -> int:
        """Return how many bytes the client has not read, or 0 if none wait for the socket."""
        size = self.transport.get_write_buffer_size()
        return size and size + _queued(self.transport)

    def _forget(self) -> None:
        self._bounds.idle.discard(self)
        self._bounds.unread.discard(self)

    def _watch(self) -> None:
        if self._unanswered and not self.flow.write_paused:
            self._bounds.idle.discard(self)
        else:
            # This also limits the rest of a body whose answer was sent, and an answer that the client does not read.
            self._bounds.idle.add(self)


def _queued(transport: asyncio.Transport) -> int:
    """Return how many bytes the kernel holds for the peer, or 0 on systems without this number.

    The buffer before the socket is not enough. Linux wakes a writer only when a third of the socket's own buffer is
    free again. That buffer may have megabytes, for which a slow client needs minutes.
    """
    try:
        queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):
        return 0
    return int.from_bytes(queued, sys.byteorder)
