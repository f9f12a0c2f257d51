"""PostgreSQL through psycopg: few connections, READ COMMITTED transactions, rows locked in the order of their IDs.

These failures pass when the transaction runs again: a dead connection, a deadlock, a serialization failure, and two
processes that write the same new key at once. Every wait has a limit, even if the network stops answering.
"""

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from tracker.errors import SettingsError, StoreUnavailable
from tracker.storage.engine import refusals
from tracker.storage.engine.event_order import OTHER_TABLE, Continuity
from tracker.storage.engine.server_identity import STANDBY, ServerIdentity
from tracker.storage.engine.transactions import Threads

WRITERS: Final = 4
# While the server works on one batch, the next is prepared.
BATCHES: Final = 2
READERS: Final = 4
CONNECT_SECONDS: Final = 5
STATEMENT: Final = timedelta(seconds=15)
PARAMSTYLE: Final = "numeric_dollar"
INSTALL: Final = "pip install '.[postgres]' in Homing's folder"
# SQLSTATE classes and codes of trouble on the server: connection, resources, operator, system, internal.
UNAVAILABLE: Final = {
    "08": "the connection to the database was lost",
    "53": refusals.OUT_OF_RESOURCES,
    "57": refusals.STOPPING,
    "58": "the database server's disk failed",
    "XX": "the database server found its data damaged",
    "25006": STANDBY,
    "28": refusals.USER,
    "3D": refusals.NO_DATABASE,
    "40": "the database was too busy: transactions kept colliding",
    OTHER_TABLE: "the tables were replaced while Homing was writing",
    "42501": "the database user may not do this. Grant it the schema, its tables and sequences",
    "42P01": "a table of Homing is missing. Run `homing migrate`, or check HOMING_DATABASE_URL",
    "42703": "a column of Homing's tables is missing. Run `homing migrate`",
    "55P03": "the rows were locked for too long",
}
ENCODING: Final = "UTF8"
# Deadlock, serialization failure, and a key that another process wrote just now: the next run sees its row. A statement
# that was prepared before a migration is prepared again.
COLLISIONS: Final = frozenset({"40001", "40P01", "23505", "0A000", OTHER_TABLE})


class Postgres:
    """A Backend for one server. ``busy`` is the maximum wait for a lock of another transaction."""

    writers = WRITERS
    batches_at_once = BATCHES
    readers = READERS
    dialect = "postgresql"
    shared = True
    file = None

    def __init__(self, url: URL, *, busy: timedelta, schema: str | None = None) -> None:
        if not url.database:
            raise SettingsError("HOMING_DATABASE_URL has no database. Write postgresql://user@host/database")
        if find_spec("psycopg") is None:
            raise SettingsError(f"the PostgreSQL driver for HOMING_DATABASE_URL is not installed. Run {INSTALL}")
        self.continuity = Continuity()
        self._identity = ServerIdentity(self.continuity)
        self._url = url
        self._busy = busy
        self._schema = schema
        # Whether a connection was observed to keep its session.
        self._keeps_sessions = False

    def prepare(self) -> None:
        """Do nothing. The pool connects when it is first used."""

    def renew(self) -> None:
        """Do nothing. A lost connection is replaced on its own."""

    def engine(self, *, read_only: bool) -> Engine:
        # Readers need one view for the whole transaction. Writers must see all commits that happened while they waited
        # for a lock.
        own = (
            {"default_transaction_isolation": "repeatable read", "default_transaction_read_only": "on"}
            if read_only
            else {"default_transaction_isolation": "read committed", "synchronous_commit": "on"}
        )
        session = {
            "statement_timeout": str(_milliseconds(STATEMENT)),
            "lock_timeout": str(_milliseconds(self._busy)),
            "idle_in_transaction_session_timeout": str(_milliseconds(STATEMENT)),
            "timezone": "UTC",
            **({"search_path": self._schema} if self._schema else {}),
            **own,
        }
        connect = {
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "homing",
            # Sends statements unchanged. The usual cursor parses each one for its own placeholders.
            "cursor_factory": import_module("psycopg").RawCursor,
            # Only these settings detect a peer that vanished without closing the connection.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": _milliseconds(STATEMENT),
        }
        given = {name: value for name, value in connect.items() if name not in self._url.query}
        url = self._url.set(drivername="postgresql+psycopg")
        try:
            engine = create_engine(url, poolclass=NullPool, paramstyle=PARAMSTYLE, connect_args=given)
        except (ArgumentError, ValueError, TypeError):
            raise SettingsError(refusals.OPTION.format(option="an option")) from None
        event.listen(engine, "do_connect", self._connect)
        # Run this first, because SQLAlchemy then reads the server's version as text.
        event.listen(engine, "connect", partial(self._prepare, session), insert=True)
        if not read_only:
            event.listen(engine, "connect", self._identity.meet)
        return engine

    def _connect(self, _dialect: object, _record: object, args: Any, values: Any) -> Any:  # noqa: ANN401 - SQLAlchemy's own types
        """Connect as SQLAlchemy would. Report settings that the driver cannot parse."""
        psycopg: Any = import_module("psycopg")
        try:
            return psycopg.connect(*args, **values)
        except psycopg.OperationalError:
            raise
        except (psycopg.Error, ValueError, TypeError, OverflowError, OSError) as error:
            # UnicodeError, which a host name may raise, is a ValueError.
            raise StoreUnavailable(refusals.reason_of(str(error), self._url.password)) from None

    def _prepare(self, session: Mapping[str, str], connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own type
        """Refuse an unusable connection, then set up the session. Poolers do not pass on settings from the URL."""
        try:
            _check_encoding(connection)
            self._check_pooler(connection)
            _set(connection, session)
        except BaseException:
            connection.close()  # it never reaches the pool, which would close it
            raise

    def _check_pooler(self, connection: Any) -> None:  # noqa: ANN401 - the driver's own type
        # The pooler module needs the driver, which is not installed for SQLite alone.
        from tracker.storage.engine import pooler  # noqa: PLC0415

        if not self._keeps_sessions:
            # Do this before any setting, because the next user of the session would get the setting too.
            another = partial(import_module("psycopg").connect, connection.info.dsn, password=self._url.password)
            if not pooler.is_direct(connection) and pooler.changes_sessions(connection, another):
                raise StoreUnavailable(refusals.POOLER)
            self._keeps_sessions = True

    def writer(self) -> Threads:
        # Import here, because the module needs the driver, which is not installed for SQLite alone.
        from tracker.storage.engine.pipeline import Pipelines  # noqa: PLC0415

        return Pipelines(self)

    def only_reader(self) -> Threads:
        return Threads(self, read_only=True)

    def trouble(self, error: DBAPIError) -> str | None:
        state = getattr(error.orig, "sqlstate", None)
        if state is None:
            known = error.connection_invalidated or _is_operational(error)
            return refusals.reason_of(str(error.orig), self._url.password) if known else None
        return UNAVAILABLE.get(state) or UNAVAILABLE.get(state[:2])

    def tables_replaced(self, error: DBAPIError) -> bool:
        return getattr(error.orig, "sqlstate", None) == OTHER_TABLE

    def passing(self, error: DBAPIError) -> bool:
        state = getattr(error.orig, "sqlstate", None)
        return state in COLLISIONS or error.connection_invalidated


def _check_encoding(connection: Any) -> None:  # noqa: ANN401 - the driver's own type
    """Refuse a database whose encoding cannot hold every text, before such a text arrives."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != ENCODING:
        raise StoreUnavailable(f"the encoding of the database is {encoding}. Create it with ENCODING '{ENCODING}'")


def _set(connection: Any, session: Mapping[str, str]) -> None:  # noqa: ANN401 - the driver's own type
    """Set the session's parameters in one round trip, outside of any transaction."""
    psycopg: Any = import_module("psycopg")
    statements = "; ".join(f"SET {name} = '{value}'" for name, value in session.items())
    result = connection.pgconn.exec_(statements.encode())
    if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
        raise psycopg.errors.error_from_result(result)


def _is_operational(error: DBAPIError) -> bool:
    return type(error.orig).__name__ in {"OperationalError", "ConnectionTimeout", "InterfaceError"}


def _milliseconds(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
