"""One database: its URL, its kind, and the methods that read and write it. ``transactions`` runs the transactions.

A transaction is a plain function of a connection. A transaction with many waiting callers is a plan without I/O (see
``bulk``).
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError

from tracker.errors import SettingsError, StoreUnavailable
from tracker.model.database_url import path_of
from tracker.storage.engine.bulk import Plan
from tracker.storage.engine.postgres import Postgres
from tracker.storage.engine.sqlite import Sqlite
from tracker.storage.engine.transactions import Backend, Threads

T = TypeVar("T")
P = ParamSpec("P")

BUSY: Final = timedelta(seconds=5)
NO_SCHEMAS: Final = "HOMING_DATABASE_SCHEMA is for PostgreSQL only. Remove it for a SQLite file"
EXAMPLES: Final = "use sqlite:///homing.db or postgresql://user@host/database"


class Database:
    """One database. Nothing is opened before ``open``. ``busy`` is the maximum wait for a lock.

    ``schema`` is the PostgreSQL schema of the tables. None means the schema that the server chooses.
    """

    def __init__(self, url: str, *, busy: timedelta = BUSY, schema: str | None = None) -> None:
        self.url = _parsed(url)
        self.schema = schema
        self.backend: Backend = backend_of(url, busy=busy, schema=schema)
        self._writer: Threads | None = None
        self._reader: Threads | None = None
        self._renewing: asyncio.Task[None] | None = None
        if self.backend.shared:
            self.backend.continuity.listen(self._renew_all)

    @property
    def name(self) -> str:
        """The database URL without its password, to show to people."""
        return self.url.render_as_string(hide_password=True)

    async def open(self, *, read_only: bool = False) -> None:
        """Connect. With ``read_only``, nothing can be written, and a missing file is not created."""
        self.backend.continuity.open()
        if read_only:
            self._reader = self.backend.only_reader()
            return
        await asyncio.to_thread(self.backend.prepare)
        self._start()

    async def close(self) -> None:
        """Let the running transactions finish, then close every connection and thread."""
        if self._renewing is not None:
            await asyncio.wait({self._renewing})
        await self._end()

    def _start(self) -> None:
        self._writer = self.backend.writer()
        self._reader = Threads(self.backend, read_only=True)

    async def _end(self) -> None:
        threads = [each for each in (self._reader, self._writer) if each is not None]
        self._reader = self._writer = None
        await _closed(threads)
        # Every connection is closed, so the next one may find, or create, another log.
        self.backend.renew()

    async def write(self, transaction: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one write transaction. It is committed when this returns, and rolled back if it raises an error.

        If the caller stops waiting, the transaction still runs to its end. Raises StoreUnavailable.
        """
        writer = _opened(self._writer)
        try:
            return await writer.run(lambda connection: transaction(connection, *args, **kwargs))
        finally:
            self._renew_after(writer)

    async def write_batch(self, plan: Callable[Concatenate[str, P], Plan[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a plan with many waiting callers as one write transaction.

        Its first argument is the name of the dialect.
        """
        writer = _opened(self._writer)
        try:
            return await writer.run_batch(lambda: plan(self.backend.dialect, *args, **kwargs))
        finally:
            self._renew_after(writer)

    async def read(self, transaction: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Read from one consistent view. Raises StoreUnavailable."""
        return await _opened(self._reader).run(lambda connection: transaction(connection, *args, **kwargs))

    def _renew_after(self, writer: Threads) -> None:
        """Replace all connections if one of them requires it. Refuse new work during the replacement."""
        if writer.spent and writer is self._writer:
            self._renewing = asyncio.create_task(self._renew(), name="homing database renewal")

    def _renew_all(self) -> None:
        """Replace all connections after a failover, because some may still lead to the earlier primary server."""
        if self._writer is not None:
            before = [each for each in (self._reader, self._writer) if each is not None]
            self._start()
            self._renewing = asyncio.create_task(_closed(before), name="homing database renewal")

    async def _renew(self) -> None:
        await self._end()
        self._start()


async def _closed(threads: Iterable[Threads]) -> None:
    """Close them one after the other.

    The last connection to a SQLite file writes the log into it. If two close at once, each sees the other as open, and
    the log stays beside the file. A copy of the file alone would then lack commits.
    """
    for each in threads:
        await each.close()


def backend_of(text: str, *, busy: timedelta = BUSY, schema: str | None = None) -> Backend:
    """Choose the backend by the scheme of the URL. Raises SettingsError with what to do, and never with a password."""
    url = _parsed(text)
    scheme = url.drivername
    if scheme == "sqlite":
        if url.database in {None, "", ":memory:"}:
            raise SettingsError(
                "HOMING_DATABASE_URL must name a file, such as sqlite:///homing.db: tasks must survive the process"
            )
        if schema is not None:
            raise SettingsError(NO_SCHEMAS)
        # Parse the path with Homing's own rule, because the serving lock uses the same rule.
        return Sqlite(path_of(text) or Path(), busy=busy)
    if scheme in {"postgresql", "postgres"}:
        return Postgres(url, busy=busy, schema=schema)
    raise SettingsError(f"HOMING_DATABASE_URL names {scheme}, which is not supported; {EXAMPLES}")


def _opened(threads: Threads | None) -> Threads:
    if threads is None:
        raise StoreUnavailable("the database is not open")
    return threads


def _parsed(text: str) -> URL:
    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        raise SettingsError(f"HOMING_DATABASE_URL is no database address; {EXAMPLES}") from None
