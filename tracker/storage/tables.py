"""The tables, as SQLModel classes. A table class is a row, and never a domain value or an API schema.

Times are whole microseconds since 1970 in UTC: the same number on every database, sortable, and never naive. JSON is
text that Homing writes and reads itself, so that no database's own JSON rules can refuse a value. ``migrations``
creates these tables.
"""

from typing import ClassVar, Final

from sqlalchemy import BigInteger, Index, Text, UniqueConstraint
from sqlmodel import Field

from tracker.storage.columns import TableRow
from tracker.storage.columns import bytes_column as _bytes
from tracker.storage.columns import only as _only
from tracker.storage.columns import renamed_text_column as _renamed_text
from tracker.storage.columns import row_id as _row_id
from tracker.storage.columns import table_of as _table
from tracker.storage.columns import text_column as _text
from tracker.storage.columns import time_column as _time


class TaskRow(TableRow, table=True):
    """One task: its currently known state."""

    __tablename__: ClassVar[str] = "tasks"
    __table_args__ = (
        Index(
            "ux_tasks_provider_task_id",
            "provider_task_id",
            "provider",
            "account",
            unique=True,
            **_only("provider_task_id IS NOT NULL"),
        ),
        # The client's own IDs are unique among rows that are not rejected. A rejection empties the key columns.
        Index(
            "ux_tasks_external_key",
            "client",
            "external_key",
            unique=True,
            **_only("external_key IS NOT NULL"),
        ),
        Index(
            "ux_tasks_idempotency_key",
            "client",
            "idempotency_key",
            unique=True,
            **_only("idempotency_key IS NOT NULL"),
        ),
        Index(
            "ix_tasks_external_id",
            "external_id",
            **_only("external_id IS NOT NULL"),
        ),
        Index("ix_tasks_sent_external_id", "provider", "account", "sent_external_id"),
        Index(
            "ix_tasks_due",
            "next_poll_at",
            **_only("next_poll_at IS NOT NULL"),
        ),
        Index(
            "ix_tasks_unanswered",
            "client",
            "request_hash",
            **_only("answered_at IS NULL AND request_hash IS NOT NULL"),
        ),
        # These two indexes serve every page (see ``task_page_store``) and every count (see ``statistics``).
        Index("ix_tasks_client", "client", "provider", "kind", "status", "id", "status_source"),
        Index("ix_tasks_kind", "provider", "kind", "status", "id"),
        Index(
            "ix_tasks_finished",
            "finished_at",
            "id",
            **_only("finished_at IS NOT NULL"),
        ),
        Index(
            "ix_tasks_leased",
            "lease_owner",
            **_only("lease_owner IS NOT NULL"),
        ),
        Index(
            "ix_tasks_model",
            "model",
            "id",
            **_only("model IS NOT NULL"),
        ),
    )

    id: str = _text(primary_key=True)
    provider: str = _text(nullable=False)
    kind: str = _text(nullable=False)
    account: str = _text(nullable=False)
    client: str = _text(nullable=False)
    origin: str = _text(nullable=False)
    external_id: str | None = _text()
    external_key: str | None = _text()
    idempotency_key: str | None = _text()
    sent_external_id: str | None = _text()
    provider_task_id: str | None = _text()
    candidate_id: str | None = _text()
    unproven_id_from: str | None = _text()
    conflict_statuses: str | None = _text()
    conflict_at: int | None = _time()
    request: str = _text(nullable=False)
    request_hash: str | None = _text()
    client_callback_url: str | None = _text()
    callback_requested: bool = Field(default=False)
    tags: str = _text(nullable=False)
    status: str = _text(nullable=False)
    precedence_polled: bool = Field(default=False)
    precedence_updated_at: int = Field(default=0, sa_type=BigInteger)
    reason: str | None = _text()
    status_source: str | None = _text()
    status_trust: int | None = None
    facts: str = _text(nullable=False)
    version: int = 1
    created_at: int = _time(nullable=False)
    updated_at: int = _time(nullable=False)
    deadline_at: int = _time(nullable=False)
    submitted_at: int | None = _time()
    finished_at: int | None = _time()
    last_observed_at: int | None = _time()
    polled_at: int | None = _time()
    next_poll_at: int | None = _time()
    poll_count: int = 0
    quiet_polls: int = 0
    lease_owner: str | None = _text()
    lease_until: int | None = _time()
    attempts: int = 0
    attempt_deadline_at: int | None = _time()
    not_found: int = 0
    duplicate_at: int | None = _time()
    unsigned: int | None = None
    released: bool = Field(default=False)
    taken_by: str | None = _text()
    answered_at: int | None = _time()
    model: str | None = _text()
    client_metadata: str | None = _renamed_text("metadata")


class TagRow(TableRow, table=True):
    """One tag of one task, for the filter."""

    __tablename__: ClassVar[str] = "task_tags"
    __table_args__ = (Index("ix_task_tags_task", "task_id"),)

    tag: str = _text(primary_key=True)
    task_id: str = Field(sa_type=Text, primary_key=True, foreign_key="tasks.id", ondelete="CASCADE")


class MetadataRow(TableRow, table=True):
    """One entry of the metadata of one task, for the filter."""

    __tablename__: ClassVar[str] = "task_metadata"
    __table_args__ = (Index("ix_task_metadata_task", "task_id"),)

    key: str = _text(primary_key=True)
    value: str = _text(primary_key=True)
    task_id: str = Field(sa_type=Text, primary_key=True, foreign_key="tasks.id", ondelete="CASCADE")


class SubmissionRow(TableRow, table=True):
    """The whole body of a submission, kept until the provider provably has it or provably never will."""

    __tablename__: ClassVar[str] = "submissions"

    task_id: str = Field(sa_type=Text, primary_key=True, foreign_key="tasks.id", ondelete="CASCADE")
    body: bytes = _bytes()


class ObservationRow(TableRow, table=True):
    """One kept observation, with the raw body as bytes, never as JSON. Repeats are counted, not added."""

    __tablename__: ClassVar[str] = "observations"
    __table_args__ = (
        UniqueConstraint("task_id", "dedupe_key"),
        Index(
            "ix_observations_repeated",
            "repeats",
            **_only("repeats > 0"),
        ),
    )

    id: int | None = _row_id()
    task_id: str = Field(sa_type=Text, foreign_key="tasks.id", ondelete="CASCADE")
    dedupe_key: str = _text(nullable=False)
    at: int = _time(nullable=False)
    source: str = _text(nullable=False)
    trust: int
    provider_status: str | None = _text()
    status: str | None = _text()
    verdict: str = _text(nullable=False)
    why: str = _text(nullable=False)
    provider_updated_at: int | None = _time()
    body: bytes = _bytes()
    repeats: int = 0


class EventRow(TableRow, table=True):
    """A published event. IDs are assigned last in the transaction, so that ID order is commit order.

    ``data`` is the state of the task at that time (see ``event_rows``), or the alarm of an event without a task.
    """

    __tablename__: ClassVar[str] = "events"
    __table_args__ = (
        UniqueConstraint("task_id", "sequence"),
        Index(
            "ix_events_alarms",
            "at",
            **_only("task_id IS NULL"),
        ),
        # An ID is never assigned again, because a reader with a cursor would mistake it for an event that it has seen.
        {"sqlite_autoincrement": True},
    )

    id: int | None = _row_id()
    task_id: str | None = Field(default=None, sa_type=Text, foreign_key="tasks.id", ondelete="CASCADE")
    sequence: int
    type: str = _text(nullable=False)
    at: int = _time(nullable=False)
    data: str = _text(nullable=False)


class SinkRow(TableRow, table=True):
    """One sink and its progress. It has received every event up to ``cursor``, except events with a delivery row."""

    __tablename__: ClassVar[str] = "sinks"

    name: str = _text(primary_key=True)
    address: str = _text(nullable=False)
    on: bool = Field(default=True)
    cursor: int = Field(sa_type=BigInteger)
    delivered: int = Field(default=0, sa_type=BigInteger)
    failures: int = 0
    last_error: str = _text(nullable=False)
    last_error_at: int | None = _time()
    delivered_at: int | None = _time()
    retry_at: int | None = _time()
    created_at: int = _time(nullable=False)
    seen_at: int = _time(nullable=False)
    lease_owner: str | None = _text()
    lease_until: int | None = _time()


class DeliveryRow(TableRow, table=True):
    """One event that a sink did not accept at once: pending until its next attempt, or a dead letter without one."""

    __tablename__: ClassVar[str] = "deliveries"
    __table_args__ = (
        Index("ix_deliveries_due", "sink", "next_at"),
        Index("ix_deliveries_task", "task_id", "sink"),
        Index("ix_deliveries_event", "event_id"),
    )

    sink: str = Field(sa_type=Text, primary_key=True, foreign_key="sinks.name", ondelete="CASCADE")
    event_id: int = Field(sa_type=BigInteger, primary_key=True, foreign_key="events.id", ondelete="CASCADE")
    task_id: str | None = _text()
    attempts: int = 0
    error: str = _text(nullable=False)
    first_at: int = _time(nullable=False)
    last_at: int = _time(nullable=False)
    next_at: int | None = _time()


class AlarmRow(TableRow, table=True):
    """Alarms, one row per kind, provider and hour."""

    __tablename__: ClassVar[str] = "alarms"
    __table_args__ = (Index("ix_alarms_hour", "hour"),)

    kind: str = _text(primary_key=True)
    provider: str = _text(primary_key=True)
    hour: int = Field(sa_type=BigInteger, primary_key=True)
    count: int = 1
    last_at: int = _time(nullable=False)
    task_id: str | None = _text()
    detail: str = _text(nullable=False)


class CallbackUrlRow(TableRow, table=True):
    """A shared callback URL, with the hash of its token. It can be revoked."""

    __tablename__: ClassVar[str] = "callback_addresses"

    id: int | None = _row_id()
    provider: str = _text(nullable=False)
    kind: str | None = _text()
    client: str = _text(nullable=False)
    label: str = _text(nullable=False)
    token_hash: str = Field(sa_type=Text, unique=True)
    created_at: int = _time(nullable=False)
    revoked_at: int | None = _time()


class SecretRow(TableRow, table=True):
    """A generated secret, in the database so that replicas share it."""

    __tablename__: ClassVar[str] = "secrets"

    name: str = _text(primary_key=True)
    value: bytes = _bytes()


class CapabilityRow(TableRow, table=True):
    """A capability that a URL was observed to have or not to have."""

    __tablename__: ClassVar[str] = "capabilities"

    base_url: str = _text(primary_key=True)
    kind: str = _text(primary_key=True)
    name: str = _text(primary_key=True)
    present: bool
    at: int = _time(nullable=False)


class CounterRow(TableRow, table=True):
    """A running count for the statistics."""

    __tablename__: ClassVar[str] = "counters"

    name: str = _text(primary_key=True)
    value: int = Field(default=0, sa_type=BigInteger)


class ServerRow(TableRow, table=True):
    """One process that serves the database, while it sends heartbeats. Times are from the database's clock."""

    __tablename__: ClassVar[str] = "servers"

    owner: str = _text(primary_key=True)
    host: str = _text(nullable=False)
    pid: int
    parts: str = _text(nullable=False)
    started_at: int = _time(nullable=False)
    seen_at: int = _time(nullable=False)


class ForgottenRow(TableRow, table=True):
    """A task that retention deleted. Its row prevents a late callback from counting as a new task."""

    __tablename__: ClassVar[str] = "forgotten"
    __table_args__ = (Index("ix_forgotten_at", "at"),)

    provider: str = _text(primary_key=True)
    account: str = _text(primary_key=True)
    provider_task_id: str = _text(primary_key=True)
    task_id: str = _text(nullable=False)
    at: int = _time(nullable=False)


class AuditRow(TableRow, table=True):
    """An action and its operator. See ``tracker.storage.audit_store``."""

    __tablename__: ClassVar[str] = "audit"
    __table_args__ = (Index("ix_audit_at", "at"),)

    id: int | None = _row_id()
    at: int = _time(nullable=False)
    client: str = _text(nullable=False)
    action: str = _text(nullable=False)
    object: str = _text(nullable=False)
    detail: str = _text(nullable=False)


# The same tables for Core statements.
TASKS: Final = _table(TaskRow)
TAGS: Final = _table(TagRow)
TASK_METADATA: Final = _table(MetadataRow)
SUBMISSIONS: Final = _table(SubmissionRow)
OBSERVATIONS: Final = _table(ObservationRow)
EVENTS: Final = _table(EventRow)
ALARMS: Final = _table(AlarmRow)
CALLBACK_URLS: Final = _table(CallbackUrlRow)
SECRETS: Final = _table(SecretRow)
CAPABILITIES: Final = _table(CapabilityRow)
COUNTERS: Final = _table(CounterRow)
SERVERS: Final = _table(ServerRow)
FORGOTTEN: Final = _table(ForgottenRow)
SINKS: Final = _table(SinkRow)
AUDIT: Final = _table(AuditRow)
DELIVERIES: Final = _table(DeliveryRow)
