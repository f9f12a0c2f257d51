"""The readiness check of the database: the tables of a batch are writable, and a commit reaches the disk."""

from typing import Any, Final

from sqlalchemy import Connection, Table, delete, func, select, text, update

from tracker.storage.engine import event_order
from tracker.storage.engine.upserts import upsert
from tracker.storage.tables import COUNTERS, EVENTS, OBSERVATIONS, TASKS

# The lock of an INSERT. It waits for a process that blocks requests, and blocks no request itself.
LOCK_TABLES: Final = text(f"LOCK TABLE {TASKS.name}, {OBSERVATIONS.name}, {EVENTS.name} IN ROW EXCLUSIVE MODE")


def rehearse(connection: Connection) -> None:
    """Write near the end of each table, at the place of the next rows. Roll that back, and commit a count.

    On PostgreSQL, only lock the tables as an INSERT would, because rolled back rows there need a cleanup later.
    """
    if event_order.is_shared(connection):
        connection.execute(LOCK_TABLES)
    else:
        with connection.begin_nested() as savepoint:
            connection.execute(update(TASKS).where(TASKS.c.id == _newest(TASKS)).values(version=TASKS.c.version))
            for table in (OBSERVATIONS, EVENTS):
                connection.execute(delete(table).where(table.c.id == _newest(table)))
            savepoint.rollback()
    count = upsert(connection, COUNTERS).values(name="pings", value=1)
    connection.execute(count.on_conflict_do_update(index_elements=["name"], set_={"value": COUNTERS.c.value + 1}))


def _newest(table: Table) -> Any:  # noqa: ANN401 - a subquery with the type of the ID
    return select(func.max(table.c.id)).scalar_subquery()
