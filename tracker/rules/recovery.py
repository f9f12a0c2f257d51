"""Recovery of submissions with an unknown outcome. Pure. No task may be charged twice.

Homing concludes that the provider never had the task only after two documented not-found answers. They must come long
enough after the deadline of the attempt, from a URL where lookups by external ID are verified. Otherwise the row stays
pending. If the provider refused the external ID as taken, the row is pending until a lookup or a manual resolution.
"""

from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec

from tracker.model.task import Status, Task
from tracker.rules.schedule import Policy

UNRESOLVED: Final = "unresolved"
LOOKING_UP: Final = "the provider's answer to the submission was lost. Homing looks the task up"
ABSENT: Final = "the provider never had the task. Homing will submit it again"


class Step(StrEnum):
    """What recovery does with a pending task next."""

    LOOK_UP = "look up"
    SUBMIT_AGAIN = "submit again"
    GIVE_UP = "give up"


def next_step(task: Task, *, policy: Policy) -> Step:
    """Return the next step for a ``pending`` task that Homing submits itself.

    Homing resubmits only a task that the provider verifiably does not have. After ``policy.attempts`` the task is
    rejected, because the provider never made it.
    """
    if task.duplicate_at is not None or task.provider_task_id is not None or task.candidate_id is not None:
        # The task exists or may exist. Not-found answers do not change that.
        return Step.LOOK_UP
    if task.not_found < policy.absences:
        return Step.LOOK_UP
    return Step.SUBMIT_AGAIN if task.attempts < policy.attempts else Step.GIVE_UP


class Denial(msgspec.Struct, frozen=True, kw_only=True):
    """One exact not-found answer to a lookup by external ID that was sent at ``at`` or later.

    ``proven`` means that such a lookup has found its task before. If the clock was not ``steady`` for a while, the
    answer does not count, because the attempt may have ended just now.
    """

    at: datetime
    proven: bool
    steady: bool = True


def not_found(task: Task, denial: Denial, policy: Policy) -> Task:
    """Count a not-found answer for a submission with an unknown outcome."""
    if task.status is not Status.PENDING or task.attempts == 0:
        return task
    if not denial.proven or task.duplicate_at is not None:
        return replace(task, reason=UNRESOLVED)
    count = task.not_found + 1 if denial.steady and is_over(task, denial.at, policy) else 0
    return replace(task, not_found=count, reason=ABSENT if count >= policy.absences else LOOKING_UP)


def may_be_submitting(task: Task, now: datetime, policy: Policy) -> bool:
    """Return whether the last attempt to submit the task may be in progress.

    A deadline that is further away than the longest attempt was set by a clock that was set back since.
    """
    deadline = task.attempt_deadline_at
    return deadline is not None and now < deadline <= now + max(policy.answer_within, policy.attempt)


def is_over(task: Task, now: datetime, policy: Policy) -> bool:
    """Return whether the last attempt ended so long ago that a task of it would be visible by now."""
    return task.attempt_deadline_at is None or now >= task.attempt_deadline_at + policy.absence_wait
