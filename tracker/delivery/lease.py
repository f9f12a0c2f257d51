"""A sink while this process holds its lease: its dispatcher, and the record of its progress.

Progress is recorded seldom while deliveries succeed, and at once after a failure. The next process that holds the sink
sends unrecorded events again, with the same event IDs.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from msgspec import structs

from tracker.delivery.circuit import Turn
from tracker.delivery.dispatch import Dispatcher
from tracker.delivery.progress import Progress
from tracker.delivery.sinks.base import Sink
from tracker.delivery.timing import RelayTiming
from tracker.errors import HomingError
from tracker.model.sinks import ProgressUpdate, SinkState
from tracker.service.repeat import Failures
from tracker.storage.progress_store import ProgressStore

log: Final = logging.getLogger("homing.relay")

# If nothing was delivered, only the cursor changes. A late record of it does no harm.
PASSED_OVER: Final = timedelta(seconds=2)


class LeasedSink:
    """One sink while no other process may deliver to it. ``state`` is its state when the lease was acquired.

    ``has_pending`` means that there may be pending deliveries. ``pending_writes`` counts the records of pending
    deliveries, so that the result of an earlier query is not trusted. ``tasks_in_flight`` holds the tasks whose pending
    deliveries are being sent. ``ended`` is set once nothing more may be sent.
    """

    def __init__(
        self,
        store: ProgressStore,
        sink: Sink,
        state: SinkState,
        *,
        owner: str,
        clock: Callable[[], datetime],
        chance: Callable[[], float],
        timing: RelayTiming,
    ) -> None:
        self.store = store
        self.sink = sink
        self.name = sink.name
        self.clock = clock
        self.timing = timing
        self.time = asyncio.get_running_loop().time
        self._owner = owner
        self.dispatcher = Dispatcher(
            sink, may=self.may, write=self.write, time=self.time, clock=clock, chance=chance, timing=timing
        )
        self.dispatcher.failures = state.failures
        self.dispatcher.delivered_at = state.delivered_at
        # The time of the next attempt to open the sink, if it cannot be opened now.
        self.opening_at: datetime | None = None
        self.has_pending = True
        self.pending_writes = 0
        self.tasks_in_flight: set[str] = set()
        self.ended = asyncio.Event()
        self.wakes = {turn: asyncio.Event() for turn in Turn}
        self._held_until = self.time() + timing.lease.total_seconds()
        self._writing = asyncio.Lock()
        self._lost = False
        self.failures = Failures(
            log,
            f"the progress of the sink {sink.name} cannot be recorded",
            f"the progress of the sink {sink.name} is recorded again",
        )

    # ---- the lease

    def hold(self, until: float) -> None:
        """Extend the lease to ``until``, by the event loop's clock. An expired lease stays lost.

        Another process may have delivered in the meantime. Then this process's state of the sink is out of date.
        """
        self.may()
        self._held_until = until

    def may(self) -> bool:
        """Return whether this process may still send. If the lease has expired, mark it as lost."""
        if self.time() >= self._held_until:
            self.end(lost=True)
        return not self.ended.is_set()

    def end(self, *, lost: bool = False) -> None:
        """Stop sending. If ``lost``, record nothing more either."""
        self._lost = self._lost or lost
        self.ended.set()
        self._stir()

    # ---- waiting

    def blocked_for(self, turn: Turn) -> timedelta | None:
        """Return how long the circuit of the whole sink blocks it, or None if it does not."""
        circuit = self.dispatcher.circuits.of(self.name)
        now = self.clock()
        if circuit.room(turn, now):
            return None
        ready_at = circuit.ready_at(turn)
        return self.timing.idle if ready_at is None or ready_at <= now else ready_at - now

    async def pause(self, turn: Turn, most: timedelta) -> None:
        """Wait for at most ``most`` or until woken. The wait is short, because the clock may be set."""
        wake = self.wakes[turn]
        seconds = min(most, self.timing.idle).total_seconds()
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

    # ---- recording

    async def write_if_due(self, progress: Progress) -> None:
        rest = self.timing.settle if progress.worth_writing else PASSED_OVER
        if progress.failed or (progress.unwritten and self.time() - progress.at >= rest.total_seconds()):
            await self.write(progress)

    async def write(self, progress: Progress) -> None:
        """Record progress. Retry until the database accepts it or the sink is lost."""
        async with self._writing:
            while not self._lost:
                settled = self._settled(progress)
                has_pending = any(failure.next_at is not None for failure in settled.failed)
                self.has_pending |= has_pending
                self.pending_writes += has_pending
                try:
                    ours = await self.store.record(self.name, settled, owner=self._owner, now=self.clock())
                except HomingError as error:
                    self.failures.note(error.detail)
                    if self.ended.is_set():
                        return
                    await self.until_end(self.timing.idle)
                    continue
                # Set it again, because a query in between may have run just before the commit.
                self.has_pending |= has_pending
                self.pending_writes += has_pending
                self.failures.note("")
                progress.written(settled, at=self.time())
                if not ours:
                    self.end(lost=True)
                dead_letters = sum(failure.next_at is None for failure in settled.failed)
                if ours and dead_letters:
                    log.warning(
                        "sink %s: %d dead letters, see homing deliveries --dead-letter", self.name, dead_letters
                    )
                if self.dispatcher.gone:
                    log.warning(
                        "sink %s is off, because its endpoint refused further events: %s", self.name, settled.error
                    )
                    self.end()
                if settled.failed or self.dispatcher.recovered:
                    self._stir()
                return

    def _settled(self, progress: Progress) -> ProgressUpdate:
        dispatcher = self.dispatcher
        off = bool(dispatcher.gone)
        retry_at = dispatcher.circuits.retry_at if self.opening_at is None else self.opening_at
        settled = progress.settled(failures=dispatcher.failures, retry_at=retry_at, off=off)
        # The reason why the sink is off matters more than other errors.
        return structs.replace(settled, error=dispatcher.gone) if off else settled
