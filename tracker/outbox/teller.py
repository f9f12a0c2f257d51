"""Telling one sink, as long as its lease is held.

Two loops: what is new, in pages behind the cursor, and what is owed, when it is due. Neither waits for the other. What
became of the events is written down seldom while it goes well, and at once where something is owed; whatever was sent
and not yet written down is sent again by whoever tells the sink next, with the same ids.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from tracker.contract import Told
from tracker.errors import HomingError
from tracker.feed import Feed
from tracker.outbox import backoff
from tracker.outbox.lanes import Turn
from tracker.outbox.ledger import Ledger
from tracker.outbox.pace import PACE, Pace
from tracker.outbox.sending import Round, Sending
from tracker.outbox.sink import Sink
from tracker.pause import pause
from tracker.storage.outbox_store import OutboxStore
from tracker.views import Failure, Settled, SinkState

log: Final = logging.getLogger("homing.relay")

# What has to be written although nothing was told is only the cursor, and may be behind.
PASSED_OVER: Final = timedelta(seconds=2)
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
        self._outbox = outbox
        self._feed = feed
        self._sink = sink
        self._owner = owner
        self._clock = clock
        self._chance = chance
        self._pace = pace
        self._time = asyncio.get_running_loop().time
        self._sending = Sending(
            sink, may=self._may, write=self._write, time=self._time, clock=clock, chance=chance, pace=pace
        )
        self._sending.failures = state.failures
        self._sending.delivered_at = state.delivered_at
        self.cursor = state.cursor
        self._new = Ledger(state.cursor, at=self._time())
        self._owed = Ledger(None, at=self._time())
        # Whether rows may be waiting; and how often some were written, so that a look in between is not believed.
        self._owing = True
        self._owings = 0
        self._hurried_at = float("-inf")
        self._held_until = self._time() + pace.lease.total_seconds()
        self._writing = asyncio.Lock()
        self._wakes = {turn: asyncio.Event() for turn in Turn}
        self._lost = False
        self._ended = asyncio.Event()
        self._trouble = ""

    def hold(self, until: float) -> None:
        """Note until when, by the event loop's clock, the lease is ours, if it was all the time.

        Where it was not, somebody else may have told the sink meanwhile: what we know of it is worth nothing.
        """
        self._may()
        self._held_until = until

    def end(self, *, lost: bool = False) -> None:
        """Send nothing more; ``lost``: write nothing more either."""
        self._lost = self._lost or lost
        self._ended.set()
        self._stir()

    async def open(self, stop: asyncio.Event) -> None:
        """Open the sink, again and again until it is open, or ``stop``."""
        tries = 0
        while not (stop.is_set() or self._ended.is_set()):
            try:
                async with asyncio.timeout(OPENING.total_seconds()):
                    await self._sink.open()
            except Exception as error:  # noqa: BLE001 - whatever it is, it may pass
                said = error.detail if isinstance(error, HomingError) else type(error).__name__
                tries += 1
                self._sending.failures += 1
                self._owed.error = f"it cannot be opened: {said}"
                log.warning("sink %s: %s", self._sink.name, self._owed.error)
                await self._write(self._owed)
                await pause(stop, backoff.lane_in(tries, chance=self._chance()))
            else:
                return

    async def run(self, stop: asyncio.Event) -> None:
        """Tell the sink until ``stop``, or until it is lost or off; finish what is being sent, and write it down."""
        loops = [
            asyncio.create_task(self._loop(self._news), name=f"new events for {self._sink.name}"),
            asyncio.create_task(self._loop(self._debts), name=f"owed events for {self._sink.name}"),
        ]
        ends = [asyncio.create_task(event.wait()) for event in (stop, self._ended)]
        try:
            await asyncio.wait([*loops, *ends], return_when=asyncio.FIRST_COMPLETED)
            self.end()
            await asyncio.wait([*loops, *self._sending.late], timeout=self._pace.finish.total_seconds())
        finally:
            running = [*loops, *ends, *self._sending.late]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        await self.finish()
        for loop in loops:
            if not loop.cancelled():
                loop.result()

    async def finish(self) -> None:
        """Write down what is known."""
        for ledger in (self._new, self._owed):
            if ledger.unwritten:
                await self._write(ledger)

    # ---- what is new

    async def _news(self) -> None:
        ledger = self._new
        closed = self._closed_for(Turn.FRESH)
        if closed is not None:
            await self._pause(Turn.FRESH, closed)
        elif read := await self.tell_new():
            if read < self._pace.page:
                await self._pause(Turn.FRESH, self._pace.gather)
        else:
            rest = self._pace.settle.total_seconds() - (self._time() - ledger.at)
            within = timedelta(seconds=max(rest, 0.001)) if ledger.worth_writing else self._pace.idle
            await self._more(within)
            await self._write_if_due(ledger)

    async def tell_new(self) -> int:
        """Tell the next page of what is new, and give how many that were: 0 where there are none."""
        page = await self._feed.read(self.cursor, limit=self._pace.page)
        if not page:
            return 0
        groups, broken = self._grouped(page)
        mine = [told for group in groups.values() for told in group]
        if len(groups) > 1:
            mine.sort(key=lambda told: told.cursor)
        now = Round(turn=Turn.FRESH, ledger=self._new, behind=await self._behind(mine))
        self._new.take(mine, upto=page[-1].cursor)
        for failure in broken:
            self._new.fail(failure)
        await self._sending.send(now, groups)
        self._put_aside_the_rest(now)
        self.cursor = max(self.cursor, self._new.cursor or 0)
        await self._write_if_due(self._new)
        return len(page)

    def _put_aside_the_rest(self, now: Round) -> None:
        """Owe what is open still and would hold up the cursor: all of it where lanes were too slow for the round."""
        at = self._clock()
        for told in list(now.ledger.open.values()) if now.over else now.ledger.passed_over():
            # What is on its way comes again soon only where we come to an end before it does.
            now.put_aside(told, at + self._pace.finish if told.cursor in now.sending else at)

    def _grouped(self, events: Sequence[Told]) -> tuple[dict[str, list[Told]], list[Failure]]:
        """Sort events by lanes, without those that are not for the sink; where it cannot tell, none ever will be."""
        groups: dict[str, list[Told]] = defaultdict(list)
        broken: list[Failure] = []
        for told in events:
            try:
                lane = self._sink.lane(told)
            except Exception as error:  # noqa: BLE001 - one event that a sink cannot read holds up no other
                said = f"it broke with {type(error).__name__} when asked where this goes"
                task_id = None if told.task is None else told.task.id
                broken.append(Failure(cursor=told.cursor, task_id=task_id, attempts=1, error=said, next_at=None))
            else:
                if lane is not None:
                    groups[lane].append(told)
        return groups, broken

    async def _behind(self, events: Sequence[Told]) -> dict[str, datetime]:
        if not self._owing or not events:
            return {}
        return await self._outbox.waiting(self._sink.name, {told.task.id for told in events if told.task is not None})

    async def _more(self, within: timedelta) -> None:
        """Wait for more events."""
        if self._feed.dismissed:
            await self._pause(Turn.FRESH, within)
            return
        waits = [
            asyncio.create_task(self._feed.beyond(self.cursor, within=within)),
            asyncio.create_task(self._wakes[Turn.FRESH].wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        self._wakes[Turn.FRESH].clear()

    # ---- what is owed

    async def _debts(self) -> None:
        await self.hurry()
        closed = self._closed_for(Turn.OWED)
        if closed is None and await self.tell_owed():
            return
        writes = self._owings
        due = await self._outbox.next_due(self._sink.name)
        if due is None and writes == self._owings:
            self._owing = False
        least = self._pace.idle if self._sending.flying else self._pace.settle
        wait = self._pace.idle if due is None else max(due - self._clock(), least)
        await self._pause(Turn.OWED, max(wait, closed or timedelta()))

    async def hurry(self) -> None:
        """Make due what waits, where a receiver was seen to be up again."""
        if self._sending.opened and self._time() - self._hurried_at >= self._pace.hurry.total_seconds():
            self._sending.opened = False
            self._hurried_at = self._time()
            await self._outbox.hurry(self._sink.name, now=self._clock())

    async def tell_owed(self) -> bool:
        """Tell what is due. False where there is none, or none may be told."""
        # What is still on its way, although its round is over, is written down when it arrives, and not before.
        flying = set(self._sending.flying)
        due = await self._outbox.due(self._sink.name, now=self._clock(), limit=self._pace.page)
        due = [owed for owed in due if owed.told.cursor not in flying]
        if not due:
            return False
        events = [owed.told for owed in due]
        groups, broken = self._grouped(events)
        now = Round(turn=Turn.OWED, ledger=self._owed, owed={owed.told.cursor: owed for owed in due})
        for failure in broken:
            self._owed.fail(failure)
        wanted = {told.cursor for group in groups.values() for told in group} | {one.cursor for one in broken}
        for told in events:
            if told.cursor not in wanted:
                self._owed.drop(told.cursor)
        await self._sending.send(now, groups)
        worked = self._owed.worth_writing
        if worked:
            await self._write(self._owed)
        return worked

    # ---- waiting, and writing down

    async def _loop(self, step: Callable[[], Awaitable[None]]) -> None:
        """Take step after step until the end; a database that is away is waited for."""
        while not self._ended.is_set():
            try:
                await step()
            except HomingError as error:
                self._say(error.detail)
                await self._until_end(self._pace.idle)

    def _may(self) -> bool:
        if self._time() >= self._held_until:
            self.end(lost=True)
        return not self._ended.is_set()

    def _closed_for(self, turn: Turn) -> timedelta | None:
        """Give how long a sink as a whole is to be left alone, None where it may be told something."""
        lane = self._sending.lanes.of(self._sink.name)
        now = self._clock()
        if lane.room(turn, now):
            return None
        ready_at = lane.ready_at(turn)
        return self._pace.idle if ready_at is None or ready_at <= now else ready_at - now

    async def _pause(self, turn: Turn, most: timedelta) -> None:
        """Wait, but look again soon: clocks may be set."""
        wake = self._wakes[turn]
        seconds = min(most, self._pace.idle).total_seconds()
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await wake.wait()
            except TimeoutError:
                return
        wake.clear()

    async def _until_end(self, most: timedelta) -> None:
        try:
            async with asyncio.timeout(most.total_seconds()):
                await self._ended.wait()
        except TimeoutError:
            return

    def _stir(self) -> None:
        for wake in self._wakes.values():
            wake.set()

    async def _write_if_due(self, ledger: Ledger) -> None:
        rest = self._pace.settle if ledger.worth_writing else PASSED_OVER
        if ledger.failed or (ledger.unwritten and self._time() - ledger.at >= rest.total_seconds()):
            await self._write(ledger)

    async def _write(self, ledger: Ledger) -> None:
        """Write accounts down, once the database lets us, unless the sink is lost meanwhile."""
        async with self._writing:
            while not self._lost:
                settled = self._settled(ledger)
                owing = any(failure.next_at is not None for failure in settled.failed)
                self._note_owing(owing)
                try:
                    ours = await self._outbox.settle(self._sink.name, settled, owner=self._owner, now=self._clock())
                except HomingError as error:
                    self._say(error.detail)
                    if self._ended.is_set():
                        return
                    await self._until_end(self._pace.idle)
                    continue
                # Again: whoever looked meanwhile may have come just before it was committed.
                self._note_owing(owing)
                self._say("")
                ledger.written(settled, at=self._time())
                if not ours:
                    self.end(lost=True)
                given_up = sum(failure.next_at is None for failure in settled.failed)
                if ours and given_up:
                    log.warning("sink %s: %d given up, see homing deliveries --dead", self._sink.name, given_up)
                if self._sending.gone:
                    log.warning("sink %s wants no more and is off: %s", self._sink.name, settled.error)
                    self.end()
                if settled.failed or self._sending.opened:
                    self._stir()
                return

    def _note_owing(self, owing: bool) -> None:  # noqa: FBT001 - what was found
        if owing:
            self._owing = True
            self._owings += 1

    def _settled(self, ledger: Ledger) -> Settled:
        sending = self._sending
        return ledger.settled(failures=sending.failures, retry_at=sending.lanes.retry_at, off=sending.gone)

    def _say(self, trouble: str) -> None:
        """Log what is wrong with the database, once."""
        if trouble and trouble != self._trouble:
            log.warning("what the sink %s was told cannot be written down: %s", self._sink.name, trouble)
        self._trouble = trouble
