"""Decisions about the results of polls, and about manual resolutions."""

import hashlib
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import structs

from tracker.errors import Conflict
from tracker.model import facts
from tracker.model.changes import Change, Entry, Key, Known, RaisedAlarm, Seen, by_id, by_provider_id, by_sent_id
from tracker.model.records import HistoryEntry
from tracker.model.task import (
    FINAL,
    SETTLED,
    Alarm,
    IdSource,
    Observation,
    Report,
    Source,
    Status,
    Task,
    Transition,
    Trust,
    Verdict,
)
from tracker.rules import lifecycle, schedule
from tracker.rules.identity import (
    FORMER_TASK,
    OTHER_TASK,
    Identity,
    ReplyTo,
    identified,
    identify,
    superseded,
    taking,
    withdrawn,
)
from tracker.rules.outcomes import UNCHANGED, Rules, alarms_of, entry_of, existing, given_back, replanned
from tracker.rules.recovery import UNRESOLVED, Denial, may_be_submitting, not_found
from tracker.rules.schedule import Policy


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A poll without an answer. The history has one entry for each ``sort``, with a count and the last failure.

    ``body`` is the response, shortened and masked. Only keys that see all clients can read it.
    """

    sort: str
    verdict: Verdict
    body: bytes = b""


BATCH_QUERY: Final = "batch query"
LIST_QUERY: Final = "list query"
# Homing drops the ID of a callback after so many not-found answers in a row. One is not enough: a read of the provider
# can be stale, and the callback of a task may come before its queries know it.
CANDIDATE_DENIALS: Final = 8
UNDECIDED: Final = (
    "the reports contradict each other, and the provider does not say whether the task succeeded or failed"
)


class PollResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one poll: the provider's ``observation``, or ``why`` there is none.

    ``reply_to`` says which ID the poll used. ``addressee`` is the task whose callback URL the provider named, if it
    named one of Homing's. ``sent`` is false if Homing sent no request. ``again_at`` overrides the schedule. ``denial``
    is a not-found answer for an unresolved submission, or that none is possible. ``candidate_denied`` means that the
    provider does not know the candidate ID. ``failure`` goes to the history. ``seen`` holds the observed capabilities
    of the provider's URL.
    """

    observation: Observation | None = None
    reply_to: ReplyTo = ReplyTo.PROVIDER_ID
    addressee: str | None = None
    why: str = ""
    again_at: datetime | None = None
    denial: Denial | None = None
    alarm: Alarm | None = None
    failure: Failure | None = None
    sent: bool = True
    candidate_denied: bool = False
    seen: tuple[Seen, ...] = ()


class RecordPoll(msgspec.Struct, frozen=True, kw_only=True):
    """Record the result of a poll, and expire the task if its deadline has passed.

    ``polled`` is the row at the time of the poll. ``lifetime`` is how long the provider keeps results.
    """

    polled: Task
    result: PollResult
    now: datetime
    lifetime: timedelta
    rules: Rules

    @property
    def keys(self) -> frozenset[Key]:
        polled, observation = self.polled, self.result.observation
        keys = [by_id(polled.id)]
        if observation is not None:
            report = observation.report
            if report.provider_task_id is not None:
                keys.append(by_provider_id(polled.provider, polled.account, report.provider_task_id))
            if report.external_id is not None and report.external_id != polled.sent_external_id:
                keys.append(by_sent_id(polled.provider, polled.account, report.external_id))
        return frozenset(keys)

    def decide(self, known: Known) -> Change[tuple[Task, Verdict, str]]:
        task = existing(known, self.polled.id)
        observation = self.result.observation
        if observation is None:
            return self._unanswered(task)
        identity = self._identity(known, task, observation.report)
        if identity.mismatch:
            return self._of_another(task, observation, identity)
        transition = lifecycle.advance(task, observation, threshold=self.rules.thresholds[task.provider])
        after = identified(task, replace(transition.task, not_found=0), identity)
        if transition.verdict is Verdict.APPLIED:
            after = replace(after, quiet_polls=0)
        # A late answer from before the end decides nothing about a reported end.
        change = self._closed(after, transition.verdict, transition.why, answered=not after.conflict_statuses)
        assert change.task is not None
        alarms = alarms_of(transition, observation) + change.alarms + superseded(task, after, self.now)
        if schedule.lacks_result(change.task) and change.task.next_poll_at is None:
            why = "it succeeded without results, also after repeated polls"
            alarms = (*alarms, _alarm(Alarm.EMPTY_RESULT, task, self.now, why))
        entries: tuple[Entry, ...] = ()
        if transition.verdict not in UNCHANGED:
            digest = hashlib.sha256(observation.body).hexdigest()
            entries = (entry_of(transition, observation, f"poll|{task.version}|{digest}"),)
        change = structs.replace(
            change,
            entries=entries + change.entries,
            events=transition.events + change.events,
            alarms=alarms,
            drop_submission=change.drop_submission or after.provider_task_id is not None,
            seen=self.result.seen,
        )
        return taking(change, identity, now=self.now, rules=self.rules)

    def _identity(self, known: Known, task: Task, report: Report) -> Identity:
        reply_to, addressee = self.result.reply_to, self.result.addressee
        if addressee == task.id:
            reply_to = ReplyTo.CALLBACK_URL
        elif addressee is not None and reply_to is ReplyTo.CANDIDATE:
            # The ID that a callback or a client named is that of the task with this URL.
            return Identity(mismatch=OTHER_TASK)
        return identify(known, task, report, reply_to, self.rules.policy)

    def _of_another(
        self, task: Task, observation: Observation, identity: Identity
    ) -> Change[tuple[Task, Verdict, str]]:
        """Record an answer about another task. It does not change this task, and the poll is still open.

        The history of this task hides the other task, because another client may own it.
        """
        about = structs.replace(observation, mismatch=identity.mismatch, report=Report())
        transition = lifecycle.advance(task, about, threshold=self.rules.thresholds[task.provider])
        digest = hashlib.sha256(observation.body).hexdigest()
        entries: tuple[Entry, ...] = (entry_of(transition, about, f"poll|another|{digest}"),)
        events = transition.events
        after = transition.task
        is_current = task.candidate_id == self.polled.candidate_id
        if self.result.reply_to is ReplyTo.CANDIDATE and after.provider_task_id is None and is_current:
            after = replace(after, candidate_id=None, unproven_id_from=None, not_found=0)
            if task.unproven_id_from is IdSource.OWNER:
                after = replace(
                    after, reason=f"the provider ID {task.candidate_id} is another task's; attach the right one"
                )
        if identity.mismatch == FORMER_TASK and after.status is Status.PENDING:
            after = replace(after, reason=UNRESOLVED)
        if identity.wrong:
            lost = withdrawn(after, now=self.now, rules=self.rules)
            after, events, entries = lost.task, (*events, lost.event), (*entries, lost.entry)
        change = self._closed(after, transition.verdict, transition.why, answered=False)
        return structs.replace(
            change,
            entries=entries + change.entries,
            events=events + change.events,
            alarms=alarms_of(transition, about) + change.alarms,
        )

    def _unanswered(self, task: Task) -> Change[tuple[Task, Verdict, str]]:
        """Record that the poll got no observation."""
        result, now, policy = self.result, self.now, self.rules.policy
        after = task if result.denial is None else not_found(task, result.denial, policy)
        if result.candidate_denied and task.candidate_id == self.polled.candidate_id:
            # While a row has a candidate ID, it is never submitted again, and this counts the denials of that ID.
            after = replace(after, not_found=task.not_found + 1)
            if after.not_found >= CANDIDATE_DENIALS:
                after = replace(after, candidate_id=None, unproven_id_from=None, not_found=0)
        change = self._closed(after, Verdict.CONFIRMED, result.why, answered=False)
        planned = change.task
        if planned is not None and planned.next_poll_at is not None and not under_way(task, now, policy):
            planned = replace(planned, next_poll_at=self._overridden(task, planned, planned.next_poll_at))
            change = structs.replace(change, task=planned, result=(planned, *change.result[1:]))
        entries, alarms = change.entries, change.alarms
        if result.failure is not None:
            entries = (_failed(task, result.failure, result.why, now), *entries)
        if result.alarm is not None:
            alarms = (*alarms, _alarm(result.alarm, task, now, result.why))
        return structs.replace(change, entries=entries, alarms=alarms, seen=result.seen)

    def _overridden(self, task: Task, planned: Task, planned_at: datetime) -> datetime | None:
        """Return when to poll again if the row or the result decides that, else ``planned_at``."""
        again_at = self.result.again_at
        if facts.in_conflict(planned):
            # A conflict ends after its own time.
            return planned_at if again_at is None else min(again_at, self.now + self.rules.policy.conflict_gap)
        if is_nameless(planned):
            # Only the deadline is left to wait for, or a search of the provider's list.
            until = planned.deadline_at
            return None if planned.status in SETTLED else min(again_at or until, until)
        if not self.result.sent and is_nameless(self.polled):
            # An ID came while this poll was waiting.
            return task.next_poll_at or planned_at
        return again_at or planned_at

    def _closed(self, task: Task, verdict: Verdict, why: str, *, answered: bool) -> Change[tuple[Task, Verdict, str]]:
        """Count the poll, release the lease, expire the task if its deadline has passed, and plan the next poll."""
        now, rules = self.now, self.rules
        entries: tuple[Entry, ...] = ()
        transition: Transition | None = None
        if task.status not in SETTLED and now >= task.deadline_at:
            clock = Observation(
                source=Source.CLOCK,
                trust=Trust.PROVIDER,
                report=Report(status=Status.EXPIRED),
                at=now,
                note="the deadline passed without an answer",
            )
            transition = lifecycle.advance(task, clock, threshold=rules.thresholds[task.provider])
            entries = (entry_of(transition, clock, f"clock|{task.version}"),)
            task, verdict, why = transition.task, transition.verdict, transition.why
        count = int(self.result.sent)
        after = replace(task, poll_count=task.poll_count + count, polled_at=now if count else task.polled_at)
        if not under_way(task, now, rules.policy):
            after = given_back(after, rules)
            after = replanned(after, now=now, rules=rules, lifetime=self.lifetime, answered=answered)
        after = replace(after, quiet_polls=after.quiet_polls + count)
        alarms: tuple[RaisedAlarm, ...] = ()
        if facts.in_conflict(after) and after.next_poll_at is None and task.next_poll_at is not None:
            alarms = (_alarm(Alarm.CONFLICT, task, now, UNDECIDED),)
        return Change(
            result=(after, verdict, why),
            task=after,
            entries=entries,
            events=transition.events if transition is not None else (),
            alarms=alarms,
            # Homing polls an expired task, but never resubmits it.
            drop_submission=after.status is Status.EXPIRED,
            counts={"polls": count},
        )


def _alarm(kind: Alarm, task: Task, now: datetime, why: str) -> RaisedAlarm:
    return RaisedAlarm(kind=kind, provider=task.provider, at=now, task_id=task.id, detail=why)


def _failed(task: Task, failure: Failure, why: str, now: datetime) -> Entry:
    shown = HistoryEntry(
        id=0,
        task_id=task.id,
        at=now,
        source=Source.POLL,
        trust=Trust.UNVERIFIED,
        provider_status=None,
        status=None,
        verdict=failure.verdict,
        why=why,
        provider_updated_at=None,
        body=failure.body,
    )
    return Entry(dedupe_key=f"poll|{failure.sort}", shown=shown)


class Resolve(msgspec.Struct, frozen=True, kw_only=True):
    """Record a manual resolution: rejected or expired, or the correct final of an open conflict.

    Raises: Conflict, if a verified report of the provider has precedence.
    """

    task_id: str
    status: Status
    note: str
    now: datetime
    lifetime: timedelta
    rules: Rules

    @property
    def keys(self) -> frozenset[Key]:
        return frozenset({by_id(self.task_id)})

    def decide(self, known: Known) -> Change[Task]:
        status, note, now, rules = self.status, self.note, self.now, self.rules
        task = existing(known, self.task_id)
        if under_way(task, now, rules.policy):
            raise Conflict("its submit is under way; wait for the outcome")
        if status in FINAL and not facts.in_conflict(task):
            raise Conflict(f"the task is {task.status.value} and has no open conflict; only the provider can change it")
        observation = Observation(
            source=Source.OPERATOR,
            trust=Trust.PROVIDER,
            report=Report(status=status),
            at=now,
            note=note or f"{status.value}, says the operator",
        )
        transition = lifecycle.advance(task, observation, threshold=rules.thresholds[task.provider])
        if transition.task.status is not status:
            raise Conflict(f"the task is {task.status.value}. It cannot become {status.value}")
        after = replanned(transition.task, now=now, rules=rules, lifetime=self.lifetime)
        if status is Status.REJECTED:
            after = replace(after, released=True)
        after = replace(after, lease_owner=None, lease_until=None)
        return Change(
            result=after,
            task=after,
            entries=(entry_of(transition, observation, f"operator|{task.version}", why=note),),
            events=transition.events,
            drop_submission=status is Status.REJECTED,
        )


def is_nameless(task: Task) -> bool:
    """Return whether there is no ID to poll the task by."""
    return (task.provider_task_id, task.sent_external_id, task.candidate_id) == (None, None, None)


def under_way(task: Task, now: datetime, policy: Policy) -> bool:
    """Return whether a submission of the task may be in progress. Then only its process may release the lease."""
    return (
        task.status is Status.PENDING
        and task.lease_until is not None
        and task.attempt_deadline_at is not None
        and may_be_submitting(task, now, policy)
        # The lease of a poll is longer than that of a submission, because it covers all polls of a round.
        and task.lease_until <= task.attempt_deadline_at + policy.lease_margin
    )
