"""Rows to values and back: the one place that knows how a value is written into columns."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy.engine import RowMapping

from tracker.bounds import JsonValue
from tracker.lifecycle import RANK
from tracker.models import Alarm, Fact, Source, Standing, Status, Task, Trust, Verdict
from tracker.views import AlarmCount, HistoryEntry, Orphan, StandingAddress

Row = RowMapping | Mapping[str, Any]
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
# Columns whose value is the field's own, without conversion.
PLAIN: Final = (
    "id",
    "provider",
    "kind",
    "account",
    "client",
    "origin",
    "external_id",
    "idempotency_key",
    "sent_external_id",
    "provider_task_id",
    "candidate_id",
    "request_hash",
    "caller_callback_url",
    "callback_asked",
    "reason",
    "version",
    "polls",
    "quiet_polls",
    "lease_owner",
    "attempts",
    "not_found",
    "released",
    "taken_by",
    "model",
)
TIMES: Final = (
    "created_at",
    "updated_at",
    "deadline_at",
    "submitted_at",
    "finished_at",
    "heard_at",
    "polled_at",
    "next_poll_at",
    "lease_until",
    "attempt_deadline_at",
    "answered_at",
)


def stamp(moment: datetime) -> int:
    """Give whole microseconds since 1970."""
    return (moment - EPOCH) // MICROSECOND


def moment(value: int) -> datetime:
    """Read back what ``stamp`` wrote."""
    return EPOCH + timedelta(microseconds=value)


def task_to_row(task: Task) -> dict[str, Any]:
    """Give every column of a task."""
    row: dict[str, Any] = {name: getattr(task, name) for name in PLAIN}
    for name in TIMES:
        value = getattr(task, name)
        row[name] = None if value is None else stamp(value)
    row["external_key"] = None if task.released else task.external_id
    row["idempotency_key"] = None if task.released else task.idempotency_key
    row["request"] = _dump(task.request)
    row["tags"] = _dump(list(task.tags))
    row["status"] = task.status.value
    row["doubt"] = None if task.doubt is None else task.doubt.value
    row["standing_asked"] = task.standing.asked
    row["standing_updated_at"] = task.standing.updated_at
    row["learned_from"] = None if task.learned_from is None else task.learned_from.value
    row["learned_trust"] = None if task.learned_trust is None else int(task.learned_trust)
    row["facts"] = _dump({name: _fact_to_json(fact) for name, fact in task.facts.items()})
    return row


def task_from_row(row: Row) -> Task:
    """Read a task back."""
    status = Status(row["status"])
    values: dict[str, Any] = {name: row[name] for name in PLAIN}
    for name in TIMES:
        values[name] = None if row[name] is None else moment(row[name])
    return Task(
        **values,
        request=json.loads(row["request"]),
        tags=tuple(json.loads(row["tags"])),
        status=status,
        doubt=None if row["doubt"] is None else Status(row["doubt"]),
        standing=Standing(
            rank=RANK[status],
            asked=row["standing_asked"],
            updated_at=row["standing_updated_at"],
            success=status is Status.SUCCEEDED,
        ),
        learned_from=None if row["learned_from"] is None else Source(row["learned_from"]),
        learned_trust=None if row["learned_trust"] is None else Trust(row["learned_trust"]),
        facts={name: _fact_from_json(value) for name, value in json.loads(row["facts"]).items()},
    )


def entry_to_row(entry: HistoryEntry, dedupe_key: str) -> dict[str, Any]:
    """Give the columns of a kept observation, without its id."""
    return {
        "task_id": entry.task_id,
        "dedupe_key": dedupe_key,
        "at": stamp(entry.at),
        "source": entry.source.value,
        "trust": int(entry.trust),
        "word": entry.word,
        "status": None if entry.status is None else entry.status.value,
        "verdict": entry.verdict.value,
        "why": entry.why,
        "provider_updated_at": None if entry.provider_updated_at is None else stamp(entry.provider_updated_at),
        "body": entry.body,
        "repeats": entry.repeats,
    }


def entry_from_row(row: Row) -> HistoryEntry:
    return HistoryEntry(
        id=row["id"],
        task_id=row["task_id"],
        at=moment(row["at"]),
        source=Source(row["source"]),
        trust=Trust(row["trust"]),
        word=row["word"],
        status=None if row["status"] is None else Status(row["status"]),
        verdict=Verdict(row["verdict"]),
        why=row["why"],
        provider_updated_at=None if row["provider_updated_at"] is None else moment(row["provider_updated_at"]),
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
        word=row["word"],
        state=row["state"],
        why=row["why"],
        first_at=moment(row["first_at"]),
        last_at=moment(row["last_at"]),
        deliveries=row["deliveries"],
        checks=row["checks"],
        next_check_at=None if row["next_check_at"] is None else moment(row["next_check_at"]),
        task_id=row["task_id"],
        signed=row["signed"],
        body=row["body"],
    )


def orphan_to_row(orphan: Orphan) -> dict[str, Any]:
    """Give the columns of an orphan, without its id."""
    return {
        "provider": orphan.provider,
        "provider_task_id": orphan.provider_task_id,
        "external_id": orphan.external_id,
        "kind": orphan.kind,
        "client": orphan.client,
        "address": orphan.address,
        "word": orphan.word,
        "state": orphan.state,
        "why": orphan.why,
        "first_at": stamp(orphan.first_at),
        "last_at": stamp(orphan.last_at),
        "deliveries": orphan.deliveries,
        "checks": orphan.checks,
        "next_check_at": None if orphan.next_check_at is None else stamp(orphan.next_check_at),
        "task_id": orphan.task_id,
        "signed": orphan.signed,
        "body": orphan.body,
    }


def address_from_row(row: Row) -> StandingAddress:
    return StandingAddress(
        id=row["id"],
        provider=row["provider"],
        kind=row["kind"],
        client=row["client"],
        created_at=moment(row["created_at"]),
        revoked_at=None if row["revoked_at"] is None else moment(row["revoked_at"]),
        label=row["label"],
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


def event_data(value: JsonValue) -> str:
    return _dump(value)


def _fact_to_json(fact: Fact) -> JsonValue:
    place = fact.standing
    return [place.rank, place.asked, place.updated_at, place.success, fact.value]


def _fact_from_json(value: list[Any]) -> Fact:
    rank, asked, updated_at, success, told = value
    return Fact(standing=Standing(rank=rank, asked=asked, updated_at=updated_at, success=success), value=told)


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
