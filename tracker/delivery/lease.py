"""A sink while its lease is ours: what is sent to it, and what became of that, written down.

It is written down seldom while it goes well, and at once where something is owed; whatever was sent and not yet written
down is sent again by whoever tells the sink next, with the same ids.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from msgspec import structs

from tracker.delivery.circuit import Turn
from tracker.delivery.dispatch import Sending
from tracker.delivery.progress import Ledger
from tracker.delivery.sinks.base import Sink
from tracker.delivery.timing import Pace
from tracker.errors import HomingError
from tracker.model.sinks import Settled, SinkState
from tracker.service.repeat import Failures
from tracker.storage.event_store import OutboxStore

log: Final = logging.getLogger("homing.relay")

# What has to be written although nothing was told is only the cursor, and may be behind.
PASSED_OVER: Final = timedelta(seconds=2)


class LeasedSink:
    """One sink, as long as nobody else may tell it. ``state`` is what its claim gave.

    ``owing``: whether rows may be waiting; ``owings``: how often some were written, so that a look in between is not
    believed. ``underway``: the tasks of which something that was owed is being sent. ``ended`` is set once nothing more
    may be sent.
    """

    def __init__(
        self,
        outbox: OutboxStore,
        sink: Sink,
        state: SinkState,
        *,
        owner: str,
        clock: Callable[[], datetime],
        chance: Callable[[], float],
        pace: Pace,
    ) -> None:
        self.outbox = outbox
        self.sink = sink
        self.clock = clock
        self.pace = pace
        self.time = asyncio.get_running_loop().time
        self._owner = owner
        self.sending = Sending(
            sink, may=self.may, write=self.write, time=self.time, clock=clock, chance=chance, pace=pace
        )
        self.sending.failures = state.failures
        self.sending.delivered_at = state.delivered_at
        # When a sink that cannot be opened is tried again.
        self.opening_at: datetime | None = None
        self.owing = True
        self.owings = 0
        self.underway: set[str] = set()
        self.ended = asyncio.Event()
        self.wakes = {turn: asyncio.Event() for turn in Turn}
        self._held_until = self.time() + pace.lease.total_seconds()
        self._writing = asyncio.Lock()
        self._lost = False
        self.failures = Failures(
            log,
            f"what the sink {sink.name} was told cannot be written down",
            f"what the sink {sink.name} was told is written down again",
        )

    @property
    def name(self) -> str:
        return self.sink.name

    # ---- the lease

    def hold(self, until: float) -> None:
        """Note until when, by the event loop's clock, the lease is ours, if it was all the time.

        Where it was not, somebody else may have told the sink meanwhile: what we know of it is worth nothing.
        """
        self.may()
        self._held_until = until

    def may(self) -> bool:
        """Return whether something may still be sent."""
        if self.time() >= self._held_until:
            self.end(lost=True)
        return not self.ended.is_set()

    def end(self, *, lost: bool = False) -> None:
        """Send nothing more; ``lost``: write nothing more either."""
        self._lost = self._lost or lost
        self.ended.set()
        self._stir()

    # ---- waiting

    def closed_for(self, turn: Turn) -> timedelta | None:
        """Return how long a sink as a whole is to be left alone, None where it may be told something."""
        lane = self.sending.lanes.of(self.name)
        now = self.clock()
        if lane.room(turn, now):
            return None
        ready_at = lane.ready_at(turn)
        return self.pace.idle if ready_at is None or ready_at <= now else ready_at - now

    async def pause(self, turn: Turn, most: timedelta) -> None:
        """Wait, but look again soon: clocks may be set."""
        wake = self.wakes[turn]
        seconds = min(most, self.pace.idle).total_seconds()
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await wake.wait()
            except TimeoutError:
                return
        wake.clear()

    async def until_end(self, most: timedelta) -> None:
        try:
            async with asyncio.timeout(most.total_seconds()):
                await self.ended.wait()
        except TimeoutError:
            return

    def _stir(self) -> None:
        for wake in self.wakes.values():
            wake.set()

    # ---- writing down

    async def write_if_due(self, ledger: Ledger) -> None:
        rest = self.pace.settle if ledger.worth_writing else PASSED_OVER
        if ledger.failed or (ledger.unwritten and self.time() - ledger.at >= rest.total_seconds()):
            await self.write(ledger)

    async def write(self, ledger: Ledger) -> None:
        """Write accounts down, once the database lets us, unless the sink is lost meanwhile."""
        async with self._writing:
            while not self._lost:
                settled = self._settled(ledger)
                owing = any(failure.next_at is not None for failure in settled.failed)
                self._note_owing(owing)
                try:
                    ours = await self.outbox.settle(self.name, settled, owner=self._owner, now=self.clock())
                except HomingError as error:
                    self.failures.note(error.detail)
                    if self.ended.is_set():
                        return
                    await self.until_end(self.pace.idle)
                    continue
                # Again: whoever looked meanwhile may have come just before it was committed.
                self._note_owing(owing)
                self.failures.note("")
                ledger.written(settled, at=self.time())
                if not ours:
                    self.end(lost=True)
                given_up = sum(failure.next_at is None for failure in settled.failed)
                if ours and given_up:
                    log.warning("sink %s: %d given up, see homing deliveries --dead", self.name, given_up)
                if self.sending.gone:
                    log.warning("sink %s wants no more and is off: %s", self.name, settled.error)
                    self.end()
                if settled.failed or self.sending.opened:
                    self._stir()
                return

    def _note_owing(self, owing: bool) -> None:  # noqa: FBT001 - what was found
        if owing:
            self.owing = True
            self.owings += 1

    def _settled(self, ledger: Ledger) -> Settled:
        sending = self.sending
        off = bool(sending.gone)
        retry_at = sending.lanes.retry_at if self.opening_at is None else self.opening_at
        settled = ledger.settled(failures=sending.failures, retry_at=retry_at, off=off)
        # What turned the sink off counts more than what went wrong beside it.
        return structs.replace(settled, error=sending.gone) if off else settled
