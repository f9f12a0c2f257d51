"""Decisions about what the provider answers when asked, and what the operator says."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import structs

from tracker.errors import Conflict
from tracker.model import facts
from tracker.model.changes import Change, Entry, Known, RaisedAlarm, Seen
from tracker.model.records import HistoryEntry
from tracker.model.task import (
    FINAL,
    SETTLED,
    Alarm,
    Claim,
    IdSource,
    Observation,
    Source,
    Status,
    Task,
    Transition,
    Trust,
    Verdict,
)
from tracker.rules import lifecycle, schedule
from tracker.rules.identity import FORMER_TASK, Asked, Identity, identified, identify, superseded, taking, withdrawn
from tracker.rules.outcomes import NO_NEWS, Rules, alarms_of, entry_of, existing, given_back, replanned
from tracker.rules.recovery import UNRESOLVED
from tracker.rules.schedule import Policy


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A question that brought no answer, for the history: one entry for each ``sort``, which counts and shows the last.

    ``body`` is what came instead, cut and masked; only keys that see all clients are shown it.
    """

    sort: str
    verdict: Verdict
    body: bytes = b""


BATCH_QUERY: Final = "batch query"
UNDECIDED: Final = "contradictory reports of success and failure; the provider does not say which is true"


def polled(
    known: Known,
    task_id: str,
    observation: Observation,
    *,
    asked: Asked,
    lifetime: timedelta,
    seen: tuple[Seen, ...],
    rules: Rules,
) -> Change[tuple[Task, Verdict, str]]:
    """Record the provider's own answer about a task, and expire the task if its time is over."""
    task = existing(known, task_id)
    identity = identify(known, task, observation.claim, asked, rules.policy)
    if identity.mismatch:
        return _of_another(task, observation, identity, asked, lifetime, rules)
    transition = lifecycle.advance(task, observation, threshold=rules.threshold)
    news = transition.verdict not in NO_NEWS
    after = identified(task, replace(transition.task, not_found=0), identity)
    if transition.verdict is Verdict.MOVED:
        after = replace(after, quiet_polls=0)
    # An answer from before the end, which came late, decides nothing about an end that was told.
    answered = not after.conflict_claims
    change = _asked(after, transition.verdict, transition.why, observation.at, lifetime, rules, answered=answered)
    assert change.task is not None
    alarms = alarms_of(transition, observation) + change.alarms + superseded(task, after, observation.at)
    if schedule.lacks_result(change.task) and change.task.next_poll_at is None:
        why = "it succeeded without results, however often the provider was asked"
        empty = RaisedAlarm(
            kind=Alarm.EMPTY_RESULT, provider=task.provider, at=observation.at, task_id=task.id, detail=why
        )
        alarms = (*alarms, empty)
    digest = hashlib.sha256(observation.body).hexdigest()
    entry = entry_of(transition, observation, f"poll|{task.version}|{digest}")
    change = structs.replace(
        change,
        entries=((entry,) if news else ()) + change.entries,
        events=transition.events + change.events,
        alarms=alarms,
        drop_submission=change.drop_submission or after.provider_task_id is not None,
        seen=seen,
    )
    return taking(change, identity, now=observation.at, rules=rules)


def _of_another(
    task: Task, observation: Observation, identity: Identity, asked: Asked, lifetime: timedelta, rules: Rules
) -> Change[tuple[Task, Verdict, str]]:
    """Record an answer that is about another task: it says nothing of this one, and what was asked is still open.

    The history of this task shows no word of the other one, which may be another client's.
    """
    now = observation.at
    about = structs.replace(observation, mismatch=identity.mismatch, claim=Claim())
    transition = lifecycle.advance(task, about, threshold=rules.threshold)
    digest = hashlib.sha256(observation.body).hexdigest()
    entries: tuple[Entry, ...] = (entry_of(transition, about, f"poll|another|{digest}"),)
    alarms, events = alarms_of(transition, about), transition.events
    after = transition.task
    if asked is Asked.CANDIDATE and after.provider_task_id is None:
        after = replace(after, candidate_id=None, unproven_id_from=None)
        if task.unproven_id_from is IdSource.OWNER:
            after = replace(
                after, reason=f"the provider ID {task.candidate_id} is another task's; attach the right one"
            )
    if identity.mismatch == FORMER_TASK and after.status is Status.PENDING:
        after = replace(after, reason=UNRESOLVED)
    if identity.wrong:
        lost = withdrawn(after, now=now, rules=rules)
        after, events, entries = lost.task, (*events, lost.event), (*entries, lost.entry)
    change = _asked(after, transition.verdict, transition.why, now, lifetime, rules, answered=False)
    return structs.replace(
        change, entries=entries + change.entries, events=events + change.events, alarms=alarms + change.alarms
    )


def unsettled(
    known: Known,
    task_id: str,
    why: str,
    *,
    now: datetime,
    lifetime: timedelta,
    rules: Rules,
    again_at: datetime | None = None,
    reconsider: Callable[[Task], Task] | None = None,
    alarm: Alarm | None = None,
    asked: bool = True,
    forget: bool = False,
    seen: tuple[Seen, ...] = (),
    failure: Failure | None = None,
) -> Change[tuple[Task, Verdict, str]]:
    """Record that a question brought no news.

    ``again_at`` overrides the schedule, ``reconsider`` weighs the answer, ``forget`` drops a candidate that led to
    nothing, ``failure`` is kept in the history.
    """
    task = existing(known, task_id)
    after = task if reconsider is None else reconsider(task)
    if forget:
        after = replace(after, candidate_id=None, unproven_id_from=None)
    change = _asked(after, Verdict.CONFIRMED, why, now, lifetime, rules, asked=asked, answered=False)
    planned = change.task is not None and change.task.next_poll_at is not None
    if again_at is not None and change.task is not None and planned and not under_way(task, now, rules.policy):
        if facts.in_conflict(change.task):
            again_at = min(again_at, now + rules.policy.conflict_gap)
        later = replace(change.task, next_poll_at=again_at)
        change = structs.replace(change, task=later, result=(later, Verdict.CONFIRMED, why))
    if failure is not None:
        change = structs.replace(change, entries=(_failed(task, failure, why, now), *change.entries))
    if alarm is not None:
        raised = RaisedAlarm(kind=alarm, provider=task.provider, at=now, task_id=task.id, detail=why)
        change = structs.replace(change, alarms=(*change.alarms, raised))
    return structs.replace(change, seen=seen) if seen else change


def _failed(task: Task, failure: Failure, why: str, now: datetime) -> Entry:
    shown = HistoryEntry(
        id=0,
        task_id=task.id,
        at=now,
        source=Source.POLL,
        trust=Trust.HINT,
        word=None,
        status=None,
        verdict=failure.verdict,
        why=why,
        provider_updated_at=None,
        body=failure.body,
    )
    return Entry(dedupe_key=f"poll|{failure.sort}", shown=shown)


def resolved(
    known: Known, task_id: str, status: Status, *, note: str, now: datetime, lifetime: timedelta, rules: Rules
) -> Change[Task]:
    """Record a manual resolution: rejected or expired; of an open conflict the final that is true.

    Raises Conflict where a stronger word is known.
    """
    task = existing(known, task_id)
    if under_way(task, now, rules.policy):
        raise Conflict("its submit is under way; wait for the outcome")
    if status in FINAL and not facts.in_conflict(task):
        raise Conflict(f"the task is {task.status.value} and has no open conflict; only the provider can change it")
    observation = Observation(
        source=Source.OPERATOR,
        trust=Trust.PROVIDER,
        claim=Claim(status=status),
        at=now,
        note=note or f"{status.value}, says the operator",
    )
    transition = lifecycle.advance(task, observation, threshold=rules.threshold)
    if transition.task.status is not status:
        raise Conflict(f"the task is {task.status.value}, which the provider proved: {status.value} cannot undo it")
    after = replanned(transition.task, now=now, rules=rules, lifetime=lifetime)
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


def _asked(
    task: Task,
    verdict: Verdict,
    why: str,
    now: datetime,
    lifetime: timedelta,
    rules: Rules,
    *,
    asked: bool = True,
    answered: bool = True,
) -> Change[tuple[Task, Verdict, str]]:
    """Close one question: count it, give the lease back, expire the task if it is time, and plan the next one."""
    entries: tuple[Entry, ...] = ()
    transition: Transition | None = None
    if task.status not in SETTLED and now >= task.deadline_at:
        clock = Observation(
            source=Source.CLOCK,
            trust=Trust.PROVIDER,
            claim=Claim(status=Status.EXPIRED),
            at=now,
            note="the deadline passed without an answer",
        )
        transition = lifecycle.advance(task, clock, threshold=rules.threshold)
        entries = (entry_of(transition, clock, f"clock|{task.version}"),)
        task, verdict, why = transition.task, transition.verdict, transition.why
    count = int(asked)
    after = replace(task, polls=task.polls + count, polled_at=now if asked else task.polled_at)
    if not under_way(task, now, rules.policy):
        after = replanned(given_back(after, rules), now=now, rules=rules, lifetime=lifetime, answered=answered)
    after = replace(after, quiet_polls=after.quiet_polls + count)
    alarms: tuple[RaisedAlarm, ...] = ()
    if facts.in_conflict(after) and after.next_poll_at is None and task.next_poll_at is not None:
        alarms = (RaisedAlarm(kind=Alarm.CONFLICT, provider=task.provider, at=now, task_id=task.id, detail=UNDECIDED),)
    return Change(
        result=(after, verdict, why),
        task=after,
        entries=entries,
        events=transition.events if transition is not None else (),
        alarms=alarms,
        # An expired task is asked about, but never submitted again.
        drop_submission=after.status is Status.EXPIRED,
        counts={"polls": count},
    )


def under_way(task: Task, now: datetime, policy: Policy) -> bool:
    """Return whether a submit of the task may be under way: its lease is not for others to give back."""
    return (
        task.status is Status.PENDING
        and task.lease_until is not None
        and task.attempt_deadline_at is not None
        and now < task.attempt_deadline_at
        # A question's lease is longer than a submit's by all the questions of its round.
        and task.lease_until <= task.attempt_deadline_at + policy.lease_margin
    )
