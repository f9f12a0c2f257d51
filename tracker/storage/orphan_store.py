"""Orphan callbacks: one row for each named task, and a limit on unsigned ones.

A sender with a shared callback URL can send thousands of callbacks for unknown tasks. Homing always keeps a signed one.
Per URL, at most ``WAITING_UNSIGNED`` unsigned ones wait for their check. After it, only the latest
``SETTLED_UNSIGNED`` stay. Homing counts the others but does not keep them. Callbacks for known tasks are unaffected.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)

from tracker.model.records import Orphan
from tracker.storage import rows
from tracker.storage.engine import bulk
from tracker.storage.engine.bulk import Statement, text_of
from tracker.storage.engine.table_store import TableStore, read_transaction, write_transaction
from tracker.storage.engine.upserts import Insert, upsert_for
from tracker.storage.orphan_table import ORPHANS
from tracker.storage.tables import COUNTERS

WAITING_UNSIGNED: Final = 100
SETTLED_UNSIGNED: Final = 500
NOT_KEPT: Final = "orphans_not_kept"

_seen: Final = ORPHANS.alias("seen")
_TURN: Final = func.row_number().over(partition_by=ORPHANS.c.address, order_by=(ORPHANS.c.next_poll_at, ORPHANS.c.id))
_READY: Final = (
    select(ORPHANS, _TURN.label("turn"))
    .where(ORPHANS.c.next_poll_at <= bindparam("now", type_=BigInteger()))
    .subquery()
)
DUE: Final = (
    select(_READY)
    .order_by(_READY.c.signed.desc(), _READY.c.turn, _READY.c.next_poll_at, _READY.c.id)
    .limit(bindparam("most", type_=Integer()))
)
_IS_SETTLED: Final[ColumnElement[bool]] = ORPHANS.c.state == literal_column("'orphan'")


class OrphanStore(TableStore):
    """Orphan callbacks, before and after their check."""

    @read_transaction
    def latest(self, connection: Connection, *, limit: int) -> Sequence[Orphan]:
        """Return the orphans, the latest callback first."""
        newest = select(ORPHANS).order_by(ORPHANS.c.last_at.desc()).limit(limit)
        return [rows.orphan_from_row(row) for row in connection.execute(newest).mappings()]

    @read_transaction
    def due(self, connection: Connection, *, now: datetime, limit: int) -> Sequence[Orphan]:
        """Return the orphans whose check is due.

        Signed ones come first, then one of each URL in turn, the longest due first.
        """
        found = connection.execute(DUE, {"now": rows.stamp(now), "most": limit}).mappings()
        return [rows.orphan_from_row(row) for row in found]

    @write_transaction
    def take(self, connection: Connection, orphan_id: int, *, now: datetime, until: datetime) -> bool:
        """Let no other round or process check a due orphan before ``until``. Return False if one already does."""
        mine = update(ORPHANS).where(ORPHANS.c.id == orphan_id, ORPHANS.c.next_poll_at <= rows.stamp(now))
        taken = mine.values(next_poll_at=rows.stamp(until)).returning(ORPHANS.c.id)
        return connection.execute(taken).scalar_one_or_none() is not None

    @write_transaction
    def settle(
        self,
        connection: Connection,
        orphan_id: int,
        *,
        state: str,
        why: str,
        next_poll_at: datetime | None,
        task_id: str | None,
    ) -> None:
        """Record the result of checking an orphan callback."""
        values = {
            "state": state,
            "why": why,
            "next_poll_at": rows.optional_stamp(next_poll_at),
            "task_id": task_id,
            "poll_count": ORPHANS.c.poll_count + 1,
        }
        settled = update(ORPHANS).where(ORPHANS.c.id == orphan_id).values(**values)
        address = connection.execute(settled.returning(ORPHANS.c.address)).scalar_one_or_none()
        if address is not None and next_poll_at is None:
            bulk.run(connection, Statement(_drop_oldest(connection.dialect.name), (address, address)))


def write(dialect: str, orphans: Sequence[Orphan]) -> Iterator[Statement]:
    """Record orphans in the order of their IDs, so that two batches cannot deadlock."""
    # One at a time, because several may be about the same task.
    for orphan in sorted(orphans, key=attrgetter("provider", "provider_task_id")):
        values = rows.orphan_columns(orphan)
        if orphan.signed or orphan.next_poll_at is None:
            yield from bulk.insert_rows(dialect, ORPHANS, rows.ORPHAN, [values], _noted)
        else:
            named = (orphan.provider, orphan.provider_task_id, orphan.address)
            yield Statement(_insert_where_room_is(dialect), (*values, *named))
    settled = {orphan.address for orphan in orphans if not orphan.signed and orphan.next_poll_at is None}
    for address in sorted(settled):
        yield Statement(_drop_oldest(dialect), (address, address))


def count_unkept(dialect: str, orphans: Sequence[Orphan]) -> Iterator[Statement]:
    """Count the orphans that were not stored, under the lock of all counts."""
    for orphan in orphans:
        if not orphan.signed and orphan.next_poll_at is not None:
            yield Statement(_count_where_missing(dialect), (orphan.provider, orphan.provider_task_id))


def _noted(statement: Insert) -> Insert:
    new, old = statement.excluded, ORPHANS.c
    # A signed callback starts a new check. An unsigned one does not.
    again = and_(new.signed, _IS_SETTLED)
    # An unsigned callback never replaces a signed one.
    stronger = or_(new.signed, ~old.signed)
    return statement.on_conflict_do_update(
        index_elements=["provider", "provider_task_id"],
        set_={
            "last_at": new.last_at,
            "provider_status": case((stronger, new.provider_status), else_=old.provider_status),
            "body": case((stronger, new.body), else_=old.body),
            "signed": or_(new.signed, old.signed),
            "callbacks": old.callbacks + new.callbacks,
            "state": case((again, new.state), else_=old.state),
            "poll_count": case((again, literal_column("0")), else_=old.poll_count),
            "next_poll_at": case((again, new.next_poll_at), else_=old.next_poll_at),
        },
    )


@cache
def _insert_where_room_is(dialect: str) -> str:
    """Record an orphan that is already known, or for which its URL has a free slot."""
    waiting = and_(_seen.c.address == bindparam("at_address"), _seen.c.next_poll_at.is_not(None), ~_seen.c.signed)
    count = select(func.count()).select_from(_seen).where(waiting).scalar_subquery()
    room = count < literal_column(str(WAITING_UNSIGNED))
    given: list[Any] = [bindparam(name, type_=ORPHANS.c[name].type) for name in rows.ORPHAN]
    found = select(*given).where(or_(_is_known(), room))
    statement = _noted(upsert_for(dialect, ORPHANS).inline().from_select(list(rows.ORPHAN), found))
    return text_of(dialect, statement, [*rows.ORPHAN, "of_provider", "of_task", "at_address"])


@cache
def _count_where_missing(dialect: str) -> str:
    one: list[Any] = [literal_column(f"'{NOT_KEPT}'"), literal_column("1")]
    found = select(*one).where(~_is_known())
    statement = upsert_for(dialect, COUNTERS).inline().from_select(["name", "value"], found)
    more = {"value": COUNTERS.c.value + statement.excluded.value}
    counted = statement.on_conflict_do_update(index_elements=["name"], set_=more)
    return text_of(dialect, counted, ["of_provider", "of_task"])


def _is_known() -> ColumnElement[bool]:
    named = and_(_seen.c.provider == bindparam("of_provider"), _seen.c.provider_task_id == bindparam("of_task"))
    return exists(select(literal_column("1")).select_from(_seen).where(named))


@cache
def _drop_oldest(dialect: str) -> str:
    """Delete all but the latest unsigned orphans of one URL whose check is over."""
    older = and_(_seen.c.address == bindparam("kept_at"), _seen.c.state == literal_column("'orphan'"), ~_seen.c.signed)
    beyond = select(_seen.c.last_at).where(older).order_by(_seen.c.last_at.desc())
    last = beyond.limit(literal_column("1")).offset(literal_column(str(SETTLED_UNSIGNED))).scalar_subquery()
    here = and_(ORPHANS.c.address == bindparam("at_address"), _IS_SETTLED, ~ORPHANS.c.signed)
    return text_of(dialect, delete(ORPHANS).where(here, ORPHANS.c.last_at <= last), ["at_address", "kept_at"])
