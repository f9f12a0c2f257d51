"""The write path: a batch of work becomes one transaction.

Load and lock the rows that the keys name, let each piece decide in arrival order over what is known so far, write the
outcome as a few sorted statements, events last. What a single piece does wrong (a CallerError) is its own result; what
the database cannot take fails the whole transaction, and the recorder then bisects the batch.

Several processes may do this at once on one PostgreSQL. Rows are locked in the order of their ids, and every batch
writes the tables in the same order, so that no two wait for each other; names that have no row yet are locked too; and
what all batches write (counts, event ids) comes last, under one lock, so that the order of event ids is the order of
commits.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, delete, insert, select, tuple_, update

from tracker.errors import CallerError
from tracker.models import Alarm, Task
from tracker.storage import locks, rows
from tracker.storage.tables import (
    ALARMS,
    CAPABILITIES,
    COUNTERS,
    EVENTS,
    OBSERVATIONS,
    ORPHANS,
    SUBMISSIONS,
    TAGS,
    TASKS,
)
from tracker.storage.upserts import upsert
from tracker.work import Change, Key, Known, RaisedAlarm, Work

HOUR: Final = 3_600_000_000
CHUNK: Final = 500


def apply(connection: Connection, works: Sequence[Work[Any]]) -> list[Any]:
    """Decide and write ``works``; give each one's result, or the CallerError it raised, in order."""
    loaded = _load(connection, {key for work in works for key in work.keys})
    known = Known(loaded)
    results: list[Any] = []
    changes: list[Change[Any]] = []
    for work in works:
        try:
            change = work.decide(known)
        except CallerError as error:
            results.append(error)
            continue
        if change.task is not None:
            known.put(change.task)
        changes.append(change)
        results.append(change.result)
    _write(connection, changes, before={task.id: task for task in loaded})
    return results


def _load(connection: Connection, keys: Iterable[Key]) -> list[Task]:
    ids: set[str] = set()
    names: list[Key] = []
    for key in keys:
        if key.by == "id":
            ids.add(key.value)
        else:
            names.append(key)
    locks.lock_names(connection, names)
    for condition in _conditions(names):
        ids.update(connection.execute(select(TASKS.c.id).where(condition)).scalars())
    found: list[Task] = []
    ordered = sorted(ids)
    for start in range(0, len(ordered), CHUNK):
        statement = select(TASKS).where(TASKS.c.id.in_(ordered[start : start + CHUNK]))
        locked = connection.execute(statement.order_by(TASKS.c.id).with_for_update())
        found.extend(rows.task_from_row(row) for row in locked.mappings())
    return found


def _conditions(names: Iterable[Key]) -> Iterable[ColumnElement[bool]]:
    grouped: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for key in names:
        grouped[key.by, key.scope].append(key.value)
    for (by, scope), values in sorted(grouped.items()):
        ordered = sorted(values)
        for start in range(0, len(ordered), CHUNK):
            yield _condition(by, scope, ordered[start : start + CHUNK])


def _condition(by: str, scope: tuple[str, ...], values: list[str]) -> ColumnElement[bool]:
    if by == "unanswered":
        return and_(TASKS.c.client == scope[0], TASKS.c.request_hash.in_(values), TASKS.c.answered_at.is_(None))
    if by in {"external_key", "idempotency_key"}:
        return and_(TASKS.c.client == scope[0], TASKS.c[by].in_(values))
    return and_(tuple_(TASKS.c.provider, TASKS.c.account) == tuple_(*scope), TASKS.c[by].in_(values))


def _write(connection: Connection, changes: Sequence[Change[Any]], *, before: dict[str, Task]) -> None:
    _write_tasks(connection, changes, before)
    _write_submissions(connection, changes)
    _write_observations(connection, changes)
    _write_alarms(connection, [alarm for change in changes for alarm in change.alarms])
    _write_orphans(connection, changes)
    _write_capabilities(connection, changes)
    totals = _totals(changes)
    told = _told(changes)
    if totals or told:
        locks.lock_order(connection)
        _write_counts(connection, totals)
        _write_events(connection, told)


def _write_tasks(connection: Connection, changes: Sequence[Change[Any]], before: dict[str, Task]) -> None:
    last = {change.task.id: change.task for change in changes if change.task is not None}
    ordered = [last[task_id] for task_id in sorted(last)]
    new = [task for task in ordered if task.id not in before]
    old = [task for task in ordered if task.id in before and task != before[task.id]]
    # Old rows first: a rejected row gives up its keys before a new one takes them.
    if old:
        values = [rows.task_to_row(task) for task in old]
        for value in values:
            value["row_id"] = value.pop("id")
        connection.execute(update(TASKS).where(TASKS.c.id == bindparam("row_id")), values)
    if new:
        connection.execute(insert(TASKS), [rows.task_to_row(task) for task in new])
        tags = [{"tag": tag, "task_id": task.id} for task in new for tag in sorted(set(task.tags))]
        if tags:
            connection.execute(insert(TAGS), tags)


def _write_submissions(connection: Connection, changes: Sequence[Change[Any]]) -> None:
    kept = [
        {"task_id": change.task.id, "body": change.submission}
        for change in changes
        if change.task is not None and change.submission is not None
    ]
    if kept:
        connection.execute(insert(SUBMISSIONS), kept)
    dropped = [change.task.id for change in changes if change.task is not None and change.drop_submission]
    if dropped:
        connection.execute(delete(SUBMISSIONS).where(SUBMISSIONS.c.task_id.in_(sorted(dropped))))


def _write_observations(connection: Connection, changes: Sequence[Change[Any]]) -> None:
    kept = [rows.entry_to_row(entry.shown, entry.dedupe_key) for change in changes for entry in change.entries]
    if not kept:
        return
    statement = upsert(connection, OBSERVATIONS)
    statement = statement.on_conflict_do_update(
        index_elements=["task_id", "dedupe_key"], set_={"repeats": OBSERVATIONS.c.repeats + 1}
    )
    connection.execute(statement, kept)


def _write_alarms(connection: Connection, alarms: Sequence[RaisedAlarm]) -> None:
    folded: dict[tuple[Alarm, str, int], dict[str, Any]] = {}
    for alarm in alarms:
        hour = rows.stamp(alarm.at) // HOUR * HOUR
        row = folded.setdefault((alarm.kind, alarm.provider, hour), {"count": 0})
        row.update(
            kind=alarm.kind.value,
            provider=alarm.provider,
            hour=hour,
            count=row["count"] + 1,
            last_at=rows.stamp(alarm.at),
            task_id=alarm.task_id,
            detail=alarm.detail,
        )
    if not folded:
        return
    statement = upsert(connection, ALARMS)
    statement = statement.on_conflict_do_update(
        index_elements=["kind", "provider", "hour"],
        set_={
            "count": ALARMS.c.count + statement.excluded["count"],
            "last_at": statement.excluded.last_at,
            "task_id": statement.excluded.task_id,
            "detail": statement.excluded.detail,
        },
    )
    connection.execute(statement, [folded[key] for key in sorted(folded)])


def _write_orphans(connection: Connection, changes: Sequence[Change[Any]]) -> None:
    noted = [rows.orphan_to_row(change.orphan) for change in changes if change.orphan is not None]
    if not noted:
        return
    statement = upsert(connection, ORPHANS)
    excluded = statement.excluded
    again = and_(excluded.signed, ORPHANS.c.state == "orphan")
    statement = statement.on_conflict_do_update(
        index_elements=["provider", "provider_task_id"],
        set_={
            "last_at": excluded.last_at,
            "word": excluded.word,
            "body": excluded.body,
            "deliveries": ORPHANS.c.deliveries + excluded.deliveries,
            # Whoever can sign is worth a new question; anybody else gets the answer that there is.
            "state": case((again, excluded.state), else_=ORPHANS.c.state),
            "checks": case((again, 0), else_=ORPHANS.c.checks),
            "next_check_at": case((again, excluded.next_check_at), else_=ORPHANS.c.next_check_at),
        },
    )
    connection.execute(statement, sorted(noted, key=lambda row: (row["provider"], row["provider_task_id"])))


def _write_capabilities(connection: Connection, changes: Sequence[Change[Any]]) -> None:
    seen = {(one.base_url, one.kind, one.name): one for change in changes for one in change.seen}
    if not seen:
        return
    statement = upsert(connection, CAPABILITIES)
    statement = statement.on_conflict_do_update(
        index_elements=["base_url", "kind", "name"],
        set_={"present": statement.excluded.present, "at": statement.excluded.at},
    )
    values = [
        {"base_url": one.base_url, "kind": one.kind, "name": one.name, "present": one.present, "at": rows.stamp(one.at)}
        for _, one in sorted(seen.items())
    ]
    connection.execute(statement, values)


def _totals(changes: Sequence[Change[Any]]) -> dict[str, int]:
    totals: dict[str, int] = defaultdict(int)
    for change in changes:
        for name, value in change.counts.items():
            totals[name] += value
    return totals


def _write_counts(connection: Connection, totals: dict[str, int]) -> None:
    if not totals:
        return
    statement = upsert(connection, COUNTERS)
    statement = statement.on_conflict_do_update(
        index_elements=["name"], set_={"value": COUNTERS.c.value + statement.excluded.value}
    )
    connection.execute(statement, [{"name": name, "value": totals[name]} for name in sorted(totals)])


def _told(changes: Sequence[Change[Any]]) -> list[dict[str, Any]]:
    return [
        {
            "task_id": event.task_id,
            "sequence": event.sequence,
            "type": event.type,
            "at": rows.stamp(event.at),
            "data": rows.event_data(event.data),
        }
        for change in changes
        for event in change.events
    ]


def _write_events(connection: Connection, told: list[dict[str, Any]]) -> None:
    if told:
        connection.execute(insert(EVENTS), told)
