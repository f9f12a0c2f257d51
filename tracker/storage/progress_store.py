"""The progress of each sink: its cursor, and a delivery for each event that it did not accept at once.

A sink has one cursor, and a delivery row for each event up to it that is still pending or is a dead letter. So a
successful delivery needs no row of its own. A sink that is down needs one row, however many events wait behind it. Only
the process that holds the sink's lease records progress.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Update,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    or_,
    select,
    update,
)

from tracker.model.event import Found
from tracker.model.sinks import Failure, ProgressUpdate
from tracker.storage import rows
from tracker.storage.engine.database import Database
from tracker.storage.engine.table_store import TableStore, read_transaction, write_transaction
from tracker.storage.engine.upserts import Insert, upsert_for
from tracker.storage.event_store import EventStore, events_at
from tracker.storage.tables import DELIVERIES, EVENTS, SINKS

# The maximum delay of a delivery: see delivery.backoff.
MAX_DELAY: Final = timedelta(hours=3)
PENDING: Final = DELIVERIES.c.next_at.is_not(None)

# A relay runs these statements often, so each is built once. Building one costs more than running it.
_OF_SINK: Final = DELIVERIES.c.sink == bindparam("sink")
_EARLIER: Final = DELIVERIES.alias("earlier")
# The delivery waits for an earlier one of its task.
_IS_FOLLOWER: Final = exists().where(
    _EARLIER.c.sink == bindparam("sink"),
    _EARLIER.c.task_id == DELIVERIES.c.task_id,
    _EARLIER.c.next_at.is_not(None),
    _EARLIER.c.event_id < DELIVERIES.c.event_id,
)
_TIME: Final = BigInteger()
# A delivery with a time beyond the maximum delay was planned before the clock was set back.
_IS_DUE: Final = or_(
    DELIVERIES.c.next_at <= bindparam("now", type_=_TIME), DELIVERIES.c.next_at > bindparam("latest", type_=_TIME)
)
_DUE: Final = (
    select(DELIVERIES.c.event_id, DELIVERIES.c.attempts, DELIVERIES.c.first_at)
    .where(_OF_SINK, _IS_DUE, ~_IS_FOLLOWER)
    .order_by(DELIVERIES.c.next_at, DELIVERIES.c.event_id)
    .limit(bindparam("most", type_=Integer()))
)
_NEXT_DUE: Final = (
    select(DELIVERIES.c.next_at).where(_OF_SINK, PENDING, ~_IS_FOLLOWER).order_by(DELIVERIES.c.next_at).limit(1)
)
_PENDING_UNTIL: Final = (
    select(DELIVERIES.c.task_id, func.max(DELIVERIES.c.next_at))
    .where(_OF_SINK, DELIVERIES.c.task_id.in_(bindparam("tasks", expanding=True)), PENDING)
    .group_by(DELIVERIES.c.task_id)
)
_DELETE_DELIVERED: Final = delete(DELIVERIES).where(
    _OF_SINK, DELIVERIES.c.event_id.in_(bindparam("delivered", expanding=True))
)
_EXISTING: Final = (
    select(EVENTS.c.id)
    .where(EVENTS.c.id.in_(bindparam("cursors", expanding=True)))
    .with_for_update(read=True, key_share=True)
)
_FIRST: Final = DELIVERIES.alias("first")
# A delivery does not wait behind a delivery that was dead-lettered in the meantime.
_FIRST_WAITS: Final = exists().where(
    _FIRST.c.sink == bindparam("sink_name"),
    _FIRST.c.event_id == bindparam("event"),
    _FIRST.c.next_at.is_not(None),
)
_OF_GONE: Final = and_(
    _FIRST.c.sink == bindparam("sink_name"), _FIRST.c.event_id.in_(bindparam("gone", expanding=True))
)
# The tasks of these deliveries select few rows. Only the later deliveries of those tasks waited for them.
_MAKE_FOLLOWERS_DUE: Final = (
    update(DELIVERIES)
    .where(
        DELIVERIES.c.sink == bindparam("sink_name"),
        DELIVERIES.c.task_id.in_(select(_FIRST.c.task_id).where(_OF_GONE)),
        DELIVERIES.c.next_at > bindparam("now", type_=_TIME),
        exists().where(_OF_GONE, _FIRST.c.task_id == DELIVERIES.c.task_id, _FIRST.c.event_id < DELIVERIES.c.event_id),
    )
    .values(next_at=bindparam("now", type_=_TIME))
)
_DELAY_FOLLOWERS: Final = (
    update(DELIVERIES)
    .where(
        DELIVERIES.c.sink == bindparam("sink_name"),
        DELIVERIES.c.task_id == bindparam("task"),
        DELIVERIES.c.event_id > bindparam("event"),
        DELIVERIES.c.next_at < bindparam("until"),
        _FIRST_WAITS,
    )
    .values(next_at=bindparam("until"))
)


@lru_cache
def _record_statement(named: frozenset[str], *, off: bool) -> Update:
    """Build the statement that records the ``named`` values of a sink's progress."""
    # If an operator turned the sink off in the meantime, count no failures. In a sink that is off, failures mean that
    # its endpoint refused events (see SinkState).
    failures = case((SINKS.c.on, bindparam("new_failures")), else_=SINKS.c.failures)
    values: dict[str, Any] = {"failures": failures, "retry_at": bindparam("new_retry_at", type_=_TIME)}
    mine = and_(SINKS.c.name == bindparam("sink_name"), SINKS.c.lease_owner == bindparam("owner"))
    if "new_cursor" in named:
        values["cursor"] = bindparam("new_cursor", type_=_TIME)
        mine = and_(mine, SINKS.c.cursor <= bindparam("new_cursor", type_=_TIME))
    if "delivered_count" in named:
        count, at = bindparam("delivered_count", type_=_TIME), bindparam("delivered_now", type_=_TIME)
        values |= {"delivered": SINKS.c.delivered + count, "delivered_at": at}
    if "new_error" in named:
        values |= {"last_error": bindparam("new_error"), "last_error_at": bindparam("failed_now", type_=_TIME)}
    if off:
        values |= {"on": False, "failures": bindparam("new_failures")}
    return update(SINKS).where(mine).values(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingDelivery:
    """An event whose next attempt is due, the number of attempts so far, and the time of the first."""

    event: Found
    attempts: int
    first_at: datetime


class ProgressStore(TableStore):
    """The progress of sinks, which the relay reads and records."""

    def __init__(self, database: Database, events: EventStore) -> None:
        super().__init__(database)
        self._events = events

    @write_transaction
    def record(self, connection: Connection, name: str, progress: ProgressUpdate, *, owner: str, now: datetime) -> bool:
        """Record the results of some events. Return False and record nothing if ``owner`` has lost the lease."""
        stamp = rows.stamp(now)
        values: dict[str, Any] = {
            "sink_name": name,
            "owner": owner,
            "new_failures": max(progress.failures, 1) if progress.off else progress.failures,
            "new_retry_at": rows.optional_stamp(progress.retry_at),
        }
        if progress.cursor is not None:
            values["new_cursor"] = progress.cursor
        if progress.delivered_count:
            values |= {"delivered_count": progress.delivered_count, "delivered_now": stamp}
        if progress.error:
            values |= {"new_error": progress.error, "failed_now": stamp}
        statement = _record_statement(frozenset(values), off=progress.off)
        if connection.execute(statement, values).rowcount == 0:
            return False
        gone = [*progress.delivered, *(failure.cursor for failure in progress.failed if failure.next_at is None)]
        if gone:
            make_followers_due(connection, name, gone, stamp)
        if progress.delivered:
            connection.execute(_DELETE_DELIVERED, {"sink": name, "delivered": list(progress.delivered)})
        if progress.failed:
            write_failures(connection, name, progress.failed, stamp)
            _delay_followers(connection, name, progress.failed)
        return True

    async def due(self, name: str, *, now: datetime, limit: int) -> Sequence[PendingDelivery]:
        """Return the due deliveries, the longest due first.

        Only the first pending delivery of each task is included.
        """
        due = await self._due(name, now=now, limit=limit)
        self._events.log_unreadable(one.event for one in due)
        return due

    @read_transaction
    def _due(self, connection: Connection, name: str, *, now: datetime, limit: int) -> Sequence[PendingDelivery]:
        values = {"sink": name, "now": rows.stamp(now), "latest": rows.stamp(now + MAX_DELAY), "most": limit}
        found = connection.execute(_DUE, values).all()
        readable = {one.cursor: one for one in events_at(connection, [row.event_id for row in found])} if found else {}
        return [
            PendingDelivery(event=readable[row.event_id], attempts=row.attempts, first_at=rows.moment(row.first_at))
            for row in found
            if row.event_id in readable
        ]

    @read_transaction
    def next_due(self, connection: Connection, name: str) -> datetime | None:
        """Return when the next delivery is due. Deliveries that wait behind another one are ignored."""
        return rows.optional_moment(connection.execute(_NEXT_DUE, {"sink": name}).scalar_one_or_none())

    @read_transaction
    def pending_until(self, connection: Connection, name: str, tasks: Collection[str]) -> dict[str, datetime]:
        """Return the tasks that have a pending delivery, and the time until which later events wait behind it."""
        found = connection.execute(_PENDING_UNTIL, {"sink": name, "tasks": list(tasks)})
        return {task_id: rows.moment(until) for task_id, until in found if task_id is not None}

    @read_transaction
    def due_later(self, connection: Connection, name: str, *, now: datetime, after: int, limit: int) -> Sequence[Found]:
        """Return the events of deliveries that are due later, in order, after a cursor."""
        column = DELIVERIES.c
        waits = and_(column.sink == name, column.next_at > rows.stamp(now), column.event_id > after)
        found = connection.execute(select(column.event_id).where(waits).order_by(column.event_id).limit(limit))
        return events_at(connection, found.scalars().all())

    @write_transaction
    def make_due(
        self, connection: Connection, name: str, *, now: datetime, events: Sequence[int] | None = None
    ) -> None:
        """Make all pending deliveries due, or those of some events (cursors), because the endpoint works again."""
        make_due(connection, name, now=now, events=events)


# ---- steps of the transactions, here and in ``sink_store`` and ``delivery_store``


def lock_sink(connection: Connection, name: str) -> None:
    """Lock the row of a sink before its deliveries change, so that two changes cannot deadlock."""
    connection.execute(select(SINKS.c.name).where(SINKS.c.name == name).with_for_update(key_share=True))


def make_due(connection: Connection, name: str, *, now: datetime, events: Sequence[int] | None = None) -> None:
    """Make all pending deliveries of a sink due, or those of some events (cursors)."""
    lock_sink(connection, name)
    late = and_(DELIVERIES.c.sink == name, DELIVERIES.c.next_at > rows.stamp(now))
    if events is not None:
        late = and_(late, DELIVERIES.c.event_id.in_(events))
    connection.execute(update(DELIVERIES).where(late).values(next_at=rows.stamp(now)))


def make_followers_due(connection: Connection, name: str, gone: Sequence[int], stamp: int) -> None:
    """Make the deliveries due that waited behind deliveries that no longer exist."""
    connection.execute(_MAKE_FOLLOWERS_DUE, {"sink_name": name, "gone": list(gone), "now": stamp})


def write_failures(
    connection: Connection, name: str, failed: Sequence[Failure], stamp: int, *, revive: bool = False
) -> None:
    """Record events that a sink did not accept. ``stamp`` is now. A dead letter stays one unless ``revive`` is set.

    An operator may have dead-lettered the event while it was being sent.
    """
    if not failed:
        return
    # An event that was deleted with its task is not pending any more.
    there = set(connection.execute(_EXISTING, {"cursors": [failure.cursor for failure in failed]}).scalars())
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
    if values:
        connection.execute(_failures_statement(connection.dialect.name, revive=revive), values)


@lru_cache
def _failures_statement(dialect: str, *, revive: bool) -> Insert:
    statement = upsert_for(dialect, DELIVERIES)
    again: dict[str, ColumnElement[Any]] = {
        each: statement.excluded[each] for each in ("attempts", "last_at", "next_at")
    }
    # A delivery that was not tried now keeps its error. The first attempt sets ``first_at``. A replayed dead letter
    # starts again.
    again["error"] = case((statement.excluded.error == "", DELIVERIES.c.error), else_=statement.excluded.error)
    tried = and_(DELIVERIES.c.attempts == 0, statement.excluded.attempts > 0)
    again["first_at"] = case((or_(tried, ~PENDING), statement.excluded.first_at), else_=DELIVERIES.c.first_at)
    known = ["sink", "event_id"]
    kept = None if revive else PENDING
    return statement.on_conflict_do_update(index_elements=known, set_=again, where=kept)


def _delay_followers(connection: Connection, name: str, failed: Sequence[Failure]) -> None:
    """Postpone the deliveries behind a pending delivery to its time, so that the relay does not read them again."""
    values = [
        {"sink_name": name, "task": failure.task_id, "event": failure.cursor, "until": rows.stamp(failure.next_at)}
        for failure in failed
        if failure.next_at is not None and failure.task_id is not None
    ]
    if values:
        connection.execute(_DELAY_FOLLOWERS, values)
