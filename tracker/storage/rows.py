"""Conversion of rows to values and back. Only this module knows how a value is stored in columns."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import compress
from operator import attrgetter, is_not
from types import MappingProxyType
from typing import Any, Final

import msgspec
from sqlalchemy.engine import RowMapping

from tracker.model.facts import RANK
from tracker.model.records import AlarmCount, HistoryEntry, Orphan, SharedCallbackUrl
from tracker.model.task import Alarm, Fact, IdSource, Precedence, Source, Status, Task, Trust, Verdict
from tracker.model.untrusted import JsonValue

Row = RowMapping | Mapping[str, Any]
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
# Fields whose columns contain the value unchanged.
PLAIN: Final = (
    "id",
    "provider",
    "kind",
    "account",
    "client",
    "origin",
    "external_id",
    "sent_external_id",
    "provider_task_id",
    "candidate_id",
    "request_hash",
    "client_callback_url",
    "reason",
    "version",
    "poll_count",
    "quiet_polls",
    "lease_owner",
    "attempts",
    "not_found",
    "taken_by",
    "model",
)
FLAGS: Final = ("callback_requested", "released")
TIMES: Final = (
    "created_at",
    "updated_at",
    "deadline_at",
    "submitted_at",
    "finished_at",
    "last_observed_at",
    "polled_at",
    "next_poll_at",
    "lease_until",
    "attempt_deadline_at",
    "duplicate_at",
    "answered_at",
    "conflict_at",
)
STATUSES: Final = {status.value: status for status in Status}
ID_SOURCES: Final = {source.value: source for source in IdSource}
SOURCES: Final = {source.value: source for source in Source}
TRUST_OF_NUMBER: Final = {int(trust): trust for trust in Trust}
# The fields of a task, in the order in which every task has them.
FIELDS: Final = tuple(field.name for field in fields(Task))
ENUM_VALUES: Final[Mapping[StrEnum, str]] = MappingProxyType(
    {member: member.value for members in (Status, Source, Verdict) for member in members}
)
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


def stamp(moment: datetime) -> int:
    """Return whole microseconds since 1970."""
    return (moment - EPOCH) // MICROSECOND


def moment(value: int) -> datetime:
    """Return the time of a value of ``stamp``."""
    return EPOCH + timedelta(0, 0, value)


def optional_stamp(moment: datetime | None) -> int | None:
    return None if moment is None else stamp(moment)


def optional_moment(value: int | None) -> datetime | None:
    return None if value is None else moment(value)


def _stamped(name: str) -> Callable[[Task], int | None]:
    field = attrgetter(name)

    def column(task: Task) -> int | None:
        value = field(task)
        return None if value is None else (value - EPOCH) // MICROSECOND

    return column


# For each column of a task, the function that returns its value.
COLUMNS: Final[Mapping[str, Callable[[Task], Any]]] = MappingProxyType(
    {
        **{name: attrgetter(name) for name in (*PLAIN, *FLAGS)},
        **{name: _stamped(name) for name in TIMES},
        # Most tasks have none, and a NULL column takes no space.
        "unsigned": lambda task: task.unsigned or None,
        "external_key": lambda task: None if task.released else task.external_id,
        "idempotency_key": lambda task: None if task.released else task.idempotency_key,
        "request": lambda task: dump(task.request),
        "tags": lambda task: dump(list(task.tags)),
        "metadata": lambda task: dump(task.metadata) if task.metadata else None,
        "status": lambda task: ENUM_VALUES[task.status],
        "unproven_id_from": lambda task: None if task.unproven_id_from is None else task.unproven_id_from.value,
        "conflict_statuses": lambda task: ",".join(task.conflict_statuses) or None,
        "precedence_polled": lambda task: task.precedence.polled,
        "precedence_updated_at": lambda task: task.precedence.updated_at,
        "status_source": lambda task: None if task.status_source is None else ENUM_VALUES[task.status_source],
        "status_trust": lambda task: None if task.status_trust is None else int(task.status_trust),
        "facts": lambda task: dump({name: _fact_to_json(fact) for name, fact in task.facts.items()}),
    }
)
# The columns of a field, if they are not only the column with its name.
FOLLOWING: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "precedence": ("precedence_polled", "precedence_updated_at"),
        "external_id": ("external_id", "external_key"),
        "released": ("released", "external_key", "idempotency_key"),
    }
)


def changed_columns(versions: Iterable[tuple[Task, Task]]) -> list[str]:
    """Return the sorted names of the columns that differ in any pair of an earlier and a later version."""
    names: set[str] = set()
    for before, after in versions:
        was, now = before.__dict__, after.__dict__
        # Both have their fields in the same order, and most of them have the identical value.
        for name in compress(FIELDS, map(is_not, now.values(), was.values())):
            if name not in names and now[name] != was[name]:
                names.add(name)
    return sorted({column for name in names for column in FOLLOWING.get(name, (name,))})


def task_columns(tasks: Sequence[Task], columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return the values of some columns, one tuple per task."""
    return list(zip(*(map(COLUMNS[name], tasks) for name in columns), strict=True))


# The columns of a task: one for each field, and the extra column of its precedence.
READ: Final = (*("precedence_updated_at" if name == "precedence" else name for name in FIELDS), "precedence_polled")


def task_from_row(row: Row) -> Task:
    """Return the task of a row."""
    return task_from_columns([row[name] for name in READ])


def task_from_columns(columns: Sequence[Any]) -> Task:
    """Return the task of its columns ``READ``, with the values of the driver."""
    task = object.__new__(Task)
    # As in ``task.changed``, because the constructor takes as long as everything else.
    values = task.__dict__
    values.update(zip(FIELDS, columns, strict=False))
    for name in TIMES:
        if (value := values[name]) is not None:
            values[name] = EPOCH + timedelta(0, 0, value)
    status = values["status"] = STATUSES[values["status"]]
    values["precedence"] = Precedence(
        rank=RANK[status],
        polled=bool(columns[-1]),
        updated_at=values["precedence"],
        success=status is Status.SUCCEEDED,
    )
    values["request"] = {} if values["request"] == "{}" else _decode(values["request"])
    values["tags"] = () if values["tags"] == "[]" else tuple(_decode(values["tags"]))
    metadata = values["metadata"]
    values["metadata"] = {} if metadata is None else _decode(metadata)
    values["facts"] = {} if values["facts"] == "{}" else _facts(values["facts"])
    values["unsigned"] = values["unsigned"] or 0
    values["callback_requested"] = bool(values["callback_requested"])
    values["released"] = bool(values["released"])
    if (named_by := values["unproven_id_from"]) is not None:
        values["unproven_id_from"] = ID_SOURCES[named_by]
    reports = values["conflict_statuses"]
    values["conflict_statuses"] = () if reports is None else tuple(STATUSES[report] for report in reports.split(","))
    if (source := values["status_source"]) is not None:
        values["status_source"] = SOURCES[source]
    if (trust := values["status_trust"]) is not None:
        values["status_trust"] = TRUST_OF_NUMBER[trust]
    return task


ENTRY: Final = (
    "task_id",
    "dedupe_key",
    "at",
    "source",
    "trust",
    "provider_status",
    "status",
    "verdict",
    "why",
    "provider_updated_at",
    "body",
    "repeats",
)


def entry_columns(entry: HistoryEntry, dedupe_key: str, repeats: int) -> tuple[Any, ...]:
    """Return the columns ``ENTRY`` of a stored observation."""
    return (
        entry.task_id,
        dedupe_key,
        stamp(entry.at),
        ENUM_VALUES[entry.source],
        int(entry.trust),
        entry.provider_status,
        None if entry.status is None else ENUM_VALUES[entry.status],
        ENUM_VALUES[entry.verdict],
        entry.why,
        optional_stamp(entry.provider_updated_at),
        entry.body,
        repeats,
    )


def entry_from_row(row: Row) -> HistoryEntry:
    return HistoryEntry(
        id=row["id"],
        task_id=row["task_id"],
        at=moment(row["at"]),
        source=Source(row["source"]),
        trust=Trust(row["trust"]),
        provider_status=row["provider_status"],
        status=None if row["status"] is None else Status(row["status"]),
        verdict=Verdict(row["verdict"]),
        why=row["why"],
        provider_updated_at=optional_moment(row["provider_updated_at"]),
        body=row["body"],
        repeats=row["repeats"],
    )


def orphan_from_row(row: Row) -> Orphan:
    return Orphan(
        id=row["id"],
        provider=row["provider"],
        provider_task_id=row["provider_task_id"],
        external_id=row["external_id"],
        kind=row["kind"],
        client=row["client"],
        address=row["address"],
        provider_status=row["provider_status"],
        state=row["state"],
        why=row["why"],
        first_at=moment(row["first_at"]),
        last_at=moment(row["last_at"]),
        callbacks=row["callbacks"],
        poll_count=row["poll_count"],
        next_poll_at=optional_moment(row["next_poll_at"]),
        task_id=row["task_id"],
        signed=row["signed"],
        body=row["body"],
    )


# All columns except the ID.
ORPHAN: Final = (
    "provider",
    "provider_task_id",
    "external_id",
    "kind",
    "client",
    "address",
    "provider_status",
    "state",
    "why",
    "first_at",
    "last_at",
    "callbacks",
    "poll_count",
    "next_poll_at",
    "task_id",
    "signed",
    "body",
)


def orphan_columns(orphan: Orphan) -> tuple[Any, ...]:
    """Return the columns ``ORPHAN`` of an orphan."""
    values = (getattr(orphan, name) for name in ORPHAN)
    return tuple(stamp(value) if isinstance(value, datetime) else value for value in values)


def callback_url_from_row(row: Row) -> SharedCallbackUrl:
    return SharedCallbackUrl(
        id=row["id"],
        provider=row["provider"],
        kind=row["kind"],
        client=row["client"],
        created_at=moment(row["created_at"]),
        revoked_at=optional_moment(row["revoked_at"]),
        label=row["label"],
    )


ALARM: Final = ("kind", "provider", "hour", "count", "last_at", "task_id", "detail")


def alarm_columns(alarm: AlarmCount) -> tuple[Any, ...]:
    """Return the columns ``ALARM`` of the alarms of an hour."""
    return (
        alarm.kind.value,
        alarm.provider,
        stamp(alarm.hour),
        alarm.count,
        stamp(alarm.last_at),
        alarm.task_id,
        alarm.detail,
    )


def alarm_from_row(row: Row) -> AlarmCount:
    return AlarmCount(
        kind=Alarm(row["kind"]),
        provider=row["provider"],
        hour=moment(row["hour"]),
        count=row["count"],
        last_at=moment(row["last_at"]),
        task_id=row["task_id"],
        detail=row["detail"],
    )


def dump(value: object) -> str:
    """Return JSON as it is stored in text columns."""
    return _encode(value).decode()


def _facts(text: str) -> dict[str, Fact]:
    return {name: _fact_from_json(value) for name, value in _decode(text).items()}


def _fact_to_json(fact: Fact) -> JsonValue:
    place = fact.precedence
    return [place.rank, place.polled, place.updated_at, place.success, fact.value]


def _fact_from_json(value: list[Any]) -> Fact:
    rank, polled, updated_at, success, kept = value
    return Fact(precedence=Precedence(rank=rank, polled=polled, updated_at=updated_at, success=success), value=kept)
