"""Telling a sink what is new, in pages behind its cursor."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

from tracker.delivery.circuit import Turn
from tracker.delivery.dispatch import Round
from tracker.delivery.grouping import by_lane
from tracker.delivery.lease import LeasedSink
from tracker.delivery.progress import Ledger
from tracker.model.event import Told
from tracker.service.feed import Feed


class News:
    """What happens after ``cursor``, to one sink."""

    def __init__(self, leased: LeasedSink, feed: Feed, *, cursor: int) -> None:
        self._leased = leased
        self._feed = feed
        self.cursor = cursor
        self.ledger = Ledger(cursor, at=leased.time())

    async def step(self) -> None:
        """Deliver a page of events, or wait for one."""
        leased, pace, ledger = self._leased, self._leased.pace, self.ledger
        began = leased.time()
        closed = leased.closed_for(Turn.FRESH)
        if closed is not None:
            await leased.pause(Turn.FRESH, closed)
        elif read := await self.tell():
            left = pace.gather - timedelta(seconds=leased.time() - began)
            if read < pace.page and left > timedelta():
                await leased.pause(Turn.FRESH, left)
        else:
            rest = pace.settle.total_seconds() - (leased.time() - ledger.at)
            within = timedelta(seconds=max(rest, 0.001)) if ledger.worth_writing else pace.idle
            await self._more(within)
            await leased.write_if_due(ledger)

    async def tell(self) -> int:
        """Deliver the next page of new events, and return how many there were."""
        page = await self._feed.read(self.cursor, limit=self._leased.pace.page)
        if not page:
            return 0
        groups, broken = by_lane(self._leased.sink, page)
        mine = [told for group in groups.values() for told in group]
        if len(groups) > 1:
            mine.sort(key=lambda told: told.cursor)
        now = Round(turn=Turn.FRESH, ledger=self.ledger, behind=await self._behind(mine))
        self.ledger.take(mine, upto=page[-1].cursor)
        for failure in broken:
            self.ledger.give_up(failure)
        await self._leased.sending.send(now, groups)
        self._put_aside_the_rest(now)
        self.cursor = max(self.cursor, self.ledger.cursor or 0)
        await self._leased.write_if_due(self.ledger)
        return len(page)

    def _put_aside_the_rest(self, now: Round) -> None:
        """Owe what is open still and would hold up the cursor: all of it where lanes were too slow for the round."""
        at = self._leased.clock()
        for told in list(now.ledger.open.values()) if now.over else now.ledger.passed_over():
            # What is on its way comes again soon only where we come to an end before it does.
            now.put_aside(told, at + self._leased.pace.finish if told.cursor in now.sending else at)

    async def _behind(self, events: Sequence[Told]) -> dict[str, datetime]:
        if not self._leased.owing or not events:
            return {}
        tasks = {told.task.id for told in events if told.task is not None}
        waiting = await self._leased.outbox.waiting(self._leased.name, tasks)
        # What is being sent may have been given up meanwhile, and waits no more; the later ones stay behind it.
        return dict.fromkeys(tasks & self._leased.underway, self._leased.clock()) | waiting

    async def _more(self, within: timedelta) -> None:
        """Wait for more events."""
        wake = self._leased.wakes[Turn.FRESH]
        if self._feed.dismissed:
            await self._leased.pause(Turn.FRESH, within)
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
