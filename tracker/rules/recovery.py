"""What to do about a submit whose outcome is not known: pure, and written so that no task is charged twice.

"The provider never had it" is believed only after its exact documented not-found answer, twice, long enough after the
attempt's deadline, at an address where lookups by external id are proven. Everything else leaves the row pending; a
row whose external id the provider refused as taken stays so until it is found, or until the operator settles it.
"""

from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec

from tracker.model.task import Status, Task
from tracker.rules.schedule import Policy

UNRESOLVED: Final = "unresolved"
LOOKING_UP: Final = "the provider's answer to the submit was lost; looking the task up"
ABSENT: Final = "the provider never had it; it will be submitted again"


class Step(StrEnum):
    """What recovery does with a pending task next."""

    LOOK_UP = "look up"
    SUBMIT_AGAIN = "submit again"
    GIVE_UP = "give up"


def next_step(task: Task, *, policy: Policy) -> Step:
    """Choose the next step for a ``pending`` task that we submit ourselves.

    A submit is repeated only for a task that is proven absent; after ``policy.attempts`` it is given up as rejected,
    which is true: the provider never made it.
    """
    if task.duplicate_at is not None or task.provider_task_id is not None or task.candidate_id is not None:
        # It exists, or may: no number of denials proves the contrary.
        return Step.LOOK_UP
    if task.not_found < policy.absences:
        return Step.LOOK_UP
    return Step.SUBMIT_AGAIN if task.attempts < policy.attempts else Step.GIVE_UP


class Denial(msgspec.Struct, frozen=True, kw_only=True):
    """One exact not-found answer to a lookup by external ID that was sent at ``at`` or later.

    ``proven`` where such a lookup found its task before. Unless the clock was ``steady`` for a while, the denial does
    not count: the attempt may have ended just now.
    """

    at: datetime
    proven: bool
    steady: bool = True


def not_found(task: Task, denial: Denial, policy: Policy) -> Task:
    """Weigh a denial for a submit whose outcome is not known."""
    if task.status is not Status.PENDING or task.attempts == 0:
        return task
    if not denial.proven or task.duplicate_at is not None:
        return replace(task, reason=UNRESOLVED)
    count = task.not_found + 1 if denial.steady and is_over(task, denial.at, policy) else 0
    return replace(task, not_found=count, reason=ABSENT if count >= policy.absences else LOOKING_UP)


def is_over(task: Task, now: datetime, policy: Policy) -> bool:
    """Return whether the last attempt is over for so long that whatever it made must be visible by now."""
    return task.attempt_deadline_at is None or now >= task.attempt_deadline_at + policy.absence_wait
