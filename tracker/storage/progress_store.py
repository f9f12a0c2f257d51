"""The progress of each sink: its cursor, and a delivery for each event that it did not accept at once.

A sink has one cursor, and a delivery row for each event up to it that is still pending or is a dead letter. So a
delivery that succeeds costs no row of its own, and a sink that is down costs one row, however many events wait behind
it. Only the process that holds the sink's lease records progress.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, delete, exists, func, or_, select, update

from tracker.model.event import Found
from tracker.model.sinks import Failure, ProgressUpdate
from tracker.storage import rows
from tracker.storage.engine.database import Database
from tracker.storage.engine.table_store import TableStore, read_transaction, write_transaction
from tracker.storage.engine.upserts import upsert
from tracker.storage.event_store import EventStore, events_at
from tracker.storage.tables import DELIVERIES, EVENTS, SINKS

# No delivery waits for longer: see delivery.backoff.
LONGEST_WAIT: Final = timedelta(hours=3)
PENDING: Final = DELIVERIES.c.next_at.is_not(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingDelivery:
    """An event whose next attempt is due, how many there were, and when the first was."""

    event: Found
    attempts: int
    first_at: datetime


class ProgressStore(TableStore):
    """What the relay reads and records about deliveries."""

    def __init__(self, database: Database, events: EventStore) -> None:
        super().__init__(database)
        self._events = events

    @write_transaction
    def record(self, connection: Connection, name: str, progress: ProgressUpdate, *, owner: str, now: datetime) -> bool:
        """Record what became of some events; False, and nothing, where ``owner`` no longer holds the sink's lease."""
        stamp = rows.stamp(now)
        # What an operator turned off meanwhile keeps none: failures say that it was the receiver (see SinkState).
        failures = case((SINKS.c.on, progress.failures), else_=SINKS.c.failures)
        values: dict[str, Any] = {"failures": failures, "retry_at": rows.optional_stamp(progress.retry_at)}
        mine = and_(SINKS.c.name == name, SINKS.c.lease_owner == owner)
        if progress.cursor is not None:
            values["cursor"] = progress.cursor
            mine = and_(mine, SINKS.c.cursor <= progress.cursor)
        if progress.delivered_count:
            values |= {"delivered": SINKS.c.delivered + progress.delivered_count, "delivered_at": stamp}
        if progress.error:
            values |= {"last_error": progress.error, "last_error_at": stamp}
        if progress.off:
            values |= {"on": False, "failures": max(progress.failures, 1)}
        if connection.execute(update(SINKS).where(mine).values(**values)).rowcount == 0:
            return False
        gone = [*progress.delivered, *(failure.cursor for failure in progress.failed if failure.next_at is None)]
        if gone:
            make_followers_due(connection, name, gone, stamp)
        if progress.delivered:
            done = and_(DELIVERIES.c.sink == name, DELIVERIES.c.event_id.in_(progress.delivered))
            connection.execute(delete(DELIVERIES).where(done))
        if progress.failed:
            write_failures(connection, name, progress.failed, stamp)
            _delay_followers(connection, name, progress.failed)
        return True

    async def due(self, name: str, *, now: datetime, limit: int) -> Sequence[PendingDelivery]:
        """Return the due deliveries, longest due first; of each task only the first pending one."""
        due = await self._due(name, now=now, limit=limit)
        self._events.log_unreadable(one.event for one in due)
        return due

    @read_transaction
    def _due(self, connection: Connection, name: str, *, now: datetime, limit: int) -> Sequence[PendingDelivery]:
        column = DELIVERIES.c
        # One that is planned further away than it can be was planned by a clock that was set back since.
        is_due = or_(column.next_at <= rows.stamp(now), column.next_at > rows.stamp(now + LONGEST_WAIT))
        found = connection.execute(
            select(column.event_id, column.attempts, column.first_at)
            .where(column.sink == name, is_due, ~_is_follower(name))
            .order_by(column.next_at, column.event_id)
            .limit(limit)
        ).all()
        readable = {one.cursor: one for one in events_at(connection, [row.event_id for row in found])} if found else {}
        return [
            PendingDelivery(event=readable[row.event_id], attempts=row.attempts, first_at=rows.moment(row.first_at))
            for row in found
            if row.event_id in readable
        ]

    @read_transaction
    def next_due(self, connection: Connection, name: str) -> datetime | None:
        """Return when the next delivery is due, of those that wait behind no other."""
        column = DELIVERIES.c
        waits = select(column.next_at).where(column.sink == name, PENDING, ~_is_follower(name))
        first = connection.execute(waits.order_by(column.next_at).limit(1)).scalar_one_or_none()
        return rows.optional_moment(first)

    @read_transaction
    def pending_until(self, connection: Connection, name: str, tasks: Collection[str]) -> dict[str, datetime]:
        """Return those of some tasks that have a pending delivery, and until when; later events wait behind it."""
        column = DELIVERIES.c
        found = connection.execute(
            select(column.task_id, func.max(column.next_at))
            .where(column.sink == name, column.task_id.in_(tasks), PENDING)
            .group_by(column.task_id)
        )
        return {task_id: rows.moment(until) for task_id, until in found if task_id is not None}

    @read_transaction
    def due_later(self, connection: Connection, name: str, *, now: datetime, after: int, limit: int) -> Sequence[Found]:
        """Return the events of deliveries that are due later, in their order, those after a cursor."""
        column = DELIVERIES.c
        waits = and_(column.sink == name, column.next_at > rows.stamp(now), column.event_id > after)
        found = connection.execute(select(column.event_id).where(waits).order_by(column.event_id).limit(limit))
        return events_at(connection, found.scalars().all())

    @write_transaction
    def make_due(
        self, connection: Connection, name: str, *, now: datetime, events: Sequence[int] | None = None
    ) -> None:
        """Make all pending deliveries due, or those of some events (cursors): the receiver works again."""
        make_due(connection, name, now=now, events=events)


# ---- steps of the transactions, here and in ``sink_store`` and ``delivery_store``


def lock_sink(connection: Connection, name: str) -> None:
    """Lock a sink's row before its deliveries are moved, so that two that move them cannot deadlock."""
    connection.execute(select(SINKS.c.name).where(SINKS.c.name == name).with_for_update(key_share=True))


def make_due(connection: Connection, name: str, *, now: datetime, events: Sequence[int] | None = None) -> None:
    """Make all pending deliveries of a sink due, or those of some events (cursors)."""
    lock_sink(connection, name)
    late = and_(DELIVERIES.c.sink == name, DELIVERIES.c.next_at > rows.stamp(now))
    if events is not None:
        late = and_(late, DELIVERIES.c.event_id.in_(events))
    connection.execute(update(DELIVERIES).where(late).values(next_at=rows.stamp(now)))


def make_followers_due(connection: Connection, name: str, gone: Sequence[int], stamp: int) -> None:
    """Make due what waits behind deliveries that are no more."""
    first = DELIVERIES.alias("first")
    tasks = select(first.c.task_id).where(first.c.sink == name, first.c.event_id.in_(gone))
    # Its tasks lead to few rows; of those only what comes after it waited for it.
    before = exists().where(
        first.c.sink == name,
        first.c.event_id.in_(gone),
        first.c.task_id == DELIVERIES.c.task_id,
        first.c.event_id < DELIVERIES.c.event_id,
    )
    waits = and_(DELIVERIES.c.sink == name, DELIVERIES.c.task_id.in_(tasks), DELIVERIES.c.next_at > stamp, before)
    connection.execute(update(DELIVERIES).where(waits).values(next_at=stamp))


def write_failures(
    connection: Connection, name: str, failed: Sequence[Failure], stamp: int, *, revive: bool = False
) -> None:
    """Record what a sink did not accept; ``stamp`` is now. A dead letter stays one, unless it is to ``revive``.

    An operator may have dead-lettered it while it was being sent.
    """
    if not failed:
        return
    # An event that was deleted meanwhile, with its task, is pending no more.
    ids = [failure.cursor for failure in failed]
    left = select(EVENTS.c.id).where(EVENTS.c.id.in_(ids)).with_for_update(read=True, key_share=True)
    there = set(connection.execute(left).scalars())
    values = [
        {
            "sink": name,
            "event_id": failure.cursor,
            "task_id": failure.task_id,
            "attempts": failure.attempts,
            "error": failure.error,
            "first_at": stamp,
            "last_at": stamp,
            "next_at": rows.optional_stamp(failure.next_at),
        }
        for failure in failed
        if failure.cursor in there
    ]
    if not values:
        return
    statement = upsert(connection, DELIVERIES)
    again: dict[str, ColumnElement[Any]] = {
        each: statement.excluded[each] for each in ("attempts", "last_at", "next_at")
    }
    # What was not tried now has no error of its own. What was never tried begins with its first attempt, and a dead
    # letter begins anew.
    again["error"] = case((statement.excluded.error == "", DELIVERIES.c.error), else_=statement.excluded.error)
    tried = and_(DELIVERIES.c.attempts == 0, statement.excluded.attempts > 0)
    again["first_at"] = case((or_(tried, ~PENDING), statement.excluded.first_at), else_=DELIVERIES.c.first_at)
    known = ["sink", "event_id"]
    kept = None if revive else PENDING
    connection.execute(statement.on_conflict_do_update(index_elements=known, set_=again, where=kept), values)


def _delay_followers(connection: Connection, name: str, failed: Sequence[Failure]) -> None:
    """Postpone the deliveries behind a pending delivery to its time, so that the relay does not read them again."""
    column, first = DELIVERIES.c, DELIVERIES.alias("first")
    # Not behind a delivery that was dead-lettered meanwhile: that waits no more.
    itself = exists().where(first.c.sink == name, first.c.event_id == bindparam("event"), first.c.next_at.is_not(None))
    waits = update(DELIVERIES).where(
        column.sink == name,
        column.task_id == bindparam("task"),
        column.event_id > bindparam("event"),
        column.next_at < bindparam("until"),
        itself,
    )
    values = [
        {"task": failure.task_id, "event": failure.cursor, "until": rows.stamp(failure.next_at)}
        for failure in failed
        if failure.next_at is not None and failure.task_id is not None
    ]
    if values:
        connection.execute(waits.values(next_at=bindparam("until")), values)


def _is_follower(name: str) -> ColumnElement[bool]:
    """Return the condition of deliveries that wait for an earlier one of their task."""
    earlier = DELIVERIES.alias("earlier")
    return exists().where(
        earlier.c.sink == name,
        earlier.c.task_id == DELIVERIES.c.task_id,
        earlier.c.next_at.is_not(None),
        earlier.c.event_id < DELIVERIES.c.event_id,
    )
