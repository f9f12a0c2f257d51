"""Telling one sink, as long as its lease is held.

Two loops: what is new, in pages behind the cursor, and what is owed, when it is due. Neither waits for the other.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from tracker.delivery import backoff
from tracker.delivery.debts import Debts
from tracker.delivery.lease import LeasedSink
from tracker.delivery.queues import News
from tracker.delivery.sinks.base import Sink
from tracker.delivery.timing import PACE, Pace
from tracker.errors import HomingError
from tracker.model.sinks import SinkState
from tracker.service.feed import Feed
from tracker.service.repeat import pause
from tracker.storage.event_store import OutboxStore

log: Final = logging.getLogger("homing.relay")

OPENING: Final = timedelta(seconds=30)


class Teller:
    """Tells one sink. ``state`` is what its claim gave; ``chance`` gives numbers in [0, 1)."""

    def __init__(
        self,
        outbox: OutboxStore,
        feed: Feed,
        sink: Sink,
        state: SinkState,
        *,
        owner: str,
        clock: Callable[[], datetime],
        chance: Callable[[], float],
        pace: Pace = PACE,
    ) -> None:
        self._sink = sink
        self._chance = chance
        self._leased = LeasedSink(outbox, sink, state, owner=owner, clock=clock, chance=chance, pace=pace)
        self._news = News(self._leased, feed, cursor=state.cursor)
        self._debts = Debts(self._leased)

    @property
    def cursor(self) -> int:
        """The event up to which all was told, or is owed."""
        return self._news.cursor

    def hold(self, until: float) -> None:
        """Note until when, by the event loop's clock, the lease is ours, if it was all the time."""
        self._leased.hold(until)

    def end(self, *, lost: bool = False) -> None:
        """Send nothing more; ``lost``: write nothing more either."""
        self._leased.end(lost=lost)

    async def open(self, stop: asyncio.Event) -> None:
        """Open the sink, again and again until it is open, or ``stop``."""
        tries, ledger = 0, self._debts.ledger
        while not (stop.is_set() or self._leased.ended.is_set()):
            try:
                async with asyncio.timeout(OPENING.total_seconds()):
                    await self._sink.open()
            except Exception as error:  # noqa: BLE001 - whatever it is, it may pass
                said = error.detail if isinstance(error, HomingError) else type(error).__name__
                tries += 1
                self._leased.sending.failures += 1
                ledger.error = f"it cannot be opened: {said}"
                if tries == 1:
                    log.warning("sink %s fails, and is tried again: %s", self._sink.name, ledger.error)
                wait = backoff.lane_in(tries, chance=self._chance())
                self._leased.opening_at = self._leased.clock() + wait
                await self._leased.write(ledger)
                await pause(stop, wait)
            else:
                self._leased.opening_at = None
                if tries:
                    log.warning("sink %s works again: it was opened", self._sink.name)
                return

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until ``stop``, or until the lease is lost or the sink is off. Then finish what is being sent."""
        late = self._leased.sending.late
        loops = [
            asyncio.create_task(self._loop(self._news.step), name=f"new events for {self._sink.name}"),
            asyncio.create_task(self._loop(self._debts.step), name=f"owed events for {self._sink.name}"),
        ]
        ends = [asyncio.create_task(event.wait()) for event in (stop, self._leased.ended)]
        try:
            await asyncio.wait([*loops, *ends], return_when=asyncio.FIRST_COMPLETED)
            self.end()
            await asyncio.wait([*loops, *late], timeout=self._leased.pace.finish.total_seconds())
        finally:
            running = [*loops, *ends, *late]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        await self.finish()
        for loop in loops:
            if not loop.cancelled():
                loop.result()

    async def finish(self) -> None:
        """Write down what is known."""
        for ledger in (self._news.ledger, self._debts.ledger):
            if ledger.unwritten:
                await self._leased.write(ledger)

    async def tell_new(self) -> int:
        """Deliver the next page of new events, and return how many there were."""
        return await self._news.tell()

    async def tell_owed(self) -> bool:
        """Deliver what is due. Return False if nothing is due or may be sent."""
        return await self._debts.tell()

    async def hurry(self) -> None:
        """Make due what waits, where a receiver was seen to be up again."""
        await self._debts.hurry()

    async def _loop(self, step: Callable[[], Awaitable[None]]) -> None:
        """Take step after step until the end; a database that is away is waited for."""
        while not self._leased.ended.is_set():
            try:
                await step()
            except HomingError as error:
                self._leased.failures.note(error.detail)
                await self._leased.until_end(self._leased.pace.idle)
