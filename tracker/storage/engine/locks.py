"""Locks that several processes on one PostgreSQL take; on SQLite one process writes at a time anyway."""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from sqlalchemy import Connection, text

from tracker.model.changes import Key
from tracker.storage.engine import bulk

SHARED: Final = "postgresql"
# The one lock under which event ids are given; any number that nobody else in the database uses.
ORDER: Final = 0x686F6D696E67
# Homing keeps these unique, not the database. Two writers must not both find no row.
NAMES: Final = frozenset({"external_key", "idempotency_key", "sent_external_id", "unanswered"})
# What each connection that writes keeps for its session: the table of events that it knows (see ``server_identity``).
KNOWN_TABLE: Final = "homing.events"
# Divides by nothing where the table is another one by now: a restored dump made it anew beneath the connection. The
# server looks up the name when it plans the statement, and plans it again once that table is dropped.
SAME_TABLE: Final = f"current_setting('{KNOWN_TABLE}')::oid = 'events'::regclass"
WAIT_ORDER: Final = f"SELECT pg_advisory_xact_lock($1 # {bulk.SALT})"
HOLD_ORDER: Final = f"{WAIT_ORDER}, 1 / ({SAME_TABLE})::int"
FOLLOWS: Final = f"SELECT 1 / ({SAME_TABLE} AND coalesce(pg_sequence_last_value('events_id_seq'), 0) >= $1)::int"
OTHER_TABLE: Final = "22012"
LOCK_ORDER: Final = text(f"SELECT pg_advisory_xact_lock(:order # {bulk.SALT})")


def is_shared(connection: Connection) -> bool:
    """Return whether other processes may write at the same time."""
    return connection.dialect.name == SHARED


def hold_names(dialect: str, names: Iterable[Key]) -> Iterable[bulk.Statement]:
    """Hold what ``names`` call a task, also where no row has that name yet, to the end of the transaction."""
    numbers = {_number(name) for name in names if name.by in NAMES} if dialect == SHARED else ()
    return bulk.lock_numbers(dialect, numbers)


def hold_order(dialect: str) -> Iterable[bulk.Statement]:
    """Wait until every event id that is given already is committed, and let nobody give one before we commit.

    Fails with OTHER_TABLE where the table of events is not the one that the connection knows.
    """
    if dialect == SHARED:
        yield bulk.Statement(HOLD_ORDER, (ORDER,))


def check_table(connection: Connection, *, highest: int) -> None:
    """Fail so, and also where a lower event number than ``highest`` would be the next."""
    if is_shared(connection):
        bulk.run(connection, bulk.Statement(FOLLOWS, (highest,)))


def lock_order(connection: Connection) -> None:
    """Do so at once."""
    if is_shared(connection):
        connection.execute(LOCK_ORDER, {"order": ORDER})


def _number(name: Key) -> int:
    spelled = "\0".join((name.by, *name.scope, name.value)).encode()
    return int.from_bytes(blake2b(spelled, digest_size=8).digest(), "big", signed=True)
