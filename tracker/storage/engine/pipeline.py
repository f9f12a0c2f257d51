"""Batches on PostgreSQL. The event loop drives them without a thread, with several statements in transit at once.

After each wait for the server, a thread would compete with the event loop for the interpreter's lock. The driver's own
cursors send and wait once per statement. Here a batch is two messages and two answers. The first message reads the
rows. The second has all writes, with the COMMIT at its end. The server skips the COMMIT if anything before it failed.

While the server works on one batch, the loop accepts callbacks and prepares the next batch. The batches of one process
lock their rows one after the other, in the order of arrival. So the pieces about one task keep their order.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self, TypeVar

from psycopg import Connection, Error, OperationalError, errors
from psycopg.adapt import Transformer
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult
from sqlalchemy.exc import DBAPIError

from tracker.errors import Overloaded
from tracker.storage.engine.bulk import Plan, Rows, Statement
from tracker.storage.engine.transactions import RUNS, WAITING, Backend, Threads

T = TypeVar("T")

BEGIN: Final = Statement("BEGIN")
COMMIT: Final = Statement("COMMIT")
ROLLBACK: Final = Statement("ROLLBACK")
FORGET: Final = Statement("DEALLOCATE ALL")
# `bulk` has one statement for each number of rows. Beyond this count, all statements are prepared again.
STATEMENTS: Final = 400
TEXT: Final = 0
BINARY: Final = 1
# How to encode a value. Text is sent as bytes with their length, because a NUL would end a C string.
WIRE: Final[Mapping[type, Callable[[Any], bytes | None]]] = MappingProxyType(
    {
        str: str.encode,
        bytes: bytes,
        int: b"%d".__mod__,
        bool: {False: b"f", True: b"t"}.__getitem__,
        type(None): lambda _: None,
    }
)
FORMATS: Final[Mapping[type, int]] = MappingProxyType(
    {str: BINARY, bytes: BINARY, int: TEXT, bool: TEXT, type(None): TEXT}
)
# The types that the server cannot infer from the statements.
PARAMETER_TYPES: Final[Mapping[type, int]] = MappingProxyType({bool: 16, bytes: 17})
GONE: Final = "the connection was lost"
OUT_OF_STEP: Final = "the server sent a wrong number of results"


class _Message(NamedTuple):
    """A statement in the format of the wire."""

    text: str
    values: Sequence[bytes | None]
    formats: Sequence[int]
    types: Sequence[int]

    @classmethod
    def of(cls, statement: Statement) -> Self:
        kinds = list(map(type, statement.values))
        values = [WIRE[kind](value) for kind, value in zip(kinds, statement.values, strict=True)]
        formats, types = [FORMATS[kind] for kind in kinds], [PARAMETER_TYPES.get(kind, 0) for kind in kinds]
        return cls(statement.text, values, formats, types)


class Line:
    """One connection, for one exchange at a time."""

    def __init__(self, driver: Connection[Any]) -> None:
        self._driver = driver
        self._pgconn = driver.pgconn
        self._pgconn.nonblocking = 1
        self._pgconn.enter_pipeline_mode()
        self._adapt = Transformer(driver)
        # The statements that the server has prepared, or will have by then, by their text.
        self._names: dict[str, bytes] = {}
        # For each expected answer: whether it belongs to a statement. The other answers confirm a preparation.
        self._expected: list[bool] = []
        self._results: list[PGresult] = []
        self._answer: asyncio.Future[list[PGresult]] | None = None
        self._skipped = False
        self.lost = False
        # Whether a commit was sent and may have succeeded although it failed here.
        self.commit_uncertain = False
        self._loop = asyncio.get_running_loop()
        self._socket = self._pgconn.socket
        self._loop.add_reader(self._socket, self._receive)

    async def exchange(self, statements: Sequence[Statement]) -> list[PGresult]:
        """Send statements, and return the result of each. Raises the first error. The server skips all later ones."""
        if self.lost:
            raise OperationalError(GONE)
        # Do this first, because it may fail, and a message that is partly sent cannot be taken back.
        messages = [_Message.of(statement) for statement in statements]
        self._expected, self._results, self._skipped = [], [], False
        self._answer = self._loop.create_future()
        try:
            for message in messages:
                self._queue(message)
            self._pgconn.pipeline_sync()
            if self._pgconn.flush():
                self._loop.add_writer(self._socket, self._send)
        except OperationalError as error:
            self._lose(error)
        return await self._answer

    async def commit(self, statements: Sequence[Statement]) -> None:
        """Run the last statements of a transaction and commit it. Raises the first error, as ``exchange`` does."""
        try:
            await self.exchange([*statements, COMMIT])
        except Error:
            self.commit_uncertain = not self._skipped
            raise

    def rows(self, result: PGresult) -> Rows:
        """Read the rows of a result."""
        self._adapt.set_pgresult(result)
        return self._adapt.load_rows(0, result.ntuples, tuple)

    async def undo(self) -> None:
        """End a failed transaction. Prepare all statements again, because one of them may be the cause."""
        with suppress(Error):
            await self.exchange([ROLLBACK, FORGET])
        self._names.clear()

    @property
    def spent(self) -> bool:
        """Return whether the connection is not worth keeping."""
        return self.lost or len(self._names) > STATEMENTS

    def close(self) -> None:
        self._lose(OperationalError(GONE))

    def _queue(self, message: "_Message") -> None:
        self._expected.append(True)
        if not message.values:
            # These statements need no planning.
            self._pgconn.send_query_params(message.text.encode(), None)
            return
        name = self._names.get(message.text)
        if name is None:
            name = self._names[message.text] = b"s%d" % len(self._names)
            self._pgconn.send_prepare(name, message.text.encode(), message.types)
            self._expected.insert(-1, False)
        self._pgconn.send_query_prepared(name, message.values, message.formats, BINARY)

    def _send(self) -> None:
        """Send the data that did not fit before."""
        try:
            if not self._pgconn.flush():
                self._loop.remove_writer(self._socket)
        except OperationalError as error:
            self._lose(error)

    def _receive(self) -> None:
        try:
            self._pgconn.consume_input()
            self._read()
        except OperationalError as error:
            self._lose(error)
        else:
            if self._pgconn.status == ConnStatus.BAD:
                self._lose(OperationalError(GONE))

    def _read(self) -> None:
        ended = True
        while not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is None:
                # None follows each result. A second None means that nothing more has arrived.
                if ended:
                    return
                ended = True
            elif result.status == ExecStatus.PIPELINE_SYNC:
                self._settle(None)
            else:
                self._results.append(result)
                ended = False

    def _settle(self, lost: OperationalError | None) -> None:
        """Complete the exchange: everything has arrived, or nothing more will."""
        answer, self._answer = self._answer, None
        if answer is None:
            return
        bad = next((place for place, result in enumerate(self._results) if _is_error(result)), None)
        if bad is not None:
            self._skipped = bad < len(self._expected) - 1
            answer.set_exception(errors.error_from_result(self._results[bad]))
        elif lost is not None:
            answer.set_exception(lost)
        elif len(self._results) != len(self._expected):
            # This was never observed. But no caller may wait forever, or read the rows of another statement.
            answer.set_exception(OperationalError(OUT_OF_STEP))
            self._lose(OperationalError(OUT_OF_STEP))
        else:
            answer.set_result([result for result, own in zip(self._results, self._expected, strict=True) if own])

    def _lose(self, error: OperationalError) -> None:
        if not self.lost:
            self.lost = True
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._driver.close()
            self._settle(error)


def _is_error(result: PGresult) -> bool:
    """Return whether the server reported the error. The driver itself reports only a lost connection."""
    return result.status == ExecStatus.FATAL_ERROR and result.error_field(DiagnosticField.SQLSTATE) is not None


class Pipelines(Threads):
    """Batches use ``backend.batches_at_once`` lines. Other write transactions run in threads."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend, read_only=False)
        self._free: list[Line] = []
        self._room = asyncio.Semaphore(backend.batches_at_once)
        self._reading = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()

    async def run_batch(self, plan: Callable[[], Plan[T]]) -> T:
        """Run the plan to its end, even if its caller stops waiting."""
        if len(self._running) >= WAITING:
            raise Overloaded("too many batches wait for the database")
        running = asyncio.create_task(self._run(plan))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return await asyncio.shield(running)

    async def close(self) -> None:
        await asyncio.gather(*self._running, return_exceptions=True)
        for line in self._free:
            line.close()
        await super().close()

    async def _run(self, plan: Callable[[], Plan[T]]) -> T:
        async with self._room:
            for run in range(1, RUNS + 1):
                try:
                    line = await self._line()
                except DBAPIError as error:
                    self.weigh(error, commit_sent=False, run=run)
                    continue
                try:
                    return await self._transacted(line, plan())
                except Error as error:
                    met = DBAPIError(None, None, error, connection_invalidated=line.lost)
                    if self._backend.tables_replaced(met):
                        # The other connections know the same old table.
                        for each in (line, *self._free):
                            each.close()
                    self.weigh(met, commit_sent=line.commit_uncertain, run=run)
                finally:
                    self._keep(line)
        raise AssertionError("the last run returns or raises")

    async def _transacted(self, line: Line, plan: Plan[T]) -> T:
        try:
            async with self._reading:
                result, left = await _decided(line, plan)
            await line.commit(left)
        except BaseException:
            await line.undo()
            raise
        return result

    async def _line(self) -> Line:
        while self._free:
            if not (line := self._free.pop()).lost:
                return line
        try:
            made: Any = await self.in_thread(self._engine.raw_connection)
            made.detach()
            return Line(made.dbapi_connection)
        except Error as error:
            # SQLAlchemy reports the errors of its own connections in the same way.
            raise DBAPIError(None, None, error) from error

    def _keep(self, line: Line) -> None:
        if line.spent:
            line.close()
        else:
            self._free.append(line)


async def _decided(line: Line, plan: Plan[T]) -> tuple[T, Sequence[Statement]]:
    """Begin a transaction and run a plan up to the statements that only write."""
    begin = [BEGIN]
    try:
        statements = next(plan)
        while True:
            results = await line.exchange([*begin, *statements])
            statements = plan.send([line.rows(result) for result in results[len(begin) :]])
            begin = []
    except StopIteration as ended:
        decided: tuple[T, Sequence[Statement]] = ended.value
        return decided
