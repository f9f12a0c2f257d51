"""SQLite: one file that one process serves, one connection that writes, and a few that only read.

WAL with synchronous=FULL: every commit is on the disk. Writers begin with IMMEDIATE, so that a transaction never fails
midway because of a lock. A commit counts only if the path of the database still names the file that has it.
"""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Engine, Transaction, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from tracker.errors import CommitUnknown, StoreUnavailable
from tracker.storage.engine.bulk import Plan, play
from tracker.storage.engine.database_file import Loss, OpenFile
from tracker.storage.engine.event_order import Continuity
from tracker.storage.engine.transactions import NO_MEMORY, Backend, Threads

T = TypeVar("T")
log = logging.getLogger("homing.storage")

READERS: Final = 4
# A batch takes a few milliseconds. If a slow disk makes one take so long, the event loop must not wait for it again
# soon.
SLOW: Final = timedelta(milliseconds=100)
SLOW_FOR: Final = timedelta(seconds=10)
# `bulk` has one statement for each number of rows.
STATEMENTS: Final = 400
# SQLite's primary result codes for trouble of the database, not of the statement, with what to do about each.
UNAVAILABLE: Final = {
    sqlite3.SQLITE_BUSY: "the database is locked by another process",
    sqlite3.SQLITE_LOCKED: "the database is locked",
    sqlite3.SQLITE_READONLY: "the database is read-only. Check the file's and the folder's permissions",
    sqlite3.SQLITE_IOERR: "the disk failed",
    sqlite3.SQLITE_FULL: "the disk is full. Free some space",
    sqlite3.SQLITE_CANTOPEN: "the database cannot be opened. Check that its folder exists and can be written",
    sqlite3.SQLITE_CORRUPT: "the database is damaged. Restore it from a backup",
    sqlite3.SQLITE_NOTADB: "the file is not a SQLite database",
    sqlite3.SQLITE_NOMEM: "out of memory",
}


class Sqlite:
    """A Backend for one file. ``busy`` is the maximum wait for a lock of another process."""

    writers = 1
    readers = READERS
    dialect = "sqlite"
    shared = False
    batches_at_once = 1

    def __init__(self, file: Path, *, busy: timedelta) -> None:
        self.file = file.absolute()
        self.open_file = OpenFile(self.file)
        self.continuity = Continuity()
        self._busy = busy
        self._mode = "rw"

    def prepare(self) -> None:
        # The file contains requests and raw callbacks, so other users of this machine must not read it.
        with suppress(OSError):
            self.file.touch(mode=0o600, exist_ok=True)

    def renew(self) -> None:
        self.open_file.forget_log()

    def engine(self, *, read_only: bool) -> Engine:
        engine = create_engine("sqlite+pysqlite://", poolclass=NullPool, creator=self._connect)
        begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"

        @event.listens_for(engine, "connect")
        def _connect(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own type
            # The driver must not open transactions by itself. Homing begins them in the engine's event.
            connection.isolation_level = None
            if self._mode == "rw":
                _prepare(connection, read_only=read_only)

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            _execute(connection, begin)

        return engine

    def writer(self) -> "OneWriter":
        return OneWriter(self, self.open_file, busy=self._busy)

    def only_reader(self) -> Threads:
        self._mode = "ro"
        return Threads(self, read_only=True)

    def _connect(self) -> sqlite3.Connection:
        """Open the same file as the first time. Never create a file, because that would be another database."""
        self.open_file.expect()
        connection = sqlite3.connect(
            f"file:{quote(str(self.file), errors='surrogateescape')}?mode={self._mode}",
            uri=True,
            timeout=self._busy.total_seconds(),
            check_same_thread=False,
            cached_statements=STATEMENTS,
        )
        try:
            # SQLite opened the file between two checks of the path. If they agree, SQLite has that file.
            self.open_file.expect()
        except StoreUnavailable:
            connection.close()
            raise
        return connection

    def trouble(self, error: DBAPIError) -> str | None:
        code = getattr(error.orig, "sqlite_errorcode", None)
        return UNAVAILABLE.get(code & 0xFF) if isinstance(code, int) else None

    def tables_replaced(self, error: DBAPIError) -> bool:
        del error  # a batch checks the event numbers itself
        return False

    def passing(self, error: DBAPIError) -> bool:
        del error  # the lock wait is over, and no other process writes
        return False


class OneWriter(Threads):
    """The one connection that writes to a file.

    A batch runs on the event loop while nothing else writes. Only its commit, which waits for the disk, runs in the
    thread. If two threads took turns with the interpreter's lock, a batch would cost a fifth more.
    """

    # The connection is not free before the end of the work.
    finishes_abandoned_work = True

    def __init__(self, backend: Backend, file: OpenFile, *, busy: timedelta) -> None:
        super().__init__(backend, read_only=False)
        self._file = file
        self._busy = busy
        self._slow_until = 0.0
        self._loss: Loss | None = None
        # Whether the connection waits for the locks of other processes. The thread may wait, the event loop must not.
        self._patient = True

    async def run_batch(self, plan: Callable[[], Plan[T]]) -> T:
        begun = perf_counter()
        # The thread finishes its work before it starts the next, so the commit also has the connection for itself.
        begin = self._begin() if not self.waiting and begun >= self._slow_until else None
        if begin is None:
            return await super().run_batch(plan)
        result = self._up_to_commit(begin, plan())
        if (now := perf_counter()) - begun > SLOW.total_seconds():
            self._slow_until = now + SLOW_FOR.total_seconds()
        await self.in_thread(partial(self._commit, begin))
        return result

    def _begin(self) -> Transaction | None:
        """Begin on the event loop.

        Return None if there is no connection yet, or if it would have to wait or would fail.
        """
        if self.spent or not self.open or self.open[0].invalidated or self._file.file_loss() is not None:
            return None
        (connection,) = self.open
        try:
            if self._patient:
                _wait_for_locks(connection, timedelta())
                self._patient = False
            return connection.begin()
        except DBAPIError:
            return None

    def _connection(self) -> Connection:
        self._check_file(self._file.file_loss())
        connection = super()._connection()
        if connection.invalidated:
            self._patient = True  # as in the new connection
        if not self._patient:
            _wait_for_locks(connection, self._busy)
            self._patient = True
        return connection

    def _up_to_commit(self, begun: Transaction, plan: Plan[T]) -> T:
        connection = begun.connection
        try:
            with self.driver_errors(connection):
                return play(connection, plan)
        except BaseException as error:
            self._undo(begun, keep=not isinstance(error, MemoryError))
            if isinstance(error, DBAPIError) and (unavailable := self.unavailable(error)) is not None:
                raise unavailable from error
            raise

    def _commit(self, begun: Transaction) -> None:
        try:
            with begun:
                pass  # leaving the block commits, or rolls back if the commit fails
        except DBAPIError as error:
            # SQLAlchemy now considers the transaction ended, even if SQLite does not.
            self._drop(begun.connection)
            if (unavailable := self.unavailable(error)) is None:
                raise
            # A commit that failed may be in the file all the same.
            raise CommitUnknown(unavailable.detail) from error
        except MemoryError:
            self._undo(begun, keep=False)
            raise CommitUnknown(NO_MEMORY) from None
        except BaseException:
            # The state of the transaction is unknown.
            self._undo(begun, keep=False)
            raise
        self._committed()

    def _undo(self, begun: Transaction, *, keep: bool) -> None:
        """End a failed transaction. If that fails, do not keep its connection."""
        connection = begun.connection
        try:
            if connection.in_transaction():
                begun.rollback()
        except Exception:  # noqa: BLE001 - closing the connection also ends the trouble
            keep = False
        if not keep:
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        whole = self._file.lost() is None
        super()._drop(connection)
        if whole:
            # SQLite removes the log with the last connection. The next connection then creates its own.
            self._file.forget_log()

    def _committed(self) -> None:
        """Raise CommitUnknown if the next start would not find this commit. It is there if the file comes back."""
        try:
            self._check_file(self._file.lost())
        except StoreUnavailable as error:
            raise CommitUnknown(error.detail) from None

    def _check_file(self, loss: Loss | None) -> None:
        """Raise StoreUnavailable if the file or its log was lost. First move the content of the log to the open file.

        Otherwise a restart would apply the old log to the file that then has the name. A deleted log would also lose
        its commits.
        """
        if loss is None:
            if self._loss is not None:
                log.warning("the database file is back in its place")
            self._loss = None
            return
        if loss is not self._loss:
            log.error("%s", loss)
            self._loss = loss
            self._empty_log()
        # Connections to a lost log are useless. Connections to a moved file work again if the file comes back.
        self.spent = self.spent or loss is Loss.LOG
        raise StoreUnavailable(loss.value)

    def _empty_log(self) -> None:
        if self.open and not self.open[0].invalidated:
            with suppress(DBAPIError):
                _execute(self.open[0], "PRAGMA wal_checkpoint(TRUNCATE)")

    def _close(self) -> None:
        self._threads.shutdown()
        if self._file.file_loss() is not None:
            # If its file has no name any more, SQLite would leave the log as it is.
            self._empty_log()
        super()._close()


def _wait_for_locks(connection: Connection, most: timedelta) -> None:
    _execute(connection, f"PRAGMA busy_timeout={most // timedelta(milliseconds=1)}")


def _execute(connection: Connection, statement: str) -> None:
    """Run a statement on the driver, outside of any transaction."""
    driver: Any = connection.connection.dbapi_connection
    try:
        driver.execute(statement)
    except sqlite3.Error as error:
        raise DBAPIError(statement, None, error) from error


def _prepare(connection: sqlite3.Connection, *, read_only: bool) -> None:
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "fullfsync=ON",
        "foreign_keys=ON",
        *(("query_only=ON",) if read_only else ()),
    ):
        cursor.execute(f"PRAGMA {pragma}")
    (mode,) = cursor.execute("PRAGMA journal_mode").fetchone()
    cursor.close()
    if mode != "wal":
        raise StoreUnavailable("the file's folder cannot hold a write-ahead log. Put the database on a local disk")
