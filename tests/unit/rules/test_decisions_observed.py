"""What an answer of the provider, the operator's word and a delivery want written."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from tests.support.builders import NOW, PICTURE, THEIR_ID, a_claim, a_task, asked, told
from tests.support.decisions import (
    LATE,
    LIFETIME,
    POLICY,
    RULES,
    STANDING,
    SUBMITTED,
    accepted,
    delivered,
    in_flight,
    polled,
    row,
    unanswered,
)
from tracker.errors import Conflict, NotFound
from tracker.model.changes import Change, Known
from tracker.model.records import Arrived
from tracker.model.task import Alarm, Flaw, Observation, Report, Status, Task, Trust, Verdict
from tracker.rules.callbacks import UNSIGNED_ENTRIES, RecordCallback
from tracker.rules.identity import Asked
from tracker.rules.polls import Resolve
from tracker.rules.submits import RecordRefused


def resolve(task: Task, status: Status) -> Change[Task]:
    work = Resolve(task_id=task.id, status=status, note="", now=NOW, lifetime=LIFETIME, rules=RULES)
    return work.decide(Known([task]))


# ---- answers


def test_an_answer_that_says_what_is_known_adds_no_history_and_gives_the_lease_back() -> None:
    task = replace(SUBMITTED, lease_owner="us", lease_until=LATE, quiet_polls=2, poll_count=3)
    change = polled(task, asked(a_claim(Status.SUBMITTED)))
    after = row(change)
    assert (change.entries, change.events, change.alarms) == ((), (), ())
    assert (after.poll_count, after.quiet_polls, after.lease_owner, after.polled_at) == (4, 3, None, NOW)


def test_an_answer_leaves_alone_the_lease_that_another_process_holds_unless_it_settles_the_task() -> None:
    task = replace(SUBMITTED, lease_owner="another", lease_until=LATE)
    after = row(polled(task, asked(a_claim(Status.SUBMITTED))))
    assert (after.lease_owner, after.lease_until, after.poll_count) == ("another", LATE, 1)
    down = unanswered(task, "down")
    assert row(down).lease_owner == "another"
    homing = row(polled(task, asked(a_claim(assets=(PICTURE,)))))
    assert (homing.status, homing.lease_owner, homing.lease_until) == (Status.SUCCEEDED, None, None)


@pytest.mark.parametrize("status", [Status.SUBMITTED, Status.PROCESSING])
@pytest.mark.parametrize("trust", [Trust.UNVERIFIED, Trust.TOKEN])
def test_an_early_word_that_ends_nothing_costs_one_question_at_most(status: Status, trust: Trust) -> None:
    begun = row(accepted(in_flight(), a_claim(Status.SUBMITTED)))
    heard = row(delivered(begun, told(a_claim(status), trust, at=NOW + timedelta(seconds=2))))
    if trust is Trust.UNVERIFIED:
        soon = NOW + timedelta(seconds=2) + POLICY.hint_delay
        assert heard.next_poll_at == soon
        heard = row(polled(heard, asked(a_claim(status), at=soon)))
    assert heard.next_poll_at == begun.next_poll_at


def test_an_answer_that_moves_the_task_starts_the_count_of_quiet_polls_anew() -> None:
    after = row(polled(replace(SUBMITTED, quiet_polls=5), asked(a_claim(Status.PROCESSING))))
    assert (after.status, after.quiet_polls) == (Status.PROCESSING, 1)


def test_a_final_answer_ends_the_questions() -> None:
    change = polled(SUBMITTED, asked(a_claim(assets=(PICTURE,))))
    assert (row(change).status, row(change).next_poll_at) == (Status.SUCCEEDED, None)
    assert change.drop_submission


@pytest.mark.parametrize("status", [Status.SUBMITTED, Status.PROCESSING])
def test_a_task_whose_deadline_passed_expires_with_the_answer_that_does_not_end_it(status: Status) -> None:
    change = polled(SUBMITTED, asked(a_claim(status), at=LATE))
    after = row(change)
    assert (after.status, after.next_poll_at) == (Status.EXPIRED, LATE + POLICY.expired_gap)
    sequences = [event.sequence for event in change.events]
    assert sequences == list(range(SUBMITTED.version + 1, after.version + 1))
    assert change.drop_submission


def test_a_final_answer_after_the_deadline_is_believed() -> None:
    assert row(polled(SUBMITTED, asked(a_claim(), at=LATE))).status is Status.SUCCEEDED


def test_silence_past_the_deadline_expires_the_task_too() -> None:
    change = unanswered(SUBMITTED, "down", now=LATE)
    assert row(change).status is Status.EXPIRED
    assert [entry.shown.verdict for entry in change.entries] == [Verdict.APPLIED]


def test_a_pause_overrides_the_schedule_and_an_unasked_question_is_not_counted() -> None:
    change = unanswered(SUBMITTED, "busy", again_at=LATE, alarm=Alarm.CREDENTIAL, sent=False)
    assert (row(change).next_poll_at, row(change).poll_count, row(change).polled_at) == (LATE, 0, None)
    assert [alarm.kind for alarm in change.alarms] == [Alarm.CREDENTIAL]


@pytest.mark.parametrize(
    "report",
    [
        a_claim(external_id="another's"),
        a_claim(provider_task_id=None),
        a_claim(external_id=None, created_at=NOW - timedelta(minutes=3)),
    ],
)
def test_a_guessed_id_whose_task_cannot_be_ours_is_forgotten(report: Report) -> None:
    task = a_task(candidate_id=THEIR_ID, attempts=1)
    after = row(polled(task, asked(report), asked=Asked.CANDIDATE))
    assert (after.status, after.provider_task_id, after.candidate_id) == (Status.PENDING, None, None)


@pytest.mark.parametrize("report", [a_claim(), a_claim(external_id=None, created_at=NOW)])
def test_a_guessed_id_that_the_provider_confirms_is_learned(report: Report) -> None:
    after = row(polled(a_task(candidate_id=THEIR_ID, attempts=1), asked(report), asked=Asked.CANDIDATE))
    assert (after.status, after.provider_task_id) == (Status.SUCCEEDED, THEIR_ID)


def test_the_operator_waits_for_a_submit_that_is_under_way() -> None:
    with pytest.raises(Conflict, match="under way"):
        resolve(in_flight(), Status.REJECTED)


def test_a_question_in_the_middle_of_a_submit_leaves_its_lease_alone() -> None:
    task = in_flight()
    change = unanswered(task, "not found", again_at=NOW)
    after = row(change)
    assert (after.lease_owner, after.lease_until, after.next_poll_at) == ("us", task.lease_until, task.next_poll_at)


def test_the_operator_settles_what_nobody_proved() -> None:
    lost = in_flight(attempt_deadline_at=NOW)
    change = resolve(lost, Status.REJECTED)
    after = row(change)
    assert (after.status, after.released, after.lease_owner, after.next_poll_at) == (Status.REJECTED, True, None, None)
    assert change.drop_submission
    assert after.reason == "rejected, says the operator"


@pytest.mark.parametrize("status", [Status.REJECTED, Status.EXPIRED])
def test_the_operator_cannot_undo_what_the_provider_proved(status: Status) -> None:
    homing = row(polled(SUBMITTED, asked(a_claim())))
    with pytest.raises(Conflict, match="succeeded"):
        resolve(homing, status)


def test_a_row_that_is_gone_is_not_found() -> None:
    with pytest.raises(NotFound):
        RecordRefused(sent=a_task(), why="", now=NOW, rules=RULES).decide(Known())


# ---- deliveries


def test_a_delivery_at_its_address_takes_back_that_a_task_is_absent() -> None:
    absent = a_task(attempts=1, not_found=2)
    assert row(delivered(absent, told(Report(flaw="not JSON"), Trust.UNVERIFIED))).not_found == 0


def test_a_hint_that_names_another_row_s_task_is_no_candidate() -> None:
    other = a_task(2, provider_task_id=THEIR_ID)
    assert row(delivered(a_task(), told(a_claim(external_id=None), Trust.UNVERIFIED), other)).candidate_id is None


def test_a_hint_is_kept_and_brings_the_next_question_forward() -> None:
    change = delivered(SUBMITTED, told(a_claim(), Trust.UNVERIFIED, flaw=Flaw.UNSIGNED))
    assert row(change).next_poll_at == NOW + POLICY.hint_delay
    assert [entry.shown.verdict for entry in change.entries] == [Verdict.UNVERIFIED]
    assert [alarm.kind for alarm in change.alarms] == [Alarm.UNSIGNED]
    assert change.counts == {"callbacks": 1, "unverified_callbacks": 1}


def test_an_unreadable_delivery_brings_the_next_question_forward_with_its_bytes_kept() -> None:
    change = delivered(SUBMITTED, told(Report(flaw="not JSON"), body=b"\xff"))
    assert row(change).next_poll_at == NOW + POLICY.hint_delay
    assert change.entries[0].shown.body == b"\xff"


def test_an_expired_task_is_asked_about_on_each_hint() -> None:
    expired = row(unanswered(SUBMITTED, "", now=LATE))
    hint = told(a_claim(), Trust.UNVERIFIED, at=LATE + timedelta(hours=1))
    assert row(delivered(expired, hint)).next_poll_at == LATE + timedelta(hours=1) + POLICY.hint_delay


def test_a_final_that_comes_home_by_callback_needs_no_question() -> None:
    change = delivered(SUBMITTED, told(a_claim(assets=(PICTURE,))))
    assert (row(change).status, row(change).next_poll_at) == (Status.SUCCEEDED, None)


def test_a_success_without_files_is_asked_about() -> None:
    assert row(delivered(SUBMITTED, told(a_claim()))).next_poll_at is not None


def test_what_is_known_already_costs_no_question() -> None:
    assert row(delivered(SUBMITTED, told(a_claim(Status.SUBMITTED)))).next_poll_at == SUBMITTED.next_poll_at


@pytest.mark.parametrize("trust", [Trust.UNVERIFIED, Trust.TOKEN])
def test_a_delivery_that_contradicts_a_final_of_another_delivery_is_asked_about(trust: Trust) -> None:
    homing = row(delivered(SUBMITTED, told(a_claim(assets=(PICTURE,)))))
    assert row(delivered(homing, told(a_claim(Status.FAILED), trust))).next_poll_at == NOW + POLICY.hint_delay


def test_a_delivery_that_contradicts_the_provider_s_own_answer_is_not() -> None:
    homing = row(polled(SUBMITTED, asked(a_claim(assets=(PICTURE,)))))
    assert row(delivered(homing, told(a_claim(Status.FAILED)))).next_poll_at is None


def dedupe_key(observation: Observation, task: Task = SUBMITTED) -> str:
    return delivered(task, observation).entries[0].dedupe_key


def test_repeats_are_told_by_task_trust_and_body() -> None:
    first = told(a_claim(), body=b"1")
    assert dedupe_key(first) == dedupe_key(structs.replace(first, at=LATE))
    assert dedupe_key(first) != dedupe_key(structs.replace(first, body=b"2"))
    assert dedupe_key(first) != dedupe_key(structs.replace(first, trust=Trust.UNVERIFIED))


def test_a_verified_webhook_id_tells_repeats_whatever_the_body() -> None:
    first = told(a_claim(), Trust.SIGNED, body=b"1", webhook_id="w")
    assert dedupe_key(first) == dedupe_key(structs.replace(first, body=b"2"))
    assert dedupe_key(first) != dedupe_key(structs.replace(first, webhook_id="v"))


def test_a_guessed_webhook_id_cannot_shadow_the_true_delivery() -> None:
    """A forger names the id of a delivery to come; the receiver passes an id on only with its signature."""
    forged = told(a_claim(Status.FAILED), Trust.UNVERIFIED, flaw=Flaw.BAD_SIGNATURE, body=b"1")
    true = told(a_claim(), Trust.SIGNED, body=b"1", webhook_id="w")
    assert dedupe_key(forged) != dedupe_key(true)


@pytest.mark.parametrize("changes", [{"provider_task_id": THEIR_ID}, {"sent_external_id": "theirs"}])
def test_a_standing_address_finds_the_task_by_the_ids_in_the_body(changes: dict[str, Any]) -> None:
    task = a_task(2, **changes)
    observation = told(a_claim(external_id="theirs"), Trust.SIGNED)
    arrived = Arrived(provider="kling", observation=observation, shared_url=STANDING)
    change = RecordCallback(arrived=arrived, account="default", rules=RULES).decide(Known([task]))
    assert (change.result.task_id, change.result.verdict) == (task.id, Verdict.APPLIED)


def test_what_nobody_told_us_of_is_an_orphan_to_be_looked_into() -> None:
    arrived = Arrived(provider="kling", observation=told(a_claim(), Trust.UNVERIFIED), shared_url=STANDING)
    change = RecordCallback(arrived=arrived, account="default", rules=RULES).decide(Known([a_task(2)]))
    assert change.result.orphan
    assert change.task is None
    assert [alarm.kind for alarm in change.alarms] == [Alarm.ORPHAN]
    assert change.orphan is not None
    assert (change.orphan.state, change.orphan.next_poll_at, change.orphan.client) == ("waiting", NOW, "studio")


def test_an_orphan_without_any_id_is_kept_and_never_asked_about() -> None:
    arrived = Arrived(provider="kling", observation=told(Report(flaw="not JSON"), body=b"x"), shared_url=STANDING)
    change = RecordCallback(arrived=arrived, account="default", rules=RULES).decide(Known())
    assert change.orphan is not None
    assert (change.orphan.state, change.orphan.next_poll_at, change.orphan.body) == ("orphan", None, b"x")


def test_unsigned_callbacks_beyond_the_bound_share_one_entry() -> None:
    task = SUBMITTED
    keys: list[str] = []
    for number in range(UNSIGNED_ENTRIES + 50):
        body = str(number).encode()
        forged = told(a_claim(), Trust.UNVERIFIED, body=body, flaw=Flaw.UNSIGNED)
        change = delivered(task, forged)
        task = row(change)
        keys.extend(entry.dedupe_key for entry in change.entries)

    assert len(set(keys)) == UNSIGNED_ENTRIES + 1
    assert keys.count("callback|unsigned") == 50
    assert "are only counted" in change.entries[0].shown.why


def test_proven_callbacks_of_a_flooded_task_keep_their_entries() -> None:
    flooded = replace(SUBMITTED, unsigned=UNSIGNED_ENTRIES)

    moved = delivered(flooded, told(a_claim(), Trust.TOKEN, body=b"applied"))
    signed = delivered(flooded, told(a_claim(), Trust.SIGNED, body=b"signed", webhook_id="msg_1"))

    assert [entry.dedupe_key for entry in (*moved.entries, *signed.entries)][1] == "callback|SIGNED|id msg_1"
    assert moved.entries[0].dedupe_key.startswith("callback|TOKEN|")
    assert (row(moved).unsigned, row(signed).unsigned) == (UNSIGNED_ENTRIES + 1, UNSIGNED_ENTRIES)
