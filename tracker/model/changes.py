"""Pieces of work for the store. The store commits a batch of them in one transaction.

A piece of work names the rows that it needs by keys. The store loads the rows of the whole batch. It calls ``decide``
of each piece in the order of arrival, with the rows as the earlier pieces left them. ``decide`` is pure: it returns a
Change, or raises a ClientError that only this piece gets.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from tracker.model.records import AccountNote, Action, AuditEntry, HistoryEntry, Orphan
from tracker.model.task import Alarm, Event, Task

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


KeyName = Literal["id", "provider_task_id", "sent_external_id", "external_key", "idempotency_key", "unanswered"]


class Key(NamedTuple):
    """One way to identify a task. ``scope`` is empty for Homing's ID. Otherwise it says where the ID is unique."""

    by: KeyName
    value: str
    scope: tuple[str, ...] = ()


def by_id(task_id: str) -> Key:
    return Key("id", task_id)


def by_provider_id(provider: str, account: str, value: str) -> Key:
    return Key("provider_task_id", value, (provider, account))


def by_sent_id(provider: str, account: str, value: str) -> Key:
    return Key("sent_external_id", value, (provider, account))


def by_external_id(client: str, value: str) -> Key:
    return Key("external_key", value, (client,))


def by_idempotency_key(client: str, value: str) -> Key:
    return Key("idempotency_key", value, (client,))


def by_unanswered(client: str, request_hash: str) -> Key:
    """Return the key of the submissions of a client's body without an answer."""
    return Key("unanswered", request_hash, (client,))


class Known:
    """The rows of a batch after the pieces of work so far."""

    def __init__(self, tasks: Iterable[Task] = ()) -> None:
        self._tasks = {task.id: task for task in tasks}
        # For each sort of key except the ID: the IDs of the rows. Built on first use, because most batches need few.
        self._indexes: dict[KeyName, dict[Key, set[str]]] = {}

    def put(self, task: Task) -> None:
        before = self._tasks.get(task.id)
        self._tasks[task.id] = task
        for by, index in self._indexes.items():
            if before is not None and (old := key_of(before, by)) is not None:
                index[old].discard(task.id)
            if (new := key_of(task, by)) is not None:
                index[new].add(task.id)

    def get(self, key: Key) -> Task | None:
        """Return the row with ``key``. Of several, prefer one that is not released, then the newest."""
        if key.by == "id":
            return self._tasks.get(key.value)
        return min(self.every(key), key=lambda task: task.released, default=None)

    def other_holder(self, task: Task, provider_task_id: str | None) -> Task | None:
        """Return another row with the provider ID of a report about ``task``."""
        if provider_task_id is None:
            return None
        holder = self.get(by_provider_id(task.provider, task.account, provider_task_id))
        return None if holder is None or holder.id == task.id else holder

    def every(self, key: Key) -> Sequence[Task]:
        """Return all rows with ``key``, newest first. A key that is not unique may have several."""
        if key.by == "id":
            return [self._tasks[key.value]] if key.value in self._tasks else []
        index = self._indexes.get(key.by)
        if index is None:
            index = self._indexes[key.by] = defaultdict(set)
            for task in self._tasks.values():
                if (own := key_of(task, key.by)) is not None:
                    index[own].add(task.id)
        return [self._tasks[task_id] for task_id in sorted(index.get(key, ()), reverse=True)]


def key_of(task: Task, by: KeyName) -> Key | None:
    """Return the row's key of one sort, other than its ID, or None if it has none."""
    match by:
        case "provider_task_id" if task.provider_task_id is not None:
            return by_provider_id(task.provider, task.account, task.provider_task_id)
        case "sent_external_id" if task.sent_external_id is not None:
            return by_sent_id(task.provider, task.account, task.sent_external_id)
        case "external_key" if task.external_id is not None and not task.released:
            return by_external_id(task.client, task.external_id)
        case "idempotency_key" if task.idempotency_key is not None and not task.released:
            return by_idempotency_key(task.client, task.idempotency_key)
        case "unanswered" if task.answered_at is None and task.request_hash is not None:
            return by_unanswered(task.client, task.request_hash)
    return None


class RaisedAlarm(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm to add to its hourly count."""

    kind: Alarm
    provider: str
    at: datetime
    task_id: str | None
    detail: str


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An observation to store. Repeats have the same ``dedupe_key``."""

    dedupe_key: str
    shown: HistoryEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A capability that a provider URL was seen to have (``present``) or not to have."""

    base_url: str
    kind: str
    name: str
    present: bool
    at: datetime


class Change(msgspec.Struct, Generic[T_co], frozen=True, kw_only=True):
    """The rows that one piece of work writes, and the result for its caller after the commit.

    ``others`` are more rows that change with ``task``, because they release an ID to it.
    """

    result: T_co
    task: Task | None = None
    others: tuple[Task, ...] = ()
    entries: tuple[Entry, ...] = ()
    events: tuple[Event, ...] = ()
    alarms: tuple[RaisedAlarm, ...] = ()
    submission: bytes | None = None
    drop_submission: bool = False
    orphan: Orphan | None = None
    seen: tuple[Seen, ...] = ()
    account: AccountNote | None = None
    audits: tuple[AuditEntry, ...] = ()
    counts: dict[str, int] = msgspec.field(default_factory=dict)


class Work(Protocol[T_co]):
    """One piece of work: the keys of its rows, and its decision. Each operation has a class, mostly in ``rules``."""

    @property
    def keys(self) -> frozenset[Key]:
        """The keys of the rows to load and lock: every key that the decision reads."""

    def decide(self, known: Known) -> Change[T_co]:
        """Return the change to write, or raise a ClientError. It is pure and may run again."""


class RecordChange(msgspec.Struct, Generic[T], frozen=True):
    """Write a change that depends on no row."""

    change: Change[T]
    keys: frozenset[Key] = frozenset()

    def decide(self, _known: Known) -> Change[T]:
        return self.change


class Audited(msgspec.Struct, frozen=True, kw_only=True):
    """Work of ``client`` on one task. The audit records it in the same transaction."""

    work: Work[Task]
    at: datetime
    client: str
    action: Action
    detail: str

    @property
    def keys(self) -> frozenset[Key]:
        return self.work.keys

    def decide(self, known: Known) -> Change[Task]:
        change = self.work.decide(known)
        entry = AuditEntry(
            at=self.at, client=self.client, action=self.action, object=change.result.id, detail=self.detail
        )
        return msgspec.structs.replace(change, audits=(entry,))
