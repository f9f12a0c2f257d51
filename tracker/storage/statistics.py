"""Counts over the whole store or over one client's tasks, and the finished tasks that the schedule learns from."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Select, and_, case, func, select, tuple_
from sqlalchemy.engine import RowMapping

from tracker.model.records import AlarmCount, Completion, Stats
from tracker.model.task import FINAL, Source, Status
from tracker.storage import rows
from tracker.storage.engine.plans import aside
from tracker.storage.orphan_store import NOT_KEPT
from tracker.storage.orphan_table import ORPHANS
from tracker.storage.tables import ALARMS, COUNTERS, OBSERVATIONS, TASKS

OPEN: Final = (Status.PENDING, Status.SUBMITTED, Status.PROCESSING)
ENDED: Final = sorted(status.value for status in FINAL)
ALARM_LIMIT: Final = 50


def stats(connection: Connection, *, client: str | None, now: datetime) -> Stats:
    """Return the counts. Running counts, orphans and alarms belong to no client, so only the whole store has them."""
    statuses: dict[str, int] = defaultdict(int)
    sources: dict[str, int] = defaultdict(int)
    oldest: str | None = None
    for row in connection.execute(_tally(client)).mappings():
        statuses[row["status"]] += row["count"]
        if row["status"] in OPEN:
            oldest = row["first"] if oldest is None else min(oldest, row["first"])
        if row["status"] in FINAL:
            for source in Source:
                sources[source.value] += row[source.value]
    created = select(TASKS.c.created_at).where(TASKS.c.id == oldest)
    first = connection.execute(created).scalar_one_or_none()
    due = select(func.count()).where(TASKS.c.next_poll_at <= rows.stamp(now))
    if client is not None:
        due = due.where(aside(TASKS.c.client) == client)
    whole = _whole(connection) if client is None else _Whole()
    return Stats(
        by_status=dict(statuses),
        open=sum(statuses[status] for status in OPEN if status in statuses),
        due=connection.execute(due).scalar_one(),
        oldest_open_at=None if first is None else rows.moment(first),
        finished_by_source={name: count for name, count in sources.items() if count},
        callbacks=whole.counts.get("callbacks", 0),
        duplicate_callbacks=whole.duplicate_callbacks,
        unverified_callbacks=whole.counts.get("unverified_callbacks", 0),
        polls=whole.counts.get("polls", 0),
        orphans=whole.orphans,
        orphans_not_kept=whole.counts.get(NOT_KEPT, 0),
        alarms=whole.alarms,
    )


def _tally(client: str | None) -> Select[Any]:
    """Count in the order of the index that has all columns. So the database sorts nothing and reads no row."""
    column = TASKS.c
    groups = (column.client, column.provider, column.kind, column.status)
    by_source = [func.sum(case((column.status_source == source.value, 1), else_=0)).label(source) for source in Source]
    counted = select(column.status, func.count().label("count"), func.min(column.id).label("first"), *by_source)
    return counted.where(*([] if client is None else [column.client == client])).group_by(*groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Whole:
    """The counts that belong to no client."""

    counts: Mapping[str, int] = field(default_factory=dict)
    orphans: Mapping[str, int] = field(default_factory=dict)
    alarms: tuple[AlarmCount, ...] = ()
    duplicate_callbacks: int = 0


def _whole(connection: Connection) -> _Whole:
    orphans = select(ORPHANS.c.state, func.count()).group_by(ORPHANS.c.state)
    latest = select(ALARMS).order_by(ALARMS.c.hour.desc(), ALARMS.c.last_at.desc()).limit(ALARM_LIMIT)
    repeated = OBSERVATIONS.c.repeats
    absorbed = select(func.coalesce(func.sum(repeated), 0)).where(repeated > 0)
    return _Whole(
        counts={row[0]: row[1] for row in connection.execute(select(COUNTERS.c.name, COUNTERS.c.value))},
        orphans={row[0]: row[1] for row in connection.execute(orphans)},
        alarms=tuple(rows.alarm_from_row(row) for row in connection.execute(latest).mappings()),
        duplicate_callbacks=int(connection.execute(absorbed).scalar_one()),
    )


def completions(
    connection: Connection, *, after: tuple[datetime, str] | None, until: datetime, limit: int
) -> list[Completion]:
    """Return finished tasks by (finished_at, id): those after the cursor, or without one the newest ``limit``."""
    column = TASKS.c
    ended = and_(column.status.in_(ENDED), column.submitted_at.is_not(None), column.finished_at <= rows.stamp(until))
    chosen = select(
        column.id,
        column.provider,
        column.kind,
        column.model,
        column.submitted_at,
        column.finished_at,
        column.precedence_updated_at,
        column.callback_requested,
        column.last_observed_at,
    ).where(ended)
    if after is None:
        newest = chosen.order_by(column.finished_at.desc(), column.id.desc()).limit(limit)
        return [_completion(row) for row in reversed(connection.execute(newest).mappings().all())]
    later = tuple_(column.finished_at, column.id) > tuple_(rows.stamp(after[0]), after[1])
    following = chosen.where(later).order_by(column.finished_at, column.id).limit(limit)
    return [_completion(row) for row in connection.execute(following).mappings()]


def _completion(row: RowMapping) -> Completion:
    submitted_at, finished_at = row["submitted_at"], row["finished_at"]
    # The end time from the provider is better than Homing's, which may have polled much later.
    reported_at = row["precedence_updated_at"]
    ended_at = reported_at if submitted_at < reported_at < finished_at else finished_at
    return Completion(
        task_id=row["id"],
        provider=row["provider"],
        kind=row["kind"],
        model=row["model"],
        took=timedelta(microseconds=ended_at - submitted_at),
        finished_at=rows.moment(finished_at),
        callback_requested=row["callback_requested"],
        callback_arrived=row["last_observed_at"] is not None and row["last_observed_at"] >= ended_at,
    )
