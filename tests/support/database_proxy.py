"""A cable between Homing and PostgreSQL that a test can cut: at any moment, or on either side of a commit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from tests.support.stream_sending import send

PIECE: Final = 64 * 1024
COMMIT: Final = b"COMMIT"
NEVER: Final = 0
TURNS: Final = 5


class DatabaseProxy:
    """Cut the connection at every ``every``-th commit, alternately before the server gets it and before its answer."""

    def __init__(self, socket: str) -> None:
        self.port = 0
        self.every = NEVER
        self.cuts = {"before the commit": 0, "after the commit": 0, "anywhere": 0}
        self._socket = socket
        self._commits = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self.connections: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Cut all connections as they are."""
        self.cuts["anywhere"] += 1
        for writer in list(self._writers):
            writer.transport.abort()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):  # only the end of the cable cancels
                back, forth = await asyncio.open_unix_connection(self._socket)
                self._writers |= {writer, forth}
                committing = asyncio.Event()
                try:
                    await asyncio.gather(self._ask(reader, forth, committing), self._tell(back, writer, committing))
                finally:
                    self._writers -= {writer, forth}
                    forth.transport.abort()
        finally:
            writer.transport.abort()
            self.connections.discard(task)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, committing: asyncio.Event) -> None:
        while piece := await reader.read(PIECE):
            if COMMIT in piece and self.every:
                self._commits += 1
                turn, when = divmod(self._commits, self.every)
                if when == 0 and turn % 2:
                    self.cuts["before the commit"] += 1
                    raise ConnectionResetError
                if when == 0:
                    committing.set()
            await send(writer, piece)
        raise ConnectionResetError

    async def _tell(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, committing: asyncio.Event
    ) -> None:
        while piece := await reader.read(PIECE):
            if committing.is_set():
                # The server answers a commit when it is done.
                self.cuts["after the commit"] += 1
                raise ConnectionResetError
            await send(writer, piece)
        raise ConnectionResetError


@asynccontextmanager
async def database_proxy(socket: str) -> AsyncIterator[DatabaseProxy]:
    line = DatabaseProxy(socket)
    server = await asyncio.start_server(line, "127.0.0.1", 0)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()
        for _ in range(TURNS):
            # The next turns serve a connection that was just accepted, and close one that was aborted.
            await asyncio.sleep(0)
            for task in list(line.connections):
                task.cancel()
            await asyncio.gather(*line.connections, return_exceptions=True)
