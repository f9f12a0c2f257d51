"""Detects whether a new connection leads to the known PostgreSQL, to another one, or to an older state of it.

A failover and a restore to an earlier point in time end every connection. So each new connection is checked before the
first write. A dump may be restored under open connections, and then creates the tables again.
``event_order.hold_order`` refuses to assign event numbers in a table that the connection does not know.
"""

import threading
from typing import Any, Final, NamedTuple

from tracker.errors import StoreUnavailable
from tracker.storage.engine.event_order import (
    KNOWN_TABLE,
    ORDER,
    POSTGRES_CONTINUE,
    SEQUENCE,
    WAIT_ORDER,
    WENT_BACK,
    Continuity,
)

STANDBY: Final = "the database is read-only. It may be a standby"
IN_RECOVERY: Final = "SELECT pg_is_in_recovery()"
# Some database providers do not have these functions, or do not allow every user to call them.
SYSTEM: Final = "SELECT system_identifier::text FROM pg_control_system()"
TIMELINE: Final = "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
TABLE: Final = (
    f"SELECT set_config('{KNOWN_TABLE}', coalesce(to_regclass('events')::oid, 0)::text, false), "
    f"pg_sequence_last_value(to_regclass('{SEQUENCE}'))"
)


class Identity(NamedTuple):
    """The identity of a server and its history. A field is None if it cannot be read."""

    system: str | None
    timeline: str | None
    table: str

    def differs(self, other: "Identity") -> str | None:
        """Return a text that names the differences, or None."""
        pairs = zip(("system identifier", "timeline", "table of events"), self, other, strict=True)
        found = [name for name, mine, others in pairs if None not in {mine, others} and mine != others]
        return f"another {' and another '.join(found)}" if found else None


class ServerIdentity:
    """The identity of the server that all writing connections of this process must share."""

    def __init__(self, continuity: Continuity) -> None:
        self._continuity = continuity
        self._known: Identity | None = None
        self._one = threading.Lock()

    def meet(self, connection: Any, _record: object = None) -> None:  # noqa: ANN401 - the driver's own type
        """Check a new connection of the driver. Continue the event numbers if it leads to another state.

        Raises StoreUnavailable for a standby, because it could be promoted later, during the connection.
        """
        try:
            connection.autocommit = True
            with self._one:
                self._compare(connection)
            connection.autocommit = False
        except BaseException:
            connection.close()  # it never reaches the pool, which would close it
            raise

    def _compare(self, connection: Any) -> None:  # noqa: ANN401 - the driver's own type
        if connection.execute(IN_RECOVERY).fetchone()[0]:
            raise StoreUnavailable(STANDBY)
        # Take this before the database is read. Commits by other processes after it are no sign of a restore.
        highest = self._continuity.highest
        table, last = connection.execute(TABLE).fetchone()
        found = Identity(_asked(connection, SYSTEM), _asked(connection, TIMELINE), table)
        why = self._why(found, went_back=(last or 0) < highest)
        if why is not None:
            _continue_numbers(connection, self._continuity.highest)
        self._known = found
        if why is not None:
            self._continuity.changed(why)

    def _why(self, found: Identity, *, went_back: bool) -> str | None:
        if self._known is None:
            return None
        return self._known.differs(found) or (WENT_BACK if went_back else None)


def _continue_numbers(connection: Any, highest: int) -> None:  # noqa: ANN401 - the driver's own type
    with connection.transaction():
        connection.execute(WAIT_ORDER, (ORDER,))
        connection.execute(POSTGRES_CONTINUE.format(highest=highest))


def _asked(connection: Any, question: str) -> str | None:  # noqa: ANN401 - the driver's own type
    from psycopg import Error, OperationalError  # noqa: PLC0415 - the driver is not installed for SQLite alone

    try:
        answer: str | None = connection.execute(question).fetchone()[0]
    except OperationalError:
        raise
    except Error:
        return None
    return answer
