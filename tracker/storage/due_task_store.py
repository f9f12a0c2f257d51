"""Due tasks and their leases. A lease says which process may poll a task, and until when."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import BigInteger, ColumnElement, Connection, Integer, and_, bindparam, func, or_, select, update

from tracker.model.task import Status, Task
from tracker.storage import rows
from tracker.storage.engine.table_store import TableStore, read_transaction, write_transaction
from tracker.storage.orphan_table import ORPHANS
from tracker.storage.tables import TASKS

_NOW: Final = bindparam("now", type_=BigInteger)
# A lease that ends too late was acquired before the clock was set back.
_LATEST: Final = bindparam("latest", type_=BigInteger)
_FREE: Final = or_(TASKS.c.lease_until.is_(None), TASKS.c.lease_until <= _NOW, TASKS.c.lease_until > _LATEST)
DUE: Final = select(TASKS.c.id).where(TASKS.c.next_poll_at <= _NOW, _FREE)
FIRST_DUE: Final = (
    DUE.order_by(TASKS.c.next_poll_at).limit(bindparam("most", type_=Integer())).with_for_update(skip_locked=True)
)
ACQUIRE: Final = (
    update(TASKS)
    .where(TASKS.c.id.in_(bindparam("ids", expanding=True)))
    .values(lease_owner=bindparam("owner"), lease_until=bindparam("until", type_=BigInteger))
    .returning(TASKS)
)
# Build the query once: it runs many times a second, and building it costs more than running it.
IS_TASK_DUE: Final = select(DUE.exists())
IS_DUE: Final = select(or_(DUE.exists(), select(ORPHANS.c.id).where(ORPHANS.c.next_poll_at <= _NOW).exists()))
# A task without any ID. It only waits for an ID, until its deadline.
NAMELESS: Final = and_(
    TASKS.c.provider_task_id.is_(None), TASKS.c.sent_external_id.is_(None), TASKS.c.candidate_id.is_(None)
)
AT_ONCE: Final = 1_000
MARGIN: Final = timedelta(minutes=1)


class DueTaskStore(TableStore):
    """The due tasks and their leases."""

    @read_transaction
    def is_due(self, connection: Connection, now: datetime, *, lease: timedelta, orphans: bool = True) -> bool:
        """Return whether an unleased task is due, or an orphan, if orphans count.

        ``lease`` is the maximum length of a lease.
        """
        return bool(connection.execute(IS_DUE if orphans else IS_TASK_DUE, _moments(now, lease)).scalar_one())

    @write_transaction
    def acquire(
        self, connection: Connection, *, now: datetime, limit: int, owner: str, lease: timedelta
    ) -> Sequence[Task]:
        """Lease the due tasks, the longest due first. Skip the tasks that other processes lease or lock."""
        ids = list(connection.execute(FIRST_DUE, {**_moments(now, lease), "most": limit}).scalars())
        if not ids:
            return []
        values = {"ids": ids, "owner": owner, "until": rows.stamp(now + lease)}
        found = connection.execute(ACQUIRE, values)
        return sorted((rows.task_from_row(row) for row in found.mappings()), key=_due)

    @write_transaction
    def bring_forward(self, connection: Connection, *, now: datetime, furthest: timedelta, expired: timedelta) -> int:
        """Make tasks and orphans due whose next poll is too far away. Return how many there are.

        ``expired`` is the limit for expired tasks, ``furthest`` for all others.
        """
        planned, is_expired = TASKS.c.next_poll_at, TASKS.c.status == Status.EXPIRED.value
        open_too_far = and_(planned > rows.stamp(now + furthest), ~is_expired)
        too_far = and_(or_(open_too_far, and_(planned > rows.stamp(now + expired), is_expired)), ~NAMELESS)
        found = select(TASKS.c.id).where(planned > rows.stamp(now + furthest), too_far)
        ids = list(connection.execute(found.limit(AT_ONCE).with_for_update(skip_locked=True)).scalars())
        if ids:
            connection.execute(update(TASKS).where(TASKS.c.id.in_(ids)).values(next_poll_at=rows.stamp(now)))
        late = ORPHANS.c.next_poll_at > rows.stamp(now + furthest)
        orphans = list(connection.execute(select(ORPHANS.c.id).where(late).limit(AT_ONCE)).scalars())
        if orphans:
            checked = update(ORPHANS).where(ORPHANS.c.id.in_(orphans))
            connection.execute(checked.values(next_poll_at=rows.stamp(now)))
        return len(ids) + len(orphans)

    @read_transaction
    def next_due(self, connection: Connection) -> datetime | None:
        """Return when the next task is due. Leases are ignored."""
        due = TASKS.c.next_poll_at
        first: int | None = connection.execute(select(func.min(due)).where(due.is_not(None))).scalar_one()
        return rows.optional_moment(first)

    @write_transaction
    def release(self, connection: Connection, *, owner: str, margin: timedelta) -> int:
        """Release the leases of all owners except ``owner``. Return how many there were."""
        return release_leases(connection, TASKS.c.lease_owner != owner, margin=margin)


def _moments(now: datetime, lease: timedelta) -> dict[str, int]:
    return {"now": rows.stamp(now), "latest": rows.stamp(now + 2 * lease + MARGIN)}


def release_leases(connection: Connection, whose: ColumnElement[bool], *, margin: timedelta) -> int:
    """Release the poll leases of dead processes. Return how many there were.

    A submission may still be in progress at the provider, so its lease stays until ``margin`` after its deadline.
    """
    whose = and_(whose, TASKS.c.lease_owner.is_not(None))
    submit_ends = TASKS.c.attempt_deadline_at + margin // rows.MICROSECOND
    # An expected task is pending too, but Homing never submits it.
    pending = and_(TASKS.c.status == Status.PENDING.value, TASKS.c.attempt_deadline_at.is_not(None))
    looked_up = and_(whose, pending, TASKS.c.lease_until > submit_ends)
    released = 0
    for held, values in (
        (and_(whose, ~pending), {"lease_owner": None, "lease_until": None}),
        (looked_up, {"lease_until": submit_ends}),
    ):
        # Without an order: with SKIP LOCKED, no process waits, and sorting would read every task.
        locked = select(TASKS.c.id).where(held).with_for_update(skip_locked=True)
        ids = list(connection.execute(locked).scalars())
        if ids:
            connection.execute(update(TASKS).where(TASKS.c.id.in_(ids)).values(**values))
            released += len(ids)
    return released


def _due(task: Task) -> tuple[datetime, str]:
    assert task.next_poll_at is not None
    return task.next_poll_at, task.id
