"""Due tasks and their leases. A lease says which process may poll a task, and until when."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Select,
    and_,
    bindparam,
    func,
    or_,
    select,
    update,
)

from tracker.model.records import DueCount
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
_MOST: Final = bindparam("most", type_=Integer())
FIRST_DUE: Final = DUE.order_by(TASKS.c.next_poll_at).limit(_MOST).with_for_update(skip_locked=True)
# A list can answer only a task with a provider ID. A task in conflict waits for an answer about that task alone.
_LISTABLE: Final = and_(TASKS.c.provider_task_id.is_not(None), TASKS.c.conflict_at.is_(None))
UNLISTABLE_FIRST: Final = DUE.order_by(_LISTABLE, TASKS.c.next_poll_at).limit(_MOST).with_for_update(skip_locked=True)
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
# The oldest due tasks are enough to choose a list. A count of all would read too many rows.
COUNTED: Final = 20_000
_SCOPE: Final = (TASKS.c.provider, TASKS.c.account, TASKS.c.kind)
_ONE_MORE: Final = DUE.where(_LISTABLE).limit(_MOST).subquery()
IS_BACKLOG: Final = select(func.count()).select_from(_ONE_MORE)
_LISTABLE_DUE: Final = (
    select(*_SCOPE, TASKS.c.created_at)
    .where(TASKS.c.next_poll_at <= _NOW, _FREE, _LISTABLE)
    .order_by(TASKS.c.next_poll_at)
    .limit(COUNTED)
    .subquery()
)
_GROUP: Final = tuple(_LISTABLE_DUE.c[column.name] for column in _SCOPE)
BACKLOG: Final = select(*_GROUP).add_columns(func.count(), func.min(_LISTABLE_DUE.c.created_at)).group_by(*_GROUP)
LISTED_DUE: Final = (
    DUE.where(
        _LISTABLE,
        TASKS.c.provider_task_id.in_(bindparam("listed", expanding=True)),
        *(TASKS.c[name] == bindparam(name) for name in ("provider", "account")),
    )
    .order_by(TASKS.c.id)
    .with_for_update(skip_locked=True)
)
AT_ONCE: Final = 1_000
MARGIN: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """The provider IDs in a page of an account's list, which Homing requested ``at``."""

    provider: str
    account: str
    ids: Sequence[str]
    at: datetime


class DueTaskStore(TableStore):
    """The due tasks and their leases."""

    @read_transaction
    def is_due(self, connection: Connection, now: datetime, *, lease: timedelta, orphans: bool = True) -> bool:
        """Return whether an unleased task is due, or an orphan, if orphans count.

        ``lease`` is the maximum length of a lease.
        """
        return bool(connection.execute(IS_DUE if orphans else IS_TASK_DUE, _moments(now, lease)).scalar_one())

    @read_transaction
    def backlog(self, connection: Connection, now: datetime, *, lease: timedelta, above: int) -> Sequence[DueCount]:
        """Count the due tasks that a list can answer, per account and kind, if there are more than ``above``.

        Of many, only the ``COUNTED`` longest due ones are counted.
        """
        moments = _moments(now, lease)
        if connection.execute(IS_BACKLOG, {**moments, "most": above + 1}).scalar_one() <= above:
            return []
        return [
            DueCount(provider=provider, account=account, kind=kind, count=count, oldest_at=rows.moment(oldest))
            for provider, account, kind, count, oldest in connection.execute(BACKLOG, moments)
        ]

    @write_transaction
    def acquire(
        self, connection: Connection, *, now: datetime, limit: int, owner: str, lease: timedelta
    ) -> Sequence[Task]:
        """Lease the due tasks, the longest due first. Skip the tasks that other processes lease or lock."""
        return _leased(connection, FIRST_DUE, {**_moments(now, lease), "most": limit}, owner=owner, until=now + lease)

    @write_transaction
    def acquire_beside_lists(
        self, connection: Connection, *, now: datetime, limit: int, owner: str, lease: timedelta
    ) -> Sequence[Task]:
        """Lease due tasks like ``acquire``, but those first that no list can answer. It reads every due task."""
        values = {**_moments(now, lease), "most": limit}
        return _leased(connection, UNLISTABLE_FIRST, values, owner=owner, until=now + lease)

    @write_transaction
    def acquire_listed(self, connection: Connection, listed: Listed, *, owner: str, lease: timedelta) -> Sequence[Task]:
        """Lease the tasks of a page of a list that were due when Homing requested it. Skip the tasks in conflict."""
        if not listed.ids:
            return []
        values = {
            **_moments(listed.at, lease),
            "listed": list(listed.ids),
            "provider": listed.provider,
            "account": listed.account,
        }
        return _leased(connection, LISTED_DUE, values, owner=owner, until=listed.at + lease)

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


def _leased(
    connection: Connection, due: Select[tuple[str]], values: Mapping[str, object], *, owner: str, until: datetime
) -> Sequence[Task]:
    """Lease the tasks that the query finds, and return them, the longest due first."""
    ids = list(connection.execute(due, values).scalars())
    if not ids:
        return []
    found = connection.execute(ACQUIRE, {"ids": ids, "owner": owner, "until": rows.stamp(until)})
    return sorted((rows.task_from_row(row) for row in found.mappings()), key=_due)


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
