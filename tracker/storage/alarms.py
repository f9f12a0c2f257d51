"""Alarms: they are counted per hour, and the first of its kind in an hour is also an event."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Final

from sqlalchemy import bindparam, exists, insert, literal_column, select

from tracker.model.changes import RaisedAlarm
from tracker.model.event import ALARM_TYPE
from tracker.model.records import AlarmCount
from tracker.storage import rows
from tracker.storage.engine import bulk
from tracker.storage.engine.bulk import Statement, text_of
from tracker.storage.engine.upserts import Insert
from tracker.storage.tables import ALARMS, EVENTS

HOUR: Final = 3_600_000_000
EVENT_COLUMNS: Final = ("type", "at", "data")
COUNT_COLUMNS: Final = ("kind", "provider", "hour", "count")


def folded(raised: Iterable[RaisedAlarm]) -> list[AlarmCount]:
    """Count alarms per hour, in the order in which their rows are written."""
    counts: dict[tuple[str, str, int], AlarmCount] = {}
    for alarm in raised:
        hour = rows.stamp(alarm.at) // HOUR * HOUR
        key = (alarm.kind.value, alarm.provider, hour)
        counts[key] = AlarmCount(
            kind=alarm.kind,
            provider=alarm.provider,
            hour=rows.moment(hour),
            count=1 + (counts[key].count if key in counts else 0),
            last_at=alarm.at,
            task_id=alarm.task_id,
            detail=alarm.detail,
        )
    return [counts[key] for key in sorted(counts)]


def count(dialect: str, alarms: Sequence[AlarmCount]) -> Iterator[Statement]:
    """Add alarms to the counts of their hours."""
    yield from bulk.insert_rows(dialect, ALARMS, rows.ALARM, [rows.alarm_columns(alarm) for alarm in alarms], _rung)


def _rung(statement: Insert) -> Insert:
    excluded = statement.excluded
    last = {name: excluded[name] for name in ("last_at", "task_id", "detail")}
    return statement.on_conflict_do_update(
        index_elements=["kind", "provider", "hour"], set_={"count": ALARMS.c["count"] + excluded["count"], **last}
    )


def write_events(dialect: str, alarms: Sequence[AlarmCount]) -> Iterator[Statement]:
    """Yield statements that write the events of first alarms, under the lock that orders events."""
    for alarm in alarms:
        yield _of(dialect, alarm)


def _of(dialect: str, alarm: AlarmCount) -> Statement:
    data = {
        "kind": alarm.kind.value,
        "provider": alarm.provider,
        "hour": rows.stamp(alarm.hour),
        "at": rows.stamp(alarm.last_at),
        "task_id": alarm.task_id,
        "detail": alarm.detail,
    }
    event = (ALARM_TYPE + alarm.kind.value, rows.stamp(alarm.last_at), rows.dump(data))
    return Statement(_first_of_its_hour(dialect), (*event, *rows.alarm_columns(alarm)[: len(COUNT_COLUMNS)]))


@cache
def _first_of_its_hour(dialect: str) -> str:
    """Write an event if the count of the hour only has the alarms that were just counted."""
    event = [bindparam(name, type_=EVENTS.c[name].type) for name in EVENT_COLUMNS]
    counted = exists().where(*(ALARMS.c[name] == bindparam(f"alarm_{name}") for name in COUNT_COLUMNS))
    found = select(literal_column("NULL"), literal_column("1"), *event).where(counted)
    statement = insert(EVENTS).inline().from_select(["task_id", "sequence", *EVENT_COLUMNS], found)
    return text_of(dialect, statement, [*EVENT_COLUMNS, *(f"alarm_{name}" for name in COUNT_COLUMNS)])
