"""The relay: the loop that moves events to the sinks, each told by one process at a time.

A process holds a sink by a lease that it renews. One that is silent for as long loses it to whoever looks next, and can
write nothing more down, however late it wakes up; one that ends gives its sinks back. See ``teller`` for the telling.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from random import Random
from typing import Final

from tracker.delivery.sinks.base import Sink
from tracker.delivery.timing import PACE, Pace
from tracker.delivery.worker import Teller
from tracker.errors import HomingError
from tracker.model.sinks import NewSink, SinkState
from tracker.service.feed import Feed
from tracker.service.repeat import Failures, pause
from tracker.storage.store import Store

log: Final = logging.getLogger("homing.relay")

CLOSING: Final = timedelta(seconds=10)
# Who holds more lets others go first.
MANNERS: Final = timedelta(milliseconds=200)


class Relay:
    """Delivers the events of a store to ``sinks``, each with what is recorded of it; ``owner`` is this process."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        sinks: Sequence[tuple[NewSink, Sink]],
        *,
        owner: str,
        clock: Callable[[], datetime],
        pace: Pace = PACE,
        chance: Callable[[], float] | None = None,
    ) -> None:
        self._store = store
        self._outbox = store.outbox
        self._feed = feed
        self._sinks = sinks
        self._owner = owner
        self._clock = clock
        self._pace = pace
        self._chance = chance or Random().random  # noqa: S311 - spreads attempts, and hides nothing
        self._held = 0
        # How often the database had changed its state when the sinks were written down; None before they were.
        self._written_at: int | None = None
        self._tellers: set[Teller] = set()

    async def open(self) -> None:
        """Write the sinks down: what is committed from now on is for those that are new, too."""
        continuity = self._store.continuity
        changes, first = continuity.changes, self._written_at is None
        if first and not self._store.shared:
            # Whoever held them is gone: a file is served by one process.
            await self._outbox.release(None)
        # A sink that an older database does not know was told everything up to there.
        newest = None if first else continuity.left_at
        await self._outbox.register([new for new, _ in self._sinks], now=self._clock(), newest=newest)
        self._written_at = changes

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver to every sink until ``stop``. Then finish what is being sent, and release the sinks."""
        if self._written_at is None:
            await self.open()
        if not self._sinks:
            await stop.wait()
            return
        deaf = self._store.continuity.listen(self._start_over)
        try:
            await asyncio.gather(*(self._keep(sink, stop) for _, sink in self._sinks))
        finally:
            deaf()
        with suppress(HomingError):
            await self._outbox.release(self._owner)

    async def _keep(self, sink: Sink, stop: asyncio.Event) -> None:
        """Deliver to one sink whenever this process holds it and it is on. A failure here affects no other sink."""
        failures = Failures(log, f"the sink {sink.name} cannot be told", f"the sink {sink.name} is told again")
        if self._store.shared:
            # Processes that start together share the sinks.
            await pause(stop, self._pace.look * self._chance())
        while not stop.is_set():
            wait = self._pace.look
            with failures.survived():
                if self._written_at != self._store.continuity.changes:
                    # The database may be older than a sink.
                    await self.open()
                # A lease begins when it is asked for: whatever the answer takes, ours ends before the database's.
                asked_at = asyncio.get_running_loop().time()
                state = await self._claim(sink)
                if self._written_at != self._store.continuity.changes:
                    continue  # the claim may be of the state that is lost
                if state is not None and state.on:
                    await self._hold(sink, state, asked_at, stop)
                elif state is not None:
                    wait = self._pace.renew
            await pause(stop, wait + self._held * MANNERS)

    async def _claim(self, sink: Sink) -> SinkState | None:
        return await self._outbox.claim(sink.name, owner=self._owner, now=self._clock(), lease=self._pace.lease)

    async def _hold(self, sink: Sink, state: SinkState, asked_at: float, stop: asyncio.Event) -> None:
        teller = Teller(
            self._outbox,
            self._feed,
            sink,
            state,
            owner=self._owner,
            clock=self._clock,
            chance=self._chance,
            pace=self._pace,
        )
        teller.hold(asked_at + self._pace.lease.total_seconds())
        self._tellers.add(teller)
        renewing = asyncio.create_task(self._renew(sink, teller), name=f"lease of {sink.name}")
        self._held += 1
        try:
            await teller.open(stop)
            await teller.run(stop)
        finally:
            self._held -= 1
            self._tellers.discard(teller)
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await _close(sink)

    def _start_over(self) -> None:
        """Stop all deliveries until the progress of each sink has been read from the database again."""
        for teller in self._tellers:
            teller.end(lost=True)

    async def _renew(self, sink: Sink, teller: Teller) -> None:
        """Say that we live, again and again; where that fails for too long the teller ends by itself."""
        while True:
            await asyncio.sleep(self._pace.renew.total_seconds())
            asked_at = asyncio.get_running_loop().time()
            with suppress(HomingError):
                state = await self._claim(sink)
                if state is None:
                    teller.end(lost=True)
                elif not state.on:
                    teller.end()
                else:
                    teller.hold(asked_at + self._pace.lease.total_seconds())


async def _close(sink: Sink) -> None:
    try:
        async with asyncio.timeout(CLOSING.total_seconds()):
            await sink.close()
    except Exception as error:  # noqa: BLE001 - it is let go in any case
        log.warning("the sink %s could not be closed: %s", sink.name, type(error).__name__)
