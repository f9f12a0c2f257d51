"""A very large number of tasks: the store writes some, and the database copies them.

A copy has its own IDs, names and times. All other columns and indexes equal the original's and are filled in the same
order. This takes less than half of the time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Connection, create_engine, text

from bench import deliveries

CHUNK: Final = 10_000
HAPPENED: Final = ("created_at", "updated_at", "submitted_at", "answered_at", "finished_at")
DUE: Final = ("deadline_at", "next_poll_at")
Named = Callable[[int], Mapping[str, str]]


def multiply(url: str, *, originals: int, count: int, named: Named, moments: Sequence[str]) -> None:
    """Copy the tasks 0 to ``originals`` - 1, with their observations and events, until there are ``count``.

    ``named`` returns the identifying columns of a task, by its number. ``moments`` are the time columns that are
    shifted by the age of the task.
    """
    engine = create_engine(url)
    try:
        for first in range(originals, count, CHUNK):
            with engine.begin() as connection:
                _copy(connection, range(first, min(first + CHUNK, count)), originals, named, moments)
    finally:
        engine.dispose()


def _copy(connection: Connection, numbers: range, originals: int, named: Named, moments: Sequence[str]) -> None:
    own = tuple(named(0))
    columns = ", ".join(f"{name} TEXT" for name in ("original", *own))
    connection.execute(text(f"CREATE TEMPORARY TABLE copies (number INTEGER PRIMARY KEY, later BIGINT, {columns})"))
    values = ", ".join(f":{name}" for name in ("number", "later", "original", *own))
    connection.execute(text(f"INSERT INTO copies VALUES ({values})"), list(_rows(numbers, originals, named)))
    moved = {name: f"copies.{name}" for name in own} | {name: f"rows.{name} + copies.later" for name in moments}
    _insert(connection, "tasks", "id", moved)
    for table in ("observations", "events"):
        _insert(connection, table, "task_id", {"task_id": "copies.id", "at": "rows.at + copies.later"})
    connection.execute(text("DROP TABLE copies"))


def _rows(numbers: range, originals: int, named: Named) -> Iterator[dict[str, Any]]:
    for number in numbers:
        original = number % originals
        later = deliveries.created_at(number) - deliveries.created_at(original)
        at = {"number": number, "later": later // timedelta(microseconds=1), "original": deliveries.task_id(original)}
        yield {**at, **named(number)}


def _insert(connection: Connection, table: str, key: str, moved: Mapping[str, str]) -> None:
    """Insert the copies of the rows of a table. They get new row IDs in the order of the tasks."""
    result = connection.execute(text(f"SELECT * FROM {table} WHERE 1 = 0"))
    columns = [name for name in result.keys() if name != "id" or name in moved]  # noqa: SIM118 - a result's keys
    values = ", ".join(moved.get(name, f"rows.{name}") for name in columns)
    order = "copies.number" if table == "tasks" else "copies.number, rows.id"
    connection.execute(
        text(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} "
            f"FROM copies JOIN {table} AS rows ON rows.{key} = copies.original ORDER BY {order}"
        )
    )
