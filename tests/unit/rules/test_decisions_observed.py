"""Tests of what a poll, a manual resolution and a callback record."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from tests.support.builders import NOW, PICTURE, THEIR_ID, a_report, a_task, by_callback, by_poll
from tests.support.decisions import (
    LATE,
    LIFETIME,
    POLICY,
    RULES,
    SHARED_URL,
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
from tracker.model.task import Alarm, Flaw, IdSource, Observation, Report, Status, Task, Trust, Verdict
from tracker.rules.callbacks import UNSIGNED_ENTRIES, RecordCallback
from tracker.rules.identity import ReplyTo
from tracker.rules.lifecycle import DENIALS
from tracker.rules.polls import CANDIDATE_DENIALS, PollResult, RecordPoll, Resolve
from tracker.rules.submits import RecordRefused


def resolve(task: Task, status: Status) -> Change[Task]:
    work = Resolve(task_id=task.id, status=status, note="", now=NOW, lifetime=LIFETIME, rules=RULES)
    return work.decide(Known([task]))


# ---- polls and manual resolutions


@pytest.mark.parametrize("status", [Status.PENDING, Status.EXPIRED])
def test_id_that_came_during_poll_is_polled_next(status: Status) -> None:
    polled_row = a_task(status=status, sent_external_id=None, deadline_at=LATE)
    known = Known([replace(polled_row, candidate_id=THEIR_ID, next_poll_at=NOW)])
    nothing = PollResult(why="there is no ID", sent=False)
    poll = RecordPoll(polled=polled_row, result=nothing, now=NOW, lifetime=LIFETIME, rules=RULES)

    after = poll.decide(known).task

    assert after is not None
    assert after.next_poll_at == NOW


def test_unchanged_poll_adds_no_history() -> None:
    task = replace(SUBMITTED, lease_owner="us", lease_until=LATE, quiet_polls=2, poll_count=3)
    change = polled(task, by_poll(a_report(Status.SUBMITTED)))
    after = row(change)
    assert (change.entries, change.events, change.alarms) == ((), (), ())
    assert (after.poll_count, after.quiet_polls, after.lease_owner, after.polled_at) == (4, 3, None, NOW)


def test_poll_keeps_a_lease_of_another_until_finished() -> None:
    task = replace(SUBMITTED, lease_owner="another", lease_until=LATE)
    after = row(polled(task, by_poll(a_report(Status.SUBMITTED))))
    assert (after.lease_owner, after.lease_until, after.poll_count) == ("another", LATE, 1)
    failed = unanswered(task, "down")
    assert row(failed).lease_owner == "another"
    finished = row(polled(task, by_poll(a_report(assets=(PICTURE,)))))
    assert (finished.status, finished.lease_owner, finished.lease_until) == (Status.SUCCEEDED, None, None)


@pytest.mark.parametrize("status", [Status.SUBMITTED, Status.PROCESSING])
@pytest.mark.parametrize("trust", [Trust.UNVERIFIED, Trust.TOKEN])
def test_early_unfinished_report_costs_one_poll(status: Status, trust: Trust) -> None:
    begun = row(accepted(in_flight(), a_report(Status.SUBMITTED)))
    observed = row(delivered(begun, by_callback(a_report(status), trust, at=NOW + timedelta(seconds=2))))
    if trust is Trust.UNVERIFIED:
        soon = NOW + timedelta(seconds=2) + POLICY.early_poll_delay
        assert observed.next_poll_at == soon
        observed = row(polled(observed, by_poll(a_report(status), at=soon)))
    assert observed.next_poll_at == begun.next_poll_at


def test_poll_that_changes_status_resets_quiet_polls() -> None:
    after = row(polled(replace(SUBMITTED, quiet_polls=5), by_poll(a_report(Status.PROCESSING))))
    assert (after.status, after.quiet_polls) == (Status.PROCESSING, 1)


def test_final_poll_ends_polling() -> None:
    change = polled(SUBMITTED, by_poll(a_report(assets=(PICTURE,))))
    assert (row(change).status, row(change).next_poll_at) == (Status.SUCCEEDED, None)
    assert change.drop_submission


@pytest.mark.parametrize("status", [Status.SUBMITTED, Status.PROCESSING])
def test_unfinished_poll_after_deadline_expires_task(status: Status) -> None:
    change = polled(SUBMITTED, by_poll(a_report(status), at=LATE))
    after = row(change)
    assert (after.status, after.next_poll_at) == (Status.EXPIRED, LATE + POLICY.expired_gap)
    sequences = [event.task.version for event in change.events]
    assert sequences == list(range(SUBMITTED.version + 1, after.version + 1))
    assert change.drop_submission


def test_final_poll_after_deadline_is_applied() -> None:
    assert row(polled(SUBMITTED, by_poll(a_report(), at=LATE))).status is Status.SUCCEEDED


def test_failed_poll_after_deadline_expires_task() -> None:
    change = unanswered(SUBMITTED, "down", now=LATE)
    assert row(change).status is Status.EXPIRED
    assert [entry.shown.verdict for entry in change.entries] == [Verdict.APPLIED]


def test_pause_overrides_schedule_and_counts_no_poll() -> None:
    change = unanswered(SUBMITTED, "busy", again_at=LATE, alarm=Alarm.CREDENTIAL, sent=False)
    assert (row(change).next_poll_at, row(change).poll_count, row(change).polled_at) == (LATE, 0, None)
    assert [alarm.kind for alarm in change.alarms] == [Alarm.CREDENTIAL]


@pytest.mark.parametrize(
    "report",
    [
        a_report(external_id="another's"),
        a_report(provider_task_id=None),
        a_report(external_id=None, created_at=NOW - timedelta(minutes=3)),
    ],
)
def test_wrong_candidate_id_is_dropped(report: Report) -> None:
    task = a_task(candidate_id=THEIR_ID, attempts=1)
    after = row(polled(task, by_poll(report), reply_to=ReplyTo.CANDIDATE))
    assert (after.status, after.provider_task_id, after.candidate_id) == (Status.PENDING, None, None)


def test_candidate_id_survives_some_denials() -> None:
    """The provider's reads can be stale, and a callback may come before its queries know the task."""
    task = a_task(sent_external_id=None, candidate_id=THEIR_ID, unproven_id_from=IdSource.CALLBACK, deadline_at=LATE)
    denied = PollResult(why="the provider does not know it", candidate_denied=True)
    polls = 0
    while task.candidate_id is not None:
        assert (task.quiet_polls, task.next_poll_at is None) == (polls, polls == 0)
        poll = RecordPoll(polled=task, result=denied, now=NOW, lifetime=LIFETIME, rules=RULES)
        task, polls = row(poll.decide(Known([task]))), polls + 1
    assert (polls, task.not_found) == (CANDIDATE_DENIALS, 0)
    # Only the deadline is left to wait for.
    assert task.next_poll_at == LATE


@pytest.mark.parametrize(("not_found", "kept"), [(0, True), (DENIALS - 1, True), (DENIALS, False)])
@pytest.mark.parametrize("source", [IdSource.SIGNED, IdSource.OWNER])
def test_denied_candidate_id_gives_way_to_newer_callback(not_found: int, source: IdSource, *, kept: bool) -> None:
    task = a_task(
        sent_external_id=None,
        candidate_id="a guess",
        unproven_id_from=source,
        not_found=not_found,
        deadline_at=LATE,
    )

    after = row(delivered(task, by_callback(a_report(external_id=None), Trust.SIGNED)))

    assert after.candidate_id == ("a guess" if kept or source is IdSource.OWNER else THEIR_ID)


def test_answer_about_earlier_candidate_id_keeps_the_newer_one() -> None:
    """A callback named another ID while the poll was waiting for its answer."""
    polled_row = a_task(sent_external_id=None, candidate_id="a guess", unproven_id_from=IdSource.CALLBACK)
    known = Known([replace(polled_row, candidate_id=THEIR_ID, unproven_id_from=IdSource.SIGNED)])
    older = by_poll(a_report(provider_task_id="a guess", external_id=None, created_at=NOW - timedelta(days=1)))
    denied = PollResult(why="the provider does not know it", candidate_denied=True)
    mismatch = PollResult(observation=older, reply_to=ReplyTo.CANDIDATE)

    for result in (*[denied] * CANDIDATE_DENIALS, mismatch):
        poll = RecordPoll(polled=polled_row, result=result, now=NOW, lifetime=LIFETIME, rules=RULES)
        task = row(poll.decide(known))
        assert (task.candidate_id, task.not_found) == (THEIR_ID, 0)


def test_unsigned_callback_never_replaces_signed_candidate_id() -> None:
    task = a_task(sent_external_id=None, candidate_id="a guess", unproven_id_from=IdSource.SIGNED, not_found=DENIALS)
    after = row(delivered(task, by_callback(a_report(external_id=None), Trust.UNVERIFIED)))
    assert after.candidate_id == "a guess"


def test_signed_callback_with_the_candidate_id_makes_it_signed() -> None:
    task = a_task(sent_external_id=None, candidate_id=THEIR_ID, unproven_id_from=IdSource.CALLBACK)
    after = row(delivered(task, by_callback(a_report(external_id=None), Trust.SIGNED)))
    assert (after.candidate_id, after.unproven_id_from) == (THEIR_ID, IdSource.SIGNED)


def test_outage_is_no_denial_of_a_candidate_id() -> None:
    task = a_task(sent_external_id=None, candidate_id="a guess", unproven_id_from=IdSource.CALLBACK, quiet_polls=9)
    after = row(delivered(task, by_callback(a_report(external_id=None), Trust.UNVERIFIED)))
    assert after.candidate_id == "a guess"


@pytest.mark.parametrize("report", [a_report(), a_report(external_id=None, created_at=NOW)])
def test_confirmed_candidate_id_is_recorded(report: Report) -> None:
    after = row(polled(a_task(candidate_id=THEIR_ID, attempts=1), by_poll(report), reply_to=ReplyTo.CANDIDATE))
    assert (after.status, after.provider_task_id) == (Status.SUCCEEDED, THEIR_ID)


def test_resolve_during_submission_is_a_conflict() -> None:
    with pytest.raises(Conflict, match="under way"):
        resolve(in_flight(), Status.REJECTED)


def test_poll_during_submission_keeps_its_lease() -> None:
    task = in_flight()
    change = unanswered(task, "not found", again_at=NOW)
    after = row(change)
    assert (after.lease_owner, after.lease_until, after.next_poll_at) == ("us", task.lease_until, task.next_poll_at)


def test_resolve_of_unproven_task_is_recorded() -> None:
    lost = in_flight(attempt_deadline_at=NOW)
    change = resolve(lost, Status.REJECTED)
    after = row(change)
    assert (after.status, after.released, after.lease_owner, after.next_poll_at) == (Status.REJECTED, True, None, None)
    assert change.drop_submission
    assert after.reason == "rejected, says the operator"


@pytest.mark.parametrize("status", [Status.REJECTED, Status.EXPIRED])
def test_resolve_of_finished_task_is_a_conflict(status: Status) -> None:
    finished = row(polled(SUBMITTED, by_poll(a_report())))
    with pytest.raises(Conflict, match="succeeded"):
        resolve(finished, status)


def test_missing_row_is_not_found() -> None:
    with pytest.raises(NotFound):
        RecordRefused(sent=a_task(), why="", now=NOW, rules=RULES).decide(Known())


# ---- callbacks


def test_task_callback_resets_not_found_count() -> None:
    absent = a_task(attempts=1, not_found=2)
    assert row(delivered(absent, by_callback(Report(flaw="not JSON"), Trust.UNVERIFIED))).not_found == 0


def test_unverified_id_of_another_task_is_no_candidate() -> None:
    other = a_task(2, provider_task_id=THEIR_ID)
    assert (
        row(delivered(a_task(), by_callback(a_report(external_id=None), Trust.UNVERIFIED), other)).candidate_id is None
    )


def test_unverified_callback_brings_poll_forward() -> None:
    change = delivered(SUBMITTED, by_callback(a_report(), Trust.UNVERIFIED, flaw=Flaw.UNSIGNED))
    assert row(change).next_poll_at == NOW + POLICY.early_poll_delay
    assert [entry.shown.verdict for entry in change.entries] == [Verdict.UNVERIFIED]
    assert [alarm.kind for alarm in change.alarms] == [Alarm.UNSIGNED]
    assert change.counts == {"callbacks": 1, "unverified_callbacks": 1}


def test_unreadable_callback_brings_poll_forward() -> None:
    change = delivered(SUBMITTED, by_callback(Report(flaw="not JSON"), body=b"\xff"))
    assert row(change).next_poll_at == NOW + POLICY.early_poll_delay
    assert change.entries[0].shown.body == b"\xff"


def test_unverified_callback_polls_an_expired_task() -> None:
    expired = row(unanswered(SUBMITTED, "", now=LATE))
    unverified = by_callback(a_report(), Trust.UNVERIFIED, at=LATE + timedelta(hours=1))
    assert row(delivered(expired, unverified)).next_poll_at == LATE + timedelta(hours=1) + POLICY.early_poll_delay


def test_final_callback_needs_no_poll() -> None:
    change = delivered(SUBMITTED, by_callback(a_report(assets=(PICTURE,))))
    assert (row(change).status, row(change).next_poll_at) == (Status.SUCCEEDED, None)


def test_success_without_files_is_polled() -> None:
    assert row(delivered(SUBMITTED, by_callback(a_report()))).next_poll_at is not None


def test_callback_without_change_costs_no_poll() -> None:
    assert row(delivered(SUBMITTED, by_callback(a_report(Status.SUBMITTED)))).next_poll_at == SUBMITTED.next_poll_at


@pytest.mark.parametrize("trust", [Trust.UNVERIFIED, Trust.TOKEN])
def test_contradicting_callbacks_are_polled(trust: Trust) -> None:
    finished = row(delivered(SUBMITTED, by_callback(a_report(assets=(PICTURE,)))))
    assert (
        row(delivered(finished, by_callback(a_report(Status.FAILED), trust))).next_poll_at
        == NOW + POLICY.early_poll_delay
    )


def test_callback_contradicting_a_poll_is_not_polled() -> None:
    finished = row(polled(SUBMITTED, by_poll(a_report(assets=(PICTURE,)))))
    assert row(delivered(finished, by_callback(a_report(Status.FAILED)))).next_poll_at is None


def dedupe_key(observation: Observation, task: Task = SUBMITTED) -> str:
    return delivered(task, observation).entries[0].dedupe_key


def test_dedupe_key_covers_trust_and_body() -> None:
    first = by_callback(a_report(), body=b"1")
    assert dedupe_key(first) == dedupe_key(structs.replace(first, at=LATE))
    assert dedupe_key(first) != dedupe_key(structs.replace(first, body=b"2"))
    assert dedupe_key(first) != dedupe_key(structs.replace(first, trust=Trust.UNVERIFIED))


def test_dedupe_key_of_webhook_id_ignores_body() -> None:
    first = by_callback(a_report(), Trust.SIGNED, body=b"1", webhook_id="w")
    assert dedupe_key(first) == dedupe_key(structs.replace(first, body=b"2"))
    assert dedupe_key(first) != dedupe_key(structs.replace(first, webhook_id="v"))


def test_forged_webhook_id_has_another_dedupe_key() -> None:
    """A forger may guess a future webhook ID. The receiver forwards the ID only if its signature is valid."""
    forged = by_callback(a_report(Status.FAILED), Trust.UNVERIFIED, flaw=Flaw.BAD_SIGNATURE, body=b"1")
    true = by_callback(a_report(), Trust.SIGNED, body=b"1", webhook_id="w")
    assert dedupe_key(forged) != dedupe_key(true)


@pytest.mark.parametrize("changes", [{"provider_task_id": THEIR_ID}, {"sent_external_id": "theirs"}])
def test_shared_callback_url_finds_task_by_ids(changes: dict[str, Any]) -> None:
    task = a_task(2, **changes)
    observation = by_callback(a_report(external_id="theirs"), Trust.SIGNED)
    arrived = Arrived(provider="kling", observation=observation, shared_url=SHARED_URL)
    change = RecordCallback(arrived=arrived, account="default", rules=RULES).decide(Known([task]))
    assert (change.result.task_id, change.result.verdict) == (task.id, Verdict.APPLIED)


def test_callback_of_unknown_task_is_an_orphan() -> None:
    arrived = Arrived(provider="kling", observation=by_callback(a_report(), Trust.UNVERIFIED), shared_url=SHARED_URL)
    change = RecordCallback(arrived=arrived, account="default", rules=RULES).decide(Known([a_task(2)]))
    assert change.result.orphan
    assert change.task is None
    assert [alarm.kind for alarm in change.alarms] == [Alarm.ORPHAN]
    assert change.orphan is not None
    assert (change.orphan.state, change.orphan.next_poll_at, change.orphan.client) == ("waiting", NOW, "studio")


def test_orphan_without_id_is_never_polled() -> None:
    arrived = Arrived(
        provider="kling", observation=by_callback(Report(flaw="not JSON"), body=b"x"), shared_url=SHARED_URL
    )
    change = RecordCallback(arrived=arrived, account="default", rules=RULES).decide(Known())
    assert change.orphan is not None
    assert (change.orphan.state, change.orphan.next_poll_at, change.orphan.body) == ("orphan", None, b"x")


def test_unsigned_callbacks_beyond_bound_share_an_entry() -> None:
    task = SUBMITTED
    keys: list[str] = []
    for number in range(UNSIGNED_ENTRIES + 50):
        body = str(number).encode()
        forged = by_callback(a_report(), Trust.UNVERIFIED, body=body, flaw=Flaw.UNSIGNED)
        change = delivered(task, forged)
        task = row(change)
        keys.extend(entry.dedupe_key for entry in change.entries)

    assert len(set(keys)) == UNSIGNED_ENTRIES + 1
    assert keys.count("callback|unsigned") == 50
    assert "are only counted" in change.entries[0].shown.why


def test_verified_callbacks_of_flooded_task_keep_entries() -> None:
    flooded = replace(SUBMITTED, unsigned=UNSIGNED_ENTRIES)

    applied = delivered(flooded, by_callback(a_report(), Trust.TOKEN, body=b"applied"))
    signed = delivered(flooded, by_callback(a_report(), Trust.SIGNED, body=b"signed", webhook_id="msg_1"))

    assert [entry.dedupe_key for entry in (*applied.entries, *signed.entries)][1] == "callback|SIGNED|id msg_1"
    assert applied.entries[0].dedupe_key.startswith("callback|TOKEN|")
    assert (row(applied).unsigned, row(signed).unsigned) == (UNSIGNED_ENTRIES + 1, UNSIGNED_ENTRIES)
