"""Transactions on one database, in a few threads of our own: one hop there and back for a whole transaction.

A transaction is a plain function of a connection. It may be run again where it failed for a passing reason before its
commit was asked for (a deadlock, a connection that had died meanwhile); once the commit is asked for, nobody can tell
without looking, so the caller is told that the database is unavailable. What differs between databases is in
``sqlite`` and ``postgres``.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from tracker.errors import Overloaded, SettingsError, StoreUnavailable
from tracker.storage.postgres import Postgres
from tracker.storage.sqlite import Sqlite

T = TypeVar("T")
P = ParamSpec("P")

BUSY: Final = timedelta(seconds=5)
RUNS: Final = 3
# Far more than may be waiting: every reader is a request, and the connections of the server are bounded.
WAITING: Final = 4_096
EXAMPLES: Final = "use sqlite:///homing.db or postgresql://user@host/database"


class Backend(Protocol):
    """What differs between databases."""

    @property
    def writers(self) -> int:
        """How many transactions may write at once."""

    @property
    def readers(self) -> int: ...

    @property
    def shared(self) -> bool:
        """Whether several processes may serve the database at once."""

    @property
    def file(self) -> Path | None:
        """The file that is the database, where it is one."""

    def prepare(self) -> None:
        """Do what comes before the first connection."""

    def engine(self, *, read_only: bool) -> Engine: ...

    def trouble(self, error: DBAPIError) -> str | None:
        """Say what is wrong with the database and what to do; None where the statement is to blame."""

    def passing(self, error: DBAPIError) -> bool:
        """Whether the same transaction, run again at once, may succeed."""

    def blind(self, connection: Connection) -> AbstractContextManager[object]:
        """Let statements that give no rows go out without waiting for the answer to the one before.

        An error is then raised later, at the end of this at the latest.
        """


class Database:
    """One database. Nothing is opened before ``open``; ``busy`` is how long a lock is waited for."""

    def __init__(self, url: str, *, busy: timedelta = BUSY) -> None:
        self.url = _parsed(url)
        self.backend: Backend = backend_of(self.url, busy=busy)
        self._writer: _Threads | None = None
        self._reader: _Threads | None = None

    @property
    def name(self) -> str:
        """The address without a password, for people."""
        return self.url.render_as_string(hide_password=True)

    async def open(self) -> None:
        await asyncio.to_thread(self.backend.prepare)
        self._writer = _Threads(self.backend, self.backend.writers, read_only=False)
        self._reader = _Threads(self.backend, self.backend.readers, read_only=True)

    async def close(self) -> None:
        """Let what has begun end, then let go of every connection and thread."""
        threads = [each for each in (self._reader, self._writer) if each is not None]
        self._reader = self._writer = None
        await asyncio.gather(*(asyncio.to_thread(each.close) for each in threads))

    async def write(self, transaction: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one write transaction: committed when this returns, rolled back where it raises.

        A caller that goes away stops waiting; the transaction ends by itself. Raises StoreUnavailable.
        """
        return await _opened(self._writer).run(lambda connection: transaction(connection, *args, **kwargs))

    async def write_blind(
        self, transaction: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run one write transaction in as few round trips as it can be; see ``Backend.blind``."""
        return await _opened(self._writer).run(lambda connection: transaction(connection, *args, **kwargs), blind=True)

    async def read(self, transaction: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Read from one consistent view. Raises StoreUnavailable."""
        return await _opened(self._reader).run(lambda connection: transaction(connection, *args, **kwargs))


class _Threads:
    """Threads that each run one transaction at a time, on a connection of their own that is kept."""

    def __init__(self, backend: Backend, count: int, *, read_only: bool) -> None:
        self._backend = backend
        self._engine = backend.engine(read_only=read_only)
        self._own = threading.local()
        self._open: list[Connection] = []
        role = "reads" if read_only else "writes"
        self._threads = ThreadPoolExecutor(count, thread_name_prefix=f"homing {role}")
        self._waiting = 0

    async def run(self, transaction: Callable[[Connection], T], *, blind: bool = False) -> T:
        if self._waiting >= WAITING:
            raise Overloaded("too much is waiting for the database")
        self._waiting += 1
        running = asyncio.get_running_loop().run_in_executor(
            self._threads, partial(self._transact, transaction, blind=blind)
        )
        running.add_done_callback(self._done)
        return await running

    def close(self) -> None:
        self._threads.shutdown()
        for connection in self._open:
            connection.close()
        self._engine.dispose()

    def _done(self, _: object) -> None:
        self._waiting -= 1

    def _transact(self, transaction: Callable[[Connection], T], *, blind: bool) -> T:
        for run in range(1, RUNS + 1):
            asked = False
            try:
                connection = self._connection()
                with connection.begin():
                    with self._driver_errors(connection), self._backend.blind(connection) if blind else nullcontext():
                        result = transaction(connection)
                    asked = True
            except DBAPIError as error:
                if not asked and run < RUNS and self._backend.passing(error):
                    continue
                reason = self._backend.trouble(error)
                if reason is None:
                    raise
                raise StoreUnavailable(reason) from error
            else:
                return result
        raise AssertionError("the last run returns or raises")

    def _connection(self) -> Connection:
        """Give the thread's connection: one that died is made anew when it is next used."""
        connection: Connection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = self._engine.connect()
            self._open.append(connection)
        return connection

    @contextmanager
    def _driver_errors(self, connection: Connection) -> Iterator[None]:
        """Let an error of the driver, where it was spoken to directly, look as if SQLAlchemy had met it."""
        dialect = self._engine.dialect
        try:
            yield
        except dialect.loaded_dbapi.Error as error:
            lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, None)
            if lost:
                connection.invalidate(error)
            raise DBAPIError(None, None, error, connection_invalidated=lost) from error


def backend_of(url: URL, *, busy: timedelta = BUSY) -> Backend:
    """Choose by the address's scheme. Raises SettingsError with what to do; it never repeats a password."""
    scheme = url.drivername
    if scheme == "sqlite":
        return Sqlite(url, busy=busy)
    if scheme in {"postgresql", "postgres"}:
        return Postgres(url, busy=busy)
    raise SettingsError(f"HOMING_DATABASE_URL names {scheme}, which is not supported; {EXAMPLES}")


def file_of(url: str) -> Path | None:
    """Give the file that an address names, None where the database is a server."""
    return backend_of(_parsed(url)).file


def _opened(threads: _Threads | None) -> _Threads:
    if threads is None:
        raise StoreUnavailable("the database is not open")
    return threads


def _parsed(text: str) -> URL:
    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        raise SettingsError(f"HOMING_DATABASE_URL is no database address; {EXAMPLES}") from None
