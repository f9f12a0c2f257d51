"""Event numbers: in the order of commits, and never used twice, even if the database returns in another state.

On PostgreSQL, one advisory lock keeps the order. On SQLite, only one process writes at a time.

A database can lose commits: by an early promotion of a standby, by a restore to an earlier point in time, or by a
restored backup. It then assigns event numbers again, and everything that a process remembers of the lost events is
wrong. Listeners are notified. They drop their memory and read the database again.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from sqlalchemy import Connection, text

from tracker.model.event import RANGE_EPOCH_MILLISECONDS, RANGE_SHIFT
from tracker.storage.engine import bulk

log: Final = logging.getLogger("homing.database")

SHARED: Final = "postgresql"
# The one lock under which event IDs are assigned. The number must be unused by others in the database.
ORDER: Final = 0x686F6D696E67
# The session variable of each writing connection: the table of events that it knows (see ``server_identity``).
KNOWN_TABLE: Final = "homing.events"
# Divides by zero if the table is another one, because a restored dump created it again under an open connection. The
# server looks up the name when it plans the statement. It plans again after that table is dropped.
SAME_TABLE: Final = f"current_setting('{KNOWN_TABLE}')::oid = 'events'::regclass"
WAIT_ORDER: Final = f"SELECT pg_advisory_xact_lock($1 # {bulk.SALT})"
HOLD_ORDER: Final = f"{WAIT_ORDER}, 1 / ({SAME_TABLE})::int"
FOLLOWS: Final = f"SELECT 1 / ({SAME_TABLE} AND coalesce(pg_sequence_last_value('events_id_seq'), 0) >= $1)::int"
OTHER_TABLE: Final = "22012"
LOCK_ORDER: Final = text(f"SELECT pg_advisory_xact_lock(:order # {bulk.SALT})")
WENT_BACK: Final = "event numbers went back"
SEQUENCE: Final = "events_id_seq"
# The first start of a new database changes no number. It leaves a mark, so that a backup without any event is known as
# one. Both databases use their own clock.
MARK: Final = text("INSERT INTO counters (name, value) VALUES ('served', 1) ON CONFLICT DO NOTHING")
WAS_SERVED: Final = "EXISTS (SELECT 1 FROM counters WHERE name = 'served')"
# The row is missing where no event ever got a number.
SQLITE_ROW: Final = text(
    "INSERT INTO sqlite_sequence (name, seq) SELECT 'events', 0 "
    "WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'events')"
)
SQLITE_CONTINUE: Final = text(
    "UPDATE sqlite_sequence SET seq = max(seq, :highest, "  # noqa: S608 - numbers of Homing's own
    f"(CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - {RANGE_EPOCH_MILLISECONDS}) << {RANGE_SHIFT}) "
    f"WHERE name = 'events' AND (seq > 0 OR :highest > 0 OR {WAS_SERVED})"
)
POSTGRES_CONTINUE: Final = (
    f"SELECT setval('{SEQUENCE}', greatest(last, {{highest}}, "  # noqa: S608 - the same; NULL is never the greatest
    f"((extract(epoch FROM clock_timestamp()) * 1000)::bigint - {RANGE_EPOCH_MILLISECONDS}) << {RANGE_SHIFT})) "
    f"FROM (SELECT pg_sequence_last_value('{SEQUENCE}') AS last) AS given "
    f"WHERE last IS NOT NULL OR {{highest}} > 0 OR {WAS_SERVED}"
)
SQLITE_GIVEN: Final = text("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
POSTGRES_GIVEN: Final = text(f"SELECT pg_sequence_last_value('{SEQUENCE}')")


class WentBack(Exception):
    """The database assigns event numbers again that this process has seen."""


class Continuity:
    """What this process knows of the database's past. ``highest`` is the greatest event number that it has seen.

    ``changes`` counts how often the database was in another state than this process left it. ``left_at`` is the
    greatest number before the last such change. Every event of the new state with a lower number existed before the
    change.
    """

    def __init__(self) -> None:
        self.highest = 0
        self.changes = 0
        self.left_at = 0
        self._listeners: list[Callable[[], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Call listeners on the event loop that runs now."""
        self._loop = asyncio.get_running_loop()

    def see(self, cursor: int) -> None:
        """Note the number of an event that is committed."""
        self.highest = max(self.highest, cursor)

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` after each change. Return a function that removes the listener."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def changed(self, why: str) -> None:
        """Note that the database is in another state. Any thread may call this, after event numbers continue."""
        self.changes += 1
        self.left_at = self.highest
        log.warning("the database was restored or replaced, so Homing reads everything again: %s", why)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._notify_listeners)

    def _notify_listeners(self) -> None:
        for listener in tuple(self._listeners):
            listener()


def is_shared(connection: Connection) -> bool:
    """Return whether other processes may write at the same time."""
    return connection.dialect.name == SHARED


def hold_order(dialect: str) -> Iterable[bulk.Statement]:
    """Wait until every assigned event ID is committed, and block new event IDs until this transaction ends.

    Fails with OTHER_TABLE if the table of events is not the one that the connection knows.
    """
    if dialect == SHARED:
        yield bulk.Statement(HOLD_ORDER, (ORDER,))


def check_table(connection: Connection, *, highest: int) -> None:
    """Fail with OTHER_TABLE like ``hold_order``, and also if the next event number would be below ``highest``."""
    if is_shared(connection):
        bulk.run(connection, bulk.Statement(FOLLOWS, (highest,)))


def lock_order(connection: Connection) -> None:
    """Take the lock of ``hold_order`` on a connection, without the check of the table."""
    if is_shared(connection):
        connection.execute(LOCK_ORDER, {"order": ORDER})


def continue_numbers(connection: Connection, *, highest: int = 0) -> None:
    """Make the next event number greater than every earlier one, in any state of the database."""
    if is_shared(connection):
        lock_order(connection)
        connection.execute(text(POSTGRES_CONTINUE.format(highest=highest)))
    else:
        connection.execute(SQLITE_ROW)
        connection.execute(SQLITE_CONTINUE, {"highest": highest})
    connection.execute(MARK)


def highest_number(connection: Connection) -> int:
    """Return the greatest event number that the database may have assigned. No valid cursor is greater."""
    statement = POSTGRES_GIVEN if is_shared(connection) else SQLITE_GIVEN
    last: int | None = connection.execute(statement).scalar_one_or_none()
    return last or 0
