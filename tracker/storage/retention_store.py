"""Deletes old rows, a few at a time and found by an index, so that nothing else waits for it.

Rows that another process has locked are skipped until later. So several processes share the work, and none of them
waits for a batch of the recorder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, exists, func, select, tuple_

from tracker.model.task import SETTLED, Source, Status
from tracker.storage import rows
from tracker.storage.engine.table_store import TableStore, read_transaction, write_transaction
from tracker.storage.engine.upserts import upsert
from tracker.storage.event_store import delete_events, latest_cursor
from tracker.storage.helper_tables import HELPER_CALLS
from tracker.storage.orphan_table import ORPHANS
from tracker.storage.tables import ALARMS, AUDIT, DELIVERIES, EVENTS, FORGOTTEN, SINKS, TASKS

# How long Homing keeps the IDs of a deleted task, and the minimum time that it keeps audit entries.
REMEMBERED: Final = timedelta(days=90)
# Events are no longer kept for a sink that no process has configured for this time.
NAMED_WITHIN: Final = timedelta(days=7)
OVER: Final = sorted(status.value for status in SETTLED)
HOUR: Final = timedelta(hours=1)

Place = tuple[datetime, str]
# The same condition as ``rules.create_requests.made_nothing``.
MADE_NOTHING: Final = and_(
    TASKS.c.status == Status.REJECTED.value,
    TASKS.c.status_source.is_distinct_from(Source.OPERATOR.value),
    TASKS.c.duplicate_at.is_(None),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """The counts of one step, and the task after which the next step continues (None after the last one)."""

    tasks: int = 0
    orphans: int = 0
    alarms: int = 0
    tombstones: int = 0
    audits: int = 0
    helper_calls: int = 0
    after: Place | None = None


class RetentionStore(TableStore):
    """Deletes old rows, and keeps the IDs of deleted tasks."""

    @read_transaction
    def deleted_task(self, connection: Connection, provider: str, account: str, its_id: str) -> str | None:
        """Return the ID of a deleted task by its provider ID or its derived external ID, while these are kept."""
        return deleted_task(connection, provider, account, its_id)

    @write_transaction
    def delete_old(
        self, connection: Connection, *, until: datetime, now: datetime, after: Place | None, limit: int
    ) -> Deleted:
        """Delete the deletable ones of the next ``limit`` tasks that finished by ``until``.

        Also delete at most ``limit`` old rows of each other kind.
        """
        seen = _finished(connection, until=until, after=after, limit=limit)
        delivered = _delivered_everywhere(connection, now=now)
        _delete_alarm_events(connection, until=until - HOUR, delivered=delivered, limit=limit)
        return Deleted(
            tasks=_delete_tasks(connection, [task_id for _, task_id in seen], now, delivered) if seen else 0,
            orphans=_delete(connection, ORPHANS, ORPHANS.c.last_at, until, limit),
            alarms=_delete(connection, ALARMS, ALARMS.c.hour, until - HOUR, limit),
            tombstones=_delete(connection, FORGOTTEN, FORGOTTEN.c.at, now - REMEMBERED, limit),
            audits=_delete(connection, AUDIT, AUDIT.c.at, min(until, now - REMEMBERED), limit),
            helper_calls=_delete(connection, HELPER_CALLS, HELPER_CALLS.c.created_at, until, limit),
            after=seen[-1] if len(seen) == limit else None,
        )


def deletable(delivered: int, now: datetime) -> ColumnElement[bool]:
    """Return the condition of tasks that may be deleted when they are old: settled, without a poll or delivery left.

    Every sink has the events up to ``delivered``, except its pending deliveries.
    """
    undelivered = exists().where(EVENTS.c.task_id == TASKS.c.id, EVENTS.c.id > delivered)
    waited_for = select(SINKS.c.name).where(_waited_for(now))
    waiting = and_(DELIVERIES.c.next_at.is_not(None), DELIVERIES.c.sink.in_(waited_for))
    pending = exists().where(DELIVERIES.c.task_id == TASKS.c.id, waiting)
    return and_(TASKS.c.status.in_(OVER), TASKS.c.next_poll_at.is_(None), ~undelivered, ~pending)


def deleted_task(connection: Connection, provider: str, account: str, provider_task_id: str) -> str | None:
    """Return the ID of a deleted task."""
    named = (FORGOTTEN.c.provider, FORGOTTEN.c.account, FORGOTTEN.c.provider_task_id)
    statement = select(FORGOTTEN.c.task_id).where(tuple_(*named) == tuple_(provider, account, provider_task_id))
    return connection.execute(statement).scalar_one_or_none()


def _finished(connection: Connection, *, until: datetime, after: Place | None, limit: int) -> list[Place]:
    place = (TASKS.c.finished_at, TASKS.c.id)
    statement = select(*place).where(TASKS.c.finished_at <= rows.stamp(until)).order_by(*place).limit(limit)
    if after is not None:
        statement = statement.where(tuple_(*place) > tuple_(rows.stamp(after[0]), after[1]))
    return [(rows.moment(at), task_id) for at, task_id in connection.execute(statement)]


def _delete_alarm_events(connection: Connection, *, until: datetime, delivered: int, limit: int) -> None:
    """Delete the events of old alarms."""
    old = and_(EVENTS.c.task_id.is_(None), EVENTS.c.at <= rows.stamp(until), EVENTS.c.id <= delivered)
    found = connection.execute(select(EVENTS.c.id).where(old).order_by(EVENTS.c.at).limit(limit)).scalars().all()
    if found:
        delete_events(connection, EVENTS.c.id.in_(found))


def _delete_tasks(connection: Connection, ids: Sequence[str], now: datetime, delivered: int) -> int:
    column = TASKS.c
    found = select(column.id, column.provider, column.account, column.provider_task_id, column.sent_external_id)
    found = found.add_columns(column.attempts, MADE_NOTHING.label("unused"))
    found = found.where(column.id.in_(ids), deletable(delivered, now)).with_for_update(skip_locked=True)
    gone = connection.execute(found).all()
    if not gone:
        return 0
    # A derived external ID is kept too if the provider may have it, because the next such submission needs another one.
    derived = (
        task.sent_external_id if task.attempts and task.sent_external_id != task.id and not task.unused else None
        for task in gone
    )
    names = sorted(
        (task.provider, task.account, name, task.id)
        for task, external_id in zip(gone, derived, strict=True)
        for name in (task.provider_task_id, external_id)
        if name
    )
    _remember(connection, names, now)
    delete_events(connection, EVENTS.c.task_id.in_([task.id for task in gone]))
    # The other rows of a task (tags, submission, observations) are deleted with it.
    connection.execute(delete(TASKS).where(column.id.in_([task.id for task in gone])))
    return len(gone)


def _remember(connection: Connection, names: Sequence[tuple[str, ...]], now: datetime) -> None:
    """Keep the IDs that a late callback may have. The same ID may come again, if the task is adopted again."""
    if not names:
        return
    key = ("provider", "account", "provider_task_id")
    statement = upsert(connection, FORGOTTEN)
    again = {"task_id": statement.excluded.task_id, "at": statement.excluded.at}
    values = [dict(zip((*key, "task_id"), name, strict=True), at=rows.stamp(now)) for name in names]
    connection.execute(statement.on_conflict_do_update(index_elements=key, set_=again), values)


def _delete(
    connection: Connection,
    table: Table,
    time: ColumnElement[int],
    until: datetime,
    limit: int,
) -> int:
    """Delete the oldest rows of a table, at most ``limit``."""
    key = tuple(table.primary_key.columns)
    old = select(*key).where(time <= rows.stamp(until)).order_by(time).limit(limit)
    found = connection.execute(old.with_for_update(skip_locked=True)).all()
    if found:
        connection.execute(delete(table).where(tuple_(*key).in_([tuple(row) for row in found])))
    return len(found)


def _waited_for(now: datetime) -> ColumnElement[bool]:
    """Return the condition of sinks for which old events are kept: on, and recently configured in a process."""
    return and_(SINKS.c.on, SINKS.c.seen_at > rows.stamp(now - NAMED_WITHIN))


def _delivered_everywhere(connection: Connection, *, now: datetime) -> int:
    """Return the cursor up to which every such sink has the events, except its pending deliveries."""
    slowest: int | None = connection.execute(select(func.min(SINKS.c.cursor)).where(_waited_for(now))).scalar_one()
    return latest_cursor(connection) if slowest is None else slowest
