"""Sinks: their configuration, the process that delivers to each, and their progress."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import BigInteger, Connection, bindparam, delete, func, or_, select, update

from tracker.model.records import AuditEntry
from tracker.model.sinks import SinkSpec, SinkState
from tracker.storage import rows
from tracker.storage.audit_store import AuditStore
from tracker.storage.engine.database import Database
from tracker.storage.engine.table_store import TableStore, read_transaction, write_transaction
from tracker.storage.engine.upserts import upsert
from tracker.storage.event_store import latest_cursor
from tracker.storage.progress_store import PENDING, lock_sink, make_due
from tracker.storage.tables import DELIVERIES, EVENTS, SINKS

# Beyond this number, events are not counted, so that a sink with a large lag does not make its page slow.
COUNT_LIMIT: Final = 100_000
_TIME: Final = BigInteger()
# Built once, because a relay renews the lease of each sink every few seconds.
ACQUIRE_LEASE: Final = (
    update(SINKS)
    .where(
        SINKS.c.name == bindparam("sink_name"),
        or_(
            SINKS.c.lease_owner.is_(None),
            SINKS.c.lease_owner == bindparam("owner"),
            SINKS.c.lease_until <= bindparam("now", type_=_TIME),
            # A lease that ends later than possible was acquired before the clock was set back.
            SINKS.c.lease_until > bindparam("latest", type_=_TIME),
        ),
    )
    .values(
        lease_owner=bindparam("owner"),
        lease_until=bindparam("until", type_=_TIME),
        seen_at=bindparam("now", type_=_TIME),
    )
    .returning(SINKS)
)


class SinkStore(TableStore):
    """The sinks. Only the process that holds a sink's lease delivers to it."""

    def __init__(self, database: Database, audit: AuditStore) -> None:
        super().__init__(database)
        self._audit = audit

    @write_transaction
    def register(
        self, connection: Connection, sinks: Sequence[SinkSpec], *, now: datetime, newest: int | None = None
    ) -> None:
        """Record the configured sinks. A new sink starts at its beginning, after the event ``newest``, or now."""
        newest = latest_cursor(connection) if newest is None else newest
        for sink in sorted(sinks, key=lambda one: one.name):
            values: dict[str, Any] = {
                "name": sink.name,
                "address": sink.address,
                "on": True,
                "cursor": 0 if sink.beginning else newest,
                "delivered": 0,
                "failures": 0,
                "last_error": "",
                "created_at": rows.stamp(now),
                "seen_at": rows.stamp(now),
            }
            statement = upsert(connection, SINKS).values(values)
            again = {"address": statement.excluded.address, "seen_at": statement.excluded.seen_at}
            connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=again))

    @write_transaction
    def acquire_lease(
        self, connection: Connection, name: str, *, owner: str, now: datetime, lease: timedelta
    ) -> SinkState | None:
        """Acquire or renew the lease of a sink.

        Return its state without counts, or None if another process holds it.
        """
        values = {
            "sink_name": name,
            "owner": owner,
            "now": rows.stamp(now),
            "until": rows.stamp(now + lease),
            "latest": rows.stamp(now + 2 * lease),
        }
        row = connection.execute(ACQUIRE_LEASE, values).mappings().one_or_none()
        return None if row is None else _state(row)

    @write_transaction
    def release_leases(self, connection: Connection, owner: str | None) -> None:
        """Release all leases held by ``owner``, or every lease if it is None (single-process SQLite)."""
        leased = SINKS.c.lease_owner.is_not(None) if owner is None else SINKS.c.lease_owner == owner
        connection.execute(update(SINKS).where(leased).values(lease_owner=None, lease_until=None))

    @read_transaction
    def states(self, connection: Connection) -> Sequence[SinkState]:
        """Return every sink, by name."""
        found = connection.execute(select(SINKS).order_by(SINKS.c.name)).mappings().all()
        return [_counted(connection, row) for row in found]

    # Each method records ``audit`` in the same transaction.

    async def switch(
        self, name: str, *, on: bool, now: datetime, from_now: bool = False, audit: AuditEntry | None = None
    ) -> bool:
        """Turn a sink on or off.

        ``from_now`` drops the events that it missed. Return False if there is no such sink.
        """

        def step(connection: Connection) -> bool:
            values: dict[str, Any] = {"on": on, "failures": 0, "retry_at": None}
            if from_now:
                values["cursor"] = latest_cursor(connection)
            found = connection.execute(update(SINKS).where(SINKS.c.name == name).values(**values)).rowcount > 0
            if from_now:
                connection.execute(delete(DELIVERIES).where(DELIVERIES.c.sink == name))
            if found and on:
                make_due(connection, name, now=now)
            return found

        return await self._audit.run(step, lambda found: audit if found else None)

    async def delete(self, name: str, *, audit: AuditEntry | None = None) -> bool:
        """Delete a sink and its deliveries. Return False if there is no such sink."""

        def step(connection: Connection) -> bool:
            lock_sink(connection, name)
            connection.execute(delete(DELIVERIES).where(DELIVERIES.c.sink == name))
            return connection.execute(delete(SINKS).where(SINKS.c.name == name)).rowcount > 0

        return await self._audit.run(step, lambda found: audit if found else None)


def _counted(connection: Connection, row: rows.Row) -> SinkState:
    """Return the state of a sink with the counts of its events and deliveries."""
    name, cursor = row["name"], row["cursor"]
    ahead = select(EVENTS.c.id).where(EVENTS.c.id > cursor).limit(COUNT_LIMIT).subquery()
    mine = DELIVERIES.c.sink == name
    pending = select(func.count(), func.min(DELIVERIES.c.event_id), func.min(DELIVERIES.c.next_at)).where(mine, PENDING)
    behind = connection.execute(select(func.count()).select_from(ahead)).scalar_one()
    waiting, first, next_at = connection.execute(pending).one()
    dead = connection.execute(select(func.count()).select_from(DELIVERIES).where(mine, ~PENDING)).scalar_one()
    oldest = or_(EVENTS.c.id == first, EVENTS.c.id > cursor) if first is not None else EVENTS.c.id > cursor
    at = connection.execute(select(EVENTS.c.at).where(oldest).order_by(EVENTS.c.id).limit(1)).scalar_one_or_none()
    try:
        oldest_at = rows.optional_moment(at)
    except (OverflowError, TypeError):
        oldest_at = None  # the event is damaged, but the rest of the state must stay visible
    state = replace(
        _state(row), behind=behind, waiting=waiting, dead=dead, oldest_at=oldest_at, at_least=behind == COUNT_LIMIT
    )
    if state.retry_at is None and state.on and state.failures and next_at is not None:
        # A pending delivery has its own time, unless the circuit of the whole sink is open.
        state = replace(state, retry_at=rows.optional_moment(next_at))
    return state


def _state(row: rows.Row) -> SinkState:
    return SinkState(
        name=row["name"],
        address=row["address"],
        on=row["on"],
        cursor=row["cursor"],
        behind=0,
        waiting=0,
        dead=0,
        delivered=row["delivered"],
        oldest_at=None,
        failures=row["failures"],
        last_error=row["last_error"],
        last_error_at=rows.optional_moment(row["last_error_at"]),
        delivered_at=rows.optional_moment(row["delivered_at"]),
        retry_at=rows.optional_moment(row["retry_at"]),
        owner=row["lease_owner"],
        lease_until=rows.optional_moment(row["lease_until"]),
    )
