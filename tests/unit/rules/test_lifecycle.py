"""Tests of the state machine and of the trust rules: each test fails if its rule is removed."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from tests.properties.observations import observed_in_turn
from tests.support.builders import NOW, PICTURE, THEIR_ID, a_report, a_task, by_callback, by_poll, inferred
from tracker.model import facts
from tracker.model.facts import RANK
from tracker.model.task import Alarm, Flaw, Observation, Report, Source, Status, Task, Transition, Trust, Verdict
from tracker.rules import lifecycle
from tracker.rules.lifecycle import advance

PENDING = a_task()
SUBMITTED = observed_in_turn(PENDING, [by_poll(a_report(Status.SUBMITTED))], Trust.TOKEN)
LATER = NOW + timedelta(seconds=1)


def after(task: Task, *observations: Observation, threshold: Trust = Trust.TOKEN) -> Task:
    return observed_in_turn(task, observations, threshold)


def weighed(task: Task, observation: Observation, threshold: Trust = Trust.TOKEN) -> Transition:
    return advance(task, observation, threshold=threshold)


def at(status: Status) -> Task:
    """Return a task with this status."""
    if status is Status.PENDING:
        return PENDING
    if status is Status.REJECTED:
        return after(PENDING, inferred(status))
    if status is Status.EXPIRED:
        return after(SUBMITTED, inferred(status))
    return after(SUBMITTED, by_callback(a_report(status)))


# ---- Statuses and transitions


def test_normal_statuses_follow_in_order() -> None:
    task, seen = PENDING, [PENDING.status]
    for status in (Status.SUBMITTED, Status.PROCESSING, Status.SUCCEEDED):
        task = after(task, by_poll(a_report(status)))
        seen.append(task.status)
    assert seen == [Status.PENDING, Status.SUBMITTED, Status.PROCESSING, Status.SUCCEEDED]


@pytest.mark.parametrize("before", list(Status))
@pytest.mark.parametrize("status", list(Status))
def test_poll_transitions_match_the_table(before: Status, status: Status) -> None:
    task = at(before)
    report = Report(status=status) if status in facts.INFERRED else a_report(status, updated_at=LATER)
    moved = weighed(task, by_poll(report)).verdict is Verdict.APPLIED
    assert moved == (status in lifecycle.TRANSITIONS[before])


@pytest.mark.parametrize("inference", [Status.REJECTED, Status.EXPIRED])
@pytest.mark.parametrize("final", [Status.SUCCEEDED, Status.FAILED])
@pytest.mark.parametrize("trust", [Trust.TOKEN, Trust.SIGNED, Trust.PROVIDER])
def test_verified_final_status_beats_inference(inference: Status, final: Status, trust: Trust) -> None:
    observation = by_poll(a_report(final)) if trust is Trust.PROVIDER else by_callback(a_report(final), trust)
    assert after(at(inference), observation).status is final


@pytest.mark.parametrize("status", [Status.SUBMITTED, Status.PROCESSING, Status.SUCCEEDED])
def test_verified_status_revives_rejected_task(status: Status) -> None:
    transition = weighed(at(Status.REJECTED), by_poll(a_report(status)))
    assert transition.task.status is status
    assert transition.alarms == (Alarm.REVIVED,)


def test_expired_task_accepts_only_final_status() -> None:
    expired = at(Status.EXPIRED)
    assert weighed(expired, by_poll(a_report(Status.PROCESSING))).verdict is Verdict.OUTRANKED
    assert after(expired, by_poll(a_report(Status.PROCESSING)), by_poll(a_report())).status is Status.SUCCEEDED


@pytest.mark.parametrize("final", [Status.SUCCEEDED, Status.FAILED])
@pytest.mark.parametrize("status", [Status.SUBMITTED, Status.PROCESSING, Status.REJECTED, Status.EXPIRED])
def test_final_status_survives_a_later_other_status(final: Status, status: Status) -> None:
    late = inferred(status) if status in facts.INFERRED else by_poll(a_report(status, updated_at=LATER))
    assert after(at(final), late).status is final


@pytest.mark.parametrize(
    ("polled", "delivered"), [(Status.FAILED, Status.SUCCEEDED), (Status.SUCCEEDED, Status.FAILED)]
)
def test_contradicting_finals_prefer_the_poll(polled: Status, delivered: Status) -> None:
    poll = by_poll(a_report(polled))
    delivery = by_callback(a_report(delivered, updated_at=LATER), Trust.SIGNED)
    assert after(SUBMITTED, poll, delivery).status is after(SUBMITTED, delivery, poll).status is polled


@pytest.mark.parametrize("make", [by_poll, by_callback])
@pytest.mark.parametrize(("late", "early"), [(Status.FAILED, Status.SUCCEEDED), (Status.SUCCEEDED, Status.FAILED)])
@pytest.mark.parametrize("before", [NOW, None])
def test_contradicting_finals_prefer_the_later(make: object, late: Status, early: Status, before: object) -> None:
    assert callable(make)
    first = make(a_report(early, updated_at=before))
    second = make(a_report(late, updated_at=LATER))
    assert after(SUBMITTED, first, second).status is after(SUBMITTED, second, first).status is late


@pytest.mark.parametrize("updated_at", [NOW, None])
def test_contradicting_finals_prefer_success(updated_at: object) -> None:
    failure, success = (
        by_callback(a_report(status, updated_at=updated_at)) for status in (Status.FAILED, Status.SUCCEEDED)
    )
    assert after(SUBMITTED, failure, success).status is after(SUBMITTED, success, failure).status is Status.SUCCEEDED


def test_changed_final_status_is_corrected_with_alarm() -> None:
    transition = weighed(at(Status.FAILED), by_poll(a_report(Status.SUCCEEDED)))
    assert [event.type for event in transition.events] == ["homing.task.corrected"]
    assert transition.alarms == (Alarm.CONTRADICTION,)


def test_contradiction_without_change_is_an_alarm() -> None:
    transition = weighed(after(SUBMITTED, by_poll(a_report(Status.SUCCEEDED))), by_callback(a_report(Status.FAILED)))
    assert transition.verdict is Verdict.CONTRADICTED
    assert transition.alarms == (Alarm.CONTRADICTION,)
    assert transition.events == ()


def test_empty_success_is_completed_by_next_report() -> None:
    empty = after(SUBMITTED, by_callback(a_report()))
    assert facts.assets(empty) == ()
    transition = weighed(empty, by_callback(a_report(assets=(PICTURE,))))
    assert transition.verdict is Verdict.COMPLETED
    assert facts.assets(transition.task) == (PICTURE,)
    assert [event.type for event in transition.events] == ["homing.task.updated"]


def test_empty_facts_keep_known_facts() -> None:
    full = after(SUBMITTED, by_callback(a_report(assets=(PICTURE,), price={"billing": 1}, message="done")))
    assert weighed(full, by_poll(a_report(updated_at=LATER))).verdict is Verdict.CONFIRMED
    bare = after(full, by_poll(a_report(updated_at=LATER)))
    assert (facts.assets(bare), facts.price(bare), facts.message(bare)) == (
        (PICTURE,),
        {"billing": 1},
        "done",
    )


def test_facts_follow_report_precedence() -> None:
    polled = by_poll(a_report(message="the poll's"))
    delivered = by_callback(a_report(message="the delivery's", updated_at=LATER))
    assert facts.message(after(SUBMITTED, polled, delivered)) == "the poll's"
    assert facts.message(after(SUBMITTED, delivered, polled)) == "the poll's"


def test_only_success_shows_results() -> None:
    with_files = after(SUBMITTED, by_callback(a_report(assets=(PICTURE,))))
    assert facts.assets(after(with_files, by_poll(a_report(Status.FAILED)))) == ()


def test_repeated_status_is_confirmed_without_event() -> None:
    transition = weighed(at(Status.PROCESSING), by_callback(a_report(Status.PROCESSING)))
    assert (transition.verdict, transition.events) == (Verdict.CONFIRMED, ())


@pytest.mark.parametrize("make", [by_poll, by_callback])
def test_unknown_status_is_an_alarm_without_change(make: object) -> None:
    assert callable(make)
    transition = weighed(
        SUBMITTED, make(a_report(None, provider_status="cancelled", message="a fact", assets=(PICTURE,)))
    )
    assert transition.verdict is Verdict.UNREADABLE
    assert transition.alarms == (Alarm.UNKNOWN_STATUS,)
    assert transition.why == "unknown status 'cancelled'"
    assert replace(transition.task, last_observed_at=None) == replace(SUBMITTED, last_observed_at=None)


def test_unreadable_report_is_an_alarm_without_change() -> None:
    transition = weighed(SUBMITTED, by_callback(Report(flaw="the body is not JSON")))
    assert (transition.verdict, transition.alarms) == (Verdict.UNREADABLE, (Alarm.UNREADABLE,))
    assert transition.task.version == SUBMITTED.version


def test_status_rank_is_total() -> None:
    assert sorted(RANK.values()) == [0, 1, 2, 3, 4, 5, 5]
    assert RANK[Status.SUCCEEDED] == RANK[Status.FAILED] == max(RANK.values())
    assert RANK.keys() == set(Status) == lifecycle.TRANSITIONS.keys()


def test_inferred_status_shows_its_own_message() -> None:
    expired = after(
        SUBMITTED,
        by_callback(a_report(Status.PROCESSING, message="in the queue")),
        inferred(Status.EXPIRED, note="too late"),
    )
    assert facts.message(expired) == "too late"
    assert facts.message(after(expired, by_poll(a_report(message="done")))) == "done"


# ---- Trust


def test_unverified_callback_only_sets_a_candidate() -> None:
    transition = weighed(PENDING, by_callback(a_report(), Trust.UNVERIFIED, flaw=Flaw.UNSIGNED))
    assert (transition.verdict, transition.trust) == (Verdict.UNVERIFIED, Trust.UNVERIFIED)
    reports = (Status.SUCCEEDED,)
    assert transition.task == replace(PENDING, candidate_id=THEIR_ID, last_observed_at=NOW, conflict_statuses=reports)


@pytest.mark.parametrize(
    ("flaw", "alarms"),
    [
        (Flaw.UNSIGNED, (Alarm.UNSIGNED,)),
        (Flaw.BAD_SIGNATURE, (Alarm.BAD_SIGNATURE,)),
        (Flaw.STALE_SIGNATURE, (Alarm.STALE_SIGNATURE,)),
        (Flaw.SHARED_URL, ()),
    ],
)
def test_signature_flaw_is_an_alarm(flaw: Flaw, alarms: tuple[Alarm, ...]) -> None:
    assert weighed(SUBMITTED, by_callback(a_report(), Trust.UNVERIFIED, flaw=flaw)).alarms == alarms


@pytest.mark.parametrize("trust", [Trust.TOKEN, Trust.SIGNED])
@pytest.mark.parametrize("threshold", [Trust.TOKEN, Trust.SIGNED, Trust.PROVIDER])
@pytest.mark.parametrize("final", [Status.SUCCEEDED, Status.FAILED])
def test_final_callback_below_threshold_is_unverified(trust: Trust, threshold: Trust, final: Status) -> None:
    transition = weighed(SUBMITTED, by_callback(a_report(final), trust), threshold)
    assert transition.task.status is (final if trust >= threshold else Status.SUBMITTED)
    assert (transition.verdict is Verdict.UNVERIFIED) == (trust < threshold)


def test_final_poll_ignores_the_threshold() -> None:
    assert weighed(SUBMITTED, by_poll(a_report()), Trust.PROVIDER).task.status is Status.SUCCEEDED


def test_unfinished_callback_ignores_the_threshold() -> None:
    assert weighed(SUBMITTED, by_callback(a_report(Status.PROCESSING)), Trust.SIGNED).task.status is Status.PROCESSING


@pytest.mark.parametrize("trust", [Trust.TOKEN, Trust.SIGNED])
@pytest.mark.parametrize("theirs", ["another", None])
def test_callback_with_other_provider_id_is_unverified(trust: Trust, theirs: str | None) -> None:
    transition = weighed(SUBMITTED, by_callback(a_report(provider_task_id=theirs), trust))
    assert (transition.trust, transition.verdict) == (Trust.UNVERIFIED, Verdict.UNVERIFIED)
    assert transition.alarms == (Alarm.MISMATCH,)
    assert transition.task.status is Status.SUBMITTED


@pytest.mark.parametrize("trust", [Trust.TOKEN, Trust.SIGNED])
@pytest.mark.parametrize("ours", ["another", None])
def test_callback_with_other_external_id_is_unverified(trust: Trust, ours: str | None) -> None:
    transition = weighed(PENDING, by_callback(a_report(external_id=ours), trust))
    assert (transition.trust, transition.alarms) == (Trust.UNVERIFIED, (Alarm.MISMATCH,))
    assert transition.task.status is Status.PENDING


def test_callback_for_task_without_ids_is_unverified() -> None:
    transition = weighed(a_task(sent_external_id=None), by_callback(a_report(external_id=None)))
    assert (transition.trust, transition.alarms) == (Trust.UNVERIFIED, ())
    assert transition.task.candidate_id == "provider-1"


def test_signed_callback_replaces_candidate_of_a_forged_one() -> None:
    forged = by_callback(a_report(provider_task_id="forged", external_id=None), Trust.UNVERIFIED)
    signed = by_callback(a_report(external_id=None), Trust.SIGNED)

    assert after(a_task(sent_external_id=None, attempts=1), forged).candidate_id == "forged"
    assert after(a_task(sent_external_id=None, attempts=1), forged, signed).candidate_id == "provider-1"
    assert after(a_task(sent_external_id=None, attempts=1), signed, forged).candidate_id == "provider-1"


def test_signed_callback_keeps_candidate_of_an_expected_task() -> None:
    """The provider may have left its own callback unsigned, and the signed one may be a replay."""
    own = by_callback(a_report(external_id=None), Trust.UNVERIFIED)
    replayed = by_callback(a_report(provider_task_id="another", external_id=None), Trust.SIGNED)
    assert after(a_task(sent_external_id=None), own, replayed).candidate_id == THEIR_ID


def test_known_provider_id_alone_must_match() -> None:
    assert weighed(SUBMITTED, by_callback(a_report(external_id="another"))).task.status is Status.SUCCEEDED


def test_callback_replayed_on_other_task_is_unverified() -> None:
    other = a_task(2)
    signed = by_callback(a_report(), Trust.SIGNED)
    assert weighed(other, signed).verdict is Verdict.UNVERIFIED
    known = after(other, by_poll(a_report(Status.SUBMITTED, provider_task_id="provider-2", external_id=other.id)))
    assert weighed(known, signed).verdict is Verdict.UNVERIFIED


@pytest.mark.parametrize("source", [Source.POLL, Source.SUBMIT])
def test_poll_or_submit_reply_sets_provider_id(source: Source) -> None:
    task = after(replace(PENDING, candidate_id="a guess"), by_poll(a_report(Status.SUBMITTED), source=source))
    assert (task.provider_task_id, task.candidate_id) == (THEIR_ID, None)


@pytest.mark.parametrize("trust", list(Trust))
def test_callback_never_sets_provider_id(trust: Trust) -> None:
    assert weighed(PENDING, by_callback(a_report(), trust)).task.provider_task_id is None


def test_callback_never_has_provider_trust() -> None:
    delivery = by_callback(a_report(Status.FAILED, updated_at=LATER), Trust.PROVIDER)
    assert after(SUBMITTED, by_poll(a_report()), delivery).status is Status.SUCCEEDED
    assert weighed(SUBMITTED, delivery, Trust.PROVIDER).verdict is Verdict.UNVERIFIED


def test_known_provider_id_is_never_replaced() -> None:
    assert after(SUBMITTED, by_poll(a_report(provider_task_id="another"))).provider_task_id == THEIR_ID


@pytest.mark.parametrize(
    ("task", "ids", "why"),
    [
        (SUBMITTED, {"provider_task_id": "another"}, "it has another provider task ID"),
        (SUBMITTED, {"provider_task_id": None}, "it has no provider task ID"),
        (PENDING, {"external_id": "another's"}, "it has another external ID"),
        (PENDING, {"external_id": None}, "it has no external ID"),
    ],
)
def test_unverified_reason_names_the_mismatch(task: Task, ids: dict[str, Any], why: str) -> None:
    assert weighed(task, by_callback(a_report(**ids))).why == why


def test_second_unverified_callback_keeps_candidate() -> None:
    task = after(
        PENDING,
        by_callback(a_report(), Trust.UNVERIFIED),
        by_callback(a_report(provider_task_id="another"), Trust.UNVERIFIED),
    )
    assert task.candidate_id == THEIR_ID


def test_poll_with_unknown_status_sets_provider_id() -> None:
    assert after(PENDING, by_poll(a_report(None))).provider_task_id == THEIR_ID
    assert after(PENDING, by_callback(a_report(None))).provider_task_id is None


def test_unfinished_report_shows_no_results() -> None:
    early = by_callback(a_report(Status.PROCESSING, assets=(PICTURE,), price={"billing": 1}, message="soon"))
    task = after(SUBMITTED, early)
    assert (facts.price(task), facts.message(task)) == ({}, "soon")
    assert facts.assets(after(task, by_poll(a_report()))) == ()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "watermark_url": "https://w",
            "duration": "5.1",
            "provider_asset_id": "a",
            "expires_at": NOW,
            "index": 3,
            "group": "series",
        },
    ],
)
def test_asset_survives_json_round_trip(changes: dict[str, Any]) -> None:
    asset = structs.replace(PICTURE, **changes)
    assert facts.asset_from_json(facts.asset_to_json(asset)) == asset
