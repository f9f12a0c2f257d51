"""Writes and reads many rows in few statements. A transaction is a plan of statements that does no I/O.

A statement for one row costs as much as a statement for many. So rows are written and read many at a time, as plain
tuples. SQLAlchemy builds each statement once, for one row. For more rows, the group of its values is repeated.
Statements and values go directly to the driver, because SQLAlchemy would spend more time on each than the database
does. The caller has already converted the values to the types of the columns. Errors are the driver's own (see
``transactions``).
"""

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from hashlib import blake2b
from itertools import chain, count
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ClauseElement,
    Connection,
    Dialect,
    Table,
    bindparam,
    column,
    delete,
    func,
    literal_column,
    select,
    update,
    values,
)
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.sql.compiler import SQLCompiler

from tracker.model.changes import Key
from tracker.storage.engine.upserts import Insert, upsert_for

T = TypeVar("T")
G = TypeVar("G")

SQLITE: Final = "sqlite"
# The numbers of rows per statement. Another number would be another statement to parse and plan.
SIZES: Final = (64, 32, 16, 8, 4, 2, 1)
STATEMENTS: Final = 512
PLACE: Final = re.compile("%s")
VALUES: Final = re.compile(r"VALUES (\([^()]*\))")
# Advisory locks belong to a whole database, and each schema in it may have its own Homing. In the usual schema, the
# numbers are the same as in the versions without a choice of schema.
SALT: Final = "(CASE current_schema() WHEN 'public' THEN 0 ELSE hashtextextended(current_schema(), 0) END)"
# Homing keeps these values unique, not the database. Two writers must not both find no row.
HELD: Final = frozenset({"external_key", "idempotency_key", "sent_external_id", "unanswered"})
# Adds the handling of an existing row to an INSERT.
Conflict = Callable[[Insert], Insert]


class Statement(NamedTuple):
    """One statement for the driver, with placeholders in the driver's format."""

    text: str
    values: tuple[Any, ...] = ()


Rows = Sequence[tuple[Any, ...]]
# A transaction without I/O. It yields statements and receives the rows of each. It returns its result and the remaining
# statements, whose rows it does not need. It may run again if the database requires this.
Plan = Generator[Sequence[Statement], Sequence[Rows], tuple[T, Sequence[Statement]]]


def play(connection: Connection, plan: Plan[T]) -> T:
    """Run a plan on a connection, one statement after the other. The caller begins and commits the transaction."""
    result: T
    try:
        statements = next(plan)
        while True:
            statements = plan.send([run(connection, statement).fetchall() for statement in statements])
    except StopIteration as ended:
        result, left = ended.value
    for statement in left:
        run(connection, statement)
    return result


def insert_rows(
    dialect: str,
    table: Table,
    columns: tuple[str, ...],
    rows: Rows,
    on_conflict: Conflict | None = None,
) -> Iterator[Statement]:
    """Insert rows with ``columns`` (in the order of the table), in the given order."""
    for some in _pieces(rows):
        text = _insert(dialect, table, columns, len(some), on_conflict)
        yield Statement(text, tuple(chain.from_iterable(some)))


def update_rows(dialect: str, table: Table, columns: tuple[str, ...], rows: Rows) -> Iterator[Statement]:
    """Set ``columns`` of rows. The first value of each row is its ID."""
    for some in _pieces(rows):
        yield Statement(_update(dialect, table, columns, len(some)), tuple(chain.from_iterable(some)))


def lock_rows(dialect: str, table: Table, columns: tuple[str, ...], ids: Iterable[str]) -> Iterator[Statement]:
    """Lock the rows of ``ids`` in the order of their IDs, and return their ``columns`` as the driver reads them."""
    for some in _groups(sorted(ids)):
        yield Statement(_lock(dialect, table, columns, len(some)), tuple(some))


def find_ids(
    dialect: str, table: Table, named: Mapping[str, str | None], by: str, wanted: Iterable[str]
) -> Iterator[Statement]:
    """Find the IDs of the rows whose column ``by`` is in ``wanted`` and whose other columns are as ``named``."""
    given = tuple(value for value in named.values() if value is not None)
    empty = frozenset(name for name, value in named.items() if value is None)
    for some in _groups(sorted(wanted)):
        yield Statement(_find(dialect, table, tuple(named), empty, by, len(some)), (*given, *some))


def delete_rows(dialect: str, table: Table, by: str, wanted: Iterable[str]) -> Iterator[Statement]:
    """Delete the rows whose column ``by`` is in ``wanted``."""
    for some in _groups(sorted(wanted)):
        yield Statement(_delete(dialect, table, by, len(some)), tuple(some))


def hold_names(dialect: str, names: Iterable[Key]) -> Iterator[Statement]:
    """Lock ``names`` of tasks until the end of the transaction, also a name that no row has yet.

    PostgreSQL uses advisory locks, which every process takes in the same order. SQLite needs none, because it has one
    writer.
    """
    if dialect == SQLITE:
        return
    for some in _groups(sorted({_number(name) for name in names if name.by in HELD})):
        yield Statement(_lock_numbers(dialect, len(some)), tuple(some))


def run(connection: Connection, statement: Statement) -> DBAPICursor:
    """Run one statement on the driver."""
    cursor = connection.connection.cursor()
    cursor.execute(*statement)
    return cursor


def _pieces(rows: Rows) -> Iterator[Rows]:
    """Cut rows into the few sizes for which the database keeps a prepared statement."""
    start = 0
    for size in SIZES:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size


def _groups(ids: Sequence[G]) -> Iterator[Sequence[G]]:
    """Cut IDs into the same sizes. Fill the last group with a repeated ID, which changes nothing."""
    start = 0
    for size in SIZES:
        while (left := len(ids) - start) >= size:
            yield ids[start : start + size]
            start += size
        if left * 2 > size:
            yield [*ids[start:], *([ids[-1]] * (size - left))]
            return


@lru_cache(maxsize=STATEMENTS)
def _insert(name: str, table: Table, columns: tuple[str, ...], size: int, on_conflict: Conflict | None) -> str:
    # Inline: the caller does not need the IDs of the rows.
    statement = upsert_for(name, table).inline().values({each: bindparam(each) for each in columns})
    return _repeated(name, statement if on_conflict is None else on_conflict(statement), columns, size)


@lru_cache(maxsize=STATEMENTS)
def _update(name: str, table: Table, columns: tuple[str, ...], size: int) -> str:
    named = ("id", *columns)
    types = {each: table.c[each].type for each in named}
    row = tuple(bindparam(each, type_=types[each]) for each in named)
    given = values(*(column(each, types[each]) for each in named), name="given").data([row]).cte("given")
    statement = update(table).values({each: given.c[each] for each in columns}).where(table.c.id == given.c.id)
    return _repeated(name, statement, named, size)


@lru_cache(maxsize=STATEMENTS)
def _lock(name: str, table: Table, columns: tuple[str, ...], size: int) -> str:
    wanted = _one_of("id", size)
    named = [table.c[each] for each in columns]
    statement = select(*named).where(table.c.id.in_(wanted)).order_by(table.c.id).with_for_update()
    return text_of(name, statement, [each.key for each in wanted])


@lru_cache(maxsize=STATEMENTS)
def _find(name: str, table: Table, named: tuple[str, ...], empty: frozenset[str], by: str, size: int) -> str:
    scope = [table.c[each].is_(None) if each in empty else table.c[each] == bindparam(each) for each in named]
    wanted = _one_of(by, size)
    order = [*(each for each in named if each not in empty), *(each.key for each in wanted)]
    return text_of(name, select(table.c.id).where(*scope, table.c[by].in_(wanted)), order)


@lru_cache(maxsize=STATEMENTS)
def _delete(name: str, table: Table, by: str, size: int) -> str:
    wanted = _one_of(by, size)
    return text_of(name, delete(table).where(table.c[by].in_(wanted)), [each.key for each in wanted])


@lru_cache(maxsize=STATEMENTS)
def _lock_numbers(name: str, size: int) -> str:
    each = values(column("number", BigInteger), name="given").data([(bindparam("number", type_=BigInteger),)])
    own = each.c.number.op("#")(literal_column(SALT, BigInteger))
    return _repeated(name, select(func.pg_advisory_xact_lock(own)), ["number"], size)


def _number(name: Key) -> int:
    spelled = "\0".join((name.by, *name.scope, name.value)).encode()
    return int.from_bytes(blake2b(spelled, digest_size=8).digest(), "big", signed=True)


def _one_of(by: str, size: int) -> list[BindParameter[str]]:
    return [bindparam(f"{by}_{number}") for number in range(size)]


def _repeated(name: str, statement: ClauseElement, columns: Sequence[str], size: int) -> str:
    """Return the text of a one-row statement, extended to ``size`` rows."""
    text = _sql(name, statement, list(columns))
    return _numbered(name, VALUES.sub(lambda found: "VALUES " + ", ".join([found[1]] * size), text, count=1))


def _numbered(name: str, text: str) -> str:
    """Return the statement with numbered placeholders, if the driver needs them."""
    numbers = count(1)
    return text if name == SQLITE else PLACE.sub(lambda _: f"${next(numbers)}", text)


def text_of(name: str, statement: ClauseElement, order: Sequence[str]) -> str:
    """Return the text in the driver's format, with its values in ``order``."""
    return _numbered(name, _sql(name, statement, order))


@cache
def _dialect(name: str) -> Dialect:
    # Only the dialect that is used is imported.
    if name == SQLITE:
        from sqlalchemy.dialects import sqlite  # noqa: PLC0415 - as above

        return sqlite.dialect()
    from sqlalchemy.dialects.postgresql import psycopg  # noqa: PLC0415 - as above

    made: Any = psycopg.dialect
    dialect: Dialect = made(paramstyle="format")
    return dialect


def _sql(name: str, statement: ClauseElement, order: Sequence[str]) -> str:
    """Return the text, after a check that it takes its values in ``order``."""
    compiled = statement.compile(dialect=_dialect(name))
    assert isinstance(compiled, SQLCompiler)
    assert compiled.positiontup == order, "the values would be in the wrong order"
    return str(compiled)
