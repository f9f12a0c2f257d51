"""The frozen values that all other packages use, without I/O and without defaults that read a clock.

A *report* is the parsed body about a task. An *observation* is a report with its source and its trust level. A *task*
is the known state. Times are aware UTC.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from tracker.model.untrusted import JsonObject, JsonValue

EMPTY: Final[Mapping[str, str]] = MappingProxyType({})
CROCKFORD: Final = "0123456789abcdefghjkmnpqrstvwxyz"

# The header of a create request with the tags of the task, percent-encoded and separated by commas.
TAGS_HEADER: Final = "Homing-Tags"


class Status(StrEnum):
    """The status of a task. ``facts.RANK`` is the order between statuses."""

    PENDING = "pending"
    SUBMITTED = "submitted"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    EXPIRED = "expired"


FINAL: Final = frozenset({Status.SUCCEEDED, Status.FAILED})
# The statuses after which a client may stop waiting: the finals, and the two that Homing infers.
SETTLED: Final = FINAL | {Status.REJECTED, Status.EXPIRED}


class Trust(IntEnum):
    """The trust level of an observation. A greater value is more trust."""

    UNVERIFIED = 0
    TOKEN = 1
    SIGNED = 2
    PROVIDER = 3


# Reading a name from the enumeration is slower than reading it from a mapping.
TRUST_NAMES: Final[Mapping[Trust, str]] = MappingProxyType({trust: trust.name for trust in Trust})


class Source(StrEnum):
    """The source of an observation."""

    CALLBACK = "callback"
    POLL = "poll"
    SUBMIT = "submit"
    OPERATOR = "operator"
    CLOCK = "clock"


class Verdict(StrEnum):
    """The result of an observation."""

    APPLIED = "applied"
    COMPLETED = "completed"
    CONFIRMED = "confirmed"
    OUTRANKED = "outranked"
    UNVERIFIED = "unverified"
    CONTRADICTED = "contradicted"
    UNREADABLE = "unreadable"
    UNANSWERED = "unanswered"


class Alarm(StrEnum):
    """Something that an operator should check. Alarms are counted per hour."""

    CONTRADICTION = "contradiction"
    BAD_SIGNATURE = "bad_signature"
    STALE_SIGNATURE = "stale_signature"
    UNSIGNED = "unsigned"
    MISMATCH = "mismatch"
    UNKNOWN_STATUS = "unknown_status"
    UNREADABLE = "unreadable"
    UNREADABLE_ANSWER = "unreadable_answer"
    ORPHAN = "orphan"
    CREDENTIAL = "credential"
    NO_SUCH_CALL = "no_such_call"
    UNRESOLVED = "unresolved"
    UNANSWERED_CALL = "unanswered_call"
    EMPTY_RESULT = "empty_result"
    EXPIRING_RESULT = "expiring_result"
    CONFLICT = "conflict"
    REVIVED = "revived"
    DATABASE_CHANGED = "database_changed"


class Trouble(StrEnum):
    """A problem of an account at a provider, as the provider's answers show it."""

    CREDENTIAL = "credential"
    UNREADABLE = "unreadable"
    OUTAGE = "outage"


class IdSource(StrEnum):
    """The source of an unverified provider ID: the client that owns the task, a callback, or a lookup.

    ``SIGNED`` is a callback with a valid signature.
    """

    OWNER = "owner"
    CALLBACK = "callback"
    SIGNED = "signed"
    LOOKUP = "lookup"


class Flaw(StrEnum):
    """Why a callback is unverified, as the receiver found out."""

    UNSIGNED = "unsigned"
    BAD_SIGNATURE = "bad_signature"
    STALE_SIGNATURE = "stale_signature"
    SHARED_URL = "shared_url"


class Asset(msgspec.Struct, frozen=True, kw_only=True):
    """One result file.

    ``kind`` is image, video, audio, voice or element, or file if it is unknown. ``duration`` is in seconds, as the
    provider wrote it.
    """

    kind: str
    url: str
    index: int = 0
    group: str = "single"
    watermark_url: str | None = None
    duration: str | None = None
    provider_asset_id: str | None = None
    expires_at: datetime | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The parsed body of a provider about one task.

    ``provider_status`` is the provider's own status. ``status`` is None if that is missing or unknown, or if Homing
    cannot read the body (then ``flaw`` says why). ``price`` keeps the provider's field names and values. ``output`` is
    a result of any form, which only some providers have.
    """

    provider_task_id: str | None = None
    external_id: str | None = None
    status: Status | None = None
    provider_status: str | None = None
    message: str = ""
    assets: tuple[Asset, ...] = ()
    price: Mapping[str, JsonValue] = msgspec.field(default_factory=dict)
    output: JsonValue = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    flaw: str | None = None


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """A report with its source, its trust level and its raw body.

    ``webhook_id`` is set only if the signature is valid: a guessed ID must not hide the true callback.
    ``mismatch`` says why the report is about another task, and is empty if it is not.
    """

    source: Source
    trust: Trust
    report: Report
    at: datetime
    body: bytes = b""
    flaw: Flaw | None = None
    webhook_id: str | None = None
    note: str = ""
    mismatch: str = ""


class Precedence(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """The precedence of a verified report. The report with the greatest precedence decides the status.

    ``rank`` is that of the status. Among contradictory final statuses the answer to a poll (``polled``) wins, then the
    later ``updated_at`` (microseconds, 0 if unknown), then success. A manual resolution counts as a poll.
    """

    rank: int
    polled: bool = False
    updated_at: int = 0
    success: bool = False


NO_PRECEDENCE: Final = Precedence(rank=0)


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted fact (assets, output, price or message) with the precedence of its report."""

    precedence: Precedence
    value: JsonValue


@dataclass(frozen=True, kw_only=True)
class Task:
    """The known state of one task: its row as values. It has no slots: see ``changed``.

    - ``external_id`` is the client's, ``sent_external_id`` the one that Homing sent to the provider.
    - ``candidate_id`` is a provider ID that no poll has confirmed. ``unproven_id_from`` is the source of that ID, or of
      the provider ID once a poll has confirmed it. It is None if the provider ID is verified (see ``rules.identity``).
    - ``conflict_statuses`` are reported finals besides ``status`` that no answer of the provider decided, sorted. If
      ``status`` is a final too, they are an open conflict since ``conflict_at`` (see ``facts.in_conflict``).
    - ``next_poll_at`` is None if no poll is planned. ``quiet_polls`` counts the polls since the last change.
      ``not_found`` counts the valid not-found answers.
    - The process that submits or polls the task holds the lease.
    - ``duplicate_at`` is when the provider refused a submission because it already has a task with its external ID.
    - ``released`` frees the client's external ID and idempotency key for another task.
    - ``taken_by`` is the process that got the create request. ``answered_at`` is when its answer was sent.
    - ``model`` is the requested model, if Homing submitted the task. It is empty if the request has none.
    - ``metadata`` are the client's own texts about the task, by name.
    - ``unsigned`` counts the callbacks without a valid signature.
    """

    id: str
    provider: str
    kind: str
    account: str
    client: str
    created_at: datetime
    updated_at: datetime
    deadline_at: datetime
    origin: str
    external_id: str | None = None
    sent_external_id: str | None = None
    idempotency_key: str | None = None
    request_hash: str | None = None
    request: JsonObject = field(default_factory=dict)
    client_callback_url: str | None = None
    callback_requested: bool = False
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    provider_task_id: str | None = None
    candidate_id: str | None = None
    unproven_id_from: IdSource | None = None
    conflict_statuses: tuple[Status, ...] = ()
    conflict_at: datetime | None = None
    status: Status = Status.PENDING
    precedence: Precedence = NO_PRECEDENCE
    reason: str | None = None
    status_source: Source | None = None
    status_trust: Trust | None = None
    facts: Mapping[str, Fact] = field(default_factory=dict)
    version: int = 1
    submitted_at: datetime | None = None
    finished_at: datetime | None = None
    last_observed_at: datetime | None = None
    polled_at: datetime | None = None
    next_poll_at: datetime | None = None
    poll_count: int = 0
    quiet_polls: int = 0
    released: bool = False
    lease_owner: str | None = None
    lease_until: datetime | None = None
    attempts: int = 0
    attempt_deadline_at: datetime | None = None
    not_found: int = 0
    duplicate_at: datetime | None = None
    unsigned: int = 0
    taken_by: str | None = None
    answered_at: datetime | None = None
    model: str | None = None


if TYPE_CHECKING:
    changed = replace
else:

    def changed(task: Task, /, **changes: object) -> Task:
        """Return a copy of ``task`` with some fields changed, ten times as fast as ``dataclasses.replace``.

        Every callback copies its task several times, and a task has nearly fifty fields.
        """
        copy = object.__new__(Task)
        copy.__dict__.update(task.__dict__)
        copy.__dict__.update(changes)
        return copy


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one transition: the task after the change."""

    type: str
    task: Task
    at: datetime


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """The result of applying one observation: the task afterwards, the verdict and its reason."""

    task: Task
    verdict: Verdict
    why: str
    trust: Trust
    events: tuple[Event, ...] = ()
    alarms: tuple[Alarm, ...] = ()


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a committed callback."""

    task_id: str | None
    verdict: Verdict
    why: str
    orphan: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """The task of a create request. It is not new if it is the task of an earlier request, which this one repeats."""

    task: Task
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A task recorded before its submission, and its task callback URL (None without a public URL)."""

    task: Task
    callback_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientIdentity:
    """The client that calls the API."""

    name: str
    sees_all: bool = False


def new_task_id(now: datetime, random: bytes) -> str:
    """Return a new task ID. It sorts by time and has only letters and digits, so it is a valid external ID everywhere.

    48 bits of milliseconds and 80 random bits (10 bytes) in Crockford's base 32, after ``hm``.
    """
    number = (int(now.timestamp() * 1000) << 80) | int.from_bytes(random[:10], "big")
    return "hm" + crockford(number)


def crockford(number: int) -> str:
    """Return 128 bits as 26 letters and digits of Crockford's base 32."""
    return "".join(CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def is_derived(task: Task) -> bool:
    """Return whether the external ID is derived from the client's ID. A deleted row may have used the same one."""
    return task.attempts > 0 and task.sent_external_id not in {None, task.id}


def age(task: Task, now: datetime) -> timedelta:
    """Return the time since the task was recorded."""
    return now - task.created_at
