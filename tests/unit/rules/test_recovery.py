"""Tests of recovery: which lookups prove that a submission never reached the provider."""

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


def test_two_not_found_answers_prove_absence() -> None:
    once = not_found(LOST)
    assert (recovery.next_step(once, policy=POLICY), once.reason) == (Step.LOOK_UP, recovery.LOOKING_UP)
    twice = not_found(once)
    assert (recovery.next_step(twice, policy=POLICY), twice.reason) == (Step.SUBMIT_AGAIN, recovery.ABSENT)


def test_early_not_found_answer_is_ignored() -> None:
    early = timedelta(seconds=29.999)
    assert not_found(LOST, at=early).not_found == 0
    assert not_found(not_found(LOST), at=early).not_found == 0


def test_unproven_lookup_never_proves_absence() -> None:
    task = LOST
    for _ in range(10):
        task = not_found(task, proven=False)
    assert (task.not_found, task.reason) == (0, recovery.UNRESOLVED)
    assert recovery.next_step(task, policy=POLICY) is Step.LOOK_UP


@pytest.mark.parametrize("changes", [{"attempts": 0}, {"status": Status.SUBMITTED}, {"status": Status.EXPIRED}])
def test_only_pending_submission_counts_not_found(changes: dict[str, Any]) -> None:
    task = replace(LOST, **changes)
    assert not_found(task) is task


@pytest.mark.parametrize("name", ["provider_task_id", "candidate_id"])
def test_task_with_provider_id_is_not_resubmitted(name: str) -> None:
    absent = replace(LOST, not_found=POLICY.absences)
    named: dict[str, Any] = {name: "kling-1"}
    assert recovery.next_step(replace(absent, **named), policy=POLICY) is Step.LOOK_UP


def test_absent_task_after_last_attempt_is_given_up() -> None:
    exhausted = replace(LOST, attempts=POLICY.attempts, not_found=POLICY.absences)
    assert recovery.next_step(exhausted, policy=POLICY) is Step.GIVE_UP
    assert recovery.next_step(replace(exhausted, not_found=0), policy=POLICY) is Step.LOOK_UP
