"""Leases: who may ask the provider about which task, and what becomes of the leases of a process that is gone."""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import BigInteger, ColumnElement, Connection, and_, bindparam, or_, select, update

from tracker.models import Status, Task
from tracker.storage import rows
from tracker.storage.orphan_table import ORPHANS
from tracker.storage.tables import TASKS

_NOW: Final = bindparam("now", type_=BigInteger)
_FREE: Final = or_(TASKS.c.lease_until.is_(None), TASKS.c.lease_until <= _NOW)
DUE: Final = select(TASKS.c.id).where(TASKS.c.next_poll_at <= _NOW, _FREE)
# Made once: it is asked many times a second, and making it costs more than asking.
IS_TASK_DUE: Final = select(DUE.exists())
IS_DUE: Final = select(or_(DUE.exists(), select(ORPHANS.c.id).where(ORPHANS.c.next_check_at <= _NOW).exists()))


def is_due(connection: Connection, *, now: datetime, orphans: bool) -> bool:
    """Return whether a task that nobody has leased is due, or an orphan where those count."""
    return bool(connection.execute(IS_DUE if orphans else IS_TASK_DUE, {"now": rows.stamp(now)}).scalar_one())


def claim_due(connection: Connection, *, now: datetime, limit: int, owner: str, lease: timedelta) -> list[Task]:
    """Lease the tasks that are due, longest due first; what others lease, or are just claiming, is left to them."""
    first = DUE.order_by(TASKS.c.next_poll_at).limit(limit).with_for_update(skip_locked=True)
    ids = list(connection.execute(first, {"now": rows.stamp(now)}).scalars())
    if not ids:
        return []
    claimed = update(TASKS).where(TASKS.c.id.in_(ids)).returning(TASKS)
    found = connection.execute(claimed.values(lease_owner=owner, lease_until=rows.stamp(now + lease)))
    return sorted((rows.task_from_row(row) for row in found.mappings()), key=_due)


def release(connection: Connection, whose: ColumnElement[bool], *, margin: timedelta) -> int:
    """Take the leases of questions from processes that are gone, and tell how many.

    A submit may still be under way at the provider: its lease stays, to ``margin`` after the attempt's deadline.
    """
    whose = and_(whose, TASKS.c.lease_owner.is_not(None))
    submit_ends = TASKS.c.attempt_deadline_at + margin // rows.MICROSECOND
    pending = TASKS.c.status == Status.PENDING.value
    looked_up = and_(whose, pending, TASKS.c.lease_until > submit_ends)
    released = 0
    for held, values in (
        (and_(whose, ~pending), {"lease_owner": None, "lease_until": None}),
        (looked_up, {"lease_until": submit_ends}),
    ):
        # In no order: whoever skips what is locked never waits, and sorting would mean to read every task.
        locked = select(TASKS.c.id).where(held).with_for_update(skip_locked=True)
        ids = list(connection.execute(locked).scalars())
        if ids:
            connection.execute(update(TASKS).where(TASKS.c.id.in_(ids)).values(**values))
            released += len(ids)
    return released


def _due(task: Task) -> tuple[datetime, str]:
    assert task.next_poll_at is not None
    return task.next_poll_at, task.id
