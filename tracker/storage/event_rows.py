"""Events as rows and as values.

An event stores the fields of its task that a change can change. The other fields (the client, the request) never change
and are read from the row of the task.
"""

from collections.abc import Iterable
from datetime import datetime
from itertools import count
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType, structs
from sqlalchemy import Row, select

from tracker.model.changes import Change
from tracker.model.event import Found, PublishedEvent, UnreadableEvent
from tracker.model.records import AlarmCount
from tracker.model.task import Alarm, Event, Fact, Precedence, Source, Status, Task, Trust, changed
from tracker.storage import rows
from tracker.storage.tables import EVENTS, TASKS

_EVENT: Final = (EVENTS.c.id, EVENTS.c.type, EVENTS.c.sequence, EVENTS.c.at, EVENTS.c.data, EVENTS.c.task_id)
READING: Final = select(*_EVENT, *(TASKS.c[name] for name in rows.READ)).select_from(
    EVENTS.outerjoin(TASKS, TASKS.c.id == EVENTS.c.task_id)
)


class _KeptFact(msgspec.Struct, kw_only=True):
    """The declared part of a Fact. The content of its JSON is not checked."""

    precedence: Precedence
    value: Any


class TaskSnapshot(msgspec.Struct, kw_only=True):
    """The fields of its task that an event stores. Older events have fewer."""

    status: Status | UnsetType = UNSET
    precedence: Precedence | UnsetType = UNSET
    reason: str | UnsetType | None = UNSET
    status_source: Source | UnsetType | None = UNSET
    status_trust: Trust | UnsetType | None = UNSET
    facts: dict[str, _KeptFact] | UnsetType = UNSET
    updated_at: datetime | UnsetType = UNSET
    submitted_at: datetime | UnsetType | None = UNSET
    finished_at: datetime | UnsetType | None = UNSET
    last_observed_at: datetime | UnsetType | None = UNSET
    polled_at: datetime | UnsetType | None = UNSET
    next_poll_at: datetime | UnsetType | None = UNSET
    poll_count: int | UnsetType = UNSET
    provider_task_id: str | UnsetType | None = UNSET
    callback_requested: bool | UnsetType = UNSET
    conflict_statuses: tuple[Status, ...] | UnsetType = UNSET
    conflict_at: datetime | UnsetType | None = UNSET


_snapshot: Final = msgspec.json.Decoder(TaskSnapshot).decode
_kept: Final = msgspec.json.Decoder(dict[str, Any]).decode
_of: Final = attrgetter(*TaskSnapshot.__struct_fields__)


def event_columns(event: Event, after: Task | None) -> tuple[Any, ...]:
    """Return the columns of an event except its ID. ``after`` is the task at the end of the same change."""
    task = task_after(event, after)
    kept = dict(zip(TaskSnapshot.__struct_fields__, _of(task), strict=True))
    return (task.id, task.version, event.type, rows.stamp(event.at), rows.dump(kept))


def task_after(event: Event, after: Task | None) -> Task:
    """Return the task of an event, as it was after the event."""
    task = event.task
    return after if after is not None and after.id == task.id and after.version == task.version else task


def published_events(changes: Iterable[Change[Any]], *, after: int) -> list[PublishedEvent]:
    """Return the published events of some changes, with cursors after the given one."""
    numbers = count(after + 1)
    return [
        PublishedEvent(
            cursor=next(numbers),
            type=event.type,
            sequence=event.task.version,
            at=event.at,
            task=task_after(event, change.task),
        )
        for change in changes
        for event in change.events
    ]


def event_from_row(row: Row[Any]) -> Found:
    """Return the event of a row of ``READING``. An error affects only this event."""
    try:
        return _event(row)
    except Exception as error:  # noqa: BLE001 - a row may be damaged in any way, and must not block the others
        cursor, kind, sequence, _, _, task_id, *_ = tuple[Any, ...](row)
        return UnreadableEvent(cursor=cursor, type=kind, sequence=sequence, task_id=task_id, why=type(error).__name__)


def _event(row: Row[Any]) -> PublishedEvent:
    cursor, kind, sequence, at, data, task_id, *task = tuple[Any, ...](row)
    moment = rows.moment(at)
    if task_id is None:
        return PublishedEvent(cursor=cursor, type=kind, sequence=sequence, at=moment, alarm=_alarm(_kept(data)))
    then = _task_at_event(rows.task_from_columns(task), sequence, _snapshot(data))
    return PublishedEvent(cursor=cursor, type=kind, sequence=sequence, at=moment, task=then)


def _task_at_event(task: Task, version: int, snapshot: TaskSnapshot) -> Task:
    kept = {name: value for name, value in structs.asdict(snapshot).items() if value is not UNSET}
    if not isinstance(snapshot.facts, UnsetType):
        kept["facts"] = {
            name: Fact(precedence=fact.precedence, value=fact.value) for name, fact in snapshot.facts.items()
        }
    return changed(task, version=version, **kept)


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
