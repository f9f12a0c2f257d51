"""The processes that serve the database: a row per process, with its heartbeat.

All times come from the database's clock.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import BigInteger, ColumnElement, Connection, cast, delete, exists, func, or_, select

from tracker.model.clock import Reading
from tracker.model.servers import Heartbeat, Server, TakenOver
from tracker.model.task import Status
from tracker.storage import rows
from tracker.storage.due_task_store import release_leases
from tracker.storage.engine import event_order
from tracker.storage.engine.table_store import TableStore, read_transaction, write_transaction
from tracker.storage.engine.upserts import upsert
from tracker.storage.tables import SERVERS, TASKS

# The time of the statement, not of the transaction.
NOW: Final = cast(func.extract("epoch", func.clock_timestamp()) * 1_000_000, BigInteger)


class ServerStore(TableStore):
    """The processes that serve a shared database. The database's clock judges all of it."""

    async def beat(
        self, me: Server, *, silence: timedelta, margin: timedelta, own: Callable[[], datetime]
    ) -> Heartbeat:
        """Record the heartbeat of this process, take over from silent ones, and return which processes are alive.

        A process is silent after ``silence`` without a heartbeat. A restored database is noticed first.
        """
        await self.database.write(event_order.check_table, highest=self.database.backend.continuity.highest)
        return await self._beat(me, silence=silence, margin=margin, own=own)

    @read_transaction
    def alive(self, connection: Connection, *, silence: timedelta) -> Sequence[Server]:
        """Return the processes with a heartbeat within ``silence``, the oldest first."""
        return _alive(connection, silence)

    @read_transaction
    def read_clock(self, connection: Connection, own: Callable[[], datetime]) -> Reading:
        """Read the database's clock between two readings of ``own``."""
        return _read_clock(connection, own)

    @write_transaction
    def _beat(
        self, connection: Connection, me: Server, *, silence: timedelta, margin: timedelta, own: Callable[[], datetime]
    ) -> Heartbeat:
        values = {
            "owner": me.owner,
            "host": me.host,
            "pid": me.pid,
            "parts": ",".join(me.parts),
            "started_at": NOW,
            "seen_at": NOW,
        }
        statement = upsert(connection, SERVERS).values(values)
        connection.execute(statement.on_conflict_do_update(index_elements=["owner"], set_={"seen_at": NOW}))
        taken = _take_over(connection, me.owner, silence=silence, margin=margin)
        return Heartbeat(alive=_alive(connection, silence), taken=taken, reading=_read_clock(connection, own))

    @write_transaction
    def leave(self, connection: Connection, owner: str, *, margin: timedelta) -> None:
        """Release the tasks that ``owner`` was polling, and delete its row."""
        release_leases(connection, TASKS.c.lease_owner == owner, margin=margin)
        connection.execute(delete(SERVERS).where(SERVERS.c.owner == owner))

    @read_transaction
    def last_seen(self, connection: Connection, owner: str) -> datetime | None:
        """Return the last heartbeat of a process, or None if it stopped or counts as dead."""
        seen = connection.execute(select(SERVERS.c.seen_at).where(SERVERS.c.owner == owner)).scalar_one_or_none()
        return None if seen is None else rows.moment(seen)


def _alive(connection: Connection, silence: timedelta) -> tuple[Server, ...]:
    """Return the processes with a recent heartbeat, the oldest first."""
    statement = select(SERVERS).where(~_silent(silence)).order_by(SERVERS.c.started_at)
    return tuple(_server(row) for row in connection.execute(statement).mappings())


def _read_clock(connection: Connection, own: Callable[[], datetime]) -> Reading:
    """Read the database's clock between two readings of the local clock, in an open transaction."""
    connection.execute(select(1))
    before = own()
    at = connection.execute(select(NOW)).scalar_one()
    return Reading(before=before, at=rows.moment(at), after=own())


def _take_over(connection: Connection, owner: str, *, silence: timedelta, margin: timedelta) -> tuple[TakenOver, ...]:
    """Release the tasks that silent processes were polling, and delete the rows of these processes.

    A task that another process has locked is skipped. The row of its process then stays.
    """
    silent = (
        select(SERVERS, NOW.label("now"))
        .where(SERVERS.c.owner != owner, _silent(silence))
        .order_by(SERVERS.c.owner)
        .with_for_update(skip_locked=True)
    )
    taken = []
    for row in connection.execute(silent).mappings().all():
        gone = row["owner"]
        tasks = release_leases(connection, TASKS.c.lease_owner == gone, margin=margin)
        left = exists().where(TASKS.c.lease_owner == gone, TASKS.c.status != Status.PENDING.value)
        deleted = connection.execute(delete(SERVERS).where(SERVERS.c.owner == gone, ~left)).rowcount
        if tasks or deleted:
            silent_for = rows.MICROSECOND * (row["now"] - row["seen_at"])
            taken.append(TakenOver(server=_server(row), silent_for=silent_for, tasks=tasks))
    return tuple(taken)


def _silent(silence: timedelta) -> ColumnElement[bool]:
    """Return whether the last heartbeat is too old, or in the future because the clock was set back."""
    seen = SERVERS.c.seen_at
    return or_(seen <= NOW - _microseconds(silence), seen > NOW + _microseconds(silence))


def _server(row: rows.Row) -> Server:
    return Server(owner=row["owner"], host=row["host"], pid=row["pid"], parts=tuple(row["parts"].split(",")))


def _microseconds(duration: timedelta) -> int:
    return duration // rows.MICROSECOND
