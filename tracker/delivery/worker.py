"""Delivers to one sink while this process holds its lease.

Two loops run side by side: new events, in pages after the cursor, and pending deliveries, when they are due.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from tracker.delivery import backoff
from tracker.delivery.lease import LeasedSink
from tracker.delivery.queues import NewEvents, PendingDeliveries
from tracker.delivery.sinks.base import Sink
from tracker.delivery.timing import RELAY_TIMING, RelayTiming
from tracker.errors import HomingError
from tracker.model.sinks import SinkState
from tracker.service.feed import Feed
from tracker.service.repeat import Failures, pause
from tracker.storage.progress_store import ProgressStore

log: Final = logging.getLogger("homing.relay")

OPENING: Final = timedelta(seconds=30)


class SinkWorker:
    """Delivers to one sink. ``state`` is its state when the lease was acquired. ``chance`` returns numbers in [0, 1).

    ``new_events`` and ``pending`` are its queues. Each can also deliver one page by itself.
    """

    def __init__(
        self,
        progress: ProgressStore,
        feed: Feed,
        sink: Sink,
        state: SinkState,
        *,
        owner: str,
        clock: Callable[[], datetime],
        chance: Callable[[], float],
        timing: RelayTiming = RELAY_TIMING,
    ) -> None:
        self._sink = sink
        self._chance = chance
        self._leased = LeasedSink(progress, sink, state, owner=owner, clock=clock, chance=chance, timing=timing)
        self.new_events = NewEvents(self._leased, feed, cursor=state.cursor)
        self.pending = PendingDeliveries(self._leased)

    @property
    def cursor(self) -> int:
        """The event up to which every event is delivered, or is a pending delivery."""
        return self.new_events.cursor

    def hold(self, until: float) -> None:
        """Extend the lease to ``until``, by the event loop's clock."""
        self._leased.hold(until)

    def end(self, *, lost: bool = False) -> None:
        """Stop sending. If ``lost``, record nothing more either."""
        self._leased.end(lost=lost)

    async def open(self, stop: asyncio.Event) -> None:
        """Open the sink. Retry until it is open or ``stop`` is set."""
        tries, progress = 0, self.pending.progress
        while not (stop.is_set() or self._leased.ended.is_set()):
            try:
                async with asyncio.timeout(OPENING.total_seconds()):
                    await self._sink.open()
            except Exception as error:  # noqa: BLE001 - any error may pass
                said = error.detail if isinstance(error, HomingError) else type(error).__name__
                tries += 1
                self._leased.dispatcher.failures += 1
                progress.error = f"it cannot be opened: {said}"
                if tries == 1:
                    log.warning("sink %s fails and is retried: %s", self._sink.name, progress.error)
                wait = backoff.probe_in(tries, chance=self._chance())
                self._leased.opening_at = self._leased.clock() + wait
                await self._leased.write(progress)
                await pause(stop, wait)
            else:
                self._leased.opening_at = None
                if tries:
                    log.warning("sink %s works again", self._sink.name)
                return

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until ``stop``, or until the lease is lost or the sink is off.

        Then finish the deliveries in progress.
        """
        late = self._leased.dispatcher.late
        loops = [
            asyncio.create_task(self._loop(self.new_events.step), name=f"new events for {self._sink.name}"),
            asyncio.create_task(self._loop(self.pending.step), name=f"pending deliveries of {self._sink.name}"),
        ]
        ends = [asyncio.create_task(event.wait()) for event in (stop, self._leased.ended)]
        try:
            await asyncio.wait([*loops, *ends], return_when=asyncio.FIRST_COMPLETED)
            self.end()
            await asyncio.wait([*loops, *late], timeout=self._leased.timing.finish.total_seconds())
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
        """Record all progress."""
        for progress in (self.new_events.progress, self.pending.progress):
            if progress.unwritten:
                await self._leased.write(progress)

    async def _loop(self, step: Callable[[], Awaitable[None]]) -> None:
        """Repeat the step until the end. If the database is unavailable, wait for it."""
        name = self._sink.name
        reading = Failures(
            log, f"events for the sink {name} cannot be read", f"events for the sink {name} are read again"
        )
        while not self._leased.ended.is_set():
            try:
                await step()
            except HomingError as error:
                reading.note(error.detail)
                await self._leased.until_end(self._leased.timing.idle)
            else:
                reading.note("")
