"""Work for a client that may leave before it is done: whoever hangs up is waited for no longer."""

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from starlette.types import Receive

ResultT = TypeVar("ResultT")
# Nobody reads it: it is for the log. nginx uses it for the same.
CLIENT_LEFT: Final = 499


async def while_there(receive: Receive, work: Awaitable[ResultT]) -> ResultT | None:
    """Do some work for as long as its client is there; None, and the work cancelled, where it left before the end."""

    async def leave() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        presence.reschedule(asyncio.get_running_loop().time())

    try:
        async with asyncio.timeout(None) as presence:
            leaving = asyncio.create_task(leave())
            try:
                return await work
            finally:
                leaving.cancel()
    except TimeoutError:
        if not presence.expired():
            raise
        return None
