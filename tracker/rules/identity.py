"""Checks whether a report is about this very task, and whether its provider ID is verified.

Facts come only from a report about the task itself. A report whose provider ID belongs to another row, or whose IDs do
not match the row, is unverified and merges nothing. This holds for every source.

A provider ID is *proven* by the reply to our own submit, by a report that carries the row's external ID, and by an
answer of the provider that has the row's own secret callback URL. Until then it is unproven, although the provider
confirmed that it exists: its owner, a callback or a lookup named it. Where two rows claim the same ID, the row that
Homing submitted outranks an unproven one, whose ID is then withdrawn.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeVar

import msgspec
from msgspec import structs

from tracker.errors import Conflict
from tracker.model import facts
from tracker.model.changes import Change, Entry, Key, Known, RaisedAlarm, by_id, by_provider_id, by_sent_id
from tracker.model.records import HistoryEntry
from tracker.model.task import (
    FINAL,
    NO_PRECEDENCE,
    Alarm,
    Event,
    IdSource,
    Report,
    Source,
    Status,
    Task,
    Trust,
    Verdict,
    changed,
    is_derived,
)
from tracker.rules import lifecycle, schedule
from tracker.rules.outcomes import Rules, existing
from tracker.rules.schedule import Policy

T = TypeVar("T")
# The client of the task sees these texts, so they contain nothing about another task.
OF_ANOTHER: Final = "the provider ID belongs to another task"
OTHER_TASK: Final = "the reply is about another task"
FORMER_TASK: Final = "the provider has an older task under this ID, which Homing deleted long ago"
WITHDRAWN: Final = "its provider ID belongs to another task and was withdrawn"
NAMED: Final = frozenset({IdSource.OWNER, IdSource.CALLBACK, IdSource.SIGNED})


class ReplyTo(StrEnum):
    """The request that a report of the provider replies to, and so the way to its task.

    ``CALLBACK_URL``: whatever the request was, the report names the task's own callback URL.
    """

    SUBMIT = "submit"
    PROVIDER_ID = "provider id"
    EXTERNAL_ID = "external id"
    CANDIDATE = "candidate"
    CALLBACK_URL = "callback url"


PROVING: Final = frozenset({ReplyTo.SUBMIT, ReplyTo.CALLBACK_URL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The result of comparing the IDs of a report with a task.

    ``mismatch`` says why the report is not about the task, and is empty if it is. ``source`` is the source of an
    unverified provider ID, or None. ``holder`` is the row that must give the ID up. ``wrong`` means that the row's own
    provider ID belongs to another task.
    """

    mismatch: str = ""
    source: IdSource | None = None
    holder: Task | None = None
    wrong: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """A row that lost its provider ID, and the records about that."""

    task: Task
    event: Event
    entry: Entry
    alarm: RaisedAlarm


def identify(known: Known, task: Task, report: Report, reply_to: ReplyTo, policy: Policy) -> Identity:
    """Compare the IDs of a report with the row, and with all other rows of the batch."""
    own_id = report.external_id is not None and report.external_id == task.sent_external_id
    if task.provider_task_id is not None and task.provider_task_id == report.provider_task_id:
        proven = task.unproven_id_from is None or own_id or reply_to in PROVING
        if not proven and _named_otherwise(known, task, report):
            return Identity(mismatch=OTHER_TASK, wrong=True)
        return Identity(source=None if proven else task.unproven_id_from)
    wrong = reply_to is ReplyTo.SUBMIT and task.unproven_id_from is not None and task.provider_task_id is not None
    if report.provider_task_id is None or (task.provider_task_id is not None and not wrong):
        return Identity(mismatch=OTHER_TASK)
    if own_id or (reply_to in PROVING and report.external_id is None):
        source = None
    elif reply_to is ReplyTo.EXTERNAL_ID and report.external_id is None:
        source = IdSource.LOOKUP
    elif reply_to is ReplyTo.CANDIDATE and _could_be(known, task, report, policy):
        source = task.unproven_id_from or IdSource.CALLBACK
    else:
        return Identity(mismatch=OTHER_TASK)
    holder = known.other_holder(task, report.provider_task_id)
    if holder is not None and not _outranks(task, source, holder):
        return Identity(mismatch=OF_ANOTHER)
    former = reply_to is not ReplyTo.SUBMIT and source in {None, IdSource.LOOKUP} and not _fits(task, report, policy)
    return Identity(mismatch=FORMER_TASK) if former else Identity(source=source, holder=holder, wrong=wrong)


def identified(before: Task, after: Task, identity: Identity) -> Task:
    """Record how the provider ID of a row was learned, after its report was accepted."""
    if after.provider_task_id is None:
        return after
    reason = after.reason
    if before.provider_task_id is None and after.status not in facts.INFERRED:
        # The reason described the wait for this ID.
        reason = None
    return changed(after, unproven_id_from=identity.source, reason=reason)


def superseded(before: Task, after: Task, now: datetime) -> tuple[RaisedAlarm, ...]:
    """Return an alarm if the provider reported another ID than the one that the client attached."""
    attached = before.candidate_id is not None and before.unproven_id_from is IdSource.OWNER
    if not attached or after.provider_task_id in {None, before.candidate_id}:
        return ()
    return (mismatch_alarm(after, "the attached provider ID is not the one that the provider names", now),)


def taking(change: Change[T], identity: Identity, *, now: datetime, rules: Rules) -> Change[T]:
    """Add the row that must give up the provider ID to a change."""
    if identity.holder is None:
        return change
    lost = withdrawn(identity.holder, now=now, rules=rules)
    return structs.replace(
        change,
        others=(*change.others, lost.task),
        events=(*change.events, lost.event),
        entries=(*change.entries, lost.entry),
        alarms=(*change.alarms, lost.alarm),
    )


class Attach(msgspec.Struct, frozen=True, kw_only=True):
    """Record a provider ID from the task's client. It is a candidate until a poll confirms it soon.

    If the provider cannot be polled (not ``confirmable``), it counts at once but stays unverified.

    Raises: Conflict, if it cannot be the ID of this task.
    """

    task: Task
    provider_task_id: str
    now: datetime
    confirmable: bool
    rules: Rules

    @property
    def keys(self) -> frozenset[Key]:
        task = self.task
        return frozenset({by_id(task.id), by_provider_id(task.provider, task.account, self.provider_task_id)})

    def decide(self, known: Known) -> Change[Task]:
        provider_task_id, now = self.provider_task_id, self.now
        task = existing(known, self.task.id)
        attached_before = task.candidate_id == provider_task_id and task.unproven_id_from is IdSource.OWNER
        if task.provider_task_id == provider_task_id or attached_before:
            return Change(result=task)
        if task.provider_task_id is not None:
            raise Conflict("the task already has another id at the provider")
        if known.get(by_provider_id(task.provider, task.account, provider_task_id)) is not None:
            raise Conflict(f"a task with the id {provider_task_id} is already known")
        after = changed(
            task,
            provider_task_id=None if self.confirmable else provider_task_id,
            candidate_id=provider_task_id if self.confirmable else None,
            unproven_id_from=IdSource.OWNER,
            not_found=0,
            version=task.version + 1,
            updated_at=now,
            reason=f"the provider has to confirm the ID {provider_task_id}" if self.confirmable else None,
            next_poll_at=schedule.early_poll_at(task, now=now, policy=self.rules.policy),
        )
        return Change(result=after, task=after, events=(lifecycle.event(after, "updated", now),))


def withdrawn(task: Task, *, now: datetime, rules: Rules) -> Withdrawal:
    """Remove the provider ID from a row, with all facts learned by it, because they belong to another task."""
    after = changed(
        task,
        provider_task_id=None,
        candidate_id=None,
        unproven_id_from=None,
        status=Status.PENDING,
        precedence=NO_PRECEDENCE,
        facts={},
        reason=WITHDRAWN,
        status_source=None,
        status_trust=None,
        submitted_at=None,
        conflict_statuses=(),
        conflict_at=None,
        not_found=0,
        quiet_polls=0,
        version=task.version + 1,
        updated_at=now,
        finished_at=None,
    )
    again = schedule.early_poll_at(changed(after, next_poll_at=None), now=now, policy=rules.policy)
    after = changed(after, next_poll_at=again)
    name = "corrected" if task.status in FINAL else "updated"
    shown = HistoryEntry(
        id=0,
        task_id=task.id,
        at=now,
        source=Source.POLL,
        trust=Trust.UNVERIFIED,
        provider_status=None,
        status=None,
        verdict=Verdict.CONTRADICTED,
        why=WITHDRAWN,
        provider_updated_at=None,
        body=b"",
    )
    return Withdrawal(
        task=after,
        event=lifecycle.event(after, name, now),
        entry=Entry(dedupe_key=f"withdrawn|{task.version}", shown=shown),
        alarm=mismatch_alarm(task, WITHDRAWN, now),
    )


def mismatch_alarm(task: Task, why: str, now: datetime) -> RaisedAlarm:
    """Return the alarm for a report about another task."""
    return RaisedAlarm(kind=Alarm.MISMATCH, provider=task.provider, at=now, task_id=task.id, detail=why)


def _outranks(task: Task, source: IdSource | None, holder: Task) -> bool:
    """Return whether the row may take the provider ID from another row. Only a task that Homing submitted may.

    Its external ID cannot be guessed. An ID from a client may be the external ID of any task.
    """
    if task.attempts == 0 or holder.unproven_id_from is None:
        return False
    return source is None or (source is IdSource.LOOKUP and holder.unproven_id_from in NAMED)


def _could_be(known: Known, task: Task, report: Report, policy: Policy) -> bool:
    """Return whether the provider's task with an unverified ID can be this task. No known fact may contradict it."""
    if report.provider_task_id != task.candidate_id or _named_otherwise(known, task, report):
        return False
    attached = task.unproven_id_from is IdSource.OWNER
    if report.external_id is not None and not attached:
        return False
    if report.created_at is None or (attached and task.attempts == 0):
        return True
    last = task.attempt_deadline_at
    return report.created_at >= task.created_at - policy.adopt_window and (
        last is None or report.created_at <= last + policy.adopt_window
    )


def _fits(task: Task, report: Report, policy: Policy) -> bool:
    """Return whether the provider's task under the row's external ID can be the task of the row.

    A derived ID is the same for every repeated request. The task may be older than the row if the database was restored
    from a backup. Homing adopts the task if its row would still be within the retention. An older task may have been
    deleted, and the client wants a new one.
    """
    if not is_derived(task):
        return True
    if report.created_at is None:
        return task.duplicate_at is None
    return policy.retention is None or report.created_at >= task.created_at - policy.retention


def _named_otherwise(known: Known, task: Task, report: Report) -> bool:
    """Return whether a report has an external ID that is not this row's."""
    if report.external_id is None or report.external_id == task.sent_external_id:
        return False
    if task.sent_external_id is not None:
        return True
    return known.get(by_sent_id(task.provider, task.account, report.external_id)) is not None
