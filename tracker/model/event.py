"""The common shape of tasks and events in all outputs.

An event is a CloudEvent (https://github.com/cloudevents/spec, 1.0.2): ``id`` stays the same however often it is sent,
``subject`` is the task, ``sequence`` grows with the task's versions (see ``sequence_of``), as digits that compare as
text. ``data`` is the task as the API shows it, as it was then. docs/reference/events.md describes all of it.

The cursor of an event is its number: the database gives one after the other. A database that comes back in an older
state would give some of them again, to other events. So whenever that is possible, Homing continues at a number that is
made of the time: greater than every number that was given before, in whatever state of the database. All stay below
2**53, which JavaScript reads exactly.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec
from msgspec import structs

from tracker.model import facts
from tracker.model.records import AlarmCount
from tracker.model.task import Alarm, Status, Task, Trust

TASK_TYPE: Final = "homing.task."
ALARM_TYPE: Final = "homing.alarm."
# The events of a task besides the events of its statuses. A pending task has no event: it is only recorded.
CHANGES: Final = ("updated", "corrected")
TASK_TYPES: Final = tuple(
    TASK_TYPE + name for name in (*(status.value for status in Status if status is not Status.PENDING), *CHANGES)
)
ALARM_TYPES: Final = tuple(ALARM_TYPE + alarm.value for alarm in Alarm)
EVENT_TYPES: Final = TASK_TYPES + ALARM_TYPES
# The last part is the version of the shape. New fields do not make a new version.
TASK_SCHEMA: Final = "urn:homing:task:2"
ALARM_SCHEMA: Final = "urn:homing:alarm:1"
JSON_TYPE: Final = "application/json"
STRUCTURED_TYPE: Final = "application/cloudevents+json"
# The source of events if none is configured. CloudEvents require a source.
NO_SOURCE: Final = "urn:homing"
TrustName = Literal["unverified", "token", "signed", "provider"]
PUBLISHED_TRUSTS: Final[Mapping[Trust, TrustName]] = MappingProxyType(
    {Trust.UNVERIFIED: "unverified", Trust.TOKEN: "token", Trust.SIGNED: "signed", Trust.PROVIDER: "provider"}
)
# 2020-01-01 UTC in Unix milliseconds. A range of event numbers begins at the milliseconds since then, shifted by
# RANGE_SHIFT.
RANGE_EPOCH_MILLISECONDS: Final = 1_577_836_800_000
# 4,096 numbers per millisecond, so no range reaches a range that begins later.
RANGE_SHIFT: Final = 12
# Smaller numbers were counted from 1. All others belong to a range.
FIRST_RANGE: Final = 1 << 44
# The maximum number of versions of a task.
MAX_VERSIONS: Final = 10**6
SHORT_DIGITS: Final = 10
LONG_DIGITS: Final = 19
_encode: Final = msgspec.json.Encoder().encode


def sequence_of(cursor: int, version: int) -> int:
    """Return what orders the events of one task and repeats for none, also after the task went back to an old version.

    It is the task's version as long as numbers are counted from 1.
    """
    return version if cursor < FIRST_RANGE else (cursor >> RANGE_SHIFT) * MAX_VERSIONS + version


def written_sequence(number: int) -> str:
    """Return a sequence as digits that compare as text: ten, or nineteen within a range."""
    return f"{number:0{SHORT_DIGITS}}" if number < FIRST_RANGE else f"{number:0{LONG_DIGITS}}"


class PublishedEvent(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One event: a task at that time, or the first alarm of its kind in an hour.

    ``cursor`` is its position in the order of commits, from which readers resume. ``sequence`` is the task's version.
    """

    cursor: int
    type: str
    sequence: int
    at: datetime
    task: Task | None = None
    alarm: AlarmCount | None = None

    @property
    def id(self) -> str:
        """The event's id, which is a webhook's id too: Standard Webhooks allows no full stop in that."""
        return f"{self.subject}-{sequence_of(self.cursor, self.sequence)}"

    @property
    def subject(self) -> str:
        """The ID of the task. For an alarm it is the name of its counter: kind, provider and hour."""
        if self.task is not None:
            return self.task.id
        assert self.alarm is not None
        return f"alarm-{self.alarm.kind.value}-{self.alarm.provider}-{self.alarm.hour:%Y%m%d%H}"

    @property
    def task_id(self) -> str | None:
        """The ID of the task, or None for an alarm, even if the alarm names a task."""
        return None if self.task is None else self.task.id

    @property
    def provider(self) -> str:
        whose = self.task or self.alarm
        assert whose is not None
        return whose.provider

    @property
    def kind(self) -> str | None:
        return None if self.task is None else self.task.kind

    @property
    def client(self) -> str | None:
        """The client of the task, or None for an alarm. Only keys that see all clients get alarms."""
        return None if self.task is None else self.task.client

    @property
    def tags(self) -> tuple[str, ...]:
        return () if self.task is None else self.task.tags

    @cached_property
    def data(self) -> dict[str, Any]:
        """The data of the event. Times are datetimes."""
        if self.task is not None:
            return task_data(self.task)
        assert self.alarm is not None
        return alarm_data(self.alarm)

    @cached_property
    def body(self) -> bytes:
        """``data`` as JSON."""
        return _encode(self.data)


class UnreadableEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that cannot be read: its row is damaged, or has values of a newer version.

    Homing cannot deliver it, and readers skip it. ``why`` is the type of the error, never the content of the row.
    """

    cursor: int
    type: str
    sequence: int
    task_id: str | None
    why: str

    @property
    def id(self) -> str:
        """The ID of the event. The ID of an alarm cannot be read, so it is the type and the cursor."""
        return (
            f"{self.type}-{self.cursor}"
            if self.task_id is None
            else f"{self.task_id}-{sequence_of(self.cursor, self.sequence)}"
        )


# An event as the store returns it.
Found = PublishedEvent | UnreadableEvent


def attributes(event: PublishedEvent, source: str) -> dict[str, str]:
    """Return the attributes of an event without its data. The binary mode of a binding sends them as headers."""
    task = event.task is not None
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": source,
        "type": event.type,
        "subject": event.subject,
        "time": msgspec.json.decode(_encode(event.at)),
        "datacontenttype": JSON_TYPE,
        "dataschema": TASK_SCHEMA if task else ALARM_SCHEMA,
        "sequence": written_sequence(sequence_of(event.cursor, event.sequence)),
        "partitionkey": event.subject,
    }


def structured(event: PublishedEvent, source: str) -> bytes:
    """Return a whole event as one JSON document, ``application/cloudevents+json``. All readers share it."""
    kept, name = vars(event), f"from {source}"
    written: bytes | None = kept.get(name)
    if written is None:
        written = kept[name] = _encode({**attributes(event, source), "data": msgspec.Raw(event.body)})
    return written


def as_dict(event: PublishedEvent, source: str) -> dict[str, Any]:
    """Return a whole event as a new dict, equal to its parsed JSON document."""
    return {**attributes(event, source), "data": msgspec.to_builtins(event.data)}


def task_data(task: Task) -> dict[str, Any]:
    """Return a task as everybody is shown it; times are datetimes still."""
    source = None
    if task.status_source is not None and task.status_trust is not None:
        source = {"source": task.status_source.value, "trust": PUBLISHED_TRUSTS[task.status_trust]}
    return {
        "id": task.id,
        "provider": task.provider,
        "kind": task.kind,
        "model": task.model or None,
        "client": task.client,
        "status": task.status.value,
        "message": facts.message(task),
        "reason": task.reason,
        "provider_task_id": task.provider_task_id,
        "external_id": task.external_id,
        "origin": task.origin,
        "tags": list(task.tags),
        "metadata": dict(task.metadata),
        "request": dict(task.request),
        "result": {"assets": [structs.asdict(asset) for asset in facts.assets(task)]},
        "output": facts.output(task),
        "price": dict(facts.price(task)),
        "version": task.version,
        "status_source": source,
        "conflict": _conflict(task),
        "conflict_at": task.conflict_at,
        "callback_requested": task.callback_requested,
        "poll_count": task.poll_count,
        "created_at": task.created_at,
        "updated_at": task.updated_at,
        "submitted_at": task.submitted_at,
        "finished_at": task.finished_at,
        "last_observed_at": task.last_observed_at,
        "polled_at": task.polled_at,
        "next_poll_at": task.next_poll_at,
        "deadline_at": task.deadline_at,
    }


def alarm_data(alarm: AlarmCount) -> dict[str, Any]:
    """Return an alarm as in all outputs. It is the first in its hour; /v1/stats counts the next ones."""
    return {
        "kind": alarm.kind.value,
        "provider": alarm.provider,
        "hour": alarm.hour,
        "at": alarm.last_at,
        "task_id": alarm.task_id,
        "detail": alarm.detail,
    }


def _conflict(task: Task) -> str | None:
    """Return ``open`` while Homing polls about contradictory final statuses, ``unanswered`` after it stopped."""
    if not facts.in_conflict(task):
        return None
    return "unanswered" if task.next_poll_at is None else "open"
