"""The outbox, for an operator: who is told how far, what could not be told, and telling it again."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, delete, exists, func, or_, select, update

from tracker.model.event import Found, PublishedEvent
from tracker.model.sinks import Delivery, Failure, ReplayFilter, SinkState
from tracker.storage import events, rows, sink_progress
from tracker.storage.sink_progress import WAITING
from tracker.storage.tables import DELIVERIES, EVENTS, SINKS

# Counting further would cost more than the number tells.
# More events than this are not counted: a sink that is far behind must not make its page slow.
COUNTED: Final = 100_000
# So many are looked at in one transaction.
PIECE: Final = 1_000
GIVEN_UP: Final = "given up by an operator"


def states(connection: Connection) -> list[SinkState]:
    """Return every sink, by name."""
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
    """Return the deliveries that are owed or dead, in the order of their events, those after a place (event, sink)."""
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
    readable = {one.cursor: one for one in events.pick(connection, sorted({row.event_id for row in found}))}
    return [_delivery(row, readable[row.event_id]) for row in found if row.event_id in readable]


def switch(connection: Connection, name: str, *, on: bool, now: datetime, from_now: bool) -> bool:
    """Turn a sink on or off; ``from_now`` forgets what it has missed. False where there is none."""
    values: dict[str, Any] = {"on": on, "failures": 0, "retry_at": None}
    if from_now:
        values["cursor"] = events.latest(connection)
    found = connection.execute(update(SINKS).where(SINKS.c.name == name).values(**values)).rowcount > 0
    if from_now:
        connection.execute(delete(DELIVERIES).where(DELIVERIES.c.sink == name))
    if found and on:
        sink_progress.hurry(connection, name, now=now)
    return found


def remove(connection: Connection, name: str) -> bool:
    """Forget a sink and what it is owed. False where there is none."""
    sink_progress.hold(connection, name)
    connection.execute(delete(DELIVERIES).where(DELIVERIES.c.sink == name))
    return connection.execute(delete(SINKS).where(SINKS.c.name == name)).rowcount > 0


def replay(
    connection: Connection,
    name: str,
    again: ReplayFilter,
    takes: Callable[[PublishedEvent], bool],
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
    statement = events.READING.where(*wanted).order_by(EVENTS.c.id).limit(PIECE)
    found = [events.told(row) for row in connection.execute(statement)]
    owed = [told for told in found if isinstance(told, PublishedEvent) and takes(told)]
    if not dry_run:
        sink_progress.hold(connection, name)
        once_more = [
            Failure(cursor=told.cursor, task_id=told.task_id, attempts=0, error="", next_at=now) for told in owed
        ]
        sink_progress.write_failures(connection, name, once_more, rows.stamp(now), revive=True)
    return len(owed), found[-1].cursor if len(found) == PIECE else None


def give_up(
    connection: Connection,
    name: str,
    *,
    task_id: str | None,
    event_id: str | None,
    now: datetime,
    after: int,
    dry_run: bool,
) -> tuple[int, int | None]:
    """Make dead what a sink is owed, from a cursor on: how many, and where to go on (None at the end).

    What waits behind it is due then.
    """
    if not dry_run:
        sink_progress.hold(connection, name)
    column = DELIVERIES.c
    wanted: list[ColumnElement[bool]] = [column.sink == name, WAITING, column.event_id > after]
    if task_id is not None:
        wanted.append(column.task_id == task_id)
    if event_id is not None:
        # Of a task's event its task is in the id; an alarm's is not in any column.
        wanted.append(or_(column.task_id == event_id.rpartition("-")[0], column.task_id.is_(None)))
    statement = select(column.event_id, column.error).where(*wanted).order_by(column.event_id).limit(PIECE)
    found = connection.execute(statement).all()
    owed = {row.event_id: row.error for row in found}
    if event_id is not None:
        readable = events.pick(connection, list(owed))
        owed = {one.cursor: owed[one.cursor] for one in readable if one.id == event_id}
    if owed and not dry_run:
        _bury(connection, name, owed)
        sink_progress.let_follow(connection, name, list(owed), rows.stamp(now))
    return len(owed), found[-1].event_id if len(found) == PIECE else None


def _bury(connection: Connection, name: str, owed: Mapping[int, str]) -> None:
    """Make deliveries dead, by their events; what was wrong with each before is still to be read."""
    itself = and_(DELIVERIES.c.sink == name, DELIVERIES.c.event_id == bindparam("event"))
    errors = {event: error.removeprefix(GIVEN_UP).removeprefix(": ") for event, error in owed.items()}
    connection.execute(
        update(DELIVERIES).where(itself).values(next_at=None, error=bindparam("said")),
        [{"event": event, "said": f"{GIVEN_UP}: {error}" if error else GIVEN_UP} for event, error in errors.items()],
    )


def _counted(connection: Connection, row: rows.Row) -> SinkState:
    state = sink_progress.state_from_row(row)
    ahead = select(EVENTS.c.id).where(EVENTS.c.id > state.cursor).limit(COUNTED).subquery()
    mine = DELIVERIES.c.sink == state.name
    owed = select(func.count(), func.min(DELIVERIES.c.event_id), func.min(DELIVERIES.c.next_at)).where(mine, WAITING)
    behind = connection.execute(select(func.count()).select_from(ahead)).scalar_one()
    waits, first, next_at = connection.execute(owed).one()
    dead = connection.execute(select(func.count()).select_from(DELIVERIES).where(mine, ~WAITING)).scalar_one()
    oldest = or_(EVENTS.c.id == first, EVENTS.c.id > state.cursor) if first is not None else EVENTS.c.id > state.cursor
    at = connection.execute(select(EVENTS.c.at).where(oldest).order_by(EVENTS.c.id).limit(1)).scalar_one_or_none()
    try:
        rows.optional_moment(at)
    except (OverflowError, TypeError):
        at = None  # it is damaged; the rest is to be seen all the same
    state = sink_progress.state_from_row(row, behind=behind, waiting=waits, dead=dead, oldest_at=at)
    state = replace(state, at_least=behind == COUNTED)
    if state.retry_at is None and state.on and state.failures and next_at is not None:
        # As long as it is not left alone as a whole, an event that waits has a time of its own.
        state = replace(state, retry_at=rows.optional_moment(next_at))
    return state


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
