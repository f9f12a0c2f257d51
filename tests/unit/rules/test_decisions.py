"""Tests of what each step of a submission records, given the known rows."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.properties.observations import observed_in_turn
from tests.support.builders import NOW, PICTURE, THEIR_ID, a_report, a_task, by_callback, by_poll
from tests.support.decisions import LATE, POLICY, RULES, SOON, accepted, delivered, in_flight, intended, polled, row
from tracker.errors import Conflict
from tracker.model.changes import Change, Known, by_id
from tracker.model.task import Alarm, Flaw, IdSource, Report, Status, Task, Trust, Verdict
from tracker.rules import identity, recovery
from tracker.rules.create_requests import NoteAbandoned, NoteAnswered, RecordSubmission, SubmitDecision
from tracker.rules.identity import Attach, ReplyTo
from tracker.rules.submits import (
    BeginAttempt,
    GiveUp,
    RecordExpected,
    RecordNotMade,
    RecordRefused,
    RecordUnanswered,
)

# ---- create requests


@pytest.mark.parametrize("name", ["external_id", "idempotency_key"])
def test_repeated_named_request_returns_its_task(name: str) -> None:
    before = a_task(1, request_hash="h", **{name: "x"})
    assert intended(a_task(2, request_hash="h", **{name: "x"}), before) == SubmitDecision(task=before)


@pytest.mark.parametrize("name", ["external_id", "idempotency_key"])
def test_same_name_with_other_body_is_a_conflict(name: str) -> None:
    with pytest.raises(Conflict, match="x already exists"):
        intended(a_task(2, request_hash="other", **{name: "x"}), a_task(1, request_hash="h", **{name: "x"}))


@pytest.mark.parametrize("name", ["external_id", "idempotency_key"])
def test_name_of_rejected_task_is_free(name: str) -> None:
    rejected = a_task(1, request_hash="h", status=Status.REJECTED, released=True, **{name: "x"})
    assert intended(a_task(2, request_hash="h", **{name: "x"}), rejected).send


def test_new_submission_keeps_its_body() -> None:
    change = RecordSubmission(task=a_task(), body=b"the body", policy=POLICY).decide(Known())
    assert (change.submission, change.task) == (b"the body", a_task())


def test_new_submission_not_sendable_is_not_recorded() -> None:
    change = RecordSubmission(task=a_task(), body=b"the body", policy=POLICY, sendable=False).decide(Known())
    assert change.result == SubmitDecision(task=a_task(), send=True)
    assert (change.submission, change.task) == (None, None)


def test_repeated_request_not_sendable_returns_task() -> None:
    before = a_task(1, request_hash="h", idempotency_key="x")
    again = a_task(2, request_hash="h", idempotency_key="x")
    change = RecordSubmission(task=again, body=b"", policy=POLICY, sendable=False).decide(Known([before]))
    assert change.result == SubmitDecision(task=before)


def test_repeated_request_joins_abandoned_submission() -> None:
    abandoned = in_flight(taken_by="dead")
    decision = intended(in_flight(id="hm2"), abandoned)
    assert not decision.send
    assert (decision.task.id, decision.task.taken_by) == (abandoned.id, "us")


@pytest.mark.parametrize(
    "changes",
    [
        {"taken_by": "us"},
        {"answered_at": NOW},
        {"status": Status.REJECTED},
        {"client": "other"},
        {"request_hash": "other"},
        {"created_at": NOW - POLICY.resend_window},
        {"external_id": "x"},
        {"idempotency_key": "x"},
    ],
)
def test_other_submission_is_not_joined(changes: dict[str, Any]) -> None:
    assert intended(in_flight(id="hm2"), in_flight(**({"taken_by": "dead"} | changes))).send


@pytest.mark.parametrize("name", ["external_id", "idempotency_key"])
def test_named_request_does_not_join_unnamed_one(name: str) -> None:
    assert intended(in_flight(id="hm2", sent_external_id="hm3", **{name: "x"}), in_flight(taken_by="dead")).send


def test_equal_abandoned_submissions_join_one_by_one() -> None:
    known = Known([a_task(n, taken_by="dead", request_hash="h") for n in (2, 1)])
    joined = []
    for number in (3, 4, 5):
        again = a_task(number, taken_by="us", request_hash="h")
        change = RecordSubmission(task=again, body=b"", policy=POLICY).decide(known)
        known.put(row(change))
        joined.append(change.result.task.id)
    assert joined == [a_task(n).id for n in (1, 2, 5)]


def test_rejected_submission_does_not_hide_lost_one() -> None:
    refused = a_task(2, taken_by="dead", request_hash="h", status=Status.REJECTED, released=True)
    lost = a_task(1, taken_by="dead", request_hash="h")
    assert intended(a_task(3, taken_by="us", request_hash="h"), lost, refused).task.id == lost.id


# ---- tasks that another program creates


@pytest.mark.parametrize("name", ["external_id", "sent_external_id", "provider_task_id"])
def test_expected_task_with_known_id_is_a_conflict(name: str) -> None:
    with pytest.raises(Conflict, match="already known"):
        RecordExpected(task=a_task(2, **{name: "x"})).decide(Known([a_task(1, **{name: "x"})]))


def test_names_of_rejected_task_can_be_expected() -> None:
    names = {"external_id": "x", "sent_external_id": "x"}
    rejected = a_task(1, status=Status.REJECTED, released=True, **names)
    assert RecordExpected(task=a_task(2, **names)).decide(Known([rejected])).result == a_task(2, **names)


def test_provider_id_of_rejected_task_is_not_free() -> None:
    rejected = a_task(1, status=Status.REJECTED, released=True, provider_task_id="p")
    with pytest.raises(Conflict):
        RecordExpected(task=a_task(2, provider_task_id="p")).decide(Known([rejected]))


def attached(known: Known, task_id: str, provider_task_id: str, *, confirmable: bool = True) -> Change[Task]:
    task = known.get(by_id(task_id))
    assert task is not None
    work = Attach(task=task, provider_task_id=provider_task_id, now=NOW, confirmable=confirmable, rules=RULES)
    return work.decide(known)


def test_attached_id_is_candidate_until_confirmed() -> None:
    change = attached(Known([a_task()]), a_task().id, THEIR_ID)

    waiting = row(change)
    assert (waiting.provider_task_id, waiting.candidate_id, waiting.version) == (None, THEIR_ID, 2)
    assert waiting.next_poll_at == NOW + POLICY.early_poll_delay
    assert [event.task.version for event in change.events] == [2]
    assert attached(Known([waiting]), waiting.id, THEIR_ID).task is None
    confirmed = row(polled(waiting, by_poll(a_report(Status.PROCESSING, external_id=None)), reply_to=ReplyTo.CANDIDATE))
    assert (confirmed.provider_task_id, confirmed.candidate_id, confirmed.reason) == (THEIR_ID, None, None)
    assert confirmed.unproven_id_from is IdSource.OWNER


def test_attached_id_is_used_when_not_confirmable() -> None:
    after = row(attached(Known([a_task()]), a_task().id, "p", confirmable=False))

    assert (after.provider_task_id, after.unproven_id_from) == ("p", IdSource.OWNER)


def test_attaching_a_second_or_taken_id_is_a_conflict() -> None:
    known = Known([a_task(1, provider_task_id="p"), a_task(2)])
    for task_id, provider_task_id in ((a_task(1).id, "q"), (a_task(2).id, "p")):
        with pytest.raises(Conflict):
            attached(known, task_id, provider_task_id)


# ---- outcomes of a submission


def test_accepted_submission_releases_lease_and_body() -> None:
    change = accepted(in_flight(), a_report(Status.SUBMITTED))
    after = row(change)
    assert (after.status, after.provider_task_id, after.lease_owner) == (Status.SUBMITTED, THEIR_ID, None)
    assert after.next_poll_at == NOW + SOON + timedelta(seconds=44)
    assert change.drop_submission


def test_unverified_callback_before_reply_keeps_early_poll() -> None:
    observed = row(delivered(in_flight(), by_callback(a_report(), Trust.UNVERIFIED, flaw=Flaw.UNSIGNED)))
    assert observed.next_poll_at == NOW + POLICY.early_poll_delay
    assert row(accepted(observed, a_report(Status.SUBMITTED))).next_poll_at == NOW + POLICY.early_poll_delay


def test_early_callback_is_explained_by_submit_reply() -> None:
    """The provider supports no external IDs, and its first callback arrives before its reply."""
    begun = row(accepted(in_flight(), a_report(Status.SUBMITTED)))
    early = by_callback(a_report(Status.SUBMITTED, external_id=None), Trust.TOKEN)
    answered = row(accepted(row(delivered(in_flight(), early)), a_report(Status.SUBMITTED)))
    assert answered.next_poll_at == begun.next_poll_at
    other = row(accepted(row(delivered(in_flight(), early)), a_report(Status.SUBMITTED, provider_task_id="another")))
    unread = row(
        accepted(row(delivered(in_flight(), by_callback(Report(flaw="not JSON")))), a_report(Status.SUBMITTED))
    )
    assert other.next_poll_at == unread.next_poll_at == NOW + POLICY.early_poll_delay


def test_reply_naming_another_task_merges_nothing() -> None:
    other = a_task(2, provider_task_id=THEIR_ID)

    change = accepted(in_flight(), a_report(Status.SUBMITTED, price={"final_unit_deduction": "1"}), other)

    after = row(change)
    assert (after.status, after.provider_task_id, after.facts) == (Status.PENDING, None, {})
    assert (after.reason, after.next_poll_at) == (recovery.LOOKING_UP, NOW + SOON + POLICY.first_lookup)
    assert [alarm.kind for alarm in change.alarms] == [Alarm.MISMATCH]
    assert not change.drop_submission
    assert change.others == ()


@pytest.mark.parametrize("named_by", [IdSource.OWNER, IdSource.CALLBACK, IdSource.LOOKUP])
def test_submit_reply_takes_id_from_unproven_task(named_by: IdSource) -> None:
    observed = observed_in_turn(
        a_task(2, provider_task_id=THEIR_ID), [by_poll(a_report(assets=(PICTURE,)))], Trust.TOKEN
    )
    unproven = replace(observed, unproven_id_from=named_by, client="other")

    change = accepted(in_flight(), a_report(Status.SUBMITTED, external_id=None), unproven)

    after, (other,) = row(change), change.others
    assert (after.status, after.provider_task_id, after.unproven_id_from) == (Status.SUBMITTED, THEIR_ID, None)
    assert (other.id, other.provider_task_id, other.status, other.facts) == (unproven.id, None, Status.PENDING, {})
    assert other.reason == identity.WITHDRAWN
    assert other.next_poll_at is not None
    assert [event.type for event in change.events] == ["homing.task.submitted", "homing.task.corrected"]
    assert [(alarm.kind, alarm.task_id) for alarm in change.alarms] == [(Alarm.MISMATCH, unproven.id)]
    assert change.entries[-1].shown.task_id == unproven.id


def test_submit_reply_replaces_attached_id() -> None:
    for given in ({"candidate_id": "wrong"}, {"provider_task_id": "wrong"}):
        task = in_flight(unproven_id_from=IdSource.OWNER, **given)

        change = accepted(task, a_report(Status.SUBMITTED))

        after = row(change)
        assert (after.provider_task_id, after.candidate_id, after.unproven_id_from) == (THEIR_ID, None, None)
        assert [alarm.kind for alarm in change.alarms].count(Alarm.MISMATCH) <= 1
        assert [event.task.version for event in change.events] == list(range(2, after.version + 1))


def test_submit_reply_does_not_undo_a_callback() -> None:
    finished = row(delivered(in_flight(), by_callback(a_report(assets=(PICTURE,)))))
    after = row(accepted(finished, a_report(Status.SUBMITTED)))
    assert (after.status, after.provider_task_id, after.next_poll_at) == (Status.SUCCEEDED, THEIR_ID, None)


def test_refused_submission_is_rejected_and_frees_names() -> None:
    task = in_flight(external_id="x")
    change = RecordRefused(sent=task, why="no such model", now=NOW, rules=RULES).decide(Known([task]))
    after = row(change)
    assert (after.status, after.released, after.next_poll_at, after.lease_owner) == (Status.REJECTED, True, None, None)
    assert change.drop_submission
    assert "no such model" in change.entries[0].shown.why


def test_refusal_does_not_reject_a_verified_task() -> None:
    task = replace(in_flight(external_id="x"), status=Status.PENDING)
    verified = row(delivered(task, by_callback(a_report(Status.PROCESSING))))
    change = RecordRefused(sent=task, why="no", now=NOW, rules=RULES).decide(Known([verified]))
    assert (row(change).status, row(change).released) == (Status.PROCESSING, False)
    assert not change.drop_submission


def test_lost_reply_leaves_task_pending_with_body() -> None:
    task = in_flight()
    change = RecordUnanswered(
        sent=task, why="lost", now=NOW, ended_at=NOW + SOON, reason=recovery.LOOKING_UP, rules=RULES
    ).decide(Known([task]))
    after = row(change)
    assert (after.status, after.reason, after.lease_owner) == (Status.PENDING, recovery.LOOKING_UP, None)
    assert (after.attempt_deadline_at, after.next_poll_at) == (NOW + SOON, NOW + POLICY.first_lookup)
    assert not change.drop_submission
    assert [entry.shown.verdict for entry in change.entries] == [Verdict.UNANSWERED]


@pytest.mark.parametrize(
    "changes",
    [{"not_found": 1}, {"not_found": 0}, {"attempts": 5}, {"status": Status.SUBMITTED}, {"status": Status.EXPIRED}],
)
def test_resubmission_without_proof_is_a_conflict(changes: dict[str, Any]) -> None:
    task = a_task(**({"attempts": 1, "not_found": 2} | changes))
    with pytest.raises(Conflict):
        BeginAttempt(task_id=task.id, now=NOW, until=NOW, rules=RULES).decide(Known([task]))


def test_resubmission_takes_the_lease() -> None:
    task = a_task(attempts=1, not_found=2)
    until = NOW + POLICY.attempt
    known = Known([task])
    after = row(BeginAttempt(task_id=task.id, now=NOW, until=until, rules=RULES).decide(known))
    assert (after.attempts, after.not_found, after.attempt_deadline_at) == (2, 0, until)
    assert after.lease_until == until + POLICY.lease_margin
    known.put(after)
    with pytest.raises(Conflict):
        BeginAttempt(task_id=task.id, now=NOW, until=until, rules=replace(RULES, owner="another")).decide(known)


def test_leased_task_is_not_resubmitted_or_given_up() -> None:
    leased = a_task(attempts=1, not_found=2, lease_owner="another", lease_until=NOW + SOON)
    with pytest.raises(Conflict, match="another process"):
        BeginAttempt(task_id=leased.id, now=NOW, until=NOW, rules=RULES).decide(Known([leased]))
    with pytest.raises(Conflict, match="another process"):
        GiveUp(task_id=leased.id, why="", now=NOW, rules=RULES).decide(Known([leased]))
    expired = replace(leased, lease_until=NOW)
    change = BeginAttempt(task_id=expired.id, now=NOW, until=NOW, rules=RULES).decide(Known([expired]))
    assert row(change).lease_owner == "us"


@pytest.mark.parametrize(
    "changes",
    [{"not_found": 0}, {"not_found": 1}, {"candidate_id": "p"}, {"provider_task_id": "p"}, {"status": Status.EXPIRED}],
)
def test_giving_up_without_proof_is_a_conflict(changes: dict[str, Any]) -> None:
    """The process that rejects the task may have read an older row. The task may have been resubmitted since."""
    task = a_task(**({"attempts": 5, "not_found": 2} | changes))
    with pytest.raises(Conflict):
        GiveUp(task_id=task.id, why="", now=NOW, rules=RULES).decide(Known([task]))


@pytest.mark.parametrize("attempts", [1, 5])
def test_absent_task_can_be_given_up(attempts: int) -> None:
    task = a_task(attempts=attempts, not_found=2, external_id="x")
    after = row(GiveUp(task_id=task.id, why="never made", now=NOW, rules=RULES).decide(Known([task])))
    assert (after.status, after.released) == (Status.REJECTED, True)


def test_submit_outcome_keeps_a_lease_of_another() -> None:
    task = in_flight(lease_owner="another")
    lost = RecordUnanswered(
        sent=task, why="lost", now=NOW, ended_at=NOW, reason=recovery.LOOKING_UP, rules=RULES
    ).decide(Known([task]))
    busy = RecordNotMade(sent=task, why="busy", again_at=NOW, rules=RULES).decide(Known([task]))
    made = accepted(task, a_report(Status.SUBMITTED))
    assert [row(change).lease_owner for change in (lost, busy, made)] == ["another"] * 3
    assert row(accepted(task, a_report())).lease_owner is None


def test_unmade_resubmission_repeats_without_lookup() -> None:
    task = a_task(attempts=5, lease_owner="us")
    after = row(RecordNotMade(sent=task, why="busy", again_at=NOW + SOON, rules=RULES).decide(Known([task])))
    assert recovery.next_step(after, policy=POLICY) is recovery.Step.SUBMIT_AGAIN
    assert (after.next_poll_at, after.lease_owner) == (NOW + SOON, None)


@pytest.mark.parametrize("status", [Status.PROCESSING, Status.SUCCEEDED])
def test_busy_reply_keeps_an_existing_task(status: Status) -> None:
    """A callback arrives during a resubmission: the first submission did create the task."""
    task = delivered(in_flight(attempts=2), by_callback(a_report(status))).task
    assert task is not None
    after = row(RecordNotMade(sent=task, why="busy", again_at=LATE, rules=RULES).decide(Known([task])))
    assert (after.status, after.reason, after.not_found, after.lease_owner) == (status, None, 0, None)
    assert after.next_poll_at == task.next_poll_at


def test_callback_during_busy_resubmission_needs_lookup() -> None:
    observation = by_callback(Report(flaw="not JSON"), Trust.UNVERIFIED, flaw=Flaw.UNSIGNED)
    task = delivered(in_flight(attempts=2, last_observed_at=NOW - SOON), observation).task
    assert task is not None
    after = row(RecordNotMade(sent=task, why="busy", again_at=LATE, rules=RULES).decide(Known([task])))
    assert recovery.next_step(after, policy=POLICY) is recovery.Step.LOOK_UP


def test_abandoned_request_is_joined_when_repeated() -> None:
    abandoned = row(NoteAbandoned(task_id=in_flight().id).decide(Known([in_flight()])))
    assert not intended(in_flight(id="hm2"), abandoned).send
    answered = in_flight(answered_at=NOW)
    assert NoteAbandoned(task_id=answered.id).decide(Known([answered])).task is None


def test_answered_request_is_recorded_once() -> None:
    task = in_flight()
    first = NoteAnswered(task_id=task.id, now=NOW).decide(Known([task]))
    assert row(first).answered_at == NOW
    assert NoteAnswered(task_id=task.id, now=LATE).decide(Known([row(first)])).task is None
    assert NoteAnswered(task_id="hm0", now=NOW).decide(Known()).task is None
