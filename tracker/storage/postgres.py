"""PostgreSQL through psycopg: few connections, READ COMMITTED transactions, rows locked in the order of their ids.

A connection that had died meanwhile, a deadlock, a serialization failure and two processes that write the same new key
at once all pass when the transaction is run again. Every wait has a bound, also where the network goes silent.
"""

from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from tracker.errors import SettingsError, StoreUnavailable
from tracker.storage.transactions import Threads

WRITERS: Final = 4
# While the server works on one batch, the next is prepared.
BATCHES: Final = 2
READERS: Final = 4
CONNECT_SECONDS: Final = 5
STATEMENT: Final = timedelta(seconds=15)
PARAMSTYLE: Final = "numeric_dollar"
INSTALL: Final = "pip install 'homing[postgres]'"
# SQLSTATE classes and codes that are the server's trouble: connection, resources, operator, system, internal.
UNAVAILABLE: Final = {
    "08": "the connection to the database was lost",
    "53": "the database server is out of room or of connections",
    "57": "the database server is stopping, starting, or cancelled the statement",
    "58": "the database server's disk failed",
    "XX": "the database server found its data damaged",
    "25006": "the database is read-only: is it a standby?",
    "28": "the database server refuses the user: check HOMING_DATABASE_URL",
    "3D": "the database does not exist: create it, or check HOMING_DATABASE_URL",
    "40": "the database was too busy: transactions kept colliding",
    "42501": "the database user may not do this: grant it the tables",
    "55P03": "the rows were locked for too long",
}
LOST: Final = "the database server cannot be reached"
# A server that refuses a connection says so in words alone: its English ones, and the code that they stand for.
REFUSALS: Final = {
    "too many": "53",
    "connection slots": "53",
    "password": "28",
    "authentication": "28",
    "pg_hba.conf": "28",
    'role "': "28",
    'database "': "3D",
    "starting up": "57",
    "shutting down": "57",
    "recovery": "57",
}
ENCODING: Final = "UTF8"
# Deadlock, serialization failure, and a key that another process wrote just now: the next run sees its row. A statement
# that was prepared before a migration is prepared anew.
COLLISIONS: Final = frozenset({"40001", "40P01", "23505", "0A000"})


class Postgres:
    """A Backend over one server; ``busy`` is how long a lock of another transaction is waited for."""

    writers = WRITERS
    batches_at_once = BATCHES
    readers = READERS
    dialect = "postgresql"
    shared = True
    file = None

    def __init__(self, url: URL, *, busy: timedelta) -> None:
        if not url.database:
            raise SettingsError("HOMING_DATABASE_URL must name a database: postgresql://user@host/database")
        if find_spec("psycopg") is None:
            raise SettingsError(f"HOMING_DATABASE_URL names PostgreSQL, whose driver is not installed: {INSTALL}")
        self._url = url
        self._busy = busy

    def prepare(self) -> None:
        """Nothing: the pool connects when it is first used."""

    def renew(self) -> None:
        """Nothing: a connection that is lost is replaced alone."""

    def engine(self, *, read_only: bool) -> Engine:
        # Readers see one view throughout; writers must see what was committed while they waited for a lock.
        own = (
            {"default_transaction_isolation": r"repeatable\ read", "default_transaction_read_only": "on"}
            if read_only
            else {"default_transaction_isolation": r"read\ committed", "synchronous_commit": "on"}
        )
        options = {
            "statement_timeout": _milliseconds(STATEMENT),
            "lock_timeout": _milliseconds(self._busy),
            "idle_in_transaction_session_timeout": _milliseconds(STATEMENT),
            "timezone": "UTC",
            **own,
        }
        connect = {
            "connect_timeout": CONNECT_SECONDS,
            "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
            "application_name": "homing",
            # Takes statements as the server does; the usual cursor looks for its own placeholders in each again.
            "cursor_factory": import_module("psycopg").RawCursor,
            # A peer that vanished without a word is noticed by these alone.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": _milliseconds(STATEMENT),
        }
        engine = create_engine(
            self._url.set(drivername="postgresql+psycopg"),
            poolclass=NullPool,
            paramstyle=PARAMSTYLE,
            connect_args={name: value for name, value in connect.items() if name not in self._url.query},
        )
        # First of all: SQLAlchemy asks the server for its version, in text.
        event.listen(engine, "connect", _check_encoding, insert=True)
        return engine

    def writer(self) -> Threads:
        # Here, since it needs the driver, which is not installed for SQLite alone.
        from tracker.storage.pipeline import Pipelines  # noqa: PLC0415

        return Pipelines(self)

    def trouble(self, error: DBAPIError) -> str | None:
        state = getattr(error.orig, "sqlstate", None)
        if state is None:
            return _refusal(error) if error.connection_invalidated or _is_operational(error) else None
        return UNAVAILABLE.get(state) or UNAVAILABLE.get(state[:2])

    def passing(self, error: DBAPIError) -> bool:
        state = getattr(error.orig, "sqlstate", None)
        return state in COLLISIONS or error.connection_invalidated


def _check_encoding(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own type
    """Refuse a database that cannot hold every text, before one that it cannot hold comes."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != ENCODING:
        connection.close()  # it never comes to the pool, which would close it
        raise StoreUnavailable(f"the database's encoding is {encoding}: create it with ENCODING '{ENCODING}'")


def _refusal(error: DBAPIError) -> str:
    _, fatal, words = str(error.orig).partition("FATAL:")
    return next((UNAVAILABLE[code] for word, code in REFUSALS.items() if fatal and word in words), LOST)


def _is_operational(error: DBAPIError) -> bool:
    return type(error.orig).__name__ in {"OperationalError", "ConnectionTimeout", "InterfaceError"}


def _milliseconds(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
