"""Work for a client that may disconnect before it is done."""

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from starlette.types import Receive

ResultT = TypeVar("ResultT")
# The status of a request whose client disconnected. As in nginx, it only appears in the log.
CLIENT_LEFT: Final = 499


async def disconnected(receive: Receive) -> None:
    """Wait until the client of a request disconnects. The body of the request must be read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(receive: Receive, work: Awaitable[ResultT]) -> ResultT | None:
    """Await ``work`` while its client is connected. If the client disconnects first, cancel it and return None."""

    async def leave() -> None:
        await disconnected(receive)
        connection.reschedule(asyncio.get_running_loop().time())

    try:
        async with asyncio.timeout(None) as connection:
            leaving = asyncio.create_task(leave())
            try:
                return await work
            finally:
                leaving.cancel()
    except TimeoutError:
        if not connection.expired():
            raise
        return None
