"""Telling a sink what it is owed, when that is due."""

from datetime import timedelta

from tracker.delivery.circuit import Turn
from tracker.delivery.dispatch import Round
from tracker.delivery.grouping import by_lane
from tracker.delivery.lease import LeasedSink
from tracker.delivery.progress import Ledger


class Debts:
    """What one sink could not be told at once."""

    def __init__(self, leased: LeasedSink) -> None:
        self._leased = leased
        self._hurried_at = float("-inf")
        # Receivers that are up again, and up to where it was seen what waits for them.
        self._opened: set[str] = set()
        self._seen = 0
        self.ledger = Ledger(None, at=leased.time())

    async def step(self) -> None:
        """Deliver what is due, or wait until something is."""
        leased = self._leased
        await self.hurry()
        closed = leased.closed_for(Turn.OWED)
        if (closed is None and await self.tell()) or self._opened:
            return
        writes = leased.owings
        due = await leased.outbox.next_due(leased.name)
        if due is None and writes == leased.owings:
            leased.owing = False
        least = leased.pace.idle if leased.sending.flying else leased.pace.settle
        wait = leased.pace.idle if due is None else max(due - leased.clock(), least)
        await leased.pause(Turn.OWED, max(wait, closed or timedelta()))

    async def hurry(self) -> None:
        """Make due what waits for receivers that were seen to be up again, and nothing that is for others.

        A page of it each time: what is due meanwhile is told in between.
        """
        leased = self._leased
        if not self._opened:
            if not leased.sending.opened or leased.time() - self._hurried_at < leased.pace.hurry.total_seconds():
                return
            self._opened, leased.sending.opened = leased.sending.opened, set()
            self._hurried_at, self._seen = leased.time(), 0
        if self._opened == {leased.name}:
            await leased.outbox.hurry(leased.name, now=leased.clock())
            self._opened = set()
            return
        limit = leased.pace.page
        page = await leased.outbox.later(leased.name, now=leased.clock(), after=self._seen, limit=limit)
        groups, _ = by_lane(leased.sink, page)
        theirs = [told.cursor for lane in self._opened for told in groups.get(lane, ())]
        if theirs:
            await leased.outbox.hurry(leased.name, now=leased.clock(), events=theirs)
        if len(page) < limit:
            self._opened = set()
        else:
            self._seen = page[-1].cursor

    async def tell(self) -> bool:
        """Deliver what is due. Return False if nothing is due or may be sent."""
        leased = self._leased
        # What is still on its way, although its round is over, is written down when it arrives, and not before.
        flying = set(leased.sending.flying)
        due = await leased.outbox.due(leased.name, now=leased.clock(), limit=leased.pace.page)
        due = [owed for owed in due if owed.event.cursor not in flying]
        if not due:
            return False
        events = [owed.event for owed in due]
        groups, broken = by_lane(leased.sink, events)
        now = Round(turn=Turn.OWED, ledger=self.ledger, owed={owed.event.cursor: owed for owed in due})
        for failure in broken:
            self.ledger.fail(failure)
        wanted = {told.cursor for group in groups.values() for told in group} | {one.cursor for one in broken}
        for event in events:
            if event.cursor not in wanted:
                self.ledger.drop(event.cursor)
        leased.underway = {event.task_id for event in events if event.task_id is not None}
        try:
            await leased.sending.send(now, groups)
        finally:
            leased.underway = set()
        worked = self.ledger.worth_writing
        if worked:
            await leased.write(self.ledger)
        return worked
