"""Waiting for a task: what a long-poll and ``Tracker.wait`` stand on. Nothing is asked while nothing happens."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from tracker.feed import Feed
from tracker.models import SETTLED, Caller, Task


class Waiting:
    """Waits on the feed; ``get`` finds a task as its caller may see it, and raises NotFound."""

    def __init__(self, *, feed: Feed, get: Callable[[Caller, str], Awaitable[Task]]) -> None:
        self._feed = feed
        self._get = get

    async def settled(self, caller: Caller, ref: str, *, most: timedelta) -> Task:
        """Wait until a task is settled."""
        task = await self._get(caller, ref)
        return await self._until(lambda task: task.status in SETTLED, caller, task, most)

    async def changed(self, caller: Caller, ref: str, *, since: int | None, most: timedelta) -> Task:
        """Wait until a task has another version than ``since``; None: than now, unless it is settled."""
        task = await self._get(caller, ref)
        if since is None and task.status in SETTLED:
            return task
        known = task.version if since is None else since
        return await self._until(lambda task: task.version != known, caller, task, most)

    async def _until(self, enough: Callable[[Task], bool], caller: Caller, task: Task, most: timedelta) -> Task:
        """Look again only when an event of the task was committed; give the task as it is at the end of the time."""
        if enough(task):
            return task
        with suppress(TimeoutError):
            async with asyncio.timeout(most.total_seconds()), self._feed.watching(task.id) as changed:
                while not enough(task := await self._get(caller, task.id)) and not self._feed.dismissed:
                    await changed.wait()
                    changed.clear()
        return task
