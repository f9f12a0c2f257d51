"""Sends the events of one round. Endpoints are independent. A wave holds each task at most once."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from tracker.delivery import backoff
from tracker.delivery.circuit import Circuits, Turn
from tracker.delivery.progress import Progress
from tracker.delivery.sinks.base import Outcome, Sink
from tracker.delivery.timing import RelayTiming
from tracker.model.event import Found, PublishedEvent, UnreadableEvent
from tracker.model.sinks import Failure
from tracker.storage.progress_store import PendingDelivery

log: Final = logging.getLogger("homing.relay")


@dataclass(slots=True, kw_only=True)
class Round:
    """The events that one queue sends now.

    ``behind`` maps each task with a pending delivery to the time when the delivery is due. ``sending`` holds the events
    in flight at endpoints that the round need not wait for. Once the round is ``over``, their outcomes are recorded
    separately.
    """

    turn: Turn
    progress: Progress
    pending: Mapping[int, PendingDelivery] = field(default_factory=dict)
    behind: dict[str, datetime] = field(default_factory=dict)
    sending: set[int] = field(default_factory=set)
    over: bool = False

    def attempts(self, event: PublishedEvent) -> int:
        delivery = self.pending.get(event.cursor)
        return 0 if delivery is None else delivery.attempts

    def put_aside(self, event: PublishedEvent, until: datetime) -> None:
        """Make an event a pending delivery, and with it the later events of its task."""
        self.progress.put_aside(event, until=until, attempts=self.attempts(event))
        if event.task is not None:
            self.behind[event.task.id] = until


class Dispatcher:
    """Sends to one sink, and keeps the state of its endpoints.

    ``may`` returns whether this process may still send. ``write`` records progress. ``failures`` counts the failures
    since the last success. ``chance`` returns numbers in [0, 1).
    """

    def __init__(
        self,
        sink: Sink,
        *,
        may: Callable[[], bool],
        write: Callable[[Progress], Awaitable[None]],
        time: Callable[[], float],
        clock: Callable[[], datetime],
        chance: Callable[[], float],
        timing: RelayTiming,
    ) -> None:
        self._sink = sink
        self._may = may
        self._write = write
        self._time = time
        self._clock = clock
        self._chance = chance
        self._timing = timing
        self.circuits = Circuits(chance)
        # The calls that continue after their round, and their events until the outcomes are recorded.
        self.late: set[asyncio.Task[None]] = set()
        self.in_flight: set[int] = set()
        self.failures = 0
        self.delivered_at: datetime | None = None
        # Endpoints that work again, until their pending deliveries are made due.
        self.recovered: set[str] = set()
        # The reason why the endpoint accepts no more events, once it is known.
        self.gone = ""

    async def send(self, now: Round, groups: Mapping[str, Sequence[PublishedEvent]]) -> None:
        """Send events in order. The keys of ``groups`` are the endpoints.

        An event that cannot be sent becomes a pending delivery. If the endpoint is the whole sink, the event stays
        after the cursor.
        """
        if not groups:
            return
        if groups.keys() == {self._sink.name}:
            await self._chain(now, self._sink.name, groups[self._sink.name], self._sink.width)
        else:
            await self._side_by_side(now, groups)

    async def _side_by_side(self, now: Round, groups: Mapping[str, Sequence[PublishedEvent]]) -> None:
        """Share the width among the endpoints, and do not wait for slow ones."""
        width = self._sink.width
        while len(self.late) >= width:
            await asyncio.wait(self.late, return_when=asyncio.FIRST_COMPLETED)
        share = max(width // len(groups), 1)
        room = width // share
        # If there are more, endpoints without an answer share half of the slots. So silent endpoints cannot block
        # the others.
        few = room if len(groups) + len(self.late) <= room else max(room // 2 - len(self.late), 1)
        turns = (asyncio.Semaphore(few), asyncio.Semaphore(room))
        running = {
            endpoint: asyncio.create_task(self._slotted(turns, now, endpoint, groups[endpoint], share))
            for endpoint in groups
        }
        try:
            await asyncio.wait(running.values(), timeout=self._timing.grace.total_seconds())
        except asyncio.CancelledError:
            await _cancelled(running.values())
            raise
        done = {endpoint: task for endpoint, task in running.items() if task.done()}
        for endpoint, task in running.items() - done.items():
            now.over = True
            self._leave_behind(task, {event.cursor for event in groups[endpoint]} & now.sending)
        for endpoint, task in running.items():
            self.circuits.note_speed(endpoint, slow=task in self.late, now=self._clock())
        for task in done.values():
            task.result()

    def _leave_behind(self, task: asyncio.Task[None], in_flight: set[int]) -> None:
        if in_flight:
            self.in_flight |= in_flight
            self.late.add(task)
            task.add_done_callback(self._caught_up)
        else:
            # This endpoint got no slot. Another round sends its events.
            task.cancel()

    def _caught_up(self, task: asyncio.Task[None]) -> None:
        self.late.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a late delivery to sink %s failed with %s", self._sink.name, type(error).__name__)

    async def _slotted(
        self,
        turns: tuple[asyncio.Semaphore, asyncio.Semaphore],
        now: Round,
        endpoint: str,
        events: Sequence[PublishedEvent],
        width: int,
    ) -> None:
        few, slots = turns
        async with nullcontext() if self.circuits.of(endpoint).prompt else few, slots:
            await self._chain(now, endpoint, events, width)

    async def _chain(self, now: Round, endpoint: str, events: Sequence[PublishedEvent], width: int) -> None:
        whole = endpoint == self._sink.name
        pending = events
        while pending and self._goes_on(now):
            room = min(self.circuits.of(endpoint).room(now.turn, self._clock()), width)
            if not room:
                break
            wave, pending = _wave(now, pending, room)
            if not wave:
                return
            now.sending.update(event.cursor for event in wave)
            outcomes = await self._sent(endpoint, wave)
            now.sending.difference_update(event.cursor for event in wave)
            if now.over:
                await self._note_late(now, endpoint, wave, outcomes)
                return
            self._note(now, endpoint, wave, outcomes)
            if whole and pending and self._time() - now.progress.at >= self._timing.settle.total_seconds():
                await self._write(now.progress)
        if not whole and self._goes_on(now):
            self._leave(now, endpoint, pending)

    def _leave(self, now: Round, endpoint: str, events: Sequence[PublishedEvent]) -> None:
        """Make pending deliveries of the events for which an endpoint has no free slot.

        Dead-letter old events if the endpoint has been down for days.
        """
        at = self._clock()
        until = self.circuits.aside_until(endpoint, at)
        open_since = self.circuits.of(endpoint).open_since
        for event in events:
            delivery = now.pending.get(event.cursor)
            if delivery is not None and backoff.in_vain(
                first_at=delivery.first_at, open_since=open_since, delivered_at=self.delivered_at, now=at
            ):
                now.progress.fail(_dead_lettered(delivery))
            else:
                now.put_aside(event, until)

    def _goes_on(self, now: Round) -> bool:
        return self._may() and not (now.over or self.gone)

    async def _sent(self, endpoint: str, wave: Sequence[PublishedEvent]) -> Sequence[Outcome]:
        """Send one wave. Each event gets an outcome within a bounded time, whatever the sink does."""
        self.circuits.sending(endpoint, len(wave))
        limit = asyncio.timeout(self._timing.send.total_seconds())
        try:
            async with limit:
                outcomes = await self._sink.send(wave)
        except Exception as error:  # noqa: BLE001 - treat any error of a sink as a failed delivery
            # Show only the type, because the message of a foreign exception may contain a secret.
            said = "no answer in time" if limit.expired() else f"it broke with {type(error).__name__}"
        except BaseException:
            self.circuits.sending(endpoint, -len(wave))
            raise
        else:
            if len(outcomes) == len(wave):
                return outcomes
            said = f"it returned outcomes for {len(outcomes)} of {len(wave)} events"
        return [Outcome(delivered=False, error=said)] * len(wave)

    async def _note_late(
        self, now: Round, endpoint: str, wave: Sequence[PublishedEvent], outcomes: Sequence[Outcome]
    ) -> None:
        """Record outcomes that arrived after the end of the round. By then, those events are pending deliveries."""
        own = Round(turn=now.turn, progress=Progress(None, at=self._time()), pending=now.pending)
        self._note(own, endpoint, wave, outcomes, was_pending=True)
        try:
            await self._write(own.progress)
        finally:
            # An outcome that could not be recorded is sent again.
            self.in_flight.difference_update(event.cursor for event in wave)

    def _note(
        self,
        now: Round,
        endpoint: str,
        wave: Sequence[PublishedEvent],
        outcomes: Sequence[Outcome],
        *,
        was_pending: bool | None = None,
    ) -> None:
        at = self._clock()
        failed_before = self.circuits.of(endpoint).failing
        cursors = [event.cursor for event in wave]
        if self.circuits.note(endpoint, cursors, outcomes, turn=now.turn, now=at):
            self.recovered.add(endpoint)
        delivered = [event.cursor for event, outcome in zip(wave, outcomes, strict=True) if outcome.delivered]
        now.progress.deliver(delivered, was_pending=now.turn is Turn.PENDING if was_pending is None else was_pending)
        if delivered:
            self.failures, self.delivered_at = 0, at
        if len(delivered) < len(wave):
            for event, outcome in zip(wave, outcomes, strict=True):
                if not outcome.delivered:
                    self._fail(now, event, outcome, at, self.circuits.probe_by(endpoint))
        if failed_before is not self.circuits.of(endpoint).failing:
            state = "works again" if failed_before else f"fails and is retried: {now.progress.error}"
            log.warning("sink %s%s %s", self._sink.name, "" if endpoint == self._sink.name else f" ({endpoint})", state)

    def _fail(
        self, now: Round, event: PublishedEvent, outcome: Outcome, at: datetime, probe_by: datetime | None
    ) -> None:
        delivery = now.pending.get(event.cursor)
        attempts = now.attempts(event) + 1
        first_at = delivery.first_at if delivery is not None and delivery.attempts else at
        task_id = event.task_id
        self.failures += 1
        next_at: datetime | None = at
        if outcome.hopeless or backoff.spent(attempts, first_at=first_at, delivered_at=self.delivered_at, now=at):
            next_at = None
        elif not outcome.gone:
            next_at = at + backoff.retry_in(attempts, chance=self._chance(), retry_after=outcome.retry_after)
            next_at = next_at if probe_by is None else min(next_at, probe_by)
        error = outcome.error or "the sink did not accept it"
        if outcome.gone:
            self.gone = error
        now.progress.fail(
            Failure(cursor=event.cursor, task_id=task_id, attempts=attempts, error=error, next_at=next_at)
        )
        if next_at is not None and task_id is not None:
            now.behind[task_id] = next_at


def by_endpoint(sink: Sink, events: Sequence[Found]) -> tuple[dict[str, list[PublishedEvent]], list[Failure]]:
    """Group events by endpoint, without events that are not for the sink.

    Dead-letter an event that cannot be read, or whose endpoint the sink cannot name. It blocks no other event.
    """
    groups: dict[str, list[PublishedEvent]] = defaultdict(list)
    broken: list[Failure] = []
    for event in events:
        if isinstance(event, UnreadableEvent):
            broken.append(_unsendable(event, f"the event cannot be read: {event.why}"))
            continue
        try:
            endpoint = sink.endpoint(event)
        except Exception as error:  # noqa: BLE001 - the same event would fail again
            broken.append(_unsendable(event, f"its endpoint function raised {type(error).__name__}"))
        else:
            if endpoint is not None:
                groups[endpoint].append(event)
    return groups, broken


def _unsendable(event: Found, error: str) -> Failure:
    return Failure(cursor=event.cursor, task_id=event.task_id, attempts=1, error=error, next_at=None)


def _wave(
    now: Round, pending: Sequence[PublishedEvent], room: int
) -> tuple[list[PublishedEvent], list[PublishedEvent]]:
    """Return the next events, each of another task, and the rest. Put aside events that wait for an earlier one."""
    wave: list[PublishedEvent] = []
    left: list[PublishedEvent] = []
    tasks: set[str] = set()
    for place, event in enumerate(pending):
        if len(wave) == room:
            left.extend(pending[place:])
            break
        task_id = event.task_id
        if task_id is None:
            wave.append(event)
        elif (until := now.behind.get(task_id)) is not None:
            now.put_aside(event, until)
        elif task_id in tasks:
            left.append(event)
        else:
            tasks.add(task_id)
            wave.append(event)
    return wave, left


def _dead_lettered(delivery: PendingDelivery) -> Failure:
    event, error = delivery.event, "its endpoint has accepted nothing for days"
    return Failure(cursor=event.cursor, task_id=event.task_id, attempts=delivery.attempts, error=error, next_at=None)


async def _cancelled(tasks: Collection[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
