"""A line between Homing and a broker that a test can cut, stop and take away."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from tests.support.brokers.servers import LOCALHOST
from tests.support.stream_sending import send

PIECE: Final = 64 * 1024


class Proxy:
    """Forward data from ``port`` to another port while ``flows`` is set; with ``tls`` the input is encrypted."""

    def __init__(self, to: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self.to = to
        self._tls = tls
        self.accepted = 0
        # How many ways have something to pass on that may not flow.
        self.holding = 0
        # All data in both directions, if a test records it.
        self.heard: bytearray | None = None
        self.flows = asyncio.Event()
        self.flows.set()
        self._server: asyncio.Server | None = None
        self._ends: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._answering: list[asyncio.Event] = []

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._ends)

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, LOCALHOST, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Take no connection any more, and cut those that there are."""
        if self._server is not None:
            self._server.close()
        self.cut()

    def mute(self) -> None:
        """Hold back every answer on the connections that there are; new ones are as before."""
        for answering in self._answering:
            answering.clear()

    def cut(self) -> None:
        for writers in self._ends.values():
            for writer in writers:
                writer.transport.abort()

    async def close(self) -> None:
        self.refuse()
        tasks = list(self._ends)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        self._ends[task] = [writer]
        with suppress(OSError, asyncio.CancelledError):  # only the end of the proxy cancels
            back, forth = await asyncio.open_connection(LOCALHOST, self.to)
            self._ends[task].append(forth)
            try:
                if await self._may_pass(reader, writer, back, forth):
                    await self._join(reader, writer, back, forth)
                else:
                    # The client gets the reason first.
                    writer.close()
                    await writer.wait_closed()
            finally:
                forth.transport.abort()
        writer.transport.abort()
        del self._ends[task]

    async def _join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        forth: asyncio.StreamWriter,
    ) -> None:
        answering = asyncio.Event()
        answering.set()
        self._answering.append(answering)
        async with asyncio.TaskGroup() as group:
            ways = [
                group.create_task(self._pass(reader, forth, self.flows)),
                group.create_task(self._pass(back, writer, self.flows, answering)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()

    async def _may_pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        forth: asyncio.StreamWriter,
    ) -> bool:
        """Return whether the connection may continue. A subclass may send a reply first."""
        del reader, writer, back, forth
        return True

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *open_: asyncio.Event) -> None:
        with suppress(OSError):
            while piece := await reader.read(PIECE):
                self.holding += 1
                try:
                    for each in open_:
                        await each.wait()
                finally:
                    self.holding -= 1
                if self.heard is not None:
                    self.heard += piece
                await send(writer, piece)


@asynccontextmanager
async def proxy(to: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    line = Proxy(to, tls)
    await line.listen()
    try:
        yield line
    finally:
        await line.close()
