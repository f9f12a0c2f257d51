"""Decisions about callbacks.

``RecordCallback`` finds the task, ``lifecycle.advance`` applies the observation, and ``schedule`` plans the next poll.
The Change holds the task, its history entry, events and alarms of one transaction.
"""

import hashlib
from datetime import timedelta
from typing import Final

import msgspec
from msgspec import structs

from tracker.model import facts
from tracker.model.changes import Change, Entry, Key, Known, RaisedAlarm, by_id, by_provider_id, by_sent_id
from tracker.model.records import Arrived, Orphan
from tracker.model.task import (
    FINAL,
    SETTLED,
    TRUST_NAMES,
    Alarm,
    IdSource,
    Observation,
    Recorded,
    Report,
    Status,
    Task,
    Transition,
    Trust,
    Verdict,
    changed,
)
from tracker.rules import lifecycle, schedule
from tracker.rules.identity import OF_ANOTHER
from tracker.rules.outcomes import Rules, alarms_of, entry_of, replanned

CHANGED: Final = frozenset({Verdict.APPLIED, Verdict.COMPLETED})
# How many unsigned callbacks of one task get their own entries in the history.
UNSIGNED_ENTRIES: Final = 100


class RecordCallback(msgspec.Struct, frozen=True, kw_only=True):
    """Record a callback for the task of its URL or its IDs, or else as an orphan callback."""

    arrived: Arrived
    account: str
    rules: Rules

    @property
    def keys(self) -> frozenset[Key]:
        arrived = self.arrived
        report = arrived.observation.report
        keys: list[Key] = []
        if arrived.task_id is not None:
            keys.append(by_id(arrived.task_id))
        elif report.external_id is not None:
            keys.append(by_sent_id(arrived.provider, self.account, report.external_id))
        if report.provider_task_id is not None:
            # Also at a task callback URL: if another row has this ID, it is not the ID of this task.
            keys.append(by_provider_id(arrived.provider, self.account, report.provider_task_id))
        return frozenset(keys)

    def decide(self, known: Known) -> Change[Recorded]:
        arrived, account, rules = self.arrived, self.account, self.rules
        observation = arrived.observation
        counts = {"callbacks": 1}
        task = _addressed(known, arrived, account)
        if task is None:
            return _orphaned(arrived, counts)
        if known.other_holder(task, observation.report.provider_task_id) is not None:
            observation = structs.replace(observation, mismatch=OF_ANOTHER)
        transition = lifecycle.advance(task, observation, threshold=rules.thresholds[task.provider])
        after = transition.task
        after = changed(after, unproven_id_from=_source_of_id(task, after, observation))
        if after.candidate_id is not None and known.get(by_provider_id(task.provider, account, after.candidate_id)):
            # Another row has this ID, so it is not the ID of this task.
            after = changed(after, candidate_id=None, unproven_id_from=None)
        applied = transition.verdict in CHANGED
        # A new ID restarts the count of polls without a change.
        fresh = applied or after.candidate_id != task.candidate_id
        after = changed(
            after,
            # A callback is a sign that the provider has the task, so earlier not-found answers no longer count.
            not_found=0,
            quiet_polls=0 if fresh else after.quiet_polls,
        )
        if applied and after.status in FINAL:
            after = replanned(after, now=observation.at, rules=rules, lifetime=timedelta())
        if _worth_polling(after, transition, observation.report):
            after = changed(after, next_poll_at=schedule.early_poll_at(after, now=observation.at, policy=rules.policy))
        if after.status not in SETTLED and after.next_poll_at is None:
            after = replanned(after, now=observation.at, rules=rules, lifetime=timedelta())
        if transition.trust is Trust.UNVERIFIED:
            counts["unverified_callbacks"] = 1
        after, entry = _kept(after, transition, observation)
        return Change(
            result=Recorded(task_id=task.id, verdict=transition.verdict, why=transition.why),
            task=after,
            entries=(entry,),
            events=transition.events,
            alarms=alarms_of(transition, observation),
            drop_submission=after.status in FINAL,
            counts=counts,
        )


def _source_of_id(before: Task, after: Task, observation: Observation) -> IdSource | None:
    """Return the source of the row's unverified ID. A signed callback also confirms the ID of an unsigned one."""
    is_signed = observation.trust is Trust.SIGNED
    if after.candidate_id != before.candidate_id:
        return IdSource.SIGNED if is_signed else IdSource.CALLBACK
    is_same = after.candidate_id is not None and after.candidate_id == observation.report.provider_task_id
    if is_signed and is_same and after.unproven_id_from is IdSource.CALLBACK:
        return IdSource.SIGNED
    return after.unproven_id_from


def _kept(task: Task, transition: Transition, observation: Observation) -> tuple[Task, Entry]:
    """Return the history entry. Beyond the limit of a task, unsigned callbacks that change nothing share one entry."""
    if observation.trust is not Trust.SIGNED:
        task = changed(task, unsigned=task.unsigned + 1)
        if task.unsigned > UNSIGNED_ENTRIES and transition.verdict is not Verdict.APPLIED:
            why = f"more than {UNSIGNED_ENTRIES} callbacks were unsigned, so this one and later ones are only counted"
            return task, entry_of(transition, observation, "callback|unsigned", why=why)
    webhook_id = observation.webhook_id
    what = f"id {webhook_id}" if webhook_id is not None else hashlib.sha256(observation.body).hexdigest()
    return task, entry_of(transition, observation, f"callback|{TRUST_NAMES[transition.trust]}|{what}")


def _worth_polling(task: Task, transition: Transition, report: Report) -> bool:
    """Return whether a callback should bring the next poll forward.

    A final status from a poll needs no more polls. A final status from a callback does, if another callback contradicts
    it. The contradicting callback counts even if it is unverified, because it may be correct.
    """
    if task.status in FINAL:
        if task.precedence.polled:
            return False
        return facts.in_conflict(task) or schedule.lacks_result(task)
    if transition.verdict is Verdict.UNREADABLE or transition.verdict is Verdict.UNVERIFIED:
        return True
    return task.status is Status.EXPIRED and report.status not in FINAL


def _addressed(known: Known, arrived: Arrived, account: str) -> Task | None:
    if arrived.task_id is not None:
        return known.get(by_id(arrived.task_id))
    report = arrived.observation.report
    if report.provider_task_id is not None:
        task = known.get(by_provider_id(arrived.provider, account, report.provider_task_id))
        if task is not None:
            return task
    if report.external_id is not None:
        return known.get(by_sent_id(arrived.provider, account, report.external_id))
    return None


def _orphaned(arrived: Arrived, counts: dict[str, int]) -> Change[Recorded]:
    observation = arrived.observation
    report = observation.report
    shared_url = arrived.shared_url
    why = "no such task is known" if shared_url is not None else "its row is gone"
    alarm = RaisedAlarm(kind=Alarm.ORPHAN, provider=arrived.provider, at=observation.at, task_id=None, detail=why)
    name = report.provider_task_id or report.external_id
    orphan = Orphan(
        id=0,
        provider=arrived.provider,
        provider_task_id=name or "unreadable " + hashlib.sha256(observation.body).hexdigest()[:16],
        external_id=report.external_id,
        kind=shared_url.kind if shared_url is not None else None,
        client=shared_url.client if shared_url is not None else "",
        address=f"shared URL {shared_url.id}" if shared_url is not None else f"task {arrived.task_id}",
        provider_status=report.provider_status,
        state="waiting" if shared_url is not None and name is not None else "orphan",
        why=report.flaw or why,
        first_at=observation.at,
        last_at=observation.at,
        callbacks=1,
        poll_count=0,
        next_poll_at=observation.at if shared_url is not None and name is not None else None,
        task_id=None,
        signed=observation.trust is Trust.SIGNED,
        body=observation.body,
    )
    recorded = Recorded(task_id=None, verdict=Verdict.UNVERIFIED, why=why, orphan=True)
    return Change(result=recorded, orphan=orphan, alarms=(alarm,), counts=counts)
