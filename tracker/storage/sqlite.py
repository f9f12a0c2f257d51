"""SQLite: one file, one process that serves it, one connection that writes and a few that only read.

WAL with synchronous=FULL: what is committed is on the disk. Writers begin IMMEDIATE, so that a transaction never fails
half-way for a lock.
"""

import sqlite3
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from tracker.errors import SettingsError

READERS: Final = 4
# `bulk` has one for each number of rows.
STATEMENTS: Final = 400
# SQLite's primary result codes that are the database's trouble, not the statement's; with what to do about each.
UNAVAILABLE: Final = {
    sqlite3.SQLITE_BUSY: "the database is locked by another process",
    sqlite3.SQLITE_LOCKED: "the database is locked",
    sqlite3.SQLITE_READONLY: "the database is read-only: check the file's and the folder's permissions",
    sqlite3.SQLITE_IOERR: "the disk failed",
    sqlite3.SQLITE_FULL: "the disk is full: free some space",
    sqlite3.SQLITE_CANTOPEN: "the database cannot be opened: check that its folder exists and can be written",
    sqlite3.SQLITE_CORRUPT: "the database is damaged: restore it from a backup",
    sqlite3.SQLITE_NOTADB: "the file is not a SQLite database",
    sqlite3.SQLITE_NOMEM: "out of memory",
}


class Sqlite:
    """A Backend over one file; ``busy`` is how long a lock of another process is waited for."""

    writers = 1
    readers = READERS
    shared = False

    def __init__(self, url: URL, *, busy: timedelta) -> None:
        if url.database in {None, "", ":memory:"}:
            raise SettingsError(
                "HOMING_DATABASE_URL must name a file, such as sqlite:///homing.db: tasks must outlive us"
            )
        self._url = url
        self._busy = busy

    @property
    def file(self) -> Path:
        return Path(self._url.database or "")

    def prepare(self) -> None:
        # Requests and raw deliveries are in there: nobody else on this machine needs to read them.
        with suppress(OSError):
            self.file.touch(mode=0o600, exist_ok=True)

    def engine(self, *, read_only: bool) -> Engine:
        connect = {"timeout": self._busy.total_seconds(), "check_same_thread": False, "cached_statements": STATEMENTS}
        engine = create_engine(self._url.set(drivername="sqlite+pysqlite"), poolclass=NullPool, connect_args=connect)
        begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"

        @event.listens_for(engine, "connect")
        def _connect(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own type
            _prepare(connection, read_only=read_only)

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine

    def trouble(self, error: DBAPIError) -> str | None:
        code = getattr(error.orig, "sqlite_errorcode", None)
        return UNAVAILABLE.get(code & 0xFF) if isinstance(code, int) else None

    def passing(self, error: DBAPIError) -> bool:
        del error  # a lock was already waited for, and nobody else writes
        return False

    def blind(self, connection: Connection) -> AbstractContextManager[object]:
        del connection  # there is no way to save
        return nullcontext()


def _prepare(connection: sqlite3.Connection, *, read_only: bool) -> None:
    # The driver must not open transactions by itself; ours begin with the engine's event.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "fullfsync=ON",
        "foreign_keys=ON",
        *(("query_only=ON",) if read_only else ()),
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
