"""The write path: a batch of work becomes one transaction.

Load and lock the rows that the keys name, let each piece decide in arrival order over what is known so far, write the
outcome as a few sorted statements, events last. What a single piece does wrong (a CallerError) is its own result; what
the database cannot take fails the whole transaction, and the recorder then bisects the batch.

Several processes may do this at once on one PostgreSQL. Rows are locked in the order of their ids, and every batch
writes the tables in the same order, so that no two wait for each other (but for a row that only a mistaken name leads
to: a deadlock that comes of that is run again); names that have no row yet are locked too; and what all batches write
(counts, event ids) comes last, under one lock, so that the order of event ids is the order of commits.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

from sqlalchemy import Connection, and_, case, literal_column

from tracker.errors import CallerError
from tracker.models import Alarm, Task
from tracker.storage import bulk, locks, rows
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
from tracker.storage.upserts import Insert, upsert
from tracker.views import HistoryEntry
from tracker.work import Change, Known, RaisedAlarm, Work

HOUR: Final = 3_600_000_000
ALL: Final = tuple(TASKS.columns.keys())
# For each way to name a task but its id: the columns that the scope holds, and the one that holds the name.
NAMED: Final = {
    "provider_task_id": (("provider", "account"), "provider_task_id"),
    "sent_external_id": (("provider", "account"), "sent_external_id"),
    "external_key": (("client",), "external_key"),
    "idempotency_key": (("client",), "idempotency_key"),
    "unanswered": (("client",), "request_hash"),
}
EVENT: Final = ("task_id", "sequence", "type", "at", "data")


def apply(connection: Connection, works: Sequence[Work[Any]]) -> list[Any]:
    """Decide and write ``works``; give each one's result, or the CallerError it raised, in order."""
    loaded = _load(connection, works)
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


def _load(connection: Connection, works: Sequence[Work[Any]]) -> list[Task]:
    keys = {key for work in works for key in work.keys}
    ids = {key.value for key in keys if key.by == "id"}
    names = [key for key in keys if key.by != "id"]
    locks.lock_names(connection, names)
    grouped: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for key in names:
        grouped[key.by, key.scope].append(key.value)
    named = [_find_ids(connection, by, scope, wanted) for (by, scope), wanted in sorted(grouped.items())]
    locked: Iterable[tuple[Any, ...]] = ()
    if all(any(key.by == "id" for key in work.keys) for work in works):
        # Where every piece tells an id too, its names are of the same row, or somebody's mistake: one round trip.
        locked = bulk.lock_rows(connection, TASKS, rows.READ, list(ids))
        others = set(chain.from_iterable(named)) - ids
    else:
        others = ids.union(*named)
    found = chain(locked, bulk.lock_rows(connection, TASKS, rows.READ, list(others)))
    return [rows.task_from_columns(row) for row in found]


def _find_ids(connection: Connection, by: str, scope: tuple[str, ...], wanted: Sequence[str]) -> Iterator[str]:
    columns, name = NAMED[by]
    named: dict[str, str | None] = dict(zip(columns, scope, strict=True))
    if by == "unanswered":
        named["answered_at"] = None
    return bulk.find_ids(connection, TASKS, named, name, wanted)


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
        bulk.insert_rows(connection, EVENTS, EVENT, told)


def _write_tasks(connection: Connection, changes: Sequence[Change[Any]], before: dict[str, Task]) -> None:
    last = {change.task.id: change.task for change in changes if change.task is not None}
    ordered = [last[task_id] for task_id in sorted(last)]
    # Old rows first: a rejected row gives up its keys before a new one takes them.
    old = [task for task in ordered if task.id in before]
    # What no row of the batch changes is not written: each column that is costs the upkeep of its indexes.
    columns = rows.changed_columns((before[task.id], task) for task in old)
    if columns:
        bulk.update_rows(connection, TASKS, tuple(columns), rows.task_columns(old, ("id", *columns)))
    new = [task for task in ordered if task.id not in before]
    bulk.insert_rows(connection, TASKS, ALL, rows.task_columns(new, ALL))
    tags = [(tag, task.id) for task in new for tag in sorted(set(task.tags))]
    bulk.insert_rows(connection, TAGS, ("tag", "task_id"), tags)


def _write_submissions(connection: Connection, changes: Sequence[Change[Any]]) -> None:
    tasks = [(change.task.id, change) for change in changes if change.task is not None]
    kept = [(task_id, change.submission) for task_id, change in tasks if change.submission is not None]
    bulk.insert_rows(connection, SUBMISSIONS, ("task_id", "body"), kept)
    bulk.delete_rows(
        connection, SUBMISSIONS, "task_id", [task_id for task_id, change in tasks if change.drop_submission]
    )


def _write_observations(connection: Connection, changes: Sequence[Change[Any]]) -> None:
    kept: dict[tuple[str, str], tuple[HistoryEntry, int]] = {}
    for change in changes:
        for entry in change.entries:
            key = (entry.shown.task_id, entry.dedupe_key)
            shown, repeats = kept.get(key, (entry.shown, -1))
            kept[key] = (shown, repeats + 1)
    values = [rows.entry_columns(shown, key, repeats) for (_, key), (shown, repeats) in kept.items()]
    bulk.insert_rows(connection, OBSERVATIONS, rows.ENTRY, values, _repeated)


def _repeated(statement: Insert) -> Insert:
    # As text: what is bound here would come among the values of the rows.
    seen = OBSERVATIONS.c.repeats + statement.excluded.repeats + literal_column("1")
    return statement.on_conflict_do_update(index_elements=["task_id", "dedupe_key"], set_={"repeats": seen})


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
    # Inline: nobody asks which ids the rows got.
    statement = upsert(connection, ORPHANS).inline()
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
    bulk.insert_rows(connection, COUNTERS, ("name", "value"), sorted(totals.items()), _counted)


def _counted(statement: Insert) -> Insert:
    value = COUNTERS.c.value + statement.excluded.value
    return statement.on_conflict_do_update(index_elements=["name"], set_={"value": value})


def _told(changes: Sequence[Change[Any]]) -> list[tuple[Any, ...]]:
    return [
        (event.task_id, event.sequence, event.type, rows.stamp(event.at), rows.dump(event.data))
        for change in changes
        for event in change.events
    ]
