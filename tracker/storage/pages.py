"""Pages of tasks, newest first. What a page costs follows from what it shows, not from how many tasks there are."""

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, select, union_all

from tracker.models import Status, Task, new_task_id
from tracker.storage import rows
from tracker.storage.tables import TAGS, TASKS
from tracker.views import TaskFilter

LEAST: Final = bytes(10)
MILLISECOND: Final = timedelta(milliseconds=1)


def find(
    connection: Connection, wanted: TaskFilter, *, limit: int, before: str | None = None, offset: int = 0
) -> list[Task]:
    """Give at most ``limit`` tasks below the id ``before``, after skipping ``offset``."""
    most = limit + offset
    # An index gives the tasks of one status in the order of their ids, but not those of several: each is asked alone.
    parts = [_one(wanted, status, before).limit(most) for status in wanted.statuses or (None,)]
    if len(parts) == 1:
        statement: Any = parts[0].offset(offset).limit(limit)
    else:
        ids = union_all(*(select(part.subquery().c.id) for part in parts)).subquery()
        newest = select(ids.c.id).order_by(ids.c.id.desc()).offset(offset).limit(limit)
        statement = select(TASKS).where(TASKS.c.id.in_(newest)).order_by(TASKS.c.id.desc())
    return [rows.task_from_row(row) for row in connection.execute(statement).mappings()]


def _one(wanted: TaskFilter, status: Status | None, before: str | None) -> Select[Any]:
    # A tag's own table has its tasks in order; few of them need a look at the rest of the row.
    task_id = TASKS.c.id if wanted.tag is None else TAGS.c.task_id
    statement = select(TASKS).where(*_conditions(wanted, task_id, before)).order_by(task_id.desc())
    if wanted.tag is not None:
        statement = statement.join(TAGS, TAGS.c.task_id == TASKS.c.id).where(TAGS.c.tag == wanted.tag)
    return statement if status is None else statement.where(TASKS.c.status == status.value)


def _conditions(wanted: TaskFilter, task_id: ColumnElement[str], before: str | None) -> list[ColumnElement[bool]]:
    named = {"client": wanted.client, "provider": wanted.provider, "kind": wanted.kind}
    conditions = [TASKS.c[name] == value for name, value in named.items() if value is not None]
    if before is not None:
        conditions.append(task_id < before)
    # Ids begin with the millisecond in which they were made: a range of times is a range of ids.
    if wanted.created_after is not None:
        conditions.append(task_id >= _first_id(wanted.created_after))
        conditions.append(TASKS.c.created_at >= rows.stamp(wanted.created_after))
    if wanted.created_before is not None:
        conditions.append(task_id < _first_id(wanted.created_before + MILLISECOND))
        conditions.append(TASKS.c.created_at < rows.stamp(wanted.created_before))
    return conditions


def _first_id(moment: datetime) -> str:
    return new_task_id(moment, LEAST)
