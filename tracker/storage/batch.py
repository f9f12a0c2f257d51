"""The write path: a batch of work becomes one transaction.

It loads and locks the rows of all keys. Each piece decides in the order of arrival, with the changes of the earlier
pieces. A few sorted statements write the result, events last. A ClientError is the result of its own piece only. If the
database refuses a value, the whole transaction fails, and the recorder bisects the batch.

Several processes may do this at the same time on one PostgreSQL. Each batch locks its rows in the order of their IDs,
and writes the tables in the same order. So two batches never wait for each other. The exception is a row that only a
wrong ID leads to. If that causes a deadlock, the batch runs again. Names without a row are locked too. All batches
write the counts and the event IDs. They do this last, under one lock, so that the order of event IDs is the order of
commits.
"""

from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import and_, case, literal_column

from tracker.errors import ClientError
from tracker.model.changes import Change, Key, Known, Work
from tracker.model.records import AlarmCount, HistoryEntry
from tracker.model.task import Source, Task, Verdict
from tracker.storage import account_store, alarms, audit_store, claim_store, event_rows, orphan_store, rows
from tracker.storage.engine import bulk, event_order
from tracker.storage.engine.bulk import SQLITE, Plan, Rows, Statement
from tracker.storage.engine.upserts import Insert
from tracker.storage.event_store import Written
from tracker.storage.tables import (
    CAPABILITIES,
    COUNTERS,
    EVENTS,
    OBSERVATIONS,
    SUBMISSIONS,
    TAGS,
    TASK_METADATA,
    TASKS,
)

TASK_COLUMNS: Final = tuple(TASKS.columns.keys())
# For each kind of key except the ID: the columns of its scope, and the column of its value.
NAMED: Final = {
    "provider_task_id": (("provider", "account"), "provider_task_id"),
    "sent_external_id": (("provider", "account"), "sent_external_id"),
    "external_key": (("client",), "external_key"),
    "idempotency_key": (("client",), "idempotency_key"),
    "unanswered": (("client",), "request_hash"),
}
LAST_CURSOR: Final = Statement("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'")
CAPABILITY: Final = ("base_url", "kind", "name", "present", "at")
EVENT: Final = ("task_id", "sequence", "type", "at", "data")


def apply(dialect: str, works: Sequence[Work[Any]], written: Written | None = None) -> Plan[list[Any]]:
    """Yield the statements that decide and write ``works``. Return the result or the ClientError of each, in order.

    ``written`` gets the events. They are valid after the commit.
    """
    last = yield from _last_cursor(dialect, highest=written.highest if written is not None else 0)
    loaded = yield from _load(dialect, works)
    known = Known(loaded)
    results: list[Any] = []
    changes: list[Change[Any]] = []
    for work in works:
        try:
            change = work.decide(known)
        except ClientError as error:
            results.append(error)
            continue
        for task in changed_tasks(change):
            known.put(task)
        changes.append(change)
        results.append(change.result)
    raised = [alarm for change in changes for alarm in change.alarms]
    counts = alarms.folded(raised) if raised else []
    if written is not None:
        # Set again, because this may be the second run.
        written.events = event_rows.published_events(changes, after=last or 0)
        written.numbered = last is not None and not counts
        written.alarms = counts
        written.audits = [entry for change in changes for entry in change.audits]
    return results, list(_write(dialect, changes, counts, before={task.id: task for task in loaded}))


def _last_cursor(dialect: str, *, highest: int) -> Generator[Sequence[Statement], Sequence[Rows], int | None]:
    """Yield the query for the last cursor. Return it, or None if other processes may assign cursors at the same time.

    Raises: WentBack, if it is before ``highest``, because the database has returned to an older state.
    """
    if dialect != SQLITE:
        return None
    ((row,),) = yield [LAST_CURSOR]
    number = int(row[0])
    if number < highest:
        raise event_order.WentBack
    return number


def changed_tasks(change: Change[Any]) -> tuple[Task, ...]:
    """Return every row that a change writes, the rows that release an ID first."""
    return change.others if change.task is None else (*change.others, change.task)


def _load(dialect: str, works: Sequence[Work[Any]]) -> Generator[Sequence[Statement], Sequence[Rows], list[Task]]:
    needed = [work.keys for work in works]
    keys = frozenset().union(*needed)
    ids = {key.value for key in keys if key.by == "id"}
    names = [key for key in keys if key.by != "id"]
    # If every piece also has an ID, its other keys belong to the same row or to a wrong request: one round trip.
    with_id = all(any(key.by == "id" for key in names) for names in needed)
    holding = list(bulk.hold_names(dialect, names))
    finding = list(_find(dialect, names))
    locking = list(bulk.lock_rows(dialect, TASKS, rows.READ, ids if with_id else ()))
    answers = yield [*holding, *finding, *locking]
    found = answers[len(holding) + len(finding) :]
    others = {task_id for some in answers[len(holding) :][: len(finding)] for (task_id,) in some}
    others = others - ids if with_id else others | ids
    if others:
        found = [*found, *(yield list(bulk.lock_rows(dialect, TASKS, rows.READ, others)))]
    return [rows.task_from_columns(row) for some in found for row in some]


def _find(dialect: str, names: Sequence[Key]) -> Iterator[Statement]:
    grouped: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for key in names:
        grouped[key.by, key.scope].append(key.value)
    for (by, scope), wanted in sorted(grouped.items()):
        columns, name = NAMED[by]
        named: dict[str, str | None] = dict(zip(columns, scope, strict=True))
        if by == "unanswered":
            named["answered_at"] = None
        yield from bulk.find_ids(dialect, TASKS, named, name, wanted)


def _write(
    dialect: str, changes: Sequence[Change[Any]], alarm_counts: Sequence[AlarmCount], *, before: dict[str, Task]
) -> Iterator[Statement]:
    yield from _write_tasks(dialect, changes, before)
    yield from _write_submissions(dialect, changes)
    yield from _write_observations(dialect, changes)
    if alarm_counts:
        yield from alarms.count(dialect, alarm_counts)
    if orphans := [change.orphan for change in changes if change.orphan is not None]:
        yield from orphan_store.write(dialect, orphans)
    if capabilities := {(one.base_url, one.kind, one.name): one for change in changes for one in change.seen}:
        values = [(*key, one.present, rows.stamp(one.at)) for key, one in sorted(capabilities.items())]
        yield from bulk.insert_rows(dialect, CAPABILITIES, CAPABILITY, values, _seen)
    if accounts := [change.account for change in changes if change.account is not None]:
        yield from account_store.note(dialect, accounts)
    if audits := [entry for change in changes for entry in change.audits]:
        yield from audit_store.insert_entries(dialect, audits)
    totals = _totals(changes)
    events = [event_rows.event_columns(event, change.task) for change in changes for event in change.events]
    if not (totals or events or alarm_counts or orphans):
        return
    yield from event_order.hold_order(dialect)
    yield from bulk.insert_rows(dialect, COUNTERS, ("name", "value"), sorted(totals.items()), _counted)
    if orphans:
        yield from orphan_store.count_unkept(dialect, orphans)
    yield from bulk.insert_rows(dialect, EVENTS, EVENT, events)
    if alarm_counts:
        yield from alarms.write_events(dialect, alarm_counts)


def _write_tasks(dialect: str, changes: Sequence[Change[Any]], before: dict[str, Task]) -> Iterator[Statement]:
    last = {task.id: task for change in changes for task in changed_tasks(change)}
    ordered = [last[task_id] for task_id in sorted(last)]
    # Old rows first, because a rejected row releases its keys before a new row gets them.
    old = [task for task in ordered if task.id in before]
    # A provider ID is released before another row gets it.
    free = [(task.id, None) for task in old if before[task.id].provider_task_id not in {None, task.provider_task_id}]
    if free:
        yield from bulk.update_rows(dialect, TASKS, ("provider_task_id",), free)
    # Columns that no row of the batch changes are not written, because each written column updates its indexes.
    columns = rows.changed_columns((before[task.id], task) for task in old)
    if columns:
        yield from bulk.update_rows(dialect, TASKS, tuple(columns), rows.task_columns(old, ("id", *columns)))
    new = [task for task in ordered if task.id not in before]
    yield from bulk.insert_rows(dialect, TASKS, TASK_COLUMNS, rows.task_columns(new, TASK_COLUMNS))
    # Only a task that a create request takes over gets other tags and metadata than it was recorded with.
    labeled = [task for task in old if (task.tags, task.metadata) != (before[task.id].tags, before[task.id].metadata)]
    for table in (TAGS, TASK_METADATA):
        yield from bulk.delete_rows(dialect, table, "task_id", [task.id for task in labeled])
    labeled += new
    tags = [(tag, task.id) for task in labeled for tag in sorted(set(task.tags))]
    yield from bulk.insert_rows(dialect, TAGS, ("tag", "task_id"), tags)
    metadata = [(key, value, task.id) for task in labeled for key, value in sorted(task.metadata.items())]
    yield from bulk.insert_rows(dialect, TASK_METADATA, ("key", "value", "task_id"), metadata)
    yield from claim_store.of_tasks(dialect, ordered, before)


def _write_submissions(dialect: str, changes: Sequence[Change[Any]]) -> Iterator[Statement]:
    tasks = [(change.task.id, change) for change in changes if change.task is not None]
    kept = [(task_id, change.submission) for task_id, change in tasks if change.submission is not None]
    yield from bulk.insert_rows(dialect, SUBMISSIONS, ("task_id", "body"), kept)
    yield from bulk.delete_rows(
        dialect, SUBMISSIONS, "task_id", [task_id for task_id, change in tasks if change.drop_submission]
    )


def _write_observations(dialect: str, changes: Sequence[Change[Any]]) -> Iterator[Statement]:
    kept: dict[tuple[str, str], tuple[HistoryEntry, int]] = {}
    for change in changes:
        for entry in change.entries:
            key = (entry.shown.task_id, entry.dedupe_key)
            shown, repeats = kept.get(key, (entry.shown, -1))
            kept[key] = (shown, repeats + 1)
    values = [rows.entry_columns(shown, key, repeats) for (_, key), (shown, repeats) in kept.items()]
    yield from bulk.insert_rows(dialect, OBSERVATIONS, rows.ENTRY, values, _repeated)


def _repeated(statement: Insert) -> Insert:
    # These are literals here and below, because bound parameters would mix with the values of the rows.
    excluded = statement.excluded
    seen = OBSERVATIONS.c.repeats + excluded.repeats + literal_column("1")
    # Polls without an answer share one entry, which shows the last of them.
    failed = and_(
        excluded.source == literal_column(f"'{Source.POLL}'"),
        excluded.verdict.in_([literal_column(f"'{verdict}'") for verdict in (Verdict.UNREADABLE, Verdict.UNANSWERED)]),
    )
    last = {name: case((failed, excluded[name]), else_=OBSERVATIONS.c[name]) for name in ("at", "why", "body")}
    return statement.on_conflict_do_update(index_elements=["task_id", "dedupe_key"], set_={"repeats": seen, **last})


def _seen(statement: Insert) -> Insert:
    last = {name: statement.excluded[name] for name in ("present", "at")}
    return statement.on_conflict_do_update(index_elements=["base_url", "kind", "name"], set_=last)


def _totals(changes: Sequence[Change[Any]]) -> dict[str, int]:
    totals: dict[str, int] = defaultdict(int)
    for change in changes:
        for name, value in change.counts.items():
            totals[name] += value
    return totals


def _counted(statement: Insert) -> Insert:
    value = COUNTERS.c.value + statement.excluded.value
    return statement.on_conflict_do_update(index_elements=["name"], set_={"value": value})
