"""Events as rows and as values: what an event keeps of its task, and reading events in the order of their commits.

An event keeps what a change can change; the rest of its task (whose it is, what was asked for) never changes and is
read from the task's row.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, bindparam, delete, exists, func, insert, literal_column, select

from tracker.contract import ALARM_TYPE, Told
from tracker.models import Alarm, Event, Task
from tracker.storage import rows
from tracker.storage.bulk import Statement, text_of
from tracker.storage.recent import Recent
from tracker.storage.tables import ALARMS, COUNTERS, EVENTS, TASKS
from tracker.storage.upserts import upsert
from tracker.views import AlarmCount

KEPT: Final = (
    "status",
    "standing_asked",
    "standing_updated_at",
    "reason",
    "learned_from",
    "learned_trust",
    "facts",
    "version",
    "updated_at",
    "submitted_at",
    "finished_at",
    "heard_at",
    "polled_at",
    "next_poll_at",
    "polls",
    "provider_task_id",
    "callback_asked",
)
TOLD: Final = ("type", "at", "data")
COUNTED: Final = ("kind", "provider", "hour", "count")
# The highest id of an event that was deleted: a reader whose cursor is before it may have missed something.
HORIZON: Final = "events forgotten"
_PLACES: Final = {name: place for place, name in enumerate(rows.READ)}
_EVENT: Final = (EVENTS.c.id, EVENTS.c.type, EVENTS.c.sequence, EVENTS.c.at, EVENTS.c.data, EVENTS.c.task_id)
HEADS: Final = select(EVENTS.c.id, EVENTS.c.type, EVENTS.c.sequence, EVENTS.c.at, EVENTS.c.task_id)
READING: Final = select(*_EVENT, *(TASKS.c[name] for name in rows.READ)).select_from(
    EVENTS.outerjoin(TASKS, TASKS.c.id == EVENTS.c.task_id)
)
NONE: Final = Recent()
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


def columns(event: Event, after: Task | None) -> tuple[Any, ...]:
    """Give an event's columns but its id; ``after`` is the task at the end of the same change, where that is it."""
    task = subject(event, after)
    data = {name: rows.COLUMNS[name](task) for name in KEPT}
    return (task.id, event.sequence, event.type, rows.stamp(event.at), rows.dump(data))


def subject(event: Event, after: Task | None) -> Task:
    """Give the task that an event tells of, as it then was."""
    return after if after is not None and after.version == event.sequence else event.task


def of_alarm(dialect: str, alarm: AlarmCount) -> Statement:
    """Tell of an hour's alarms, where the ones just counted are the first of theirs."""
    data = {
        "kind": alarm.kind.value,
        "provider": alarm.provider,
        "hour": rows.stamp(alarm.hour),
        "at": rows.stamp(alarm.last_at),
        "task_id": alarm.task_id,
        "detail": alarm.detail,
    }
    told = (ALARM_TYPE + alarm.kind.value, rows.stamp(alarm.last_at), rows.dump(data))
    return Statement(_first_of_its_hour(dialect), (*told, *rows.alarm_columns(alarm)[: len(COUNTED)]))


@cache
def _first_of_its_hour(dialect: str) -> str:
    """Write an event where the hour's count is no more than what was just counted."""
    told = [bindparam(name, type_=EVENTS.c[name].type) for name in TOLD]
    counted = exists().where(*(ALARMS.c[name] == bindparam(f"alarm_{name}") for name in COUNTED))
    found = select(literal_column("NULL"), literal_column("1"), *told).where(counted)
    statement = insert(EVENTS).inline().from_select(["task_id", "sequence", *TOLD], found)
    return text_of(dialect, statement, [*TOLD, *(f"alarm_{name}" for name in COUNTED)])


def read(connection: Connection, *, after: int, limit: int, recent: Recent = NONE) -> list[Told]:
    """Give the events after a cursor, in order; where most are ``recent``, only the others are read as a whole."""
    if recent and (found := _read_recent(connection, after, limit, recent)) is not None:
        return found
    statement = READING.where(EVENTS.c.id > after).order_by(EVENTS.c.id).limit(limit)
    return [told(row) for row in connection.execute(statement)]


def _read_recent(connection: Connection, after: int, limit: int, recent: Recent) -> list[Told] | None:
    heads = connection.execute(HEADS.where(EVENTS.c.id > after).order_by(EVENTS.c.id).limit(limit)).all()
    found: dict[int, Told | None] = {}
    for cursor, kind, sequence, at, task_id in heads:
        task = None if task_id is None else recent.get(task_id, sequence)
        known = Told(cursor=cursor, type=kind, sequence=sequence, at=rows.moment(at), task=task)
        found[cursor] = None if task is None else known
    others = [cursor for cursor, one in found.items() if one is None]
    if 2 * len(others) > len(heads):
        return None
    if others:
        found.update((one.cursor, one) for one in pick(connection, others))
    return [one for one in found.values() if one is not None]


def pick(connection: Connection, ids: Sequence[int]) -> list[Told]:
    """Give some events by their cursors, in order."""
    statement = READING.where(EVENTS.c.id.in_(ids)).order_by(EVENTS.c.id)
    return [told(row) for row in connection.execute(statement)]


def latest(connection: Connection) -> int:
    """Give the cursor of the newest event, 0 where there never was one."""
    newest: int | None = connection.execute(select(func.max(EVENTS.c.id))).scalar_one()
    return max(newest or 0, horizon(connection))


def horizon(connection: Connection) -> int:
    """Give the cursor before which events have been deleted."""
    found = connection.execute(select(COUNTERS.c.value).where(COUNTERS.c.name == HORIZON)).scalar_one_or_none()
    return found or 0


def forget(connection: Connection, which: ColumnElement[bool]) -> int:
    """Delete events, and remember that they are gone."""
    newest, count = connection.execute(select(func.max(EVENTS.c.id), func.count()).where(which)).one()
    if newest is not None:
        statement = upsert(connection, COUNTERS).values(name=HORIZON, value=newest)
        further = statement.excluded.value > COUNTERS.c.value
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["name"], set_={"value": statement.excluded.value}, where=further
            )
        )
        connection.execute(delete(EVENTS).where(which))
    return int(count)


def told(row: Row[Any]) -> Told:
    """Read an event back from a row of ``READING``."""
    cursor, kind, sequence, at, data, task_id, *task = tuple[Any, ...](row)
    kept = _decode(data)
    moment = rows.moment(at)
    if task_id is None:
        return Told(cursor=cursor, type=kind, sequence=sequence, at=moment, alarm=_alarm(kept))
    for name, value in kept.items():
        if (place := _PLACES.get(name)) is not None:
            task[place] = value
    # Events of before kept less of their task, and no version.
    task[_PLACES["version"]] = sequence
    return Told(cursor=cursor, type=kind, sequence=sequence, at=moment, task=rows.task_from_columns(task))


def _alarm(kept: dict[str, Any]) -> AlarmCount:
    return AlarmCount(
        kind=Alarm(kept["kind"]),
        provider=kept["provider"],
        hour=rows.moment(kept["hour"]),
        count=1,
        last_at=rows.moment(kept["at"]),
        task_id=kept["task_id"],
        detail=kept["detail"],
    )
