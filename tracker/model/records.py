"""Frozen values besides the task: arriving callbacks, and the records that readers are shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from tracker.model.task import Alarm, Observation, Source, Status, Task, Trouble, Trust, Verdict


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One stored observation, as the history shows it. ``repeats`` counts identical callbacks after the first."""

    id: int
    task_id: str
    at: datetime
    source: Source
    trust: Trust
    provider_status: str | None
    status: Status | None
    verdict: Verdict
    why: str
    provider_updated_at: datetime | None
    body: bytes
    repeats: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A callback for an unknown task that the provider has not confirmed.

    ``address`` names the callback URL without its token. ``client`` gets the task when it is adopted. ``state`` is
    waiting (Homing will poll the provider), adopted, or orphan (the provider does not know the task). A later
    ``signed`` callback makes an orphan wait again.
    """

    id: int
    provider: str
    provider_task_id: str
    external_id: str | None
    kind: str | None
    client: str
    address: str
    provider_status: str | None
    state: str
    why: str
    first_at: datetime
    last_at: datetime
    callbacks: int
    poll_count: int
    next_poll_at: datetime | None
    task_id: str | None
    signed: bool = False
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedCallbackUrl:
    """A shared callback URL. Its token is shown once and not stored."""

    id: int
    provider: str
    kind: str | None
    client: str
    created_at: datetime
    revoked_at: datetime | None
    label: str


class Action(StrEnum):
    """An action that the audit records."""

    RESOLVE = "resolve"
    ATTACH = "attach"
    ADOPT = "adopt"
    PAUSE_SINK = "pause-sink"
    RESUME_SINK = "resume-sink"
    DELETE_SINK = "delete-sink"
    READ_SECRET = "read-secret"  # noqa: S105 - the name of an action
    REPLAY = "replay"
    DEAD_LETTER = "dead-letter"
    CREATE_CALLBACK_URL = "create-callback-url"
    REVOKE_CALLBACK_URL = "revoke-callback-url"


# The client in the audit for actions of a program that embeds Homing and names no client.
IN_PROCESS: Final = "in-process"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One entry of the audit. ``object`` is an ID or a name. ``detail`` has the arguments without secrets."""

    at: datetime
    client: str
    action: Action
    object: str
    detail: str = ""
    id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of a health report. If it is not ``fatal``, Homing can still serve requests."""

    name: str
    ok: bool
    detail: str
    fatal: bool = True


class AccountNote(msgspec.Struct, frozen=True, kw_only=True):
    """A note of one process about an account: a problem, a good answer, a pause, or a request that had to wait."""

    provider: str
    account: str
    at: datetime
    trouble: Trouble | None = None
    why: str = ""
    answered_at: datetime | None = None
    paused_until: datetime | None = None
    waited_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState:
    """The state of an account at a provider.

    ``trouble`` began at ``since`` and was last seen at ``at``. ``why`` has no text of the provider. ``waited_at`` is
    when a poll last had to wait for the budget.
    """

    provider: str
    account: str
    trouble: Trouble | None
    why: str
    since: datetime
    at: datetime
    answered_at: datetime | None
    paused_until: datetime | None
    waited_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmCount:
    """How often an alarm was raised within one hour, and the last task and reason."""

    kind: Alarm
    provider: str
    hour: datetime
    count: int
    last_at: datetime
    task_id: str | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """The filter of a page of tasks. None matches all. Of ``metadata``, every entry must match."""

    client: str | None = None
    statuses: tuple[Status, ...] = ()
    provider: str | None = None
    kind: str | None = None
    model: str | None = None
    tag: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """Tasks, newest first, and the cursor of the next page (None at the end)."""

    tasks: tuple[Task, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counts over the whole store, or over the tasks of one client."""

    by_status: Mapping[str, int]
    open: int
    due: int
    oldest_open_at: datetime | None
    finished_by_source: Mapping[str, int]
    callbacks: int
    duplicate_callbacks: int
    unverified_callbacks: int
    polls: int
    orphans: Mapping[str, int]
    orphans_not_kept: int
    alarms: tuple[AlarmCount, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A finished task, as the schedule learns from it.

    ``took`` is the time from its submission to its end. ``callback_arrived``: a callback arrived at or after the end.
    """

    task_id: str
    provider: str
    kind: str
    model: str | None
    took: timedelta
    finished_at: datetime
    callback_requested: bool
    callback_arrived: bool


class Arrived(msgspec.Struct, frozen=True, kw_only=True):
    """One callback from the receiver, with its trust level.

    Exactly one of ``task_id`` (a task callback URL) and ``shared_url`` is set.
    """

    provider: str
    observation: Observation
    task_id: str | None = None
    shared_url: SharedCallbackUrl | None = None
