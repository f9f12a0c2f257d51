"""What each verb wants written: pure functions from the known rows to a Change. Every path to the store is here.

One delivery, followed: ``delivered`` finds the row, ``lifecycle.advance`` weighs the observation, ``schedule`` says
when to look again, and the Change carries the task, the history entry, the events and the alarms into one transaction.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from tracker import lifecycle, schedule
from tracker.errors import Conflict, NotFound
from tracker.models import (
    FINAL,
    Alarm,
    Arrived,
    Claim,
    HistoryEntry,
    Observation,
    Orphan,
    Recorded,
    Source,
    Status,
    Task,
    Transition,
    Trust,
    Verdict,
)
from tracker.schedule import Policy
from tracker.storage.work import (
    Change,
    Entry,
    Known,
    RaisedAlarm,
    Seen,
    by_external_id,
    by_id,
    by_idempotency_key,
    by_provider_id,
    by_sent_id,
    by_unanswered,
)

EXTERNAL_LOOKUP: Final = "lookup by external id"
BATCH_QUERY: Final = "batch query"
ORIGIN_SUBMIT: Final = "submit"
NO_NEWS: Final = frozenset({Verdict.CONFIRMED, Verdict.OUTRANKED})
REQUESTS: Final = "polls"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What every decision needs besides the rows."""

    policy: Policy
    threshold: Trust
    random: Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A submit written down: ``fresh`` where it is ours to send, else the row that has it already."""

    task: Task
    fresh: bool


def intended(known: Known, task: Task, *, body: bytes, policy: Policy) -> Change[Intent]:
    """Write a submit down before the provider is called, or find the row that has it already.

    Raises Conflict where the client used its external id or idempotency key with another body.
    """
    for before, what in (
        (task.external_id and known.get(by_external_id(task.client, task.external_id)), "External_task_id"),
        (
            task.idempotency_key and known.get(by_idempotency_key(task.client, task.idempotency_key)),
            "Idempotency-Key",
        ),
    ):
        if before:
            if before.request_hash == task.request_hash:
                return Change(result=Intent(task=before, fresh=False))
            name = task.external_id if what == "External_task_id" else task.idempotency_key
            raise Conflict(f"{what} {name} already exists")
    if (unanswered := _resent(known, task, policy)) is not None:
        joined = replace(unanswered, answered_at=task.created_at)
        return Change(result=Intent(task=joined, fresh=False), task=joined)
    return Change(result=Intent(task=task, fresh=True), task=task, submission=body)


def _resent(known: Known, task: Task, policy: Policy) -> Task | None:
    """Find the submit of the same body that a dead process took and never answered: its client sends it again."""
    if task.request_hash is None or task.external_id is not None or task.idempotency_key is not None:
        return None
    before = known.get(by_unanswered(task.client, task.request_hash))
    if before is None or before.status is Status.REJECTED or before.taken_by == task.taken_by:
        return None
    return before if task.created_at - before.created_at < policy.resend_window else None


def written_down(known: Known, task: Task) -> Change[Task]:
    """Write down a task that we do not submit ourselves. Raises Conflict where a row has one of its ids."""
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
        if key and known.get(key) is not None:
            raise Conflict(f"a task with the id {what} is already known")
    return Change(result=task, task=task)


def attempted(
    known: Known, task_id: str, *, owner: str, now: datetime, until: datetime, policy: Policy
) -> Change[Task]:
    """Take the lease for one more attempt to submit; from here on the provider may have the task."""
    task = _existing(known, task_id)
    if task.status is not Status.PENDING:
        raise Conflict("the task is no longer pending")
    after = replace(
        task,
        attempts=task.attempts + 1,
        not_found=0,
        attempt_deadline_at=until,
        lease_owner=owner,
        lease_until=until + policy.lease_margin,
        next_poll_at=until + policy.lease_margin,
        updated_at=now,
    )
    return Change(result=after, task=after)


def accepted(
    known: Known,
    task_id: str,
    claim: Claim,
    body: bytes,
    *,
    now: datetime,
    usual: timedelta,
    seen: tuple[Seen, ...],
    rules: Rules,
) -> Change[Task]:
    """Record that the provider made the task."""
    task = _existing(known, task_id)
    claim = _unless_taken(known, task, claim)
    observation = Observation(source=Source.SUBMIT, trust=Trust.PROVIDER, claim=claim, at=now, body=body)
    transition = lifecycle.advance(task, observation, threshold=rules.threshold)
    after = replace(transition.task, lease_owner=None, lease_until=None, not_found=0)
    if after.status in FINAL:
        after = _replanned(after, now=now, rules=rules, lifetime=timedelta())
    else:
        after = replace(after, next_poll_at=now + schedule.first_check(usual, rules.policy, rules.random()))
    return Change(
        result=after,
        task=after,
        entries=(_entry(transition, observation, f"submit|{task.attempts}"),),
        events=transition.events,
        alarms=_alarms(transition, observation),
        drop_submission=True,
        seen=seen,
    )


def refused(known: Known, task_id: str, *, why: str, now: datetime, rules: Rules) -> Change[Task]:
    """Record that the provider provably made no task; the client's ids are free again."""
    task = _existing(known, task_id)
    observation = Observation(
        source=Source.SUBMIT,
        trust=Trust.PROVIDER,
        claim=Claim(status=Status.REJECTED),
        at=now,
        note=why,
    )
    transition = lifecycle.advance(task, observation, threshold=rules.threshold)
    after = replace(transition.task, lease_owner=None, lease_until=None)
    rejected = after.status is Status.REJECTED
    if rejected:
        after = replace(after, released=True, next_poll_at=None)
    return Change(
        result=after,
        task=after,
        entries=(_entry(transition, observation, f"refused|{task.attempts}", why=why),),
        events=transition.events,
        alarms=_alarms(transition, observation),
        drop_submission=rejected,
    )


def unanswered(
    known: Known, task_id: str, *, why: str, now: datetime, ended_at: datetime, reason: str, policy: Policy
) -> Change[Task]:
    """Record that the outcome of a submit is not known; recovery goes on from here."""
    task = _existing(known, task_id)
    after = replace(task, lease_owner=None, lease_until=None, attempt_deadline_at=ended_at)
    if task.status is Status.PENDING:
        after = replace(after, reason=reason)
    if task.status not in FINAL:
        after = replace(after, next_poll_at=now + policy.first_lookup)
    entry = HistoryEntry(
        id=0,
        task_id=task_id,
        at=now,
        source=Source.SUBMIT,
        trust=Trust.HINT,
        word=None,
        status=None,
        verdict=Verdict.UNANSWERED,
        why=why,
        provider_updated_at=None,
        body=b"",
    )
    return Change(result=after, task=after, entries=(Entry(dedupe_key=f"unanswered|{task.attempts}", shown=entry),))


def not_made(known: Known, task_id: str, *, why: str, again_at: datetime, policy: Policy) -> Change[Task]:
    """Record that a repeated submit provably made nothing yet: it is repeated at ``again_at`` without a lookup."""
    task = _existing(known, task_id)
    after = replace(
        task, lease_owner=None, lease_until=None, not_found=policy.absences, next_poll_at=again_at, reason=why
    )
    return Change(result=after, task=after)


def answered(known: Known, task_id: str, *, now: datetime) -> Change[None]:
    """Record that the answer to a submit was on its way."""
    task = known.get(by_id(task_id))
    if task is None or task.answered_at is not None:
        return Change(result=None)
    return Change(result=None, task=replace(task, answered_at=now))


def attached(known: Known, task_id: str, provider_task_id: str, *, now: datetime, policy: Policy) -> Change[Task]:
    """Learn the provider's id from the task's owner, and ask about it soon. Raises Conflict where it cannot be."""
    task = _existing(known, task_id)
    if task.provider_task_id == provider_task_id:
        return Change(result=task)
    if task.provider_task_id is not None:
        raise Conflict(f"the task already has the provider's id {task.provider_task_id}")
    if known.get(by_provider_id(task.provider, task.account, provider_task_id)) is not None:
        raise Conflict(f"another task already has the provider's id {provider_task_id}")
    after = replace(
        task,
        provider_task_id=provider_task_id,
        candidate_id=None,
        version=task.version + 1,
        updated_at=now,
        reason=None,
        next_poll_at=schedule.after_hint(task, now=now, policy=policy),
    )
    return Change(result=after, task=after, events=(lifecycle.event(after, "updated", now),), drop_submission=True)


def delivered(known: Known, arrived: Arrived, *, account: str, rules: Rules) -> Change[Recorded]:
    """Record one delivery: on the task that its address or its ids name, else as an orphan."""
    observation = arrived.observation
    counts = {"deliveries": 1}
    task = _addressed(known, arrived, account)
    if task is None:
        return _orphaned(arrived, counts)
    transition = lifecycle.advance(task, observation, threshold=rules.threshold)
    after = transition.task
    if transition.verdict in {Verdict.MOVED, Verdict.COMPLETED}:
        after = replace(after, quiet_polls=0)
        if after.status in FINAL:
            after = _replanned(after, now=observation.at, rules=rules, lifetime=timedelta())
    elif _worth_asking(after, transition, observation.claim):
        after = replace(after, next_poll_at=schedule.after_hint(after, now=observation.at, policy=rules.policy))
    if transition.trust is Trust.HINT:
        counts["hints"] = 1
    webhook_id = observation.webhook_id
    what = f"id {webhook_id}" if webhook_id is not None else hashlib.sha256(observation.body).hexdigest()
    return Change(
        result=Recorded(task_id=task.id, verdict=transition.verdict, why=transition.why),
        task=after,
        entries=(_entry(transition, observation, f"callback|{transition.trust.name}|{what}"),),
        events=transition.events,
        alarms=_alarms(transition, observation),
        drop_submission=after.status in FINAL,
        counts=counts,
    )


def polled(
    known: Known,
    task_id: str,
    observation: Observation,
    *,
    as_candidate: bool,
    lifetime: timedelta,
    seen: tuple[Seen, ...],
    rules: Rules,
) -> Change[tuple[Task, Verdict, str]]:
    """Record the provider's own answer about a task, and expire the task if its time is over."""
    task = _existing(known, task_id)
    claim = _unless_taken(known, task, observation.claim)
    if as_candidate and not _could_be(task, claim, rules.policy):
        why = f"the provider's task {claim.provider_task_id} is another one"
        return _asked(replace(task, candidate_id=None), Verdict.HINTED, why, observation.at, lifetime, rules)
    observation = replace(observation, claim=claim)
    transition = lifecycle.advance(task, observation, threshold=rules.threshold)
    news = transition.verdict not in NO_NEWS
    after = replace(transition.task, quiet_polls=0) if transition.verdict is Verdict.MOVED else transition.task
    change = _asked(after, transition.verdict, transition.why, observation.at, lifetime, rules)
    assert change.task is not None
    digest = hashlib.sha256(observation.body).hexdigest()
    entry = _entry(transition, observation, f"poll|{task.version}|{digest}")
    return replace(
        change,
        entries=((entry,) if news else ()) + change.entries,
        events=transition.events + change.events,
        alarms=_alarms(transition, observation) + change.alarms,
        drop_submission=after.provider_task_id is not None,
        seen=seen,
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
) -> Change[tuple[Task, Verdict, str]]:
    """Record that a question brought no news; ``again_at`` overrides the schedule, ``reconsider`` weighs the answer."""
    task = _existing(known, task_id)
    after = task if reconsider is None else reconsider(task)
    change = _asked(after, Verdict.CONFIRMED, why, now, lifetime, rules, asked=asked)
    if again_at is not None and change.task is not None and change.task.next_poll_at is not None:
        later = replace(change.task, next_poll_at=again_at)
        change = replace(change, task=later, result=(later, Verdict.CONFIRMED, why))
    if alarm is not None:
        raised = RaisedAlarm(kind=alarm, provider=task.provider, at=now, task_id=task.id, detail=why)
        change = replace(change, alarms=(*change.alarms, raised))
    return change


def noticed(_known: Known, seen: Seen) -> Change[None]:
    """Record what an address was seen to do."""
    return Change(result=None, seen=(seen,))


def sounded(_known: Known, alarm: RaisedAlarm) -> Change[None]:
    """Count an alarm that no task's change carries."""
    return Change(result=None, alarms=(alarm,))


def resolved(
    known: Known, task_id: str, status: Status, *, note: str, now: datetime, lifetime: timedelta, rules: Rules
) -> Change[Task]:
    """Record the operator's word: rejected or expired. Raises Conflict where a stronger word is known."""
    task = _existing(known, task_id)
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
    after = _replanned(transition.task, now=now, rules=rules, lifetime=lifetime)
    if status is Status.REJECTED:
        after = replace(after, released=True)
    after = replace(after, lease_owner=None, lease_until=None)
    return Change(
        result=after,
        task=after,
        entries=(_entry(transition, observation, f"operator|{task.version}"),),
        events=transition.events,
        drop_submission=status is Status.REJECTED,
    )


def _asked(
    task: Task, verdict: Verdict, why: str, now: datetime, lifetime: timedelta, rules: Rules, *, asked: bool = True
) -> Change[tuple[Task, Verdict, str]]:
    """Close one question: count it, give the lease back, expire the task if it is time, and plan the next one."""
    entries: tuple[Entry, ...] = ()
    transition: Transition | None = None
    if task.status not in FINAL | {Status.REJECTED, Status.EXPIRED} and now >= task.deadline_at:
        clock = Observation(
            source=Source.CLOCK,
            trust=Trust.PROVIDER,
            claim=Claim(status=Status.EXPIRED),
            at=now,
            note="the deadline passed without an answer",
        )
        transition = lifecycle.advance(task, clock, threshold=rules.threshold)
        entries = (_entry(transition, clock, f"clock|{task.version}"),)
        task, verdict, why = transition.task, transition.verdict, transition.why
    count = 1 if asked else 0
    after = replace(
        task, polls=task.polls + count, polled_at=now if asked else task.polled_at, lease_owner=None, lease_until=None
    )
    after = replace(_replanned(after, now=now, rules=rules, lifetime=lifetime), quiet_polls=after.quiet_polls + count)
    return Change(
        result=(after, verdict, why),
        task=after,
        entries=entries,
        events=transition.events if transition is not None else (),
    )


def _replanned(task: Task, *, now: datetime, rules: Rules, lifetime: timedelta) -> Task:
    again = schedule.after_poll(task, now=now, policy=rules.policy, lifetime=lifetime, random=rules.random())
    return replace(task, next_poll_at=again)


def _worth_asking(task: Task, transition: Transition, claim: Claim) -> bool:
    """Whether a delivery that was not believed should bring the next question forward."""
    if transition.verdict in NO_NEWS:
        return False
    if transition.verdict is Verdict.UNREADABLE:
        return task.status not in FINAL
    return task.status not in FINAL or claim.status is not task.status or schedule.lacks_result(task)


def _could_be(task: Task, claim: Claim, policy: Policy) -> bool:
    """Whether the provider's task that a hint named can be this one: nothing known about it may speak against it."""
    if claim.provider_task_id is None:
        return False
    if claim.external_id is not None and claim.external_id != task.sent_external_id:
        return False
    return claim.created_at is None or claim.created_at >= task.created_at - policy.adopt_window


def _unless_taken(known: Known, task: Task, claim: Claim) -> Claim:
    """Withhold a provider id that another row has: it cannot be this task's."""
    if claim.provider_task_id is None:
        return claim
    other = known.get(by_provider_id(task.provider, task.account, claim.provider_task_id))
    return claim if other is None or other.id == task.id else replace(claim, provider_task_id=None)


def _addressed(known: Known, arrived: Arrived, account: str) -> Task | None:
    if arrived.task_id is not None:
        return known.get(by_id(arrived.task_id))
    claim = arrived.observation.claim
    if claim.provider_task_id is not None:
        task = known.get(by_provider_id(arrived.provider, account, claim.provider_task_id))
        if task is not None:
            return task
    if claim.external_id is not None:
        return known.get(by_sent_id(arrived.provider, account, claim.external_id))
    return None


def _orphaned(arrived: Arrived, counts: dict[str, int]) -> Change[Recorded]:
    observation = arrived.observation
    claim = observation.claim
    standing = arrived.standing
    why = "nobody told us of this task" if standing is not None else "its row is gone"
    alarm = RaisedAlarm(kind=Alarm.ORPHAN, provider=arrived.provider, at=observation.at, task_id=None, detail=why)
    name = claim.provider_task_id or claim.external_id
    orphan = Orphan(
        id=0,
        provider=arrived.provider,
        provider_task_id=name or "unreadable " + hashlib.sha256(observation.body).hexdigest()[:16],
        external_id=claim.external_id,
        kind=standing.kind if standing is not None else None,
        client=standing.client if standing is not None else "",
        address=f"standing address {standing.id}" if standing is not None else f"task address {arrived.task_id}",
        word=claim.word,
        state="waiting" if standing is not None and name is not None else "orphan",
        why=claim.flaw or why,
        first_at=observation.at,
        last_at=observation.at,
        deliveries=1,
        checks=0,
        next_check_at=observation.at if standing is not None and name is not None else None,
        task_id=None,
        body=observation.body,
    )
    recorded = Recorded(task_id=None, verdict=Verdict.HINTED, why=why, orphan=True)
    return Change(result=recorded, orphan=orphan, alarms=(alarm,), counts=counts)


def _entry(transition: Transition, observation: Observation, dedupe_key: str, *, why: str = "") -> Entry:
    claim = observation.claim
    shown = HistoryEntry(
        id=0,
        task_id=transition.task.id,
        at=observation.at,
        source=observation.source,
        trust=transition.trust,
        word=claim.word,
        status=claim.status,
        verdict=transition.verdict,
        why=f"{transition.why}: {why}" if why else transition.why,
        provider_updated_at=claim.updated_at,
        body=observation.body,
    )
    return Entry(dedupe_key=dedupe_key, shown=shown)


def _alarms(transition: Transition, observation: Observation) -> tuple[RaisedAlarm, ...]:
    return tuple(
        RaisedAlarm(
            kind=kind,
            provider=transition.task.provider,
            at=observation.at,
            task_id=transition.task.id,
            detail=transition.why,
        )
        for kind in transition.alarms
    )


def _existing(known: Known, task_id: str) -> Task:
    task = known.get(by_id(task_id))
    if task is None:
        raise NotFound(f"no task {task_id}")
    return task
