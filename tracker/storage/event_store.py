"""Reads events in the order of their commits. A row that cannot be read fails alone.

The last commits of this process stay in memory, so that they need no query. Most readers lag only a little.
"""

import logging
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Connection, Integer, Row, Select, bindparam, delete, func, select
from sqlalchemy.exc import DBAPIError

from tracker.model.event import Found, PublishedEvent, UnreadableEvent
from tracker.model.records import AlarmCount, AuditEntry
from tracker.model.task import Task
from tracker.storage import rows
from tracker.storage.engine import event_order
from tracker.storage.engine.database import Database
from tracker.storage.engine.table_store import TableStore, read_transaction
from tracker.storage.engine.upserts import upsert
from tracker.storage.event_rows import READING, event_from_row
from tracker.storage.tables import COUNTERS, EVENTS

log: Final = logging.getLogger("homing.events")
# The number of events in memory.
KEPT: Final = 2_000
# The number of unreadable events that Homing remembers, to log each only once.
LOGGED_LIMIT: Final = 10_000
# The highest ID of a deleted event. A reader with an earlier cursor may have missed events.
HORIZON: Final = "events forgotten"
# Built once, here and below: these queries run many times a second, and building one costs more than running it.
MOST: Final = bindparam("most", type_=Integer())
AFTER: Final = EVENTS.c.id > bindparam("after", type_=BigInteger())
HEADS: Final = (
    select(EVENTS.c.id, EVENTS.c.type, EVENTS.c.sequence, EVENTS.c.at, EVENTS.c.task_id)
    .where(AFTER)
    .order_by(EVENTS.c.id)
    .limit(MOST)
)


class Page(NamedTuple):
    """The query for a page of events, and the one for their IDs alone."""

    events: Select[Any]
    ids: Select[Any]


def _page_where(which: ColumnElement[bool]) -> Page:
    events, ids = (each.where(which).order_by(EVENTS.c.id).limit(MOST) for each in (READING, select(EVENTS.c.id)))
    return Page(events, ids)


PAGE_AFTER: Final = _page_where(AFTER)
PAGE_AT: Final = _page_where(EVENTS.c.id.in_(bindparam("cursors", expanding=True)))
# The error text of SQLite's driver for text that is not UTF-8.
UNDECODABLE: Final = "Could not decode to UTF-8"


@dataclass(slots=True)
class Written:
    """The events of one batch, in their order, its alarms, and its audit entries.

    ``numbered`` means that the cursors of the events are known, and that there are no other events. ``highest`` is the
    greatest cursor before this batch. If the database assigns that cursor again, it went back.
    """

    highest: int = 0
    events: Sequence[PublishedEvent] = ()
    numbered: bool = False
    alarms: Sequence[AlarmCount] = ()
    audits: Sequence[AuditEntry] = ()


class Recent:
    """The latest events of this process.

    Only events that are surely committed may be kept. After a failed batch, this process or another one may decide
    again, with other results under the same version.
    """

    def __init__(self) -> None:
        # If only this process assigns IDs: every event after ``_floor`` up to this process's last one.
        self._tail: list[PublishedEvent] = []
        self._floor: int | None = None
        # If other processes assign IDs too: each event's task at that time, by ID and version, and the time of the
        # event.
        self._tasks: dict[tuple[str, int], tuple[datetime, Task]] = {}

    def clear(self) -> None:
        """Drop everything, because the database is in another state."""
        self._tail, self._floor = [], None
        # Replace the dict instead of clearing it, because a thread may be reading it.
        self._tasks = {}

    def keep(self, written: Written) -> None:
        if not written.numbered:
            self._tail, self._floor = [], None
            self._keep_tasks(written.events)
        elif written.events:
            before = written.events[0].cursor - 1
            if not self._tail or self._tail[-1].cursor != before:
                # This is the first batch, or another process wrote in between.
                self._tail, self._floor = [], before
            self._tail.extend(written.events)
            if len(self._tail) > 2 * KEPT:
                self._floor = self._tail[-KEPT - 1].cursor
                del self._tail[:-KEPT]

    def after(self, cursor: int, *, limit: int) -> Sequence[PublishedEvent] | None:
        """Return the next events after a cursor, or None if they must be read from the database."""
        if self._floor is None or not self._floor <= cursor < self._tail[-1].cursor:
            return None
        start = bisect_right(self._tail, cursor, key=lambda event: event.cursor)
        return self._tail[start : start + limit]

    def get(self, task_id: str, version: int, at: datetime) -> Task | None:
        """Return a task as it was after an event at a time. Thread-safe.

        A database that went back may give the same version to another event.
        """
        then, task = self._tasks.get((task_id, version), (at, None))
        return task if then == at else None

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def _keep_tasks(self, events: Sequence[PublishedEvent]) -> None:
        self._tasks.update(
            ((event.task.id, event.sequence), (event.at, event.task)) for event in events if event.task is not None
        )
        if len(self._tasks) > KEPT:
            for key in list(islice(self._tasks, len(self._tasks) - KEPT)):
                del self._tasks[key]


class EventStore(TableStore):
    """The events, in the order of their commits. The latest events of this process are in memory."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._recent = Recent()
        self._logged: set[int] = set()
        self._continuity = database.backend.continuity
        self._continuity.listen(self._start_over)

    def keep(self, written: Written) -> None:
        """Keep events that were just committed in memory."""
        self._recent.keep(written)
        if written.numbered and written.events:
            self._continuity.see(written.events[-1].cursor)

    async def read(self, *, after: int, limit: int) -> Sequence[Found]:
        """Return the events after a cursor, in order."""
        found: Sequence[Found] | None = self._recent.after(after, limit=limit)
        if found is None:
            found = await self._read(after=after, limit=limit)
            self.log_unreadable(found)
            if found:
                self._continuity.see(found[-1].cursor)
        return found

    async def latest(self) -> int:
        """Return the cursor of the newest event, or 0 if there never was one."""
        newest = await self.database.read(latest_cursor)
        self._continuity.see(newest)
        return newest

    async def highest_number(self) -> int:
        """Return the greatest cursor that this database may have assigned. It may have no committed event."""
        return await self.database.read(event_order.highest_number)

    async def horizon(self) -> int:
        """Return the cursor up to which events may be deleted. A reader with an earlier cursor has missed some."""
        return await self.database.read(_horizon)

    def log_unreadable(self, found: Iterable[Found]) -> None:
        """Log the unreadable events once, in one line."""
        unreadable = [one for one in found if isinstance(one, UnreadableEvent) and one.cursor not in self._logged]
        if not unreadable:
            return
        if len(self._logged) > LOGGED_LIMIT:
            self._logged.clear()
        self._logged.update(one.cursor for one in unreadable)
        one, more = unreadable[0], len(unreadable) - 1
        others = f" (and {more} more)" if more else ""
        log.error("the event %s (%s) cannot be read and is skipped: %s%s", one.id, one.type, one.why, others)

    @read_transaction
    def _read(self, connection: Connection, *, after: int, limit: int) -> Sequence[Found]:
        if self._recent and (found := self._read_recent(connection, after, limit)) is not None:
            return found
        return _select(connection, PAGE_AFTER, {"after": after}, limit)

    def _read_recent(self, connection: Connection, after: int, limit: int) -> Sequence[Found] | None:
        """Read only the events that are not in memory. Return None if most of them are not."""
        try:
            heads = connection.execute(HEADS, {"after": after, "most": limit}).all()
        except DBAPIError as error:
            _raise_unless_undecodable(error)
            return None
        found: dict[int, Found | None] = {head.id: self._known(head) for head in heads}
        others = [cursor for cursor, one in found.items() if one is None]
        if 2 * len(others) > len(heads):
            return None
        if others:
            found.update((one.cursor, one) for one in events_at(connection, others))
        return [one for one in found.values() if one is not None]

    def _known(self, head: Row[int, str, int, int, str | None]) -> PublishedEvent | None:
        """Return an event whose task is in memory. Return None for a damaged event too, which its reader reports."""
        cursor, kind, sequence, at, task_id = head
        if task_id is None:
            return None
        try:
            moment = rows.moment(at)
        except (OverflowError, TypeError):
            return None
        task = self._recent.get(task_id, sequence, moment)
        if task is None:
            return None
        return PublishedEvent(cursor=cursor, type=kind, sequence=sequence, at=moment, task=task)

    def _start_over(self) -> None:
        self._recent.clear()
        self._logged.clear()


# ---- steps of the transactions of other classes


def events_at(connection: Connection, cursors: Sequence[int]) -> Sequence[Found]:
    """Return some events by their cursors, in order."""
    return _select(connection, PAGE_AT, {"cursors": list(cursors)}, len(cursors))


def latest_cursor(connection: Connection) -> int:
    """Return the cursor of the newest event, or 0 if there never was one."""
    newest: int | None = connection.execute(select(func.max(EVENTS.c.id))).scalar_one()
    return max(newest or 0, _horizon(connection))


def delete_events(connection: Connection, which: ColumnElement[bool]) -> None:
    """Delete events, and record the highest deleted ID."""
    # The count stops PostgreSQL from searching all events backwards for the first match.
    newest, _ = connection.execute(select(func.max(EVENTS.c.id), func.count()).where(which)).one()
    if newest is None:
        return
    statement = upsert(connection, COUNTERS).values(name=HORIZON, value=newest)
    value = statement.excluded.value
    further = value > COUNTERS.c.value
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": value}, where=further))
    connection.execute(delete(EVENTS).where(which))


def _horizon(connection: Connection) -> int:
    found = connection.execute(select(COUNTERS.c.value).where(COUNTERS.c.name == HORIZON)).scalar_one_or_none()
    return found or 0


def _select(connection: Connection, page: Page, values: Mapping[str, Any], limit: int) -> Sequence[Found]:
    values = {**values, "most": limit}
    try:
        return [event_from_row(row) for row in connection.execute(page.events, values)]
    except DBAPIError as error:
        _raise_unless_undecodable(error)
    # The driver fails for the whole page, so read the events one by one.
    return [_select_one(connection, cursor) for cursor in connection.execute(page.ids, values).scalars().all()]


def _select_one(connection: Connection, cursor: int) -> Found:
    try:
        return event_from_row(connection.execute(READING.where(EVENTS.c.id == cursor)).one())
    except DBAPIError as error:
        _raise_unless_undecodable(error)
    named = select(EVENTS.c.type, EVENTS.c.sequence, EVENTS.c.task_id).where(EVENTS.c.id == cursor)
    try:
        kind, sequence, task_id = connection.execute(named).one()
    except DBAPIError as error:
        _raise_unless_undecodable(error)
        kind, sequence, task_id = "", 0, None
    return UnreadableEvent(
        cursor=cursor, type=kind, sequence=sequence, task_id=task_id, why=UnicodeDecodeError.__name__
    )


def _raise_unless_undecodable(error: DBAPIError) -> None:
    """Raise the error, unless it only says that a text is not UTF-8. SQLite accepts any bytes as text."""
    if UNDECODABLE not in str(error.orig):
        raise error
