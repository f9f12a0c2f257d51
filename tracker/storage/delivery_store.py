"""Pending deliveries and dead letters, for the operator's commands."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, exists, or_, select, update

from tracker.model.event import Found, PublishedEvent
from tracker.model.records import AuditEntry
from tracker.model.sinks import Delivery, Failure, ReplayFilter
from tracker.storage import rows
from tracker.storage.audit_store import AuditStore
from tracker.storage.engine.database import Database
from tracker.storage.engine.table_store import TableStore, read_transaction
from tracker.storage.event_rows import READING, event_from_row
from tracker.storage.event_store import events_at
from tracker.storage.progress_store import PENDING, lock_sink, make_followers_due, write_failures
from tracker.storage.tables import DELIVERIES, EVENTS, SINKS

# The number of events that one transaction reads.
STEP_SIZE: Final = 1_000
DEAD_LETTERED: Final = "dead-lettered by an operator"

# One of many transactions: ``step(connection, after=cursor)`` returns a count, and the cursor to continue from.
Step = Callable[..., tuple[int, int | None]]


class DeliveryStore(TableStore):
    """The pending deliveries and the dead letters of all sinks."""

    def __init__(self, database: Database, audit: AuditStore) -> None:
        super().__init__(database)
        self._audit = audit

    @read_transaction
    def page(
        self,
        connection: Connection,
        *,
        sink: str | None = None,
        task_id: str | None = None,
        dead: bool | None = None,
        after: tuple[int, str] | None = None,
        limit: int,
    ) -> Sequence[Delivery]:
        """Return pending deliveries and dead letters by event and sink, after a position (cursor, sink)."""
        column = DELIVERIES.c
        wanted: list[ColumnElement[bool]] = []
        if sink is not None:
            wanted.append(column.sink == sink)
        if task_id is not None:
            wanted.append(column.task_id == task_id)
        if dead is not None:
            wanted.append(~PENDING if dead else PENDING)
        if after is not None:
            cursor, name = after
            wanted.append(or_(column.event_id > cursor, and_(column.event_id == cursor, column.sink > name)))
        order = (column.event_id, column.sink)
        found = connection.execute(select(DELIVERIES).where(*wanted).order_by(*order).limit(limit)).all()
        readable = {one.cursor: one for one in events_at(connection, sorted({row.event_id for row in found}))}
        return [_delivery(row, readable[row.event_id]) for row in found if row.event_id in readable]

    # Each records ``audit`` in the first of its transactions.

    async def replay(
        self,
        name: str,
        wanted: ReplayFilter,
        takes: Callable[[PublishedEvent], bool],
        *,
        now: datetime,
        dry_run: bool,
        audit: AuditEntry | None = None,
    ) -> int:
        """Make past events pending that match the filter and that the sink ``takes``. Return how many there are.

        Events after the cursor of the sink are not included, because they are delivered anyway.
        """

        def step(connection: Connection, *, after: int) -> tuple[int, int | None]:
            cursor = connection.execute(select(SINKS.c.cursor).where(SINKS.c.name == name)).scalar_one_or_none()
            if cursor is None:
                return 0, None
            conditions = [EVENTS.c.id > after, EVENTS.c.id <= cursor, *_replayed(name, wanted)]
            found = connection.execute(READING.where(*conditions).order_by(EVENTS.c.id).limit(STEP_SIZE))
            events = [event_from_row(row) for row in found]
            taken = [event for event in events if isinstance(event, PublishedEvent) and takes(event)]
            if not dry_run:
                lock_sink(connection, name)
                pending = [
                    Failure(cursor=event.cursor, task_id=event.task_id, attempts=0, error="", next_at=now)
                    for event in taken
                ]
                write_failures(connection, name, pending, rows.stamp(now), revive=True)
            return len(taken), events[-1].cursor if len(events) == STEP_SIZE else None

        return await self._step_by_step(step, dry_run=dry_run, audit=audit)

    async def dead_letter(
        self,
        name: str,
        *,
        task_id: str | None = None,
        event_id: str | None = None,
        now: datetime,
        dry_run: bool,
        audit: AuditEntry | None = None,
    ) -> int:
        """Dead-letter the pending deliveries of a sink, optionally of one task or event only. Return the number.

        A delivery that waited for one of them becomes due.
        """

        def step(connection: Connection, *, after: int) -> tuple[int, int | None]:
            if not dry_run:
                lock_sink(connection, name)
            column = DELIVERIES.c
            wanted: list[ColumnElement[bool]] = [column.sink == name, PENDING, column.event_id > after]
            if task_id is not None:
                wanted.append(column.task_id == task_id)
            if event_id is not None:
                # The ID of a task's event contains the task ID. No column has the ID of an alarm's event.
                wanted.append(or_(column.task_id == event_id.rpartition("-")[0], column.task_id.is_(None)))
            statement = select(column.event_id, column.error).where(*wanted).order_by(column.event_id)
            found = connection.execute(statement.limit(STEP_SIZE)).all()
            errors = {row.event_id: row.error for row in found}
            if event_id is not None:
                readable = events_at(connection, list(errors))
                errors = {one.cursor: errors[one.cursor] for one in readable if one.id == event_id}
            if errors and not dry_run:
                _mark_dead(connection, name, errors)
                make_followers_due(connection, name, list(errors), rows.stamp(now))
            return len(errors), found[-1].event_id if len(found) == STEP_SIZE else None

        return await self._step_by_step(step, dry_run=dry_run, audit=audit)

    async def _step_by_step(self, step: Step, *, dry_run: bool, audit: AuditEntry | None) -> int:
        """Run a step in short transactions, from cursor to cursor, and return the sum of its counts.

        The first transaction records ``audit`` before the count is known, so that a crash leaves nothing unrecorded.
        """
        total = 0
        after: int | None = 0
        while after is not None:
            if dry_run:
                count, after = await self.database.read(step, after=after)
            else:
                count, after = await self._audit.run(partial(step, after=after), partial(_always, audit))
                audit = None
            total += count
        return total


def _replayed(name: str, wanted: ReplayFilter) -> list[ColumnElement[bool]]:
    """Return the conditions of the events that match a filter."""
    conditions = []
    if wanted.task_id is not None:
        conditions.append(EVENTS.c.task_id == wanted.task_id)
    if wanted.since is not None:
        conditions.append(EVENTS.c.at >= rows.stamp(wanted.since))
    if wanted.until is not None:
        conditions.append(EVENTS.c.at < rows.stamp(wanted.until))
    if wanted.dead:
        row = DELIVERIES.alias("row")
        conditions.append(exists().where(row.c.sink == name, row.c.event_id == EVENTS.c.id, row.c.next_at.is_(None)))
    return conditions


def _mark_dead(connection: Connection, name: str, errors: Mapping[int, str]) -> None:
    """Make the deliveries of some events dead letters. Each keeps its last error."""
    itself = and_(DELIVERIES.c.sink == name, DELIVERIES.c.event_id == bindparam("event"))
    before = {event: error.removeprefix(DEAD_LETTERED).removeprefix(": ") for event, error in errors.items()}
    connection.execute(
        update(DELIVERIES).where(itself).values(next_at=None, error=bindparam("said")),
        [
            {"event": event, "said": f"{DEAD_LETTERED}: {error}" if error else DEAD_LETTERED}
            for event, error in before.items()
        ],
    )


def _delivery(row: Row[Any], event: Found) -> Delivery:
    return Delivery(
        sink=row.sink,
        cursor=row.event_id,
        event_id=event.id,
        type=event.type,
        task_id=row.task_id,
        attempts=row.attempts,
        error=row.error,
        first_at=rows.moment(row.first_at),
        last_at=rows.moment(row.last_at),
        next_at=rows.optional_moment(row.next_at),
    )


def _always(entry: AuditEntry | None, _: object) -> AuditEntry | None:
    return entry
