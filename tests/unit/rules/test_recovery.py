"""A submit whose outcome is unknown: what proves that the provider never had it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.support.builders import NOW, a_task
from tracker.model.task import Status, Task
from tracker.rules import recovery
from tracker.rules.recovery import Denial, Step
from tracker.rules.schedule import Policy

POLICY = Policy()
LOST = a_task(attempts=1, attempt_deadline_at=NOW)
DUE = NOW + timedelta(seconds=30)


def not_found(task: Task, *, at: timedelta = timedelta(seconds=30), proven: bool = True) -> Task:
    return recovery.not_found(task, Denial(at=NOW + at, proven=proven), POLICY)


def test_two_exact_not_found_answers_prove_that_the_provider_never_had_it() -> None:
    once = not_found(LOST)
    assert (recovery.next_step(once, policy=POLICY), once.reason) == (Step.LOOK_UP, recovery.LOOKING_UP)
    twice = not_found(once)
    assert (recovery.next_step(twice, policy=POLICY), twice.reason) == (Step.SUBMIT_AGAIN, recovery.ABSENT)


def test_an_answer_within_thirty_seconds_of_the_attempt_s_deadline_counts_for_nothing() -> None:
    early = timedelta(seconds=29.999)
    assert not_found(LOST, at=early).not_found == 0
    assert not_found(not_found(LOST), at=early).not_found == 0


def test_where_lookups_are_unproven_no_answer_ever_proves_absence() -> None:
    task = LOST
    for _ in range(10):
        task = not_found(task, proven=False)
    assert (task.not_found, task.reason) == (0, recovery.UNRESOLVED)
    assert recovery.next_step(task, policy=POLICY) is Step.LOOK_UP


@pytest.mark.parametrize("changes", [{"attempts": 0}, {"status": Status.SUBMITTED}, {"status": Status.EXPIRED}])
def test_only_a_submit_of_ours_that_is_still_pending_is_weighed(changes: dict[str, Any]) -> None:
    task = replace(LOST, **changes)
    assert not_found(task) is task


@pytest.mark.parametrize("name", ["provider_task_id", "candidate_id"])
def test_a_task_with_any_id_at_the_provider_is_never_submitted_again(name: str) -> None:
    absent = replace(LOST, not_found=POLICY.absences)
    named: dict[str, Any] = {name: "kling-1"}
    assert recovery.next_step(replace(absent, **named), policy=POLICY) is Step.LOOK_UP


def test_after_the_last_attempt_a_task_that_was_never_made_is_given_up() -> None:
    tired = replace(LOST, attempts=POLICY.attempts, not_found=POLICY.absences)
    assert recovery.next_step(tired, policy=POLICY) is Step.GIVE_UP
    assert recovery.next_step(replace(tired, not_found=0), policy=POLICY) is Step.LOOK_UP
