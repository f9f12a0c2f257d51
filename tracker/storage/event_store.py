"""Reading events in the order of their commits. A row that cannot be read fails alone."""

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import ColumnElement, Connection, Row, delete, func, select
from sqlalchemy.exc import DBAPIError

from tracker.model.event import Found, PublishedEvent, UnreadableEvent
from tracker.storage import rows
from tracker.storage.engine import continuity
from tracker.storage.engine.database import Database
from tracker.storage.engine.table_store import TableStore, read_transaction
from tracker.storage.engine.upserts import upsert
from tracker.storage.event_rows import READING, event_from_row
from tracker.storage.recent import Recent, Written
from tracker.storage.tables import COUNTERS, EVENTS

log: Final = logging.getLogger("homing.events")
# Of so many unreadable events it is remembered that the log has them.
LOGGED_LIMIT: Final = 10_000
# The highest ID of an event that was deleted: a reader whose cursor is before it may have missed something.
HORIZON: Final = "events forgotten"
HEADS: Final = select(EVENTS.c.id, EVENTS.c.type, EVENTS.c.sequence, EVENTS.c.at, EVENTS.c.task_id)
# What the driver of SQLite says of text that is not UTF-8.
UNDECODABLE: Final = "Could not decode to UTF-8"


class EventStore(TableStore):
    """The events, in the order of their commits. The latest of this process are kept in memory."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._recent = Recent()
        self._logged: set[int] = set()
        self._continuity = database.backend.continuity
        self._continuity.listen(self._start_over)

    def keep(self, written: Written) -> None:
        """Remember what was just committed."""
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
        """Return the cursor of the newest event, 0 where there never was one."""
        newest = await self.database.read(latest_cursor)
        self._continuity.see(newest)
        return newest

    async def given(self) -> int:
        """Return the greatest cursor that this database may have used; no event need be committed there."""
        return await self.database.read(continuity.given)

    async def horizon(self) -> int:
        """Return the cursor before which events have been deleted: a reader that stopped before it missed some."""
        return await self.database.read(_horizon)

    def log_unreadable(self, found: Iterable[Found]) -> None:
        """Log once, in one line, which events cannot be read."""
        unreadable = [one for one in found if isinstance(one, UnreadableEvent) and one.cursor not in self._logged]
        if not unreadable:
            return
        if len(self._logged) > LOGGED_LIMIT:
            self._logged.clear()
        self._logged.update(one.cursor for one in unreadable)
        one, more = unreadable[0], len(unreadable) - 1
        others = f" (and {more} more)" if more else ""
        log.error("the event %s (%s) cannot be read and is passed over: %s%s", one.id, one.type, one.why, others)

    @read_transaction
    def _read(self, connection: Connection, *, after: int, limit: int) -> Sequence[Found]:
        if self._recent and (found := self._read_recent(connection, after, limit)) is not None:
            return found
        return _select(connection, EVENTS.c.id > after, limit)

    def _read_recent(self, connection: Connection, after: int, limit: int) -> Sequence[Found] | None:
        """Read in full only the events that are not in memory; return None where those are most of them."""
        try:
            heads = connection.execute(HEADS.where(EVENTS.c.id > after).order_by(EVENTS.c.id).limit(limit)).all()
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
        """Return an event whose task is in memory. Return None also if it is damaged, which its reader reports."""
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
    return _select(connection, EVENTS.c.id.in_(cursors))


def latest_cursor(connection: Connection) -> int:
    """Return the cursor of the newest event, 0 where there never was one."""
    newest: int | None = connection.execute(select(func.max(EVENTS.c.id))).scalar_one()
    return max(newest or 0, _horizon(connection))


def delete_events(connection: Connection, which: ColumnElement[bool]) -> None:
    """Delete events, and remember that they are gone."""
    # The count keeps PostgreSQL from reading all events backwards, in search of the first that is meant.
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


def _select(connection: Connection, which: ColumnElement[bool], limit: int | None = None) -> Sequence[Found]:
    try:
        found = connection.execute(READING.where(which).order_by(EVENTS.c.id).limit(limit))
        return [event_from_row(row) for row in found]
    except DBAPIError as error:
        _raise_unless_undecodable(error)
    # The driver fails with the whole page: one by one, then.
    ids = connection.execute(select(EVENTS.c.id).where(which).order_by(EVENTS.c.id).limit(limit)).scalars().all()
    return [_select_one(connection, cursor) for cursor in ids]


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
    """Raise the error, unless it only says that a text is not UTF-8: SQLite takes any bytes for text."""
    if UNDECODABLE not in str(error.orig):
        raise error
