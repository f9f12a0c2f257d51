"""All that differs between databases: engines, transactions, and which errors mean what.

SQLite: WAL, synchronous=FULL, one connection that writes (BEGIN IMMEDIATE, so that a transaction never fails half-way
for a lock) and a few that only read.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from tracker.errors import SettingsError, StoreUnavailable

READERS: Final = 4
BUSY: Final = timedelta(seconds=5)
POOL_SECONDS: Final = 10
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


class Database:
    """The engines of one database. Nothing is opened before ``open``; ``busy`` is how long a lock is waited for."""

    def __init__(self, url: str, *, busy: timedelta = BUSY) -> None:
        self.url = _checked(url)
        self._busy = busy
        self._writer: AsyncEngine | None = None
        self._reader: AsyncEngine | None = None

    @property
    def name(self) -> str:
        """The address without a password, for people."""
        return self.url.render_as_string(hide_password=True)

    async def open(self) -> None:
        # Requests and raw deliveries are in there: nobody else on this machine needs to read them.
        await asyncio.to_thread(_create_private, Path(self.url.database or ""))
        driver = self.url.set(drivername="sqlite+aiosqlite")
        connect = {"timeout": self._busy.total_seconds()}
        self._writer = create_async_engine(
            driver, pool_size=1, max_overflow=0, pool_timeout=POOL_SECONDS, connect_args=connect
        )
        self._reader = create_async_engine(
            driver, pool_size=READERS, max_overflow=0, pool_timeout=POOL_SECONDS, connect_args=connect
        )
        _prepare(self._writer, begin="BEGIN IMMEDIATE", read_only=False)
        _prepare(self._reader, begin="BEGIN", read_only=True)

    async def close(self) -> None:
        for engine in (self._reader, self._writer):
            if engine is not None:
                await engine.dispose()
        self._reader = self._writer = None

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """One write transaction: committed at the end, rolled back on any error."""
        async with _translated(), _opened(self._writer).begin() as connection:
            yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """One consistent view to read from."""
        async with _translated(), _opened(self._reader).connect() as connection:
            yield connection


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Turn the database's own trouble into StoreUnavailable; what the statement did wrong stays what it is."""
    try:
        yield
    except PoolTimeout as error:
        raise StoreUnavailable("every connection to the database is busy") from error
    except DBAPIError as error:
        reason = _unavailable(error)
        if reason is None:
            raise
        raise StoreUnavailable(reason) from error


def _unavailable(error: DBAPIError) -> str | None:
    code = getattr(error.orig, "sqlite_errorcode", None)
    if isinstance(code, int) and (code & 0xFF) in UNAVAILABLE:
        return UNAVAILABLE[code & 0xFF]
    if error.connection_invalidated:
        return "the connection to the database was lost"
    return None


def _prepare(engine: AsyncEngine, *, begin: str, read_only: bool) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def _connect(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own type
        # The driver must not open transactions by itself; ours begin below.
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

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy's event signature
        connection.exec_driver_sql(begin)


def _create_private(file: Path) -> None:
    with suppress(OSError):
        file.touch(mode=0o600, exist_ok=True)


def _opened(engine: AsyncEngine | None) -> AsyncEngine:
    if engine is None:
        raise StoreUnavailable("the database is not open")
    return engine


def _checked(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise SettingsError("HOMING_DATABASE_URL is no database address; use sqlite:///homing.db") from None
    if url.drivername != "sqlite":
        raise SettingsError(
            f"HOMING_DATABASE_URL names {url.drivername}, which is not supported; use sqlite:///homing.db"
        )
    if url.database in {None, "", ":memory:"}:
        raise SettingsError("HOMING_DATABASE_URL must name a file, such as sqlite:///homing.db: tasks must outlive us")
    return url


def file_of(url: str) -> Path:
    """Give the SQLite file that an address names."""
    return Path(_checked(url).database or "")
