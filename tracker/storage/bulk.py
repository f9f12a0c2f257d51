"""Many rows in few statements.

A statement for one row costs a round trip on PostgreSQL and a fight for the interpreter's lock on SQLite, so rows are
written and read many at a time: statements of a few fixed sizes, each made once by SQLAlchemy and sent with plain
tuples. Values go to the driver as they are: whoever gives them has already turned them into what the columns hold.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    ClauseElement,
    Connection,
    Dialect,
    Table,
    bindparam,
    column,
    delete,
    select,
    update,
    values,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.sql.compiler import SQLCompiler

from tracker.storage.postgres import PARAMSTYLE
from tracker.storage.upserts import Insert, upsert_for

_psycopg: Any = psycopg.dialect
SIZES: Final = (64, 16, 4, 1)
STATEMENTS: Final = 512
DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {
        "sqlite": sqlite.dialect(),
        "postgresql": _psycopg(paramstyle=PARAMSTYLE),
    }
)
# Adds to an INSERT what happens to a row that is there already.
Conflict = Callable[[Insert], Insert]


def insert_rows(
    connection: Connection,
    table: Table,
    columns: tuple[str, ...],
    rows: Sequence[Sequence[Any]],
    on_conflict: Conflict | None = None,
) -> None:
    """Insert rows of ``columns`` (in the table's order), in the order given."""
    for some in _chunks(rows):
        statement = _insert(connection.dialect.name, table, columns, len(some), on_conflict)
        connection.exec_driver_sql(statement, tuple(chain.from_iterable(some)))


def update_rows(connection: Connection, table: Table, columns: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> None:
    """Set ``columns`` of the rows that the first value of each names by their id."""
    for some in _chunks(rows):
        statement = _update(connection.dialect.name, table, columns, len(some))
        connection.exec_driver_sql(statement, tuple(chain.from_iterable(some)))


def lock_rows(connection: Connection, table: Table, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Lock the rows of ``ids`` in the order of the ids, and give their columns as the driver has them."""
    names = tuple(table.columns.keys())
    for some in _chunks(sorted(ids), most_left=True):
        statement = _lock(connection.dialect.name, table, len(some))
        for row in connection.exec_driver_sql(statement, tuple(some)).fetchall():
            yield dict(zip(names, row, strict=True))


def find_ids(
    connection: Connection, table: Table, named: Mapping[str, str | None], by: str, wanted: Sequence[str]
) -> Iterator[str]:
    """Give the ids of the rows whose column ``by`` is one of ``wanted`` and whose other columns are as ``named``."""
    given = tuple(value for value in named.values() if value is not None)
    empty = frozenset(name for name, value in named.items() if value is None)
    for some in _chunks(sorted(wanted), most_left=True):
        statement = _find(connection.dialect.name, table, tuple(named), empty, by, len(some))
        found = connection.exec_driver_sql(statement, (*given, *some))
        yield from found.scalars()


def delete_rows(connection: Connection, table: Table, by: str, wanted: Sequence[str]) -> None:
    """Delete the rows whose column ``by`` is one of ``wanted``."""
    for some in _chunks(sorted(wanted), most_left=True):
        connection.exec_driver_sql(_delete(connection.dialect.name, table, by, len(some)), tuple(some))


def _chunks(rows: Sequence[Any], *, most_left: bool = False) -> Iterator[Sequence[Any]]:
    """Cut ``rows`` into runs of the sizes that there are statements for; ``most_left`` fills the last one up."""
    start = 0
    for size in SIZES:
        while (left := len(rows) - start) >= size:
            yield rows[start : start + size]
            start += size
        if most_left and left and left * 2 >= size:
            yield [*rows[start:], *([rows[-1]] * (size - left))]
            return


@lru_cache(maxsize=STATEMENTS)
def _insert(name: str, table: Table, columns: tuple[str, ...], size: int, on_conflict: Conflict | None) -> str:
    statement = upsert_for(name, table)
    statement = statement.values([{each: bindparam(f"{each}_{row}") for each in columns} for row in range(size)])
    return _sql(name, statement if on_conflict is None else on_conflict(statement), _names(columns, size))


@lru_cache(maxsize=STATEMENTS)
def _update(name: str, table: Table, columns: tuple[str, ...], size: int) -> str:
    named = ("id", *columns)
    types = {each: table.c[each].type for each in named}
    rows = [tuple(bindparam(f"{each}_{row}", type_=types[each]) for each in named) for row in range(size)]
    given = values(*(column(each, types[each]) for each in named), name="given").data(rows).cte("given")
    statement = update(table).values({each: given.c[each] for each in columns}).where(table.c.id == given.c.id)
    return _sql(name, statement, _names(named, size))


@lru_cache(maxsize=STATEMENTS)
def _lock(name: str, table: Table, size: int) -> str:
    wanted = table.c.id.in_(_one_of("id", size))
    return _sql(name, select(table).where(wanted).order_by(table.c.id).with_for_update(), _names(("id",), size))


@lru_cache(maxsize=STATEMENTS)
def _find(name: str, table: Table, named: tuple[str, ...], empty: frozenset[str], by: str, size: int) -> str:
    scope = [table.c[each].is_(None) if each in empty else table.c[each] == bindparam(each) for each in named]
    statement = select(table.c.id).where(*scope, table.c[by].in_(_one_of(by, size)))
    return _sql(name, statement, [*(each for each in named if each not in empty), *_names((by,), size)])


@lru_cache(maxsize=STATEMENTS)
def _delete(name: str, table: Table, by: str, size: int) -> str:
    return _sql(name, delete(table).where(table.c[by].in_(_one_of(by, size))), _names((by,), size))


def _one_of(by: str, size: int) -> list[BindParameter[str]]:
    return [bindparam(each) for each in _names((by,), size)]


def _names(columns: Sequence[str], size: int) -> list[str]:
    return [f"{each}_{row}" for row in range(size) for each in columns]


def _sql(name: str, statement: ClauseElement, order: Sequence[str]) -> str:
    """Give the text, after making sure that it takes its values in ``order``."""
    compiled = statement.compile(dialect=DIALECTS[name])
    assert isinstance(compiled, SQLCompiler)
    assert compiled.positiontup == order, "the values would go elsewhere"
    return str(compiled)
