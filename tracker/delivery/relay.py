"""The relay: the loop that delivers events to sinks. One process delivers to each sink.

It holds a lease and renews it. A process that stops renewing loses its lease, and cannot record progress afterwards,
even if it resumes. A process that ends releases its sinks. ``worker`` delivers in between.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from tracker.delivery.sinks.base import Sink
from tracker.delivery.timing import RELAY_TIMING, RelayTiming
from tracker.delivery.worker import SinkWorker
from tracker.errors import HomingError
from tracker.model.sinks import SinkSpec, SinkState
from tracker.service.feed import Feed
from tracker.service.repeat import Failures, pause
from tracker.storage.store import Store

log: Final = logging.getLogger("homing.relay")

CLOSE_TIMEOUT: Final = timedelta(seconds=10)
# A process that holds more sinks acquires the next one later, so that the others get some.
ACQUIRE_DELAY_PER_SINK: Final = timedelta(milliseconds=200)


class Relay:
    """Delivers the events of a store to ``sinks``, each with its recorded spec. ``owner`` is this process."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        sinks: Sequence[tuple[SinkSpec, Sink]],
        *,
        owner: str,
        clock: Callable[[], datetime],
        chance: Callable[[], float],
        timing: RelayTiming = RELAY_TIMING,
    ) -> None:
        self._store = store
        self._feed = feed
        self._sinks = sinks
        self._owner = owner
        self._clock = clock
        self._timing = timing
        self._chance = chance
        self._held = 0
        # The number of database changes when the sinks were last recorded. None before the first record.
        self._written_at: int | None = None
        self._workers: set[SinkWorker] = set()

    async def open(self) -> None:
        """Record the sinks. A new sink gets the events that are committed from now on."""
        continuity = self._store.continuity
        changes, first = continuity.changes, self._written_at is None
        if first and not self._store.shared:
            # One process serves a file, so earlier holders no longer exist.
            await self._store.sinks.release_leases(None)
        # If an older database does not know a sink, all events up to there were delivered.
        newest = None if first else continuity.left_at
        await self._store.sinks.register([new for new, _ in self._sinks], now=self._clock(), newest=newest)
        self._written_at = changes

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver to every sink until ``stop``. Then finish the deliveries in progress, and release the sinks."""
        if self._written_at is None:
            await self.open()
        if not self._sinks:
            await stop.wait()
            return
        stop_listening = self._store.continuity.listen(self._start_over)
        try:
            await asyncio.gather(*(self._keep(sink, stop) for _, sink in self._sinks))
        finally:
            stop_listening()
        with suppress(HomingError):
            await self._store.sinks.release_leases(self._owner)

    async def _keep(self, sink: Sink, stop: asyncio.Event) -> None:
        """Deliver to one sink whenever this process holds it and it is on. A failure here affects no other sink."""
        failures = Failures(log, f"events cannot be delivered to the sink {sink.name}")
        if self._store.shared:
            # Processes that start together share the sinks.
            await pause(stop, self._timing.acquire * self._chance())
        while not stop.is_set():
            wait = self._timing.acquire
            with failures.survived():
                if self._written_at != self._store.continuity.changes:
                    # The database may be older than a sink.
                    await self.open()
                # Count the lease from the request, so that it ends earlier here than in the database.
                requested_at = asyncio.get_running_loop().time()
                state = await self._acquire(sink)
                if self._written_at != self._store.continuity.changes:
                    continue  # the lease may belong to the lost state
                if state is not None and state.on:
                    await self._hold(sink, state, requested_at, stop)
                elif state is not None:
                    wait = self._timing.renew
            await pause(stop, wait + self._held * ACQUIRE_DELAY_PER_SINK)

    async def _acquire(self, sink: Sink) -> SinkState | None:
        return await self._store.sinks.acquire_lease(
            sink.name, owner=self._owner, now=self._clock(), lease=self._timing.lease
        )

    async def _hold(self, sink: Sink, state: SinkState, requested_at: float, stop: asyncio.Event) -> None:
        worker = SinkWorker(
            self._store.progress,
            self._feed,
            sink,
            state,
            owner=self._owner,
            clock=self._clock,
            chance=self._chance,
            timing=self._timing,
        )
        worker.hold(requested_at + self._timing.lease.total_seconds())
        self._workers.add(worker)
        renewing = asyncio.create_task(self._renew(sink, worker), name=f"lease of {sink.name}")
        self._held += 1
        try:
            await worker.open(stop)
            await worker.run(stop)
        finally:
            self._held -= 1
            self._workers.discard(worker)
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await _close(sink)

    def _start_over(self) -> None:
        """Stop all deliveries until the progress of each sink has been read from the database again."""
        for worker in self._workers:
            worker.end(lost=True)

    async def _renew(self, sink: Sink, worker: SinkWorker) -> None:
        """Renew the lease repeatedly. If that fails for too long, the worker ends by itself."""
        while True:
            await asyncio.sleep(self._timing.renew.total_seconds())
            requested_at = asyncio.get_running_loop().time()
            with suppress(HomingError):
                state = await self._acquire(sink)
                if state is None:
                    worker.end(lost=True)
                elif not state.on:
                    worker.end()
                else:
                    worker.hold(requested_at + self._timing.lease.total_seconds())


async def _close(sink: Sink) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT.total_seconds()):
            await sink.close()
    except Exception as error:  # noqa: BLE001 - the sink is dropped in any case
        log.warning("sink %s could not be closed: %s", sink.name, type(error).__name__)
