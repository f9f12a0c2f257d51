"""The outbox: how far each sink is told, and what it could not be told at once.

A sink has one cursor, and a delivery row for each event up to it that is still owed or was given up. So what goes well
costs no row of its own, and a sink that is down costs one row, however many events wait behind it. Whoever holds the
sink's lease is the only one to move any of this.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, case, delete, exists, func, or_, select, update

from tracker.contract import Told
from tracker.storage import rows, telling
from tracker.storage.tables import DELIVERIES, EVENTS, SINKS
from tracker.storage.upserts import upsert
from tracker.views import Again, Delivery, Failure, NewSink, Settled, SinkState

# Counting further would cost more than the number tells.
COUNTED: Final = 100_000
# A sink that no process has named for so long is not waited for any more when old tasks are deleted.
NAMED_WITHIN: Final = timedelta(days=7)
REPLAYED: Final = 1_000
WAITING: Final = DELIVERIES.c.next_at.is_not(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """An event whose next attempt is due, how many there were, and when the first was."""

    told: Told
    attempts: int
    first_at: datetime


def register(connection: Connection, sinks: Sequence[NewSink], *, now: datetime) -> None:
    """Write down the sinks that are named; a new one begins at its beginning or now."""
    newest = telling.latest(connection)
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
    free = or_(SINKS.c.lease_owner.is_(None), SINKS.c.lease_owner == owner, SINKS.c.lease_until <= stamp)
    held = {"lease_owner": owner, "lease_until": rows.stamp(now + lease), "seen_at": stamp}
    claimed = update(SINKS).where(SINKS.c.name == name, free).values(**held).returning(SINKS)
    row = connection.execute(claimed).mappings().one_or_none()
    return None if row is None else _state(row)


def release(connection: Connection, owner: str | None) -> None:
    """Give back every lease of a process; None: of all."""
    leased = SINKS.c.lease_owner.is_not(None) if owner is None else SINKS.c.lease_owner == owner
    connection.execute(update(SINKS).where(leased).values(lease_owner=None, lease_until=None))


def settle(connection: Connection, name: str, settled: Settled, *, owner: str, now: datetime) -> bool:
    """Write down what became of some events; False, and nothing, where the lease is not ours any more."""
    stamp = rows.stamp(now)
    values: dict[str, Any] = {"failures": settled.failures, "retry_at": _optional(settled.retry_at)}
    if settled.cursor is not None:
        values["cursor"] = settled.cursor
    if settled.told:
        values |= {"delivered": SINKS.c.delivered + settled.told, "delivered_at": stamp}
    if settled.error:
        values |= {"last_error": settled.error, "last_error_at": stamp}
    if settled.off:
        values["on"] = False
    mine = and_(SINKS.c.name == name, SINKS.c.lease_owner == owner)
    if settled.cursor is not None:
        mine = and_(mine, SINKS.c.cursor <= settled.cursor)
    if connection.execute(update(SINKS).where(mine).values(**values)).rowcount == 0:
        return False
    gone = [*settled.delivered, *(failure.cursor for failure in settled.failed if failure.next_at is None)]
    if gone:
        _let_follow(connection, name, gone, stamp)
    if settled.delivered:
        done = and_(DELIVERIES.c.sink == name, DELIVERIES.c.event_id.in_(settled.delivered))
        connection.execute(delete(DELIVERIES).where(done))
    _write_failures(connection, name, settled.failed, stamp)
    _hold_back(connection, name, settled.failed)
    return True


def due(connection: Connection, name: str, *, now: datetime, limit: int) -> list[Owed]:
    """Give the deliveries that are due, longest due first; of a task only the first that waits."""
    column = DELIVERIES.c
    found = connection.execute(
        select(column.event_id, column.attempts, column.first_at)
        .where(column.sink == name, column.next_at <= rows.stamp(now), ~_behind(name))
        .order_by(column.next_at, column.event_id)
        .limit(limit)
    ).all()
    events = {told.cursor: told for told in telling.pick(connection, [row.event_id for row in found])} if found else {}
    return [
        Owed(told=events[row.event_id], attempts=row.attempts, first_at=rows.moment(row.first_at))
        for row in found
        if row.event_id in events
    ]


def next_due(connection: Connection, name: str) -> datetime | None:
    """Give when the next delivery is due, of those that wait behind no other."""
    column = DELIVERIES.c
    waits = select(column.next_at).where(column.sink == name, WAITING, ~_behind(name))
    first = connection.execute(waits.order_by(column.next_at).limit(1)).scalar_one_or_none()
    return _moment(first)


def waiting(connection: Connection, name: str, tasks: Collection[str]) -> dict[str, datetime]:
    """Give, of some tasks, those that have a delivery waiting, and until when; later events go behind it."""
    column = DELIVERIES.c
    found = connection.execute(
        select(column.task_id, func.max(column.next_at))
        .where(column.sink == name, column.task_id.in_(tasks), WAITING)
        .group_by(column.task_id)
    )
    return {task_id: rows.moment(until) for task_id, until in found if task_id is not None}


def hurry(connection: Connection, name: str, *, now: datetime) -> None:
    """Make everything that waits due: the receiver is up again."""
    _hold(connection, name)
    late = and_(DELIVERIES.c.sink == name, DELIVERIES.c.next_at > rows.stamp(now))
    connection.execute(update(DELIVERIES).where(late).values(next_at=rows.stamp(now)))


def states(connection: Connection) -> list[SinkState]:
    """Give every sink, by name."""
    return [_counted(connection, row) for row in connection.execute(select(SINKS).order_by(SINKS.c.name)).mappings()]


def deliveries(
    connection: Connection,
    *,
    sink: str | None,
    task_id: str | None,
    dead: bool | None,
    after: tuple[int, str] | None,
    limit: int,
) -> list[Delivery]:
    """Give the deliveries that are owed or dead, in the order of their events, those after a place (event, sink)."""
    column = DELIVERIES.c
    wanted: list[ColumnElement[bool]] = []
    if sink is not None:
        wanted.append(column.sink == sink)
    if task_id is not None:
        wanted.append(column.task_id == task_id)
    if dead is not None:
        wanted.append(~WAITING if dead else WAITING)
    if after is not None:
        cursor, name = after
        wanted.append(or_(column.event_id > cursor, and_(column.event_id == cursor, column.sink > name)))
    order = (column.event_id, column.sink)
    found = connection.execute(select(DELIVERIES).where(*wanted).order_by(*order).limit(limit)).all()
    events = {told.cursor: told for told in telling.pick(connection, sorted({row.event_id for row in found}))}
    return [_delivery(row, events[row.event_id]) for row in found if row.event_id in events]


def switch(connection: Connection, name: str, *, on: bool, now: datetime, from_now: bool) -> bool:
    """Turn a sink on or off; ``from_now`` forgets what it has missed. False where there is none."""
    values: dict[str, Any] = {"on": on, "failures": 0, "retry_at": None}
    if from_now:
        values["cursor"] = telling.latest(connection)
    found = connection.execute(update(SINKS).where(SINKS.c.name == name).values(**values)).rowcount > 0
    if from_now:
        connection.execute(delete(DELIVERIES).where(DELIVERIES.c.sink == name))
    if found and on:
        hurry(connection, name, now=now)
    return found


def remove(connection: Connection, name: str) -> bool:
    """Forget a sink and what it is owed. False where there is none."""
    _hold(connection, name)
    connection.execute(delete(DELIVERIES).where(DELIVERIES.c.sink == name))
    return connection.execute(delete(SINKS).where(SINKS.c.name == name)).rowcount > 0


def replay(
    connection: Connection,
    name: str,
    again: Again,
    takes: Callable[[Told], bool],
    *,
    now: datetime,
    after: int,
    dry_run: bool,
) -> tuple[int, int | None]:
    """Owe a sink some events once more, from a cursor on: how many, and where to go on (None at the end).

    Only what it was told already: what is after its cursor comes by itself.
    """
    cursor = connection.execute(select(SINKS.c.cursor).where(SINKS.c.name == name)).scalar_one_or_none()
    if cursor is None:
        return 0, None
    wanted = [EVENTS.c.id > after, EVENTS.c.id <= cursor]
    if again.task_id is not None:
        wanted.append(EVENTS.c.task_id == again.task_id)
    if again.since is not None:
        wanted.append(EVENTS.c.at >= rows.stamp(again.since))
    if again.until is not None:
        wanted.append(EVENTS.c.at < rows.stamp(again.until))
    if again.dead:
        row = DELIVERIES.alias("row")
        given_up = exists().where(row.c.sink == name, row.c.event_id == EVENTS.c.id, row.c.next_at.is_(None))
        wanted.append(given_up)
    statement = telling.READING.where(*wanted).order_by(EVENTS.c.id).limit(REPLAYED)
    found = [telling.told(row) for row in connection.execute(statement)]
    owed = [told for told in found if takes(told)]
    if not dry_run:
        _hold(connection, name)
        once_more = [
            Failure(cursor=told.cursor, task_id=_task_id(told), attempts=0, error="", next_at=now) for told in owed
        ]
        _write_failures(connection, name, once_more, rows.stamp(now))
    return len(owed), found[-1].cursor if len(found) == REPLAYED else None


def waited_for(now: datetime) -> ColumnElement[bool]:
    """Say for which sinks old events are kept: those that are on, and that some process named lately."""
    return and_(SINKS.c.on, SINKS.c.seen_at > rows.stamp(now - NAMED_WITHIN))


def told_everywhere(connection: Connection, *, now: datetime) -> int:
    """Give the cursor up to which every sink that is waited for has been told, but for deliveries."""
    slowest: int | None = connection.execute(select(func.min(SINKS.c.cursor)).where(waited_for(now))).scalar_one()
    return telling.latest(connection) if slowest is None else slowest


def _behind(name: str) -> ColumnElement[bool]:
    """Say which deliveries wait for an earlier one of their task."""
    earlier = DELIVERIES.alias("earlier")
    return exists().where(
        earlier.c.sink == name,
        earlier.c.task_id == DELIVERIES.c.task_id,
        earlier.c.next_at.is_not(None),
        earlier.c.event_id < DELIVERIES.c.event_id,
    )


def _hold(connection: Connection, name: str) -> None:
    """Lock a sink's row, as whoever moves its deliveries does first: else two that move them could lock each other."""
    connection.execute(select(SINKS.c.name).where(SINKS.c.name == name).with_for_update(key_share=True))


def _let_follow(connection: Connection, name: str, gone: Sequence[int], stamp: int) -> None:
    """Make due what waits behind deliveries that are no more."""
    first = DELIVERIES.alias("first")
    tasks = select(first.c.task_id).where(first.c.sink == name, first.c.event_id.in_(gone))
    waits = and_(DELIVERIES.c.sink == name, DELIVERIES.c.task_id.in_(tasks), DELIVERIES.c.next_at > stamp)
    connection.execute(update(DELIVERIES).where(waits).values(next_at=stamp))


def _hold_back(connection: Connection, name: str, failed: Sequence[Failure]) -> None:
    """Let what waits behind a delivery wait as long as that: so it is not looked at again and again meanwhile."""
    column = DELIVERIES.c
    waits = update(DELIVERIES).where(
        column.sink == name,
        column.task_id == bindparam("task"),
        column.event_id > bindparam("event"),
        column.next_at < bindparam("until"),
    )
    values = [
        {"task": failure.task_id, "event": failure.cursor, "until": rows.stamp(failure.next_at)}
        for failure in failed
        if failure.next_at is not None and failure.task_id is not None
    ]
    if values:
        connection.execute(waits.values(next_at=bindparam("until")), values)


def _write_failures(connection: Connection, name: str, failed: Sequence[Failure], stamp: int) -> None:
    if not failed:
        return
    # Those that were deleted meanwhile, with their task, are owed to nobody any more.
    ids = [failure.cursor for failure in failed]
    kept = select(EVENTS.c.id).where(EVENTS.c.id.in_(ids)).with_for_update(read=True, key_share=True)
    there = set(connection.execute(kept).scalars())
    values = [
        {
            "sink": name,
            "event_id": failure.cursor,
            "task_id": failure.task_id,
            "attempts": failure.attempts,
            "error": failure.error,
            "first_at": stamp,
            "last_at": stamp,
            "next_at": _optional(failure.next_at),
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
    connection.execute(statement.on_conflict_do_update(index_elements=["sink", "event_id"], set_=again), values)


def _counted(connection: Connection, row: rows.Row) -> SinkState:
    state = _state(row)
    ahead = select(EVENTS.c.id).where(EVENTS.c.id > state.cursor).limit(COUNTED).subquery()
    mine = DELIVERIES.c.sink == state.name
    owed = select(func.count(), func.min(DELIVERIES.c.event_id)).where(mine, WAITING)
    behind = connection.execute(select(func.count()).select_from(ahead)).scalar_one()
    waits, first = connection.execute(owed).one()
    dead = connection.execute(select(func.count()).select_from(DELIVERIES).where(mine, ~WAITING)).scalar_one()
    oldest = or_(EVENTS.c.id == first, EVENTS.c.id > state.cursor) if first is not None else EVENTS.c.id > state.cursor
    at = connection.execute(select(EVENTS.c.at).where(oldest).order_by(EVENTS.c.id).limit(1)).scalar_one_or_none()
    return _state(row, behind=behind, waiting=waits, dead=dead, oldest_at=at)


def _state(
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
        oldest_at=_moment(oldest_at),
        failures=value["failures"],
        last_error=value["last_error"],
        last_error_at=_moment(value["last_error_at"]),
        delivered_at=_moment(value["delivered_at"]),
        retry_at=_moment(value["retry_at"]),
        owner=value["lease_owner"],
        lease_until=_moment(value["lease_until"]),
    )


def _delivery(row: Row[Any], told: Told) -> Delivery:
    return Delivery(
        sink=row.sink,
        cursor=row.event_id,
        event_id=told.id,
        type=told.type,
        task_id=row.task_id,
        attempts=row.attempts,
        error=row.error,
        first_at=rows.moment(row.first_at),
        last_at=rows.moment(row.last_at),
        next_at=_moment(row.next_at),
    )


def _task_id(told: Told) -> str | None:
    return None if told.task is None else told.task.id


def _moment(value: int | None) -> datetime | None:
    return None if value is None else rows.moment(value)


def _optional(value: datetime | None) -> int | None:
    return None if value is None else rows.stamp(value)
