"""What each verb of sending wants written, given the rows as they are known."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.properties.observations import told_in_turn
from tests.support.builders import NOW, PICTURE, THEIR_ID, a_claim, a_task, asked, told
from tests.support.decisions import LATE, POLICY, RULES, SOON, accepted, delivered, in_flight, intended, polled, row
from tracker.errors import Conflict
from tracker.model.changes import Change, Known, by_id
from tracker.model.task import Alarm, Flaw, IdSource, Report, Status, Task, Trust, Verdict
from tracker.rules import identity, recovery
from tracker.rules.create_requests import NoteAbandoned, NoteAnswered, RecordSubmission, SubmitDecision
from tracker.rules.identity import Asked, Attach
from tracker.rules.submits import (
    BeginAttempt,
    GiveUp,
    RecordExpected,
    RecordNotMade,
    RecordRefused,
    RecordUnanswered,
)

# ---- intents


@pytest.mark.parametrize("name", ["external_id", "idempotency_key"])
def test_a_named_submit_with_the_same_body_gets_the_task_that_has_it(name: str) -> None:
    before = a_task(1, request_hash="h", **{name: "x"})
    assert intended(a_task(2, request_hash="h", **{name: "x"}), before) == SubmitDecision(task=before)


@pytest.mark.parametrize("name", ["external_id", "idempotency_key"])
def test_a_named_submit_with_another_body_is_a_conflict(name: str) -> None:
    with pytest.raises(Conflict, match="x already exists"):
        intended(a_task(2, request_hash="other", **{name: "x"}), a_task(1, request_hash="h", **{name: "x"}))


@pytest.mark.parametrize("name", ["external_id", "idempotency_key"])
def test_the_name_of_a_rejected_submit_is_free_again(name: str) -> None:
    rejected = a_task(1, request_hash="h", status=Status.REJECTED, released=True, **{name: "x"})
    assert intended(a_task(2, request_hash="h", **{name: "x"}), rejected).send


def test_a_fresh_submit_keeps_its_body() -> None:
    change = RecordSubmission(task=a_task(), body=b"the body", policy=POLICY).decide(Known())
    assert (change.submission, change.task) == (b"the body", a_task())


def test_a_fresh_submit_that_cannot_be_sent_is_not_written_down() -> None:
    change = RecordSubmission(task=a_task(), body=b"the body", policy=POLICY, sendable=False).decide(Known())
    assert change.result == SubmitDecision(task=a_task(), send=True)
    assert (change.submission, change.task) == (None, None)


def test_where_nothing_can_be_sent_a_task_that_is_there_is_still_given() -> None:
    before = a_task(1, request_hash="h", idempotency_key="x")
    again = a_task(2, request_hash="h", idempotency_key="x")
    change = RecordSubmission(task=again, body=b"", policy=POLICY, sendable=False).decide(Known([before]))
    assert change.result == SubmitDecision(task=before)


def test_a_submit_that_a_dead_process_never_answered_is_joined_when_it_is_sent_again() -> None:
    dead = in_flight(taken_by="dead")
    intent = intended(in_flight(id="hm2"), dead)
    assert not intent.send
    assert (intent.task.id, intent.task.taken_by) == (dead.id, "us")


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
def test_no_other_submit_is_joined(changes: dict[str, Any]) -> None:
    assert intended(in_flight(id="hm2"), in_flight(**({"taken_by": "dead"} | changes))).send


@pytest.mark.parametrize("name", ["external_id", "idempotency_key"])
def test_a_named_submit_joins_no_unnamed_one(name: str) -> None:
    assert intended(in_flight(id="hm2", sent_external_id="hm3", **{name: "x"}), in_flight(taken_by="dead")).send


def test_two_equal_submits_that_were_never_answered_are_joined_one_by_one() -> None:
    known = Known([a_task(n, taken_by="dead", request_hash="h") for n in (2, 1)])
    joined = []
    for number in (3, 4, 5):
        again = a_task(number, taken_by="us", request_hash="h")
        change = RecordSubmission(task=again, body=b"", policy=POLICY).decide(known)
        known.put(row(change))
        joined.append(change.result.task.id)
    assert joined == [a_task(n).id for n in (1, 2, 5)]


def test_a_rejected_submit_does_not_hide_one_that_may_have_been_made() -> None:
    refused = a_task(2, taken_by="dead", request_hash="h", status=Status.REJECTED, released=True)
    lost = a_task(1, taken_by="dead", request_hash="h")
    assert intended(a_task(3, taken_by="us", request_hash="h"), lost, refused).task.id == lost.id


# ---- tasks of others


@pytest.mark.parametrize("name", ["external_id", "sent_external_id", "provider_task_id"])
def test_a_task_that_is_known_under_one_of_its_ids_is_not_written_down_again(name: str) -> None:
    with pytest.raises(Conflict, match="already known"):
        RecordExpected(task=a_task(2, **{name: "x"})).decide(Known([a_task(1, **{name: "x"})]))


def test_what_a_rejected_task_was_called_may_be_announced_again() -> None:
    names = {"external_id": "x", "sent_external_id": "x"}
    rejected = a_task(1, status=Status.REJECTED, released=True, **names)
    assert RecordExpected(task=a_task(2, **names)).decide(Known([rejected])).result == a_task(2, **names)


def test_the_provider_id_of_a_rejected_task_is_still_its_own() -> None:
    rejected = a_task(1, status=Status.REJECTED, released=True, provider_task_id="p")
    with pytest.raises(Conflict):
        RecordExpected(task=a_task(2, provider_task_id="p")).decide(Known([rejected]))


def attached(known: Known, task_id: str, provider_task_id: str, *, confirmable: bool = True) -> Change[Task]:
    task = known.get(by_id(task_id))
    assert task is not None
    work = Attach(task=task, provider_task_id=provider_task_id, now=NOW, confirmable=confirmable, rules=RULES)
    return work.decide(known)


def test_an_attached_id_is_a_candidate_until_a_poll_confirms_it() -> None:
    change = attached(Known([a_task()]), a_task().id, THEIR_ID)

    waiting = row(change)
    assert (waiting.provider_task_id, waiting.candidate_id, waiting.version) == (None, THEIR_ID, 2)
    assert waiting.next_poll_at == NOW + POLICY.hint_delay
    assert [event.sequence for event in change.events] == [2]
    assert attached(Known([waiting]), waiting.id, THEIR_ID).task is None
    confirmed = row(polled(waiting, asked(a_claim(Status.PROCESSING, external_id=None)), asked=Asked.CANDIDATE))
    assert (confirmed.provider_task_id, confirmed.candidate_id, confirmed.reason) == (THEIR_ID, None, None)
    assert confirmed.unproven_id_from is IdSource.OWNER


def test_an_attached_id_counts_at_once_where_nobody_can_be_asked() -> None:
    after = row(attached(Known([a_task()]), a_task().id, "p", confirmable=False))

    assert (after.provider_task_id, after.unproven_id_from) == ("p", IdSource.OWNER)


def test_another_provider_id_or_that_of_another_task_is_a_conflict() -> None:
    known = Known([a_task(1, provider_task_id="p"), a_task(2)])
    for task_id, told_id in ((a_task(1).id, "q"), (a_task(2).id, "p")):
        with pytest.raises(Conflict):
            attached(known, task_id, told_id)


# ---- outcomes of a submit


def test_an_accepted_submit_gives_its_lease_and_its_body_back() -> None:
    change = accepted(in_flight(), a_claim(Status.SUBMITTED))
    after = row(change)
    assert (after.status, after.provider_task_id, after.lease_owner) == (Status.SUBMITTED, THEIR_ID, None)
    assert after.next_poll_at == NOW + SOON + timedelta(seconds=44)
    assert change.drop_submission


def test_a_hint_that_came_before_the_reply_still_brings_the_first_question_forward() -> None:
    hinted = row(delivered(in_flight(), told(a_claim(), Trust.UNVERIFIED, flaw=Flaw.UNSIGNED)))
    assert hinted.next_poll_at == NOW + POLICY.hint_delay
    assert row(accepted(hinted, a_claim(Status.SUBMITTED))).next_poll_at == NOW + POLICY.hint_delay


def test_a_hint_of_the_beginning_is_answered_by_the_submit_s_reply() -> None:
    """As where the provider knows no external ids, and its first callback overtakes its reply."""
    begun = row(accepted(in_flight(), a_claim(Status.SUBMITTED)))
    early = told(a_claim(Status.SUBMITTED, external_id=None), Trust.TOKEN)
    answered = row(accepted(row(delivered(in_flight(), early)), a_claim(Status.SUBMITTED)))
    assert answered.next_poll_at == begun.next_poll_at
    other = row(accepted(row(delivered(in_flight(), early)), a_claim(Status.SUBMITTED, provider_task_id="another")))
    unread = row(accepted(row(delivered(in_flight(), told(Report(flaw="not JSON")))), a_claim(Status.SUBMITTED)))
    assert other.next_poll_at == unread.next_poll_at == NOW + POLICY.hint_delay


def test_a_reply_that_names_another_rows_task_merges_nothing() -> None:
    other = a_task(2, provider_task_id=THEIR_ID)

    change = accepted(in_flight(), a_claim(Status.SUBMITTED, price={"final_unit_deduction": "1"}), other)

    after = row(change)
    assert (after.status, after.provider_task_id, after.facts) == (Status.PENDING, None, {})
    assert (after.reason, after.next_poll_at) == (recovery.LOOKING_UP, NOW + SOON + POLICY.first_lookup)
    assert [alarm.kind for alarm in change.alarms] == [Alarm.MISMATCH]
    assert not change.drop_submission
    assert change.others == ()


@pytest.mark.parametrize("named_by", [IdSource.OWNER, IdSource.CALLBACK, IdSource.LOOKUP])
def test_a_submit_reply_takes_its_id_from_a_row_that_was_only_told_it(named_by: IdSource) -> None:
    believed = told_in_turn(a_task(2, provider_task_id=THEIR_ID), [asked(a_claim(assets=(PICTURE,)))], Trust.TOKEN)
    thief = replace(believed, unproven_id_from=named_by, client="other")

    change = accepted(in_flight(), a_claim(Status.SUBMITTED, external_id=None), thief)

    after, (loser,) = row(change), change.others
    assert (after.status, after.provider_task_id, after.unproven_id_from) == (Status.SUBMITTED, THEIR_ID, None)
    assert (loser.id, loser.provider_task_id, loser.status, loser.facts) == (thief.id, None, Status.PENDING, {})
    assert loser.reason == identity.WITHDRAWN
    assert loser.next_poll_at is not None
    assert [event.type for event in change.events] == ["homing.task.submitted", "homing.task.corrected"]
    assert [(alarm.kind, alarm.task_id) for alarm in change.alarms] == [(Alarm.MISMATCH, thief.id)]
    assert change.entries[-1].shown.task_id == thief.id


def test_a_submit_reply_replaces_the_id_that_was_attached_to_its_own_row() -> None:
    for given in ({"candidate_id": "wrong"}, {"provider_task_id": "wrong"}):
        task = in_flight(unproven_id_from=IdSource.OWNER, **given)

        change = accepted(task, a_claim(Status.SUBMITTED))

        after = row(change)
        assert (after.provider_task_id, after.candidate_id, after.unproven_id_from) == (THEIR_ID, None, None)
        assert [alarm.kind for alarm in change.alarms].count(Alarm.MISMATCH) <= 1
        assert [event.sequence for event in change.events] == list(range(2, after.version + 1))


def test_a_callback_before_the_reply_is_not_undone_by_it() -> None:
    homing = row(delivered(in_flight(), told(a_claim(assets=(PICTURE,)))))
    after = row(accepted(homing, a_claim(Status.SUBMITTED)))
    assert (after.status, after.provider_task_id, after.next_poll_at) == (Status.SUCCEEDED, THEIR_ID, None)


def test_a_refused_submit_is_rejected_and_its_names_are_free() -> None:
    task = in_flight(external_id="x")
    change = RecordRefused(sent=task, why="no such model", now=NOW, rules=RULES).decide(Known([task]))
    after = row(change)
    assert (after.status, after.released, after.next_poll_at, after.lease_owner) == (Status.REJECTED, True, None, None)
    assert change.drop_submission
    assert "no such model" in change.entries[0].shown.why


def test_a_task_that_a_callback_proved_is_not_rejected_by_a_refusal() -> None:
    task = replace(in_flight(external_id="x"), status=Status.PENDING)
    proven = row(delivered(task, told(a_claim(Status.PROCESSING))))
    change = RecordRefused(sent=task, why="no", now=NOW, rules=RULES).decide(Known([proven]))
    assert (row(change).status, row(change).released) == (Status.PROCESSING, False)
    assert not change.drop_submission


def test_a_lost_answer_leaves_the_task_pending_and_its_body_kept() -> None:
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
def test_a_submit_is_repeated_only_while_the_row_proves_that_it_was_never_made(changes: dict[str, Any]) -> None:
    task = a_task(**({"attempts": 1, "not_found": 2} | changes))
    with pytest.raises(Conflict):
        BeginAttempt(task_id=task.id, now=NOW, until=NOW, rules=RULES).decide(Known([task]))


def test_a_repeated_submit_takes_the_lease_so_that_a_second_one_cannot_follow() -> None:
    task = a_task(attempts=1, not_found=2)
    until = NOW + POLICY.attempt
    known = Known([task])
    after = row(BeginAttempt(task_id=task.id, now=NOW, until=until, rules=RULES).decide(known))
    assert (after.attempts, after.not_found, after.attempt_deadline_at) == (2, 0, until)
    assert after.lease_until == until + POLICY.lease_margin
    known.put(after)
    with pytest.raises(Conflict):
        BeginAttempt(task_id=task.id, now=NOW, until=until, rules=replace(RULES, owner="another")).decide(known)


def test_what_another_process_is_looking_after_is_neither_submitted_again_nor_given_up() -> None:
    held = a_task(attempts=1, not_found=2, lease_owner="another", lease_until=NOW + SOON)
    with pytest.raises(Conflict, match="another process"):
        BeginAttempt(task_id=held.id, now=NOW, until=NOW, rules=RULES).decide(Known([held]))
    with pytest.raises(Conflict, match="another process"):
        GiveUp(task_id=held.id, why="", now=NOW, rules=RULES).decide(Known([held]))
    over = replace(held, lease_until=NOW)
    assert row(BeginAttempt(task_id=over.id, now=NOW, until=NOW, rules=RULES).decide(Known([over]))).lease_owner == "us"


@pytest.mark.parametrize(
    "changes",
    [{"not_found": 0}, {"not_found": 1}, {"candidate_id": "p"}, {"provider_task_id": "p"}, {"status": Status.EXPIRED}],
)
def test_a_task_is_given_up_only_while_the_row_proves_that_it_was_never_made(changes: dict[str, Any]) -> None:
    """Whoever gives it up saw an older row: it may have been submitted again since."""
    task = a_task(**({"attempts": 5, "not_found": 2} | changes))
    with pytest.raises(Conflict):
        GiveUp(task_id=task.id, why="", now=NOW, rules=RULES).decide(Known([task]))


@pytest.mark.parametrize("attempts", [1, 5])
def test_what_is_proven_absent_may_be_given_up(attempts: int) -> None:
    task = a_task(attempts=attempts, not_found=2, external_id="x")
    after = row(GiveUp(task_id=task.id, why="never made", now=NOW, rules=RULES).decide(Known([task])))
    assert (after.status, after.released) == (Status.REJECTED, True)


def test_a_submit_s_outcome_leaves_alone_the_lease_that_another_process_took_meanwhile() -> None:
    task = in_flight(lease_owner="another")
    lost = RecordUnanswered(
        sent=task, why="lost", now=NOW, ended_at=NOW, reason=recovery.LOOKING_UP, rules=RULES
    ).decide(Known([task]))
    busy = RecordNotMade(sent=task, why="busy", again_at=NOW, rules=RULES).decide(Known([task]))
    made = accepted(task, a_claim(Status.SUBMITTED))
    assert [row(change).lease_owner for change in (lost, busy, made)] == ["another"] * 3
    assert row(accepted(task, a_claim())).lease_owner is None


def test_a_repeat_that_provably_made_nothing_is_repeated_without_a_lookup() -> None:
    task = a_task(attempts=5, lease_owner="us")
    after = row(RecordNotMade(sent=task, why="busy", again_at=NOW + SOON, rules=RULES).decide(Known([task])))
    assert recovery.next_step(after, policy=POLICY) is recovery.Step.SUBMIT_AGAIN
    assert (after.next_poll_at, after.lease_owner) == (NOW + SOON, None)


@pytest.mark.parametrize("status", [Status.PROCESSING, Status.SUCCEEDED])
def test_a_busy_reply_says_nothing_of_a_task_that_exists(status: Status) -> None:
    """A callback came while a repeated submit was under way: the first one had made the task after all."""
    task = delivered(in_flight(attempts=2), told(a_claim(status))).task
    assert task is not None
    after = row(RecordNotMade(sent=task, why="busy", again_at=LATE, rules=RULES).decide(Known([task])))
    assert (after.status, after.reason, after.not_found, after.lease_owner) == (status, None, 0, None)
    assert after.next_poll_at == task.next_poll_at


def test_a_callback_during_a_busy_repeat_has_it_looked_up() -> None:
    said = told(Report(flaw="not JSON"), Trust.UNVERIFIED, flaw=Flaw.UNSIGNED)
    task = delivered(in_flight(attempts=2, last_observed_at=NOW - SOON), said).task
    assert task is not None
    after = row(RecordNotMade(sent=task, why="busy", again_at=LATE, rules=RULES).decide(Known([task])))
    assert recovery.next_step(after, policy=POLICY) is recovery.Step.LOOK_UP


def test_what_a_client_that_left_sends_again_is_the_same_wish() -> None:
    left = row(NoteAbandoned(task_id=in_flight().id).decide(Known([in_flight()])))
    assert not intended(in_flight(id="hm2"), left).send
    answered = in_flight(answered_at=NOW)
    assert NoteAbandoned(task_id=answered.id).decide(Known([answered])).task is None


def test_what_is_answered_once_is_not_answered_again() -> None:
    task = in_flight()
    first = NoteAnswered(task_id=task.id, now=NOW).decide(Known([task]))
    assert row(first).answered_at == NOW
    assert NoteAnswered(task_id=task.id, now=LATE).decide(Known([row(first)])).task is None
    assert NoteAnswered(task_id="hm0", now=NOW).decide(Known()).task is None
