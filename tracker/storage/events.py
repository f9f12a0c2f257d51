"""Events as rows and as values: what an event keeps of its task, and reading events in the order of their commits.

An event keeps what a change can change; the rest of its task (whose it is, what was asked for) never changes and is
read from the task's row.
"""

from collections.abc import Generator, Iterable, Sequence
from datetime import datetime
from itertools import count
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType, structs
from sqlalchemy import ColumnElement, Connection, Row, delete, func, select
from sqlalchemy.exc import DBAPIError

from tracker.model.changes import Change
from tracker.model.event import Found, PublishedEvent, UnreadableEvent
from tracker.model.records import AlarmCount
from tracker.model.task import Alarm, Event, Fact, Source, Standing, Status, Task, Trust, changed
from tracker.storage import rows
from tracker.storage.engine.bulk import SQLITE, Rows, Statement
from tracker.storage.engine.continuity import WentBack
from tracker.storage.engine.upserts import upsert
from tracker.storage.recent import Recent
from tracker.storage.tables import COUNTERS, EVENTS, TASKS

LAST: Final = Statement("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'")
# The highest id of an event that was deleted: a reader whose cursor is before it may have missed something.
HORIZON: Final = "events forgotten"
_EVENT: Final = (EVENTS.c.id, EVENTS.c.type, EVENTS.c.sequence, EVENTS.c.at, EVENTS.c.data, EVENTS.c.task_id)
HEADS: Final = select(EVENTS.c.id, EVENTS.c.type, EVENTS.c.sequence, EVENTS.c.at, EVENTS.c.task_id)
READING: Final = select(*_EVENT, *(TASKS.c[name] for name in rows.READ)).select_from(
    EVENTS.outerjoin(TASKS, TASKS.c.id == EVENTS.c.task_id)
)
NONE: Final = Recent()
# What the driver of SQLite says of text that is not UTF-8.
UNDECODABLE: Final = "Could not decode to UTF-8"


class KeptFact(msgspec.Struct, kw_only=True):
    """A Fact, as far as it can be declared: what JSON holds is not looked into."""

    standing: Standing
    value: Any


class Then(msgspec.Struct, kw_only=True):
    """What an event keeps of its task: the fields that a change can change. Events of before kept fewer."""

    status: Status | UnsetType = UNSET
    standing: Standing | UnsetType = UNSET
    reason: str | UnsetType | None = UNSET
    learned_from: Source | UnsetType | None = UNSET
    learned_trust: Trust | UnsetType | None = UNSET
    facts: dict[str, KeptFact] | UnsetType = UNSET
    updated_at: datetime | UnsetType = UNSET
    submitted_at: datetime | UnsetType | None = UNSET
    finished_at: datetime | UnsetType | None = UNSET
    heard_at: datetime | UnsetType | None = UNSET
    polled_at: datetime | UnsetType | None = UNSET
    next_poll_at: datetime | UnsetType | None = UNSET
    polls: int | UnsetType = UNSET
    provider_task_id: str | UnsetType | None = UNSET
    callback_asked: bool | UnsetType = UNSET
    conflict_claims: tuple[Status, ...] | UnsetType = UNSET
    conflict_at: datetime | UnsetType | None = UNSET


_then: Final = msgspec.json.Decoder(Then).decode
_kept: Final = msgspec.json.Decoder(dict[str, Any]).decode
_of: Final = attrgetter(*Then.__struct_fields__)


def columns(event: Event, after: Task | None) -> tuple[Any, ...]:
    """Return an event's columns but its id; ``after`` is the task at the end of the same change, where that is it."""
    task = subject(event, after)
    kept = dict(zip(Then.__struct_fields__, _of(task), strict=True))
    return (task.id, event.sequence, event.type, rows.stamp(event.at), rows.dump(kept))


def subject(event: Event, after: Task | None) -> Task:
    """Return the task that an event tells of, as it then was."""
    told = event.task
    return after if after is not None and after.id == told.id and after.version == event.sequence else told


def last(dialect: str, *, highest: int) -> Generator[Sequence[Statement], Sequence[Rows], int | None]:
    """Plan to ask for the cursor that was given last, where nobody else gives any meanwhile; None where others do.

    Raises WentBack where that is before ``highest``: some were given already in a state that the database has lost.
    """
    if dialect != SQLITE:
        return None
    ((row,),) = yield [LAST]
    number = int(row[0])
    if number < highest:
        raise WentBack
    return number


def of(changes: Iterable[Change[Any]], *, after: int) -> list[PublishedEvent]:
    """Return the events of some changes as readers get them, numbered on from a cursor."""
    numbers = count(after + 1)
    return [
        PublishedEvent(
            cursor=next(numbers),
            type=event.type,
            sequence=event.sequence,
            at=event.at,
            task=subject(event, change.task),
        )
        for change in changes
        for event in change.events
    ]


def read(connection: Connection, *, after: int, limit: int, recent: Recent = NONE) -> list[Found]:
    """Return the events after a cursor, in order; where most are ``recent``, only the others are read as a whole."""
    if recent and (found := _read_recent(connection, after, limit, recent)) is not None:
        return found
    return _read(connection, EVENTS.c.id > after, limit)


def _read_recent(connection: Connection, after: int, limit: int, recent: Recent) -> list[Found] | None:
    try:
        heads = connection.execute(HEADS.where(EVENTS.c.id > after).order_by(EVENTS.c.id).limit(limit)).all()
    except DBAPIError as error:
        _pass_over(error)
        return None
    found: dict[int, Found | None] = {}
    for head in heads:
        found[head.id] = _known(head, recent)
    others = [cursor for cursor, one in found.items() if one is None]
    if 2 * len(others) > len(heads):
        return None
    if others:
        found.update((one.cursor, one) for one in pick(connection, others))
    return [one for one in found.values() if one is not None]


def _known(head: Row[int, str, int, int, str | None], recent: Recent) -> PublishedEvent | None:
    """Return an event whose task is at hand as it then was; None also where it is damaged, which its reader reports."""
    cursor, kind, sequence, at, task_id = head
    if task_id is None:
        return None
    try:
        moment = rows.moment(at)
    except (OverflowError, TypeError):
        return None
    task = recent.get(task_id, sequence, moment)
    return None if task is None else PublishedEvent(cursor=cursor, type=kind, sequence=sequence, at=moment, task=task)


def pick(connection: Connection, ids: Sequence[int]) -> list[Found]:
    """Return some events by their cursors, in order."""
    return _read(connection, EVENTS.c.id.in_(ids))


def _read(connection: Connection, which: ColumnElement[bool], limit: int | None = None) -> list[Found]:
    try:
        return [told(row) for row in connection.execute(READING.where(which).order_by(EVENTS.c.id).limit(limit))]
    except DBAPIError as error:
        _pass_over(error)
    # The driver fails with the whole page: one by one, then.
    ids = connection.execute(select(EVENTS.c.id).where(which).order_by(EVENTS.c.id).limit(limit)).scalars().all()
    return [_read_one(connection, cursor) for cursor in ids]


def _pass_over(error: DBAPIError) -> None:
    """Raise it again, unless it only says that some text is none: SQLite takes any bytes for text."""
    if UNDECODABLE not in str(error.orig):
        raise error


def _read_one(connection: Connection, cursor: int) -> Found:
    try:
        return told(connection.execute(READING.where(EVENTS.c.id == cursor)).one())
    except DBAPIError as error:
        _pass_over(error)
    named = select(EVENTS.c.type, EVENTS.c.sequence, EVENTS.c.task_id).where(EVENTS.c.id == cursor)
    try:
        kind, sequence, task_id = connection.execute(named).one()
    except DBAPIError as error:
        _pass_over(error)
        kind, sequence, task_id = "", 0, None
    return UnreadableEvent(
        cursor=cursor, type=kind, sequence=sequence, task_id=task_id, why=UnicodeDecodeError.__name__
    )


def latest(connection: Connection) -> int:
    """Return the cursor of the newest event, 0 where there never was one."""
    newest: int | None = connection.execute(select(func.max(EVENTS.c.id))).scalar_one()
    return max(newest or 0, horizon(connection))


def horizon(connection: Connection) -> int:
    """Return the cursor before which events have been deleted."""
    found = connection.execute(select(COUNTERS.c.value).where(COUNTERS.c.name == HORIZON)).scalar_one_or_none()
    return found or 0


def forget(connection: Connection, which: ColumnElement[bool]) -> int:
    """Delete events, and remember that they are gone."""
    newest, number = connection.execute(select(func.max(EVENTS.c.id), func.count()).where(which)).one()
    if newest is not None:
        statement = upsert(connection, COUNTERS).values(name=HORIZON, value=newest)
        further = statement.excluded.value > COUNTERS.c.value
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["name"], set_={"value": statement.excluded.value}, where=further
            )
        )
        connection.execute(delete(EVENTS).where(which))
    return int(number)


def told(row: Row[Any]) -> Found:
    """Read an event back from a row of ``READING``; whatever is wrong with it is wrong with this one alone."""
    try:
        return _told(row)
    except Exception as error:  # noqa: BLE001 - a row may be damaged in any way, and none may hold up the others
        cursor, kind, sequence, _, _, task_id, *_ = tuple[Any, ...](row)
        return UnreadableEvent(cursor=cursor, type=kind, sequence=sequence, task_id=task_id, why=type(error).__name__)


def _told(row: Row[Any]) -> PublishedEvent:
    cursor, kind, sequence, at, data, task_id, *task = tuple[Any, ...](row)
    moment = rows.moment(at)
    if task_id is None:
        return PublishedEvent(cursor=cursor, type=kind, sequence=sequence, at=moment, alarm=_alarm(_kept(data)))
    was = _as_it_was(rows.task_from_columns(task), sequence, _then(data))
    return PublishedEvent(cursor=cursor, type=kind, sequence=sequence, at=moment, task=was)


def _as_it_was(task: Task, version: int, then: Then) -> Task:
    kept = {name: value for name, value in structs.asdict(then).items() if value is not UNSET}
    if not isinstance(then.facts, UnsetType):
        kept["facts"] = {name: Fact(standing=fact.standing, value=fact.value) for name, fact in then.facts.items()}
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
