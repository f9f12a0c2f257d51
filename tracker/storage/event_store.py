"""The verbs over events and sinks; each is one transaction. Part of the store: ``Store.outbox``."""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from tracker.model.event import Found, PublishedEvent, UnreadableEvent
from tracker.model.records import AuditEntry
from tracker.model.sinks import Delivery, NewSink, ProgressUpdate, ReplayFilter, SinkState
from tracker.storage import events, sink_admin, sink_progress
from tracker.storage.audit import AuditStore
from tracker.storage.engine.continuity import given
from tracker.storage.engine.database import Database
from tracker.storage.recent import Recent, Written
from tracker.storage.sink_progress import PendingDelivery

log: Final = logging.getLogger("homing.events")
# Of so many events it is remembered that it was said that they cannot be read.
SAID: Final = 10_000


class EventStore:
    """Events in the order of their commits, and how far each sink is told of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._audit = AuditStore(database)
        self.recent = Recent()
        self._unreadable: set[int] = set()
        self._continuity = database.backend.continuity
        self._continuity.listen(self._start_over)

    # ---- events

    def keep(self, written: Written) -> None:
        """Remember what was just committed."""
        self.recent.keep(written)
        if written.numbered and written.events:
            self._continuity.see(written.events[-1].cursor)

    async def events(self, *, after: int, limit: int) -> Sequence[Found]:
        """Return the events after a cursor, in order."""
        found: Sequence[Found] | None = self.recent.after(after, limit=limit)
        if found is None:
            found = await self._database.read(events.read, after=after, limit=limit, recent=self.recent)
            self._say(found)
            if found:
                self._continuity.see(found[-1].cursor)
        return found

    async def latest(self) -> int:
        """Return the cursor of the newest event."""
        newest = await self._database.read(events.latest)
        self._continuity.see(newest)
        return newest

    async def given(self) -> int:
        """Return the greatest cursor that this database may have used; no event need be committed there."""
        return await self._database.read(given)

    async def horizon(self) -> int:
        """Return the cursor before which events have been deleted: whoever stopped before it missed something."""
        return await self._database.read(events.horizon)

    # ---- for the relay: what takes ``owner`` does nothing unless that holds the sink's lease

    async def register(self, sinks: Sequence[NewSink], *, now: datetime, newest: int | None = None) -> None:
        """Write down the sinks that are named; a new one begins at its beginning, after ``newest``, or now."""
        await self._database.write(sink_progress.register, sinks, now=now, newest=newest)

    async def claim(self, name: str, *, owner: str, now: datetime, lease: timedelta) -> SinkState | None:
        """Take or renew the lease of a sink; None where another process holds it. Its counts are left at 0."""
        return await self._database.write(sink_progress.claim, name, owner=owner, now=now, lease=lease)

    async def release(self, owner: str | None) -> None:
        """Release all leases held by ``owner``, or every lease if it is None (single-process SQLite)."""
        await self._database.write(sink_progress.release, owner)

    async def settle(self, name: str, settled: ProgressUpdate, *, owner: str, now: datetime) -> bool:
        """Write down what became of some events; False, and nothing, where the lease is not ours any more."""
        return await self._database.write(sink_progress.settle, name, settled, owner=owner, now=now)

    async def due(self, name: str, *, now: datetime, limit: int) -> Sequence[PendingDelivery]:
        """Return the deliveries that are due, longest due first; of a task only the first that waits."""
        owed = await self._database.read(sink_progress.due, name, now=now, limit=limit)
        self._say(one.event for one in owed)
        return owed

    async def next_due(self, name: str) -> datetime | None:
        """Return when the next delivery is due, of those that wait behind no other."""
        return await self._database.read(sink_progress.next_due, name)

    async def waiting(self, name: str, tasks: Collection[str]) -> dict[str, datetime]:
        """Give, of some tasks, those that have a delivery waiting, and until when; later events go behind it."""
        return await self._database.read(sink_progress.waiting, name, tasks)

    async def later(self, name: str, *, now: datetime, after: int, limit: int) -> Sequence[Found]:
        """Return the events of deliveries that are due later, in their order, those after a cursor."""
        return await self._database.read(sink_progress.later, name, now=now, after=after, limit=limit)

    async def hurry(self, name: str, *, now: datetime, events: Sequence[int] | None = None) -> None:
        """Make everything that waits due, or what waits of some events (cursors): the receiver is up again."""
        await self._database.write(sink_progress.hurry, name, now=now, events=events)

    # ---- for the operator

    async def states(self) -> Sequence[SinkState]:
        """Return every sink, by name."""
        return await self._database.read(sink_admin.states)

    async def deliveries(
        self,
        *,
        sink: str | None = None,
        task_id: str | None = None,
        dead: bool | None = None,
        after: tuple[int, str] | None = None,
        limit: int,
    ) -> Sequence[Delivery]:
        """Return deliveries that are owed or dead, by event and sink, those after a place (event's cursor, sink)."""
        return await self._database.read(
            sink_admin.deliveries, sink=sink, task_id=task_id, dead=dead, after=after, limit=limit
        )

    # Each records ``audit`` in the transaction that does it.

    async def switch(
        self, name: str, *, on: bool, now: datetime, from_now: bool = False, audit: AuditEntry | None = None
    ) -> bool:
        """Turn a sink on or off; ``from_now`` forgets what it has missed. False where there is none."""
        step = partial(sink_admin.switch, name=name, on=on, now=now, from_now=from_now)
        return await self._audit.run(step, lambda found: audit if found else None)

    async def remove(self, name: str, *, audit: AuditEntry | None = None) -> bool:
        """Forget a sink and what it is owed. False where there is none."""
        return await self._audit.run(partial(sink_admin.remove, name=name), lambda found: audit if found else None)

    async def replay(
        self,
        name: str,
        again: ReplayFilter,
        takes: Callable[[PublishedEvent], bool],
        *,
        now: datetime,
        dry_run: bool,
        audit: AuditEntry | None = None,
    ) -> int:
        """Owe a sink again what ``again`` says and it ``takes``; how many that are, or would be in a dry run."""
        step = partial(sink_admin.replay, name=name, again=again, takes=takes, now=now, dry_run=dry_run)
        return await self._step_by_step(step, dry_run=dry_run, audit=audit)

    async def give_up(
        self,
        name: str,
        *,
        task_id: str | None = None,
        event_id: str | None = None,
        now: datetime,
        dry_run: bool,
        audit: AuditEntry | None = None,
    ) -> int:
        """Make dead what a sink is owed, of a task or one event only; how many that are, or would be in a dry run."""
        step = partial(sink_admin.give_up, name=name, task_id=task_id, event_id=event_id, now=now, dry_run=dry_run)
        return await self._step_by_step(step, dry_run=dry_run, audit=audit)

    async def _step_by_step(
        self, step: Callable[..., tuple[int, int | None]], *, dry_run: bool, audit: AuditEntry | None
    ) -> int:
        """Go through what may be much in transactions that are short; give the sum of their counts.

        The first of them records it, before the count is known: a crash must not leave half of it unrecorded.
        """
        total = 0
        after: int | None = 0
        while after is not None:
            if dry_run:
                count, after = await self._database.read(step, after=after)
            else:
                count, after = await self._audit.run(partial(step, after=after), partial(_given, audit))
                audit = None
            total += count
        return total

    def _start_over(self) -> None:
        self.recent.clear()
        self._unreadable.clear()

    def _say(self, found: Iterable[Found]) -> None:
        """Log once, in one line, which events cannot be read."""
        unreadable = [one for one in found if isinstance(one, UnreadableEvent) and one.cursor not in self._unreadable]
        if not unreadable:
            return
        if len(self._unreadable) > SAID:
            self._unreadable.clear()
        self._unreadable.update(one.cursor for one in unreadable)
        one, more = unreadable[0], len(unreadable) - 1
        others = f" (and {more} more)" if more else ""
        log.error("the event %s (%s) cannot be read and is passed over: %s%s", one.id, one.type, one.why, others)


def _given(entry: AuditEntry | None, _: object) -> AuditEntry | None:
    return entry
