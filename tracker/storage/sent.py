"""Reads over the tasks that were submitted from here: what the provider has, and which external ids it was given."""

from typing import Final

from sqlalchemy import Connection, and_, select

from tracker.model.task import Status, Task
from tracker.storage import rows
from tracker.storage.retention import forgotten
from tracker.storage.tables import TASKS

# What a task is that the provider has, or had.
HAD: Final = tuple(status.value for status in (Status.SUBMITTED, Status.PROCESSING, Status.SUCCEEDED, Status.FAILED))
LOOKED_AT: Final = 50


def latest_accepted(connection: Connection, provider: str, account: str, kind: str) -> Task | None:
    """Return one of the newest submitted tasks of a kind that the provider has, also one that is over.

    It is looked for among the newest few of each status: any will do, and a long history must not be read for it.
    """
    column = TASKS.c
    found: list[str] = []
    for status in HAD:
        newest = select(column.id, column.account, column.provider_task_id, column.attempts)
        newest = newest.where(column.provider == provider, column.kind == kind, column.status == status)
        rows_of = connection.execute(newest.order_by(column.id.desc()).limit(LOOKED_AT))
        found += [row.id for row in rows_of if row.account == account and row.provider_task_id and row.attempts]
    if not found:
        return None
    row = connection.execute(select(TASKS).where(column.id == max(found))).mappings().one_or_none()
    return None if row is None else rows.task_from_row(row)


def id_used(connection: Connection, provider: str, account: str, external_id: str) -> bool:
    """Return whether a row of the account has an external ID, or had it before it was deleted."""
    column = TASKS.c
    named = and_(column.provider == provider, column.account == account, column.sent_external_id == external_id)
    if connection.execute(select(column.id).where(named).limit(1)).first() is not None:
        return True
    return forgotten(connection, provider, account, external_id) is not None
