"""Runs transactions in a few threads, each with its own connection.

Homing repeats a transaction that failed for a temporary reason before its commit was sent, such as a deadlock or a lost
connection. After that the outcome is unknown, so the caller gets CommitUnknown. The modules ``sqlite`` and ``postgres``
hold the differences between the databases.

The threads are not from the executor of the standard library. A thread of that executor ends if it runs out of memory
between two pieces of work. The queued work then never gets an answer, and the process could not even be stopped.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from tracker.errors import CommitUnknown, Overloaded, StoreUnavailable
from tracker.storage.engine.bulk import Plan, play
from tracker.storage.engine.event_order import Continuity

T = TypeVar("T")
# One piece of work, the event loop that waits for it, and the future for its answer.
Piece = tuple[Callable[[], Any], asyncio.AbstractEventLoop, asyncio.Future[Any]]

RUNS: Final = 3
NO_MEMORY: Final = "there was no free memory to finish the commit"
# Far more than the expected number of waiting readers: every reader is a request, and the server limits connections.
WAITING: Final = 4_096
# The pause of a thread without memory before it tries again to deliver its answer.
PAUSE_SECONDS: Final = 0.05


class Backend(Protocol):
    """The differences between the databases."""

    @property
    def dialect(self) -> str:
        """SQLAlchemy's name of the database."""

    @property
    def writers(self) -> int:
        """The number of transactions that may write at the same time."""

    @property
    def readers(self) -> int: ...

    @property
    def shared(self) -> bool:
        """Return whether several processes may serve the database at once."""

    @property
    def file(self) -> Path | None:
        """The file of the database, or None for a server."""

    @property
    def continuity(self) -> Continuity:
        """The known past of the database."""

    def prepare(self) -> None:
        """Prepare the database for the first connection."""

    def renew(self) -> None:
        """Do the work between closing all old connections and the first new one (see ``Threads.spent``)."""

    def engine(self, *, read_only: bool) -> Engine: ...

    @property
    def batches_at_once(self) -> int:
        """The number of concurrent batches. The batches of one process read their rows one after the other."""

    def writer(self) -> "Threads":
        """Create the threads that run write transactions."""

    def only_reader(self) -> "Threads":
        """Create the threads that run read transactions, if this process writes nothing."""

    def trouble(self, error: DBAPIError) -> str | None:
        """Return what is wrong with the database and what to do, or None if the statement is the cause."""

    def tables_replaced(self, error: DBAPIError) -> bool:
        """Return whether the tables behind the connection were replaced, so that a new connection is needed."""

    def passing(self, error: DBAPIError) -> bool:
        """Return whether the same transaction, run again at once, may succeed."""


class Threads:
    """Threads that each run one transaction at a time."""

    # Whether work runs to its end even if its caller stops waiting. Otherwise abandoned work is not begun.
    finishes_abandoned_work = False

    def __init__(self, backend: Backend, *, read_only: bool) -> None:
        self._backend = backend
        self._engine = backend.engine(read_only=read_only)
        self._own = threading.local()
        self.open: list[Connection] = []
        count, role = (backend.readers, "reads") if read_only else (backend.writers, "writes")
        self._threads = Workers(count, f"homing {role}")
        self.waiting = 0
        # Whether all open connections must be replaced by new ones.
        self.spent = False

    async def run(self, transaction: Callable[[Connection], T]) -> T:
        return await self.in_thread(partial(self._transact, transaction))

    async def run_batch(self, plan: Callable[[], Plan[T]]) -> T:
        """Run a plan's transaction in the cheapest way. Each run makes the plan again."""
        return await self.run(lambda connection: play(connection, plan()))

    async def close(self) -> None:
        """Let the running work finish, then close every connection and thread."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._threads.shutdown()
        for connection in self.open:
            connection.close()
        self._engine.dispose()

    async def in_thread(self, work: Callable[[], T]) -> T:
        if self.waiting >= WAITING:
            raise Overloaded("too many requests wait for the database. Try again later")
        running = self._threads.submit(work, waiting=self.waiting)
        self.waiting += 1
        running.add_done_callback(self._done)
        return await (asyncio.shield(running) if self.finishes_abandoned_work else running)

    def _done(self, _: object) -> None:
        self.waiting -= 1

    def _transact(self, transaction: Callable[[Connection], T]) -> T:
        for run in range(1, RUNS + 1):
            commit_sent = False
            try:
                connection = self._connection()
                try:
                    with connection.begin():
                        with self.driver_errors(connection):
                            result = transaction(connection)
                        commit_sent = True
                except MemoryError:
                    # The state of the transaction is unknown.
                    self._drop(connection)
                    if commit_sent:
                        raise CommitUnknown(NO_MEMORY) from None
                    raise
            except DBAPIError as error:
                if commit_sent or self._backend.tables_replaced(error):
                    # SQLAlchemy now considers the transaction ended, even if the database does not.
                    self._drop(connection)
                self.weigh(error, commit_sent=commit_sent, run=run)
            else:
                self._committed()
                return result
        raise AssertionError("the last run returns or raises")

    def _drop(self, connection: Connection) -> None:
        """Close a connection in an unknown state. A new one is made when it is needed."""
        connection.invalidate()

    def _committed(self) -> None:
        """Raise StoreUnavailable if the commit must not count."""

    def weigh(self, error: DBAPIError, *, commit_sent: bool, run: int) -> None:
        """Return if the transaction may run again, else raise. ``commit_sent``: its commit was already sent."""
        if not commit_sent and run < RUNS and self._backend.passing(error):
            return
        if (unavailable := self.unavailable(error)) is None:
            raise error
        raise (CommitUnknown(unavailable.detail) if commit_sent else unavailable) from error

    def unavailable(self, error: DBAPIError) -> StoreUnavailable | None:
        """Return the error for an unavailable database, or None if the statement is the cause."""
        reason = self._backend.trouble(error)
        return None if reason is None else StoreUnavailable(reason)

    def _connection(self) -> Connection:
        """Return the thread's connection. A dead connection is made again at its next use."""
        connection: Connection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = self._engine.connect()
            self.open.append(connection)
        return connection

    @contextmanager
    def driver_errors(self, connection: Connection) -> Iterator[None]:
        """Convert an error of the driver to the DBAPIError that SQLAlchemy would raise."""
        dialect = self._engine.dialect
        try:
            yield
        except dialect.loaded_dbapi.Error as error:
            lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, None)
            if lost:
                connection.invalidate(error)
            raise DBAPIError(None, None, error, connection_invalidated=lost) from error


class Workers:
    """At most ``count`` threads, started when needed. Each runs one piece of work at a time."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._queue: SimpleQueue[Piece | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, work: Callable[[], T], *, waiting: int) -> asyncio.Future[T]:
        """Queue work behind the ``waiting`` pieces. A piece that is canceled before its turn is not begun.

        Raises StoreUnavailable if the system cannot start a thread.
        """
        if len(self._threads) < min(self._count, waiting + 1):
            self._start()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._queue.put((work, loop, answer))
        return answer

    def shutdown(self) -> None:
        """Block until all queued work has finished. May be called again."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _start(self) -> None:
        # A daemon thread, because a system call that hangs must not block the end of the process.
        thread = threading.Thread(target=self._work, name=f"{self._name}_{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            if not self._threads:
                raise StoreUnavailable(
                    "the system cannot start a thread for the database. It is out of memory"
                ) from None
            return
        self._threads.append(thread)

    def _work(self) -> None:
        while True:
            try:
                piece = self._queue.get()
            except MemoryError:
                time.sleep(PAUSE_SECONDS)
                continue
            if piece is None:
                return
            _run(*piece)
            del piece


def _run(work: Callable[[], Any], loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Any]) -> None:
    """Run one piece of work and pass its result to the waiting event loop."""
    if answer.cancelled():
        return
    result, failure = None, None
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - a caller waits for any result
        failure = error
    while True:
        try:
            loop.call_soon_threadsafe(_settle, answer, result, failure)
        except MemoryError:
            time.sleep(PAUSE_SECONDS)
        except RuntimeError:
            return  # the loop is closed, so no caller waits
        else:
            return


def _settle(answer: asyncio.Future[Any], result: object, failure: BaseException | None) -> None:
    if answer.done():
        return
    if failure is None:
        answer.set_result(result)
    else:
        answer.set_exception(failure)
