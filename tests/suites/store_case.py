"""Helpers of the store suites: changes, and a store on a fresh database."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import create_engine, text

from tests.support.builders import NOW, Deciding
from tracker.errors import Conflict
from tracker.model.changes import Change, Key, Known, RaisedAlarm, Work, by_id
from tracker.model.task import Alarm, Task

LEASE = timedelta(seconds=30)


def alarm(at: datetime = NOW, **changes: Any) -> RaisedAlarm:
    values: dict[str, Any] = {"kind": Alarm.MISMATCH, "provider": "kling", "at": at, "task_id": None, "detail": "a"}
    return RaisedAlarm(**(values | changes))


def changing(task: Task, **changes: Any) -> Work[Any]:
    """Make a piece that changes the task's row as it is then known."""

    def decide(known: Known) -> Change[Any]:
        row = known.get(by_id(task.id))
        assert row is not None
        after = replace(row, **changes)
        return Change(result=row, task=after)

    return Deciding(keys=frozenset({by_id(task.id)}), decide=decide)


def looking(*keys: Key) -> Work[Any]:
    """Make a piece that gives, for each key, the row's id or None, and writes nothing."""

    def decide(known: Known) -> Change[Any]:
        found = [known.get(key) for key in keys]
        return Change(result=[None if task is None else task.id for task in found])

    return Deciding(keys=frozenset(keys), decide=decide)


def refusing() -> Work[Any]:
    def decide(_: Known) -> Change[Any]:
        raise Conflict("no")

    return Deciding(keys=frozenset(), decide=decide)


def read(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Ask the database itself, past the store."""
    (rows,) = read_together(url, statement)
    return rows


def read_together(url: str, *statements: str) -> list[list[tuple[Any, ...]]]:
    """Ask the database several questions about one moment.

    A PostgreSQL server may still run the last commit of a process that was killed.
    """
    engine = create_engine(url, **({} if url.startswith("sqlite") else {"isolation_level": "REPEATABLE READ"}))
    with engine.connect() as connection:
        answers = [[tuple(row) for row in connection.execute(text(statement))] for statement in statements]
    engine.dispose()
    return answers
