"""The values that everything else speaks in: frozen, without I/O, without defaults that read a clock.

A *claim* is what some bytes say about a task. An *observation* is a claim with its source and its trust. A *task* is
what we believe. Times are aware UTC.
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

# In this header the gateway takes a task's tags, percent-encoded and separated by commas.
TAGS_HEADER: Final = "Homing-Tags"


class Status(StrEnum):
    """Where a task is. The order between them is ``facts.RANK``."""

    PENDING = "pending"
    SUBMITTED = "submitted"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    EXPIRED = "expired"


FINAL: Final = frozenset({Status.SUCCEEDED, Status.FAILED})
# What a client may stop waiting for: the finals and our two inferences.
SETTLED: Final = FINAL | {Status.REJECTED, Status.EXPIRED}


class Trust(IntEnum):
    """How far an observation may be believed; more is greater."""

    UNVERIFIED = 0
    TOKEN = 1
    SIGNED = 2
    PROVIDER = 3


# An enumeration looks its names up anew each time that it is asked.
TRUST_NAMES: Final[Mapping[Trust, str]] = MappingProxyType({trust: trust.name for trust in Trust})


class Source(StrEnum):
    """Who made an observation."""

    CALLBACK = "callback"
    POLL = "poll"
    SUBMIT = "submit"
    OPERATOR = "operator"
    CLOCK = "clock"


class Verdict(StrEnum):
    """What became of an observation."""

    APPLIED = "applied"
    COMPLETED = "completed"
    CONFIRMED = "confirmed"
    OUTRANKED = "outranked"
    UNVERIFIED = "unverified"
    CONTRADICTED = "contradicted"
    UNREADABLE = "unreadable"
    UNANSWERED = "unanswered"


class Alarm(StrEnum):
    """What an operator should look at; counted per hour."""

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
    EMPTY_RESULT = "empty_result"
    EXPIRING_RESULT = "expiring_result"
    CONFLICT = "conflict"
    REVIVED = "revived"
    DATABASE_CHANGED = "database_changed"


class Trouble(StrEnum):
    """What is wrong with an account at a provider, as its answers show."""

    CREDENTIAL = "credential"
    UNREADABLE = "unreadable"
    OUTAGE = "outage"


class IdSource(StrEnum):
    """Who named a provider id that nothing has proven to be the task's: its owner, a callback, or a lookup."""

    OWNER = "owner"
    CALLBACK = "callback"
    LOOKUP = "lookup"


class Flaw(StrEnum):
    """Why a delivery is only a hint; the receiver says it."""

    UNSIGNED = "unsigned"
    BAD_SIGNATURE = "bad_signature"
    STALE_SIGNATURE = "stale_signature"
    SHARED_URL = "shared_url"


class Asset(msgspec.Struct, frozen=True, kw_only=True):
    """One result file.

    ``kind`` is image, video, audio, voice or element; ``duration`` is seconds as the provider wrote it.
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
    """What a provider's bytes say about one task, in our words.

    ``word`` is the provider's own status word; ``status`` is None where the word is missing or unknown, or where the
    bytes could not be read at all (then ``flaw`` says why). ``price`` keeps the provider's field names and values.
    """

    provider_task_id: str | None = None
    external_id: str | None = None
    status: Status | None = None
    provider_status: str | None = None
    message: str = ""
    assets: tuple[Asset, ...] = ()
    price: Mapping[str, JsonValue] = msgspec.field(default_factory=dict)
    created_at: datetime | None = None
    updated_at: datetime | None = None
    flaw: str | None = None


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """A claim, its source, its trust and its bytes.

    ``webhook_id`` only where its signature verified: a guessed id must not shadow the true delivery. ``mismatch`` says
    why the claim is about another task; empty where it is not.
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
    """Where a proven word stands in the written total order; the greatest ever seen is believed.

    ``rank`` is the status's; among contradictory finals the provider's answer to a poll (``asked``) wins, then the
    later ``updated_at`` (microseconds, 0 where unknown), then success. A manual resolution counts as such an answer.
    """

    rank: int
    asked: bool = False
    updated_at: int = 0
    success: bool = False


NO_PRECEDENCE: Final = Precedence(rank=0)


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """One believed fact (assets, price, message) and where the word that told it stands."""

    precedence: Precedence
    value: JsonValue


@dataclass(frozen=True, kw_only=True)
class Task:
    """What we believe about one task; the row, in values. Not slotted: see ``changed``.

    ``external_id`` is the client's own, ``sent_external_id`` what the provider was told, ``candidate_id`` a provider id
    that was named and no poll has confirmed, ``unproven_id_from`` who named it (or the provider id, once it is
    confirmed); None where the provider id is proven (see ``rules.identity``). ``conflict_statuses`` are the finals
    that reports told besides ``status`` and that no answer of the provider decided (sorted); beside a final they are an
    open conflict, since ``conflict_at`` (see ``facts.in_conflict``). ``next_poll_at`` is None where nothing is left
    to ask; ``quiet_polls`` counts the questions since the last change. The lease covers whoever speaks to the provider
    about the task: a submit in flight or a poll. ``not_found`` counts the not-found answers that count;
    ``duplicate_at`` is when the provider refused a submit as it has a task under its external id already; ``released``
    frees the client's external id and idempotency key for another task. ``taken_by`` is the process that took the
    submit, ``answered_at`` when its answer was on its way to the client. ``model`` is which of the kind's models was
    asked for, where we submitted it. ``unsigned`` counts the callbacks that no signature proved.
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
        """Return a copy of ``task`` with some fields changed, as ``dataclasses.replace`` would in ten times the time.

        Every delivery copies its task several times, and a task has nearly fifty fields.
        """
        copy = object.__new__(Task)
        copy.__dict__.update(task.__dict__)
        copy.__dict__.update(changes)
        return copy


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What the outside is told about one accepted change: the task as it then is."""

    type: str
    task: Task
    at: datetime

    @property
    def sequence(self) -> int:
        """The place of the change among those of its task."""
        return self.task.version


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of weighing one observation: the task as it is now believed, and why."""

    task: Task
    verdict: Verdict
    why: str
    trust: Trust
    events: tuple[Event, ...] = ()
    alarms: tuple[Alarm, ...] = ()


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a delivery, once it is committed."""

    task_id: str | None
    verdict: Verdict
    why: str
    orphan: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A task written down before its submit, and the address for its ``callback_url`` (None without a public one)."""

    task: Task
    callback_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientIdentity:
    """Who asks: one of our clients."""

    name: str
    sees_all: bool = False


def new_task_id(now: datetime, random: bytes) -> str:
    """Make a task id: sorts by time, plain letters and digits, so that any provider takes it as an external id.

    48 bits of milliseconds and 80 random bits (10 bytes) in Crockford's base 32, after ``hm``.
    """
    number = (int(now.timestamp() * 1000) << 80) | int.from_bytes(random[:10], "big")
    return "hm" + crockford(number)


def crockford(number: int) -> str:
    """Write 128 bits as 26 letters and digits of Crockford's base 32."""
    return "".join(CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def is_derived(task: Task) -> bool:
    """Return whether the row's external id follows from its client's name for it: a forgotten row may have used it."""
    return task.attempts > 0 and task.sent_external_id not in {None, task.id}


def age(task: Task, now: datetime) -> timedelta:
    """How long ago the task was written down."""
    return now - task.created_at
