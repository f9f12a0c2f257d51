"""The two queues of a sink: new events, in pages after its cursor, and pending deliveries, at their due time."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

from tracker.delivery.circuit import Turn
from tracker.delivery.dispatch import Round, by_endpoint
from tracker.delivery.lease import LeasedSink
from tracker.delivery.progress import Progress
from tracker.model.event import PublishedEvent
from tracker.service.feed import Feed


class NewEvents:
    """The events after ``cursor``, for one sink."""

    def __init__(self, leased: LeasedSink, feed: Feed, *, cursor: int) -> None:
        self._leased = leased
        self._feed = feed
        self.cursor = cursor
        self.progress = Progress(cursor, at=leased.time())

    async def step(self) -> None:
        """Deliver a page of events, or wait for one."""
        leased, timing, progress = self._leased, self._leased.timing, self.progress
        began = leased.time()
        blocked = leased.blocked_for(Turn.NEW)
        if blocked is not None:
            await leased.pause(Turn.NEW, blocked)
        elif read := await self.deliver():
            left = timing.gather - timedelta(seconds=leased.time() - began)
            if read < timing.page and left > timedelta():
                await leased.pause(Turn.NEW, left)
        else:
            rest = timing.settle.total_seconds() - (leased.time() - progress.at)
            within = timedelta(seconds=max(rest, 0.001)) if progress.worth_writing else timing.idle
            await self._more(within)
            await leased.write_if_due(progress)

    async def deliver(self) -> int:
        """Deliver the next page of new events. Return the number of events in the page."""
        page = await self._feed.read(self.cursor, limit=self._leased.timing.page)
        if not page:
            return 0
        groups, broken = by_endpoint(self._leased.sink, page)
        mine = [event for group in groups.values() for event in group]
        if len(groups) > 1:
            mine.sort(key=lambda event: event.cursor)
        now = Round(turn=Turn.NEW, progress=self.progress, behind=await self._behind(mine))
        self.progress.take(mine, upto=page[-1].cursor)
        for failure in broken:
            self.progress.give_up(failure)
        await self._leased.dispatcher.send(now, groups)
        # An event that would block the cursor becomes a pending delivery. If endpoints were too slow, all open events
        # do.
        at = self._leased.clock()
        for event in list(now.progress.open.values()) if now.over else now.progress.passed_over():
            # An event in flight is sent again soon only if this process ends before its outcome arrives.
            now.put_aside(event, at + self._leased.timing.finish if event.cursor in now.sending else at)
        self.cursor = max(self.cursor, self.progress.cursor or 0)
        await self._leased.write_if_due(self.progress)
        return len(page)

    async def _behind(self, events: Sequence[PublishedEvent]) -> dict[str, datetime]:
        if not self._leased.has_pending or not events:
            return {}
        tasks = {event.task.id for event in events if event.task is not None}
        waiting = await self._leased.store.pending_until(self._leased.name, tasks)
        # A delivery in flight may have been dead-lettered, so it is no longer pending. Later events still wait for it.
        return dict.fromkeys(tasks & self._leased.tasks_in_flight, self._leased.clock()) | waiting

    async def _more(self, within: timedelta) -> None:
        """Wait for more events."""
        wake = self._leased.wakes[Turn.NEW]
        if self._feed.dismissed:
            await self._leased.pause(Turn.NEW, within)
            return
        waits = [
            asyncio.create_task(self._feed.beyond(self.cursor, within=within)),
            asyncio.create_task(wake.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        wake.clear()


class PendingDeliveries:
    """The deliveries of one sink that did not succeed at once."""

    def __init__(self, leased: LeasedSink) -> None:
        self._leased = leased
        self._hurried_at = float("-inf")
        # The endpoints that work again, and the last event whose delivery was checked for them.
        self._recovered: set[str] = set()
        self._seen = 0
        self.progress = Progress(None, at=leased.time())

    async def step(self) -> None:
        """Deliver due events, or wait until one is due."""
        leased = self._leased
        await self.hurry()
        blocked = leased.blocked_for(Turn.PENDING)
        if (blocked is None and await self.deliver()) or self._recovered:
            return
        writes = leased.pending_writes
        due = await leased.store.next_due(leased.name)
        if due is None and writes == leased.pending_writes:
            leased.has_pending = False
        least = leased.timing.idle if leased.dispatcher.in_flight else leased.timing.settle
        wait = leased.timing.idle if due is None else max(due - leased.clock(), least)
        await leased.pause(Turn.PENDING, max(wait, blocked or timedelta()))

    async def hurry(self) -> None:
        """Make the pending deliveries of endpoints that work again due now. Do not change other endpoints.

        Each call handles one page, so that due deliveries are sent in between.
        """
        leased = self._leased
        if not self._recovered:
            if (
                not leased.dispatcher.recovered
                or leased.time() - self._hurried_at < leased.timing.hurry.total_seconds()
            ):
                return
            self._recovered, leased.dispatcher.recovered = leased.dispatcher.recovered, set()
            self._hurried_at, self._seen = leased.time(), 0
        if self._recovered == {leased.name}:
            await leased.store.make_due(leased.name, now=leased.clock())
            self._recovered = set()
            return
        limit = leased.timing.page
        page = await leased.store.due_later(leased.name, now=leased.clock(), after=self._seen, limit=limit)
        groups, _ = by_endpoint(leased.sink, page)
        theirs = [event.cursor for endpoint in self._recovered for event in groups.get(endpoint, ())]
        if theirs:
            await leased.store.make_due(leased.name, now=leased.clock(), events=theirs)
        if len(page) < limit:
            self._recovered = set()
        else:
            self._seen = page[-1].cursor

    async def deliver(self) -> bool:
        """Deliver due events. Return False if nothing is due or may be sent."""
        leased = self._leased
        # An event in flight after its round is recorded when its outcome arrives, and not earlier.
        in_flight = set(leased.dispatcher.in_flight)
        due = await leased.store.due(leased.name, now=leased.clock(), limit=leased.timing.page)
        due = [each for each in due if each.event.cursor not in in_flight]
        if not due:
            return False
        events = [each.event for each in due]
        groups, broken = by_endpoint(leased.sink, events)
        now = Round(turn=Turn.PENDING, progress=self.progress, pending={each.event.cursor: each for each in due})
        for failure in broken:
            self.progress.fail(failure)
        wanted = {event.cursor for group in groups.values() for event in group} | {one.cursor for one in broken}
        for event in events:
            if event.cursor not in wanted:
                self.progress.drop(event.cursor)
        leased.tasks_in_flight = {event.task_id for event in events if event.task_id is not None}
        try:
            await leased.dispatcher.send(now, groups)
        finally:
            leased.tasks_in_flight = set()
        worked = self.progress.worth_writing
        if worked:
            await leased.write(self.progress)
        return worked
