"""Sending the events of one round: in waves in which no task comes twice, each lane by itself."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from tracker.delivery import backoff
from tracker.delivery.circuit import Lanes, Turn
from tracker.delivery.progress import Ledger
from tracker.delivery.sinks.base import Outcome, Sink
from tracker.delivery.timing import Pace
from tracker.model.event import Told
from tracker.model.sinks import Failure
from tracker.storage.sink_progress import Owed

log: Final = logging.getLogger("homing.relay")


@dataclass(slots=True, kw_only=True)
class Round:
    """What one loop sends now.

    ``behind`` are tasks that have a delivery waiting, and until when. ``sending`` is what is on its way in a lane that
    may be left behind; once the round is ``over``, its outcome goes into accounts of its own.
    """

    turn: Turn
    ledger: Ledger
    owed: Mapping[int, Owed] = field(default_factory=dict)
    behind: dict[str, datetime] = field(default_factory=dict)
    sending: set[int] = field(default_factory=set)
    over: bool = False

    def attempts(self, told: Told) -> int:
        owed = self.owed.get(told.cursor)
        return 0 if owed is None else owed.attempts

    def put_aside(self, told: Told, until: datetime) -> None:
        """Leave an event to later, and those of its task that come after it too."""
        self.ledger.put_aside(told, until=until, attempts=self.attempts(told))
        if told.task is not None:
            self.behind[told.task.id] = until


class Sending:
    """Sends to one sink, and keeps what is known of it.

    ``may`` says whether something may still be sent, ``write`` writes accounts down, ``chance`` gives numbers in
    [0, 1). ``failures`` counts those since the last success.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        may: Callable[[], bool],
        write: Callable[[Ledger], Awaitable[None]],
        time: Callable[[], float],
        clock: Callable[[], datetime],
        chance: Callable[[], float],
        pace: Pace,
    ) -> None:
        self._sink = sink
        self._may = may
        self._write = write
        self._time = time
        self._clock = clock
        self._chance = chance
        self._pace = pace
        self.lanes = Lanes(chance)
        # What was left behind by its round, and its events, until that is written down.
        self.late: set[asyncio.Task[None]] = set()
        self.flying: set[int] = set()
        self.failures = 0
        self.delivered_at: datetime | None = None
        # Lanes that were closed and took something, until what waits for them is made due.
        self.opened: set[str] = set()
        # Why the receiver wants no more, once it does not.
        self.gone = ""

    async def send(self, now: Round, groups: Mapping[str, Sequence[Told]]) -> None:
        """Send events, in their order, to the lanes that they are grouped by.

        What cannot be sent is put aside; only where the lane is the sink as a whole, it stays open.
        """
        if not groups:
            return
        if groups.keys() == {self._sink.name}:
            await self._chain(now, self._sink.name, groups[self._sink.name], self._sink.width)
        else:
            await self._side_by_side(now, groups)

    async def _side_by_side(self, now: Round, groups: Mapping[str, Sequence[Told]]) -> None:
        """Return each lane its share of the width, and leave behind those that take too long."""
        width = self._sink.width
        while len(self.late) >= width:
            await asyncio.wait(self.late, return_when=asyncio.FIRST_COMPLETED)
        share = max(width // len(groups), 1)
        room = width // share
        # Where there are more, those who have yet to show that they answer share half of it: many who never do keep
        # nobody else out.
        few = room if len(groups) + len(self.late) <= room else max(room // 2 - len(self.late), 1)
        turns = (asyncio.Semaphore(few), asyncio.Semaphore(room))
        running = {lane: asyncio.create_task(self._slotted(turns, now, lane, groups[lane], share)) for lane in groups}
        try:
            await asyncio.wait(running.values(), timeout=self._pace.grace.total_seconds())
        except asyncio.CancelledError:
            await _cancelled(running.values())
            raise
        done = {lane: task for lane, task in running.items() if task.done()}
        for lane, task in running.items() - done.items():
            now.over = True
            self._leave_behind(task, {told.cursor for told in groups[lane]} & now.sending)
        for lane, task in running.items():
            self.lanes.pace(lane, slow=task in self.late, now=self._clock())
        for task in done.values():
            task.result()

    def _leave_behind(self, task: asyncio.Task[None], flying: set[int]) -> None:
        if flying:
            self.flying |= flying
            self.late.add(task)
            task.add_done_callback(self._caught_up)
        else:
            # It had no turn: its events are left to another round.
            task.cancel()

    def _caught_up(self, task: asyncio.Task[None]) -> None:
        self.late.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("what was sent late to the sink %s ended with %s", self._sink.name, type(error).__name__)

    async def _slotted(
        self,
        turns: tuple[asyncio.Semaphore, asyncio.Semaphore],
        now: Round,
        lane: str,
        events: Sequence[Told],
        width: int,
    ) -> None:
        few, slots = turns
        async with nullcontext() if self.lanes.of(lane).prompt else few, slots:
            await self._chain(now, lane, events, width)

    async def _chain(self, now: Round, lane: str, events: Sequence[Told], width: int) -> None:
        whole = lane == self._sink.name
        pending = events
        while pending and self._goes_on(now):
            room = min(self.lanes.of(lane).room(now.turn, self._clock()), width)
            if not room:
                break
            wave, pending = _wave(now, pending, room)
            if not wave:
                return
            now.sending.update(told.cursor for told in wave)
            outcomes = await self._sent(lane, wave)
            now.sending.difference_update(told.cursor for told in wave)
            if now.over:
                await self._note_late(now, lane, wave, outcomes)
                return
            self._note(now, lane, wave, outcomes)
            if whole and pending and self._time() - now.ledger.at >= self._pace.settle.total_seconds():
                await self._write(now.ledger)
        if not whole and self._goes_on(now):
            self._leave(now, lane, pending)

    def _leave(self, now: Round, lane: str, events: Sequence[Told]) -> None:
        """Put aside what a lane has no room for; where it is down for days, give up what was owed so long."""
        at = self._clock()
        until = self.lanes.aside_until(lane, at)
        closed_at = self.lanes.of(lane).closed_at
        for told in events:
            owed = now.owed.get(told.cursor)
            if owed is not None and backoff.in_vain(
                first_at=owed.first_at, closed_at=closed_at, delivered_at=self.delivered_at, now=at
            ):
                now.ledger.fail(_given_up(owed))
            else:
                now.put_aside(told, until)

    def _goes_on(self, now: Round) -> bool:
        return self._may() and not (now.over or self.gone)

    async def _sent(self, lane: str, wave: Sequence[Told]) -> Sequence[Outcome]:
        """Send one wave; whatever a sink does, within limits there is an outcome for each event."""
        self.lanes.sending(lane, len(wave))
        limit = asyncio.timeout(self._pace.send.total_seconds())
        try:
            async with limit:
                outcomes = await self._sink.send(wave)
        except Exception as error:  # noqa: BLE001 - a sink that breaks its word is one that fails
            # By type only: the message of a foreign exception may quote anything.
            said = "no answer in time" if limit.expired() else f"it broke with {type(error).__name__}"
        except BaseException:
            self.lanes.sending(lane, -len(wave))
            raise
        else:
            if len(outcomes) == len(wave):
                return outcomes
            said = f"it told of {len(outcomes)} of {len(wave)} events what became of them"
        return [Outcome(delivered=False, error=said)] * len(wave)

    async def _note_late(self, now: Round, lane: str, wave: Sequence[Told], outcomes: Sequence[Outcome]) -> None:
        """Note what came after its round was over: those events have rows of their own by now."""
        own = Round(turn=now.turn, ledger=Ledger(None, at=self._time()), owed=now.owed)
        self._note(own, lane, wave, outcomes, owed=True)
        try:
            await self._write(own.ledger)
        finally:
            # What could not be written down is sent again.
            self.flying.difference_update(told.cursor for told in wave)

    def _note(
        self, now: Round, lane: str, wave: Sequence[Told], outcomes: Sequence[Outcome], *, owed: bool | None = None
    ) -> None:
        at = self._clock()
        failed_before = self.lanes.of(lane).failing
        cursors = [told.cursor for told in wave]
        if self.lanes.note(lane, cursors, outcomes, turn=now.turn, now=at):
            self.opened.add(lane)
        delivered = [told.cursor for told, outcome in zip(wave, outcomes, strict=True) if outcome.delivered]
        now.ledger.deliver(delivered, owed=now.turn is Turn.OWED if owed is None else owed)
        if delivered:
            self.failures, self.delivered_at = 0, at
        if len(delivered) < len(wave):
            for told, outcome in zip(wave, outcomes, strict=True):
                if not outcome.delivered:
                    self._fail(now, told, outcome, at, self.lanes.probe_by(lane))
        if failed_before is not self.lanes.of(lane).failing:
            state = "works again" if failed_before else f"fails, and is tried again: {now.ledger.error}"
            log.warning("sink %s%s %s", self._sink.name, "" if lane == self._sink.name else f" ({lane})", state)

    def _fail(self, now: Round, told: Told, outcome: Outcome, at: datetime, probe_by: datetime | None) -> None:
        owed = now.owed.get(told.cursor)
        attempts = now.attempts(told) + 1
        first_at = owed.first_at if owed is not None and owed.attempts else at
        task_id = told.task_id
        self.failures += 1
        next_at: datetime | None = at
        if outcome.hopeless or backoff.spent(attempts, first_at=first_at, delivered_at=self.delivered_at, now=at):
            next_at = None
        elif not outcome.gone:
            next_at = at + backoff.again_in(attempts, chance=self._chance(), asked=outcome.retry_after)
            next_at = next_at if probe_by is None else min(next_at, probe_by)
        error = outcome.error or "it was not taken"
        if outcome.gone:
            self.gone = error
        now.ledger.fail(Failure(cursor=told.cursor, task_id=task_id, attempts=attempts, error=error, next_at=next_at))
        if next_at is not None and task_id is not None:
            now.behind[task_id] = next_at


def _wave(now: Round, pending: Sequence[Told], room: int) -> tuple[list[Told], list[Told]]:
    """Take the next events, each of another task; put aside what waits behind another, and give the rest too."""
    wave: list[Told] = []
    left: list[Told] = []
    tasks: set[str] = set()
    for place, told in enumerate(pending):
        if len(wave) == room:
            left.extend(pending[place:])
            break
        task_id = told.task_id
        if task_id is None:
            wave.append(told)
        elif (until := now.behind.get(task_id)) is not None:
            now.put_aside(told, until)
        elif task_id in tasks:
            left.append(told)
        else:
            tasks.add(task_id)
            wave.append(told)
    return wave, left


def _given_up(owed: Owed) -> Failure:
    event, error = owed.event, "its receiver has taken nothing for days"
    return Failure(cursor=event.cursor, task_id=event.task_id, attempts=owed.attempts, error=error, next_at=None)


async def _cancelled(tasks: Collection[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
