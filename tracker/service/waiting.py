"""Waiting for a task, for a long-poll and ``Tracker.wait``. A wait makes no queries while nothing changes."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from tracker.model.task import SETTLED, ClientIdentity, Task
from tracker.service.feed import Feed


class Waiting:
    """Waits on the feed. ``get`` returns a task that the client may see, and raises NotFound."""

    def __init__(self, *, feed: Feed, get: Callable[[ClientIdentity, str], Awaitable[Task]]) -> None:
        self._feed = feed
        self._get = get

    async def settled(self, client: ClientIdentity, ref: str, *, most: timedelta) -> Task:
        """Wait until a task is settled."""
        return await self._until(lambda task: task.status in SETTLED, client, ref, most)

    async def changed(self, client: ClientIdentity, ref: str, *, since: int | None, most: timedelta) -> Task:
        """Wait until the version of a task differs from ``since``.

        If ``since`` is None, the present version counts, and a settled task is returned at once.
        """
        known = since

        def enough(task: Task) -> bool:
            nonlocal known
            if known is None:
                known = task.version
                return task.status in SETTLED
            return task.version != known

        return await self._until(enough, client, ref, most)

    async def _until(self, enough: Callable[[Task], bool], client: ClientIdentity, ref: str, most: timedelta) -> Task:
        """Read the task once, and again after each of its events. Return the last state."""
        async with self._feed.watching(ref) as changed:
            task = await self._get(client, ref)
            if enough(task):
                return task
            if task.id == ref:
                with suppress(TimeoutError):
                    async with asyncio.timeout(most.total_seconds()):
                        while not self._feed.dismissed:
                            await changed.wait()
                            changed.clear()
                            if enough(task := await self._get(client, ref)):
                                break
                return task
        # Events name a task only by Homing's ID.
        return await self._until(enough, client, task.id, most)
