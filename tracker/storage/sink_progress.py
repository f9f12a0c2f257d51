"""The outbox, for the relay: how far each sink is told, and what it could not be told at once.

A sink has one cursor, and a delivery row for each event up to it that is still owed or was given up. So what goes well
costs no row of its own, and a sink that is down costs one row, however many events wait behind it. Whoever holds the
sink's lease is the only one to move any of this.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, delete, exists, func, or_, select, update

from tracker.model.event import Found
from tracker.model.sinks import Failure, NewSink, ProgressUpdate, SinkState
from tracker.storage import events, rows
from tracker.storage.engine.upserts import upsert
from tracker.storage.tables import DELIVERIES, EVENTS, SINKS

# No delivery waits for longer: see outbox.backoff.
FURTHEST: Final = timedelta(hours=3)
WAITING: Final = DELIVERIES.c.next_at.is_not(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingDelivery:
    """An event whose next attempt is due, how many there were, and when the first was."""

    event: Found
    attempts: int
    first_at: datetime


def register(connection: Connection, sinks: Sequence[NewSink], *, now: datetime, newest: int | None = None) -> None:
    """Write down the sinks that are named; a new one begins at its beginning or now, or after the event ``newest``."""
    newest = events.latest(connection) if newest is None else newest
    for sink in sorted(sinks, key=lambda one: one.name):
        values: dict[str, Any] = {
            "name": sink.name,
            "address": sink.address,
            "on": True,
            "cursor": 0 if sink.beginning else newest,
            "delivered": 0,
            "failures": 0,
            "last_error": "",
            "created_at": rows.stamp(now),
            "seen_at": rows.stamp(now),
        }
        statement = upsert(connection, SINKS).values(values)
        again = {"address": statement.excluded.address, "seen_at": statement.excluded.seen_at}
        connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=again))


def claim(connection: Connection, name: str, *, owner: str, now: datetime, lease: timedelta) -> SinkState | None:
    """Take or renew the lease of a sink; None where another process holds it."""
    stamp = rows.stamp(now)
    # A lease that ends later than any can was taken by a clock that was set back since.
    over = or_(SINKS.c.lease_until <= stamp, SINKS.c.lease_until > rows.stamp(now + 2 * lease))
    free = or_(SINKS.c.lease_owner.is_(None), SINKS.c.lease_owner == owner, over)
    held = {"lease_owner": owner, "lease_until": rows.stamp(now + lease), "seen_at": stamp}
    claimed = update(SINKS).where(SINKS.c.name == name, free).values(**held).returning(SINKS)
    row = connection.execute(claimed).mappings().one_or_none()
    return None if row is None else state_from_row(row)


def release(connection: Connection, owner: str | None) -> None:
    """Release all leases held by ``owner``, or every lease if it is None."""
    leased = SINKS.c.lease_owner.is_not(None) if owner is None else SINKS.c.lease_owner == owner
    connection.execute(update(SINKS).where(leased).values(lease_owner=None, lease_until=None))


def settle(connection: Connection, name: str, settled: ProgressUpdate, *, owner: str, now: datetime) -> bool:
    """Write down what became of some events; False, and nothing, where the lease is not ours any more."""
    stamp = rows.stamp(now)
    # What an operator turned off meanwhile keeps none: they say that it was the receiver (see SinkState).
    failures = case((SINKS.c.on, settled.failures), else_=SINKS.c.failures)
    values: dict[str, Any] = {"failures": failures, "retry_at": rows.optional_stamp(settled.retry_at)}
    if settled.cursor is not None:
        values["cursor"] = settled.cursor
    if settled.delivered_count:
        values |= {"delivered": SINKS.c.delivered + settled.delivered_count, "delivered_at": stamp}
    if settled.error:
        values |= {"last_error": settled.error, "last_error_at": stamp}
    if settled.off:
        values |= {"on": False, "failures": max(settled.failures, 1)}
    mine = and_(SINKS.c.name == name, SINKS.c.lease_owner == owner)
    if settled.cursor is not None:
        mine = and_(mine, SINKS.c.cursor <= settled.cursor)
    if connection.execute(update(SINKS).where(mine).values(**values)).rowcount == 0:
        return False
    gone = [*settled.delivered, *(failure.cursor for failure in settled.failed if failure.next_at is None)]
    if gone:
        let_follow(connection, name, gone, stamp)
    if settled.delivered:
        done = and_(DELIVERIES.c.sink == name, DELIVERIES.c.event_id.in_(settled.delivered))
        connection.execute(delete(DELIVERIES).where(done))
    write_failures(connection, name, settled.failed, stamp)
    _hold_back(connection, name, settled.failed)
    return True


def due(connection: Connection, name: str, *, now: datetime, limit: int) -> list[PendingDelivery]:
    """Return the due deliveries, longest due first; of each task only the first pending one.

    One that is planned further away than it can be was planned by a clock that was set back since.
    """
    column = DELIVERIES.c
    is_due = or_(column.next_at <= rows.stamp(now), column.next_at > rows.stamp(now + FURTHEST))
    found = connection.execute(
        select(column.event_id, column.attempts, column.first_at)
        .where(column.sink == name, is_due, ~_behind(name))
        .order_by(column.next_at, column.event_id)
        .limit(limit)
    ).all()
    readable = {one.cursor: one for one in events.pick(connection, [row.event_id for row in found])} if found else {}
    return [
        PendingDelivery(event=readable[row.event_id], attempts=row.attempts, first_at=rows.moment(row.first_at))
        for row in found
        if row.event_id in readable
    ]


def next_due(connection: Connection, name: str) -> datetime | None:
    """Return when the next delivery is due, of those that wait behind no other."""
    column = DELIVERIES.c
    waits = select(column.next_at).where(column.sink == name, WAITING, ~_behind(name))
    first = connection.execute(waits.order_by(column.next_at).limit(1)).scalar_one_or_none()
    return rows.optional_moment(first)


def waiting(connection: Connection, name: str, tasks: Collection[str]) -> dict[str, datetime]:
    """Give, of some tasks, those that have a delivery waiting, and until when; later events go behind it."""
    column = DELIVERIES.c
    found = connection.execute(
        select(column.task_id, func.max(column.next_at))
        .where(column.sink == name, column.task_id.in_(tasks), WAITING)
        .group_by(column.task_id)
    )
    return {task_id: rows.moment(until) for task_id, until in found if task_id is not None}


def later(connection: Connection, name: str, *, now: datetime, after: int, limit: int) -> list[Found]:
    """Return the events of deliveries that are due later, in their order, those after a cursor."""
    column = DELIVERIES.c
    waits = and_(column.sink == name, column.next_at > rows.stamp(now), column.event_id > after)
    found = connection.execute(select(column.event_id).where(waits).order_by(column.event_id).limit(limit))
    return events.pick(connection, found.scalars().all())


def hurry(connection: Connection, name: str, *, now: datetime, events: Sequence[int] | None = None) -> None:
    """Make everything that waits due, or what waits of some events: the receiver is up again."""
    hold(connection, name)
    late = and_(DELIVERIES.c.sink == name, DELIVERIES.c.next_at > rows.stamp(now))
    if events is not None:
        late = and_(late, DELIVERIES.c.event_id.in_(events))
    connection.execute(update(DELIVERIES).where(late).values(next_at=rows.stamp(now)))


def hold(connection: Connection, name: str) -> None:
    """Lock a sink's row, as whoever moves its deliveries does first: else two that move them could lock each other."""
    connection.execute(select(SINKS.c.name).where(SINKS.c.name == name).with_for_update(key_share=True))


def let_follow(connection: Connection, name: str, gone: Sequence[int], stamp: int) -> None:
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
    """Write down what a sink was not told; ``stamp`` is now. What is dead stays so, unless it is to ``revive``.

    An operator may have given it up while it was being sent.
    """
    if not failed:
        return
    # Those that were deleted meanwhile, with their task, are owed to nobody any more.
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
    # What was not tried now has nothing to say. What was never tried begins with its first attempt, and what had been
    # given up begins anew.
    again["error"] = case((statement.excluded.error == "", DELIVERIES.c.error), else_=statement.excluded.error)
    tried = and_(DELIVERIES.c.attempts == 0, statement.excluded.attempts > 0)
    again["first_at"] = case((or_(tried, ~WAITING), statement.excluded.first_at), else_=DELIVERIES.c.first_at)
    known = ["sink", "event_id"]
    kept = None if revive else WAITING
    connection.execute(statement.on_conflict_do_update(index_elements=known, set_=again, where=kept), values)


def state_from_row(
    value: rows.Row, *, behind: int = 0, waiting: int = 0, dead: int = 0, oldest_at: int | None = None
) -> SinkState:
    return SinkState(
        name=value["name"],
        address=value["address"],
        on=value["on"],
        cursor=value["cursor"],
        behind=behind,
        waiting=waiting,
        dead=dead,
        delivered=value["delivered"],
        oldest_at=rows.optional_moment(oldest_at),
        failures=value["failures"],
        last_error=value["last_error"],
        last_error_at=rows.optional_moment(value["last_error_at"]),
        delivered_at=rows.optional_moment(value["delivered_at"]),
        retry_at=rows.optional_moment(value["retry_at"]),
        owner=value["lease_owner"],
        lease_until=rows.optional_moment(value["lease_until"]),
    )


def _behind(name: str) -> ColumnElement[bool]:
    """Say which deliveries wait for an earlier one of their task."""
    earlier = DELIVERIES.alias("earlier")
    return exists().where(
        earlier.c.sink == name,
        earlier.c.task_id == DELIVERIES.c.task_id,
        earlier.c.next_at.is_not(None),
        earlier.c.event_id < DELIVERIES.c.event_id,
    )


def _hold_back(connection: Connection, name: str, failed: Sequence[Failure]) -> None:
    """Let what waits behind a delivery wait as long as that: so it is not looked at again and again meanwhile."""
    column, first = DELIVERIES.c, DELIVERIES.alias("first")
    # Not what was given up meanwhile: it waits no more.
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
