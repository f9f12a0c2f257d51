"""Decisions about submissions: announced tasks, attempts and their outcomes."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import msgspec

from tracker.errors import Conflict
from tracker.model.changes import (
    Change,
    Entry,
    Key,
    Known,
    RaisedAlarm,
    by_external_id,
    by_id,
    by_provider_id,
    by_sent_id,
)
from tracker.model.records import HistoryEntry
from tracker.model.task import FINAL, Alarm, Observation, Report, Source, Status, Task, Trust, Verdict
from tracker.rules import lifecycle, recovery
from tracker.rules.identity import ReplyTo, identified, identify, superseded, taking, withdrawn
from tracker.rules.outcomes import Rules, alarms_of, begun, entry_of, existing, given_back, replanned

ORIGIN_SUBMIT: Final = "submit"


class RecordExpected(msgspec.Struct, frozen=True, kw_only=True):
    """Record a task that Homing does not submit itself. Raises: Conflict, if a row has one of its IDs."""

    task: Task

    @property
    def keys(self) -> frozenset[Key]:
        return names_of(self.task)

    def decide(self, known: Known) -> Change[Task]:
        task = self.task
        named_here = {task.external_id, task.provider_task_id}
        for key, what in (
            (task.external_id and by_external_id(task.client, task.external_id), task.external_id),
            (
                task.sent_external_id and by_sent_id(task.provider, task.account, task.sent_external_id),
                task.sent_external_id,
            ),
            (
                task.provider_task_id and by_provider_id(task.provider, task.account, task.provider_task_id),
                task.provider_task_id,
            ),
        ):
            before = known.get(key) if key else None
            # A rejected row has released its client's IDs. It keeps the provider ID, which belongs to one task only.
            if before is not None and key and not (before.released and key.by != "provider_task_id"):
                # The ID may belong to another client's task, so the error shows only an ID from this client.
                known_as = f"the id {what}" if what in named_here else "its id"
                raise Conflict(f"a task with {known_as} is already known")
        return Change(result=task, task=task)


class RecordConfirmed(msgspec.Struct, frozen=True, kw_only=True):
    """Record a task that the provider has just confirmed, or return its existing row.

    That is the row with its provider ID, or a row with the external ID that the provider reports. ``named`` means that
    the client chose the external ID.

    Raises: Conflict, if another row of the client has that external ID.
    """

    task: Task
    named: bool

    @property
    def keys(self) -> frozenset[Key]:
        return names_of(self.task)

    def decide(self, known: Known) -> Change[Task]:
        task = self.task
        for key in (
            task.provider_task_id and by_provider_id(task.provider, task.account, task.provider_task_id),
            task.sent_external_id and by_sent_id(task.provider, task.account, task.sent_external_id),
        ):
            before = known.get(key) if key else None
            if before is not None and before.provider_task_id in {None, task.provider_task_id}:
                return Change(result=before)
        if not self.named and task.external_id and known.get(by_external_id(task.client, task.external_id)) is not None:
            # The provider uses this ID for the task, but the client uses it for another task.
            task = replace(task, external_id=None)
        return RecordExpected(task=task).decide(known)


class BeginAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """Acquire the lease for one more submission. From now on, the provider may have the task.

    Raises: Conflict, if the row no longer shows that the provider has no such task.
    """

    task_id: str
    now: datetime
    until: datetime
    rules: Rules

    @property
    def keys(self) -> frozenset[Key]:
        return frozenset({by_id(self.task_id)})

    def decide(self, known: Known) -> Change[Task]:
        now, until, rules = self.now, self.until, self.rules
        task = _absent(known, self.task_id, now, rules)
        if recovery.next_step(task, policy=rules.policy) is not recovery.Step.SUBMIT_AGAIN:
            raise Conflict("the task reached its maximum number of attempts. Homing does not submit it again")
        after = replace(
            task,
            attempts=task.attempts + 1,
            not_found=0,
            attempt_deadline_at=until,
            lease_owner=rules.owner,
            lease_until=until + rules.policy.lease_margin,
            next_poll_at=until + rules.policy.lease_margin,
            updated_at=now,
        )
        return Change(result=after, task=after)


class GiveUp(msgspec.Struct, frozen=True, kw_only=True):
    """Record that the provider never made the task, and that Homing does not submit it again.

    Raises: Conflict, if the row no longer shows that, because the task may have been submitted again.
    """

    task_id: str
    why: str
    now: datetime
    rules: Rules

    @property
    def keys(self) -> frozenset[Key]:
        return frozenset({by_id(self.task_id)})

    def decide(self, known: Known) -> Change[Task]:
        task = _absent(known, self.task_id, self.now, self.rules)
        return RecordRefused(sent=task, why=self.why, now=self.now, rules=self.rules).decide(known)


def _absent(known: Known, task_id: str, now: datetime, rules: Rules) -> Task:
    """Return the row if it still shows that the provider has no such task and that no other process submits it.

    The caller decided by an older version of the row.
    """
    task = existing(known, task_id)
    if task.status is not Status.PENDING or recovery.next_step(task, policy=rules.policy) is recovery.Step.LOOK_UP:
        raise Conflict("the task may exist at the provider by now")
    if task.lease_owner not in {None, rules.owner} and task.lease_until is not None and now < task.lease_until:
        raise Conflict("another process handles the task. Try again later")
    return task


class RecordAccepted(msgspec.Struct, frozen=True, kw_only=True):
    """Record that the provider made the task. ``prove_lookups``: poll it soon, to learn whether lookups work here."""

    sent: Task
    report: Report
    now: datetime
    prove_lookups: bool
    rules: Rules

    @property
    def keys(self) -> frozenset[Key]:
        keys = [by_id(self.sent.id)]
        if self.report.provider_task_id is not None:
            keys.append(by_provider_id(self.sent.provider, self.sent.account, self.report.provider_task_id))
        return frozenset(keys)

    def decide(self, known: Known) -> Change[Task]:
        report, now, rules = self.report, self.now, self.rules
        task = existing(known, self.sent.id)
        identity = identify(known, task, report, ReplyTo.SUBMIT, rules.policy)
        if identity.mismatch:
            return _accepted_as_another(task, identity.mismatch, now=now, rules=rules)
        before = withdrawn(task, now=now, rules=rules) if identity.wrong else None
        observation = Observation(source=Source.SUBMIT, trust=Trust.PROVIDER, report=report, at=now)
        held = before.task if before else task
        transition = lifecycle.advance(held, observation, threshold=rules.thresholds[task.provider])
        after = identified(task, replace(given_back(transition.task, rules), not_found=0), identity)
        if after.status in FINAL:
            after = replanned(after, now=now, rules=rules, lifetime=timedelta())
        else:
            after = begun(after, now=now, rules=rules)
            hinted = _hinted_for(task, report)
            if hinted is not None and after.next_poll_at is not None:
                after = replace(after, next_poll_at=min(hinted, after.next_poll_at))
            if self.prove_lookups and after.next_poll_at is not None:
                after = replace(after, next_poll_at=min(now + rules.policy.first_lookup, after.next_poll_at))
        change = Change(
            result=after,
            task=after,
            entries=(
                *((before.entry,) if before else ()),
                entry_of(transition, observation, f"submit|{task.attempts}"),
            ),
            events=(*((before.event,) if before else ()), *transition.events),
            alarms=(*alarms_of(transition, observation), *superseded(task, after, now)),
            drop_submission=True,
        )
        return taking(change, identity, now=now, rules=rules)


def _accepted_as_another(task: Task, why: str, *, now: datetime, rules: Rules) -> Change[Task]:
    """Record a reply about another task. The outcome of the submission stays unknown."""
    said = Observation(source=Source.SUBMIT, trust=Trust.PROVIDER, report=Report(), at=now, mismatch=why)
    transition = lifecycle.advance(task, said, threshold=rules.thresholds[task.provider])
    after = given_back(transition.task, rules)
    if task.status is Status.PENDING:
        after = replace(after, reason=recovery.LOOKING_UP)
    if task.status not in FINAL:
        after = replace(after, next_poll_at=now + rules.policy.first_lookup)
    return Change(
        result=after,
        task=after,
        entries=(entry_of(transition, said, f"submit|{task.attempts}"),),
        alarms=alarms_of(transition, said),
    )


def _hinted_for(task: Task, report: Report) -> datetime | None:
    """Return the time of the early poll that a hint before the reply of the submission caused, or None.

    A submission in progress is due at the end of its lease. Only a hint makes it due earlier. If the hint has the same
    provider ID as the reply, and no final status, the reply answers it.
    """
    if not task.conflict_statuses and task.candidate_id is not None and task.candidate_id == report.provider_task_id:
        return None
    if task.next_poll_at is None or task.lease_until is None or task.next_poll_at >= task.lease_until:
        return None
    return task.next_poll_at


class RecordRefused(msgspec.Struct, frozen=True, kw_only=True):
    """Record that the provider verifiably made no task. The client's IDs are free again."""

    sent: Task
    why: str
    now: datetime
    rules: Rules

    @property
    def keys(self) -> frozenset[Key]:
        return frozenset({by_id(self.sent.id)})

    def decide(self, known: Known) -> Change[Task]:
        now, rules = self.now, self.rules
        task = existing(known, self.sent.id)
        observation = Observation(
            source=Source.SUBMIT,
            trust=Trust.PROVIDER,
            report=Report(status=Status.REJECTED),
            at=now,
            note=self.why,
        )
        transition = lifecycle.advance(task, observation, threshold=rules.thresholds[task.provider])
        after = given_back(transition.task, rules)
        rejected = after.status is Status.REJECTED
        if rejected:
            after = replace(after, released=True, next_poll_at=None)
        return Change(
            result=after,
            task=after,
            entries=(entry_of(transition, observation, f"refused|{task.attempts}", why=self.why),),
            events=transition.events,
            alarms=alarms_of(transition, observation),
            drop_submission=rejected,
        )


class RecordUnanswered(msgspec.Struct, frozen=True, kw_only=True):
    """Record that the outcome of a submission is unknown. Recovery continues from here.

    ``text`` is from the answer, for the operator, with credentials masked. ``duplicate`` means that the provider
    already has a task with Homing's external ID. Homing looks it up and never submits it again.
    """

    sent: Task
    why: str
    now: datetime
    ended_at: datetime
    reason: str
    rules: Rules
    duplicate: bool = False
    text: str = ""

    @property
    def keys(self) -> frozenset[Key]:
        return frozenset({by_id(self.sent.id)})

    def decide(self, known: Known) -> Change[Task]:
        why, now = self.why, self.now
        task = existing(known, self.sent.id)
        after = replace(given_back(task, self.rules), attempt_deadline_at=self.ended_at)
        if self.duplicate:
            after = replace(after, duplicate_at=task.duplicate_at or now, not_found=0)
        if task.status is Status.PENDING:
            after = replace(after, reason=self.reason)
        if task.status not in FINAL:
            after = replace(after, next_poll_at=now + self.rules.policy.first_lookup)
        entry = HistoryEntry(
            id=0,
            task_id=task.id,
            at=now,
            source=Source.SUBMIT,
            trust=Trust.UNVERIFIED,
            provider_status=None,
            status=None,
            verdict=Verdict.UNANSWERED,
            why=why,
            provider_updated_at=None,
            body=self.text.encode(),
        )
        alarms: tuple[RaisedAlarm, ...] = ()
        if after.reason == recovery.UNRESOLVED:
            detail = f"{why}: {self.text}" if self.text else why
            alarms = (
                RaisedAlarm(kind=Alarm.UNRESOLVED, provider=task.provider, at=now, task_id=task.id, detail=detail),
            )
        entries = (Entry(dedupe_key=f"unanswered|{task.attempts}", shown=entry),)
        return Change(result=after, task=after, entries=entries, alarms=alarms)


class RecordNotMade(msgspec.Struct, frozen=True, kw_only=True):
    """Record that a resubmission verifiably created nothing. Homing repeats it at ``again_at`` without a lookup.

    It does not count as an attempt, because a busy provider must not make an accepted task fail. An earlier attempt may
    still have created the task. If a callback arrived since this attempt began, Homing looks the task up first.
    """

    sent: Task
    why: str
    again_at: datetime
    rules: Rules

    @property
    def keys(self) -> frozenset[Key]:
        return frozenset({by_id(self.sent.id)})

    def decide(self, known: Known) -> Change[Task]:
        rules = self.rules
        task = existing(known, self.sent.id)
        after = given_back(task, rules)
        if task.status is not Status.PENDING or task.provider_task_id is not None:
            return Change(result=after, task=after)
        observed = task.last_observed_at is not None and task.last_observed_at >= task.updated_at
        after = replace(
            after,
            attempts=task.attempts - 1,
            not_found=0 if observed else rules.policy.absences,
            next_poll_at=self.again_at,
            reason=self.why,
        )
        return Change(result=after, task=after)


class RecordLate(msgspec.Struct, frozen=True, kw_only=True):
    """Record an outcome that could not be recorded at once, unless the row has changed since.

    ``others`` are more keys of the row. This commit has to wait for their commits.
    """

    outcome: RecordRefused | RecordUnanswered | RecordNotMade
    others: frozenset[Key] = frozenset()

    @property
    def keys(self) -> frozenset[Key]:
        return self.outcome.keys | self.others

    def decide(self, known: Known) -> Change[Task]:
        sent = self.outcome.sent
        task = existing(known, sent.id)
        if task.status is not Status.PENDING or task.attempts != sent.attempts or task.provider_task_id is not None:
            return Change(result=task)
        return self.outcome.decide(known)


def names_of(task: Task) -> frozenset[Key]:
    """Return every key of a task that another row may have: its ID, and the IDs of its client and its provider."""
    keys = [by_id(task.id)]
    if task.external_id is not None:
        keys.append(by_external_id(task.client, task.external_id))
    if task.sent_external_id is not None:
        keys.append(by_sent_id(task.provider, task.account, task.sent_external_id))
    if task.provider_task_id is not None:
        keys.append(by_provider_id(task.provider, task.account, task.provider_task_id))
    return frozenset(keys)
