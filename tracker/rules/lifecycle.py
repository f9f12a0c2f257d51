"""The state machine: how observations change a task, as tables and one total order.

The functions are pure. The status of a task is the greatest verified status in a written total order, not the first
one to arrive. So observations may come in any order and any number of times, and the task ends with the same status
and facts. Version, history and alarms follow the order of arrival.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final

from msgspec import structs

from tracker.model.facts import RANK, asset_to_json, assets, message, output, price
from tracker.model.task import (
    FINAL,
    SETTLED,
    Alarm,
    Event,
    Fact,
    Flaw,
    IdSource,
    Observation,
    Precedence,
    Report,
    Source,
    Status,
    Task,
    Transition,
    Trust,
    Verdict,
    changed,
)
from tracker.model.untrusted import JsonValue

# For each status, the statuses that a verified report may change it to. The two finals change to each other only by the
# precedence of contradictory finals. docs/reference/state-machine.md is generated from this table.
TRANSITIONS: Final[Mapping[Status, frozenset[Status]]] = MappingProxyType(
    {
        status: frozenset(other for other in Status if RANK[other] >= max(RANK[status], 1) and other is not status)
        for status in Status
    }
)

# In these statuses it is unknown when the provider accepted the task.
NOT_ACCEPTED: Final = frozenset({Status.PENDING, Status.REJECTED, Status.EXPIRED})
# The ``updated_at`` of a manual resolution. Any poll has precedence over it.
BEFORE_ANY_POLL: Final = -1
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
# After so many not-found answers about the ID of a callback, the ID of a newer callback is the one to poll.
DENIALS: Final = 2
# The sources that decide between contradictory finals: a poll, and the operator.
DECIDING: Final = frozenset({Source.POLL, Source.OPERATOR})
FLAW_REASONS: Final[Mapping[Flaw, str]] = MappingProxyType(
    {
        Flaw.UNSIGNED: "it has no signature",
        Flaw.BAD_SIGNATURE: "its signature is wrong",
        Flaw.STALE_SIGNATURE: "its signature is too old",
        Flaw.SHARED_URL: "a shared callback URL does not verify it",
    }
)
FLAW_ALARMS: Final[Mapping[Flaw, Alarm]] = MappingProxyType(
    {
        Flaw.UNSIGNED: Alarm.UNSIGNED,
        Flaw.BAD_SIGNATURE: Alarm.BAD_SIGNATURE,
        Flaw.STALE_SIGNATURE: Alarm.STALE_SIGNATURE,
    }
)


def advance(task: Task, observation: Observation, *, threshold: Trust) -> Transition:
    """Apply ``observation`` to the task and return the transition.

    Every observation gets a verdict, and none raises. ``threshold`` is the lowest trust level for a final status.
    """
    trust, why, alarms = weigh(task, observation)
    report = observation.report
    seen = changed(task, last_observed_at=observation.at) if observation.source is Source.CALLBACK else task
    if observation.mismatch:
        # The report is about another task, so nothing of it is kept on this one.
        return Transition(task=seen, verdict=Verdict.UNVERIFIED, why=why, trust=trust, alarms=alarms)
    if report.flaw is not None:
        alarms = (*alarms, Alarm.UNREADABLE)
        return Transition(task=seen, verdict=Verdict.UNREADABLE, why=report.flaw, trust=trust, alarms=alarms)
    if report.status is None:
        alarms = (*alarms, Alarm.UNKNOWN_STATUS)
        known, why = _learn_ids(seen, report, trust), f"unknown status {report.provider_status!r}"
        return Transition(task=known, verdict=Verdict.UNREADABLE, why=why, trust=trust, alarms=alarms)
    if trust is not Trust.UNVERIFIED and report.status in FINAL and trust < threshold:
        why = f"a final status needs the trust level {threshold.name.lower()}, so Homing polls the provider"
    elif trust is not Trust.UNVERIFIED:
        return _accept(seen, observation, trust, alarms)
    seen = _learn_ids(seen, report, trust)
    if _names_candidate(seen, observation):
        # An ID to poll. A callback alone does not set the provider ID.
        seen = changed(seen, candidate_id=report.provider_task_id)
    unverified = _claimed(seen, observation, seen.status)
    return Transition(task=unverified, verdict=Verdict.UNVERIFIED, why=why, trust=trust, alarms=alarms)


def weigh(task: Task, observation: Observation) -> tuple[Trust, str, tuple[Alarm, ...]]:
    """Return the trust level of an observation about *this* task. Its IDs must match the row.

    For the provider's answers ``rules.identity`` checks the IDs. A signature does not cover the URL, so a sender can
    replay a valid callback at the URL of another task. If the row has the provider ID, the body must have the same one.
    Otherwise its external ID must be the one that Homing sent.
    """
    flaw = observation.flaw
    alarms = (FLAW_ALARMS[flaw],) if flaw is not None and flaw in FLAW_ALARMS else ()
    if observation.mismatch:
        return Trust.UNVERIFIED, observation.mismatch, (*alarms, Alarm.MISMATCH)
    if observation.source is not Source.CALLBACK:
        return observation.trust, "", ()
    report = observation.report
    if report.flaw is None and not ids_agree(task, report):
        if task.provider_task_id is None and (task.sent_external_id, report.external_id) == (None, None):
            # There is no ID to compare yet. The one in the body is a candidate, which a poll has to confirm.
            return Trust.UNVERIFIED, "its ID is not known yet, so Homing polls the provider", alarms
        return Trust.UNVERIFIED, _disagreement(task, report), (*alarms, Alarm.MISMATCH)
    if observation.trust is Trust.UNVERIFIED:
        return Trust.UNVERIFIED, FLAW_REASONS[flaw] if flaw else "it is not verified", alarms
    # Even a signed callback has less trust than the provider's answer to a poll.
    return min(observation.trust, Trust.SIGNED), "", alarms


def ids_agree(task: Task, report: Report) -> bool:
    """Return whether the IDs in a body match the row. A missing ID does not match."""
    if task.provider_task_id is not None:
        return report.provider_task_id == task.provider_task_id
    return task.sent_external_id is not None and report.external_id == task.sent_external_id


def precedence(report: Report, *, polled: bool) -> Precedence:
    """Return the precedence of a report with a known status. ``polled``: its source is in ``DECIDING``."""
    assert report.status is not None
    final = report.status in FINAL
    return Precedence(
        rank=RANK[report.status],
        polled=final and polled,
        updated_at=_microseconds(report.updated_at) if final else 0,
        success=report.status is Status.SUCCEEDED,
    )


def _accept(task: Task, observation: Observation, trust: Trust, alarms: tuple[Alarm, ...]) -> Transition:
    report = observation.report
    assert report.status is not None
    polled = observation.source in DECIDING
    place = precedence(report, polled=polled)
    if observation.source is Source.OPERATOR and place.polled:
        place = structs.replace(place, updated_at=BEFORE_ANY_POLL)
    contradiction = report.status in FINAL and task.status in FINAL and report.status is not task.status
    if contradiction:
        alarms = (*alarms, Alarm.CONTRADICTION)
    known = _learn_ids(task, report, trust)
    facts = merge_facts(known.facts, report, polled=polled)
    if place > task.precedence and report.status is not task.status:
        if task.status is Status.REJECTED:
            alarms = (*alarms, Alarm.REVIVED)
        return _moved(known, facts, observation, place, trust, alarms)
    accepted = _claimed(changed(known, facts=facts, precedence=max(place, task.precedence)), observation, task.status)
    if place > task.precedence:
        accepted = changed(accepted, status_source=observation.source, status_trust=trust)
    if _shown(accepted) != _shown(task):
        return _completed(accepted, observation, trust, alarms)
    if report.status is task.status:
        return Transition(task=accepted, verdict=Verdict.CONFIRMED, why="nothing new", trust=trust, alarms=alarms)
    verdict = Verdict.CONTRADICTED if contradiction else Verdict.OUTRANKED
    why = f"{task.status.value} has precedence over {report.status.value}"
    return Transition(task=accepted, verdict=verdict, why=why, trust=trust, alarms=alarms)


def _moved(
    task: Task,
    facts: Mapping[str, Fact],
    observation: Observation,
    place: Precedence,
    trust: Trust,
    alarms: tuple[Alarm, ...],
) -> Transition:
    status = observation.report.status
    assert status is not None
    corrected = task.status in FINAL
    after = changed(
        _claimed(changed(task, precedence=place), observation, status),
        status=status,
        facts=facts,
        reason=observation.note or None,
        status_source=observation.source,
        status_trust=trust,
        version=task.version + 1,
        updated_at=observation.at,
        submitted_at=task.submitted_at or (observation.at if status not in NOT_ACCEPTED else None),
        finished_at=observation.at if status in SETTLED else None,
    )
    name = "corrected" if corrected else status.value
    why = f"{task.status.value} → {status.value}"
    return Transition(
        task=after,
        verdict=Verdict.APPLIED,
        why=why,
        trust=trust,
        events=(event(after, name, observation.at),),
        alarms=alarms,
    )


def _completed(task: Task, observation: Observation, trust: Trust, alarms: tuple[Alarm, ...]) -> Transition:
    after = changed(task, version=task.version + 1, updated_at=observation.at)
    return Transition(
        task=after,
        verdict=Verdict.COMPLETED,
        why="new facts",
        trust=trust,
        events=(event(after, "updated", observation.at),),
        alarms=alarms,
    )


def event(task: Task, name: str, at: datetime) -> Event:
    """Make the event of one accepted change."""
    return Event(type=f"homing.task.{name}", task=task, at=at)


def merge_facts(facts: Mapping[str, Fact], report: Report, *, polled: bool) -> Mapping[str, Fact]:
    """Merge the facts of an accepted report, each by its own precedence. Ignore empty facts.

    Only a final report can set results and prices, because other reports need less trust.
    """
    final = report.status in FINAL
    found: dict[str, JsonValue] = {}
    if final and report.assets:
        found["assets"] = [asset_to_json(asset) for asset in report.assets]
    if final and report.output is not None:
        found["output"] = report.output
    if final and report.price:
        found["price"] = dict(report.price)
    if report.message:
        found["message"] = report.message
    if not found:
        return facts
    assert report.status is not None
    place = Precedence(
        rank=RANK[report.status],
        polled=polled,
        updated_at=_microseconds(report.updated_at),
        success=report.status is Status.SUCCEEDED,
    )
    merged = dict(facts)
    for name, value in found.items():
        fact = Fact(precedence=place, value=value)
        if name not in merged or _fact_order(fact) > _fact_order(merged[name]):
            merged[name] = fact
    return merged


def _claimed(task: Task, observation: Observation, status: Status) -> Task:
    """Record the final statuses that were reported besides ``status``, the current one.

    The set only grows until a poll or a manual resolution decides the status.
    """
    decided = task.precedence.polled and status in FINAL
    reported = FINAL.intersection((*task.conflict_statuses, observation.report.status, task.status)) - {status}
    reports = () if decided else tuple(sorted(reported))
    since = (task.conflict_at or observation.at) if reports and status in FINAL else None
    if reports == task.conflict_statuses and since == task.conflict_at:
        return task
    return changed(task, conflict_statuses=reports, conflict_at=since)


def _names_candidate(task: Task, observation: Observation) -> bool:
    """Return whether an unverified callback names the ID to poll from now on.

    The first ID stays until the provider has denied it twice. Then a newer one replaces it, but a signed ID only if the
    newer one is signed too. The ID of the owner always stays. A task that Homing submitted without an external ID is at
    a provider that signs every callback, so there a signed callback replaces an unsigned one at once.
    """
    if task.provider_task_id is not None or observation.report.provider_task_id is None:
        return False
    if task.candidate_id is None:
        return True
    if task.unproven_id_from is IdSource.OWNER:
        return False
    is_signed, was_signed = observation.trust is Trust.SIGNED, task.unproven_id_from is IdSource.SIGNED
    if is_signed and not was_signed and task.sent_external_id is None and task.attempts > 0:
        return True
    return task.not_found >= DENIALS and (is_signed or not was_signed)


def _learn_ids(task: Task, report: Report, trust: Trust) -> Task:
    if task.provider_task_id is not None or not report.provider_task_id or trust is Trust.UNVERIFIED:
        return task
    if trust is Trust.PROVIDER:
        return changed(task, provider_task_id=report.provider_task_id, candidate_id=None)
    # A callback alone does not set the provider ID. But one with the row's external ID is more reliable than one
    # without, so its ID is the one to poll. The owner's word is the most reliable.
    return task if task.unproven_id_from is IdSource.OWNER else changed(task, candidate_id=report.provider_task_id)


def _disagreement(task: Task, report: Report) -> str:
    """Return what does not match, without the other task's ID. That task may be another client's."""
    if task.provider_task_id is not None:
        return "it has another provider task ID" if report.provider_task_id else "it has no provider task ID"
    return "it has another external ID" if report.external_id else "it has no external ID"


def _shown(task: Task) -> tuple[object, ...]:
    """Return the facts that a reader of the task sees. Only a change of these makes a new version."""
    return (assets(task), output(task), price(task), message(task), task.provider_task_id)


def _fact_order(fact: Fact) -> tuple[Precedence, str]:
    return fact.precedence, json.dumps(fact.value, sort_keys=True)


def _microseconds(moment: datetime | None) -> int:
    if moment is None:
        return 0
    return (moment - EPOCH) // MICROSECOND
