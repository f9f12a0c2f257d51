"""Reads over the tasks that were submitted from here: what the provider has, and which external ids it was given."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, and_, select

from tracker.models import Status, Task
from tracker.storage import rows
from tracker.storage.tables import TASKS

# What a task is that the provider has, or had.
HAD: Final = tuple(status.value for status in (Status.SUBMITTED, Status.PROCESSING, Status.SUCCEEDED, Status.FAILED))


def latest_accepted(connection: Connection, provider: str, account: str, kind: str) -> Task | None:
    """Return the newest submitted task of a kind that the provider has, also one that is over."""
    named = and_(TASKS.c.provider == provider, TASKS.c.account == account, TASKS.c.kind == kind)
    there = and_(TASKS.c.status.in_(HAD), TASKS.c.provider_task_id.is_not(None), TASKS.c.attempts > 0)
    newest = select(TASKS).where(named, there).order_by(TASKS.c.id.desc()).limit(1)
    found = connection.execute(newest).mappings().one_or_none()
    return None if found is None else rows.task_from_row(found)


def ids_used(connection: Connection, provider: str, account: str, ids: Sequence[str]) -> frozenset[str]:
    """Return which of some external ids a row of the account has."""
    column = TASKS.c.sent_external_id
    named = and_(TASKS.c.provider == provider, TASKS.c.account == account, column.in_(ids))
    return frozenset(connection.execute(select(column).where(named)).scalars())
