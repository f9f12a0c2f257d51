"""When to look again: pure functions of a task, a time, a policy and a random number passed in.

A task is first asked about when such tasks usually end, then after a growing share of its age, so that the extra delay
stays a fraction of the run time and the number of questions grows with its logarithm. Hints bring the next question
forward, but never closer to the last one than a gap that itself grows: twenty hints cost one request.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from tracker import lifecycle
from tracker.models import FINAL, Status, Task

JITTER: Final = 0.2
AGE_SHARE: Final = 0.25
EMPTY_RESULT_CHECKS: Final = 6
REPEATS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Every duration and count that decides about time; the defaults are for the real provider.

    ``answer_within`` is the whole time of a submit as our client sees it; ``attempt`` the hard total deadline of one
    call that creates; ``lease_margin`` what a lease outlives the deadline by; ``absence_wait`` how long after the
    attempt's deadline a not-found answer begins to count, ``absence_gap`` the time between two, ``absences`` how many
    prove that the provider never had the task. ``budget`` is how many requests a minute the reconciler may send.
    """

    answer_within: timedelta = timedelta(seconds=18)
    attempt: timedelta = timedelta(seconds=14)
    query: timedelta = timedelta(seconds=10)
    lease_margin: timedelta = timedelta(seconds=10)
    absence_wait: timedelta = timedelta(seconds=30)
    absence_gap: timedelta = timedelta(seconds=5)
    absences: int = 2
    attempts: int = 5
    first_lookup: timedelta = timedelta(seconds=2)
    busy_delay: timedelta = timedelta(seconds=1)
    first_check: timedelta | None = None
    least_gap: timedelta = timedelta(seconds=5)
    greatest_gap: timedelta = timedelta(minutes=10)
    hint_delay: timedelta = timedelta(seconds=1)
    hint_gap: timedelta = timedelta(seconds=10)
    expired_gap: timedelta = timedelta(days=1)
    deadline: timedelta | None = None
    deadlines: Mapping[str, timedelta] = field(default_factory=dict)
    adopt_window: timedelta = timedelta(minutes=2)
    resend_window: timedelta = timedelta(minutes=10)
    budget: int = 120


def deadline_for(kind: str, usual: timedelta, policy: Policy) -> timedelta:
    """How long we wait for a task of ``kind`` before it counts as expired; ``usual`` is the provider's."""
    return policy.deadlines.get(kind) or policy.deadline or usual


def first_check(usual: timedelta, policy: Policy, random: float) -> timedelta:
    """How long after its submit a task is first asked about; ``usual`` is what such tasks take, 0 ≤ ``random`` < 1."""
    expected = policy.first_check if policy.first_check is not None else usual
    return expected * (1 + JITTER * random)


def after_poll(
    task: Task, *, now: datetime, policy: Policy, lifetime: timedelta, random: float, answered: bool = True
) -> datetime | None:
    """When to ask again after a question that did not settle it; None where nothing is left to ask.

    ``lifetime`` is how long the provider keeps results: an expired task could still bring some until then.
    ``answered`` is false where the question itself failed: even a task that needs no more answers had a reason to ask.
    """
    if task.status is Status.EXPIRED:
        again = now + policy.expired_gap
        return again if again < task.created_at + lifetime else None
    if task.status in FINAL or task.status is Status.REJECTED:
        most = REPEATS if not answered else EMPTY_RESULT_CHECKS if lacks_result(task) else 0
        if task.quiet_polls >= most:
            return None
        return now + min(policy.least_gap * (1 << task.quiet_polls), policy.greatest_gap)
    return min(now + _gap(task, now, policy, random), max(task.deadline_at, now + policy.least_gap))


def after_hint(task: Task, *, now: datetime, policy: Policy) -> datetime:
    """When to ask because of a hint: soon, unless it was asked just now or is asked sooner anyway."""
    soon = now + policy.hint_delay
    if task.polled_at is not None:
        gap = min(policy.hint_gap * (1 << min(task.quiet_polls, 6)), policy.greatest_gap)
        soon = max(soon, task.polled_at + gap)
    return soon if task.next_poll_at is None else min(soon, task.next_poll_at)


def after_lost_submit(task: Task, *, now: datetime, policy: Policy) -> datetime:
    """When to look up a task whose submit was not answered."""
    if task.not_found or task.quiet_polls:
        return now + policy.absence_gap
    return now + policy.first_lookup


def busy_delay(attempt: int, *, policy: Policy, told: timedelta | None, random: float) -> timedelta:
    """How long to wait before the ``attempt``-th repeat (from 1) of a refused-for-now submit, with full jitter."""
    own = policy.busy_delay * (1 << (attempt - 1))
    return max(own * (0.5 + random / 2), told or timedelta())


def repeat_delay(task: Task, *, now: datetime, policy: Policy, told: timedelta | None) -> timedelta:
    """How long until a submit that its client was told of is repeated, after the provider refused it for now."""
    own = max((now - task.created_at) * AGE_SHARE, policy.busy_delay, told or timedelta())
    return min(own, policy.greatest_gap)


def lacks_result(task: Task) -> bool:
    """Whether the task succeeded but its files are not known yet."""
    return task.status is Status.SUCCEEDED and not lifecycle.assets(task)


def _gap(task: Task, now: datetime, policy: Policy, random: float) -> timedelta:
    since = task.submitted_at or task.created_at
    share = (now - since) * AGE_SHARE
    return min(max(share, policy.least_gap), policy.greatest_gap) * (1 + JITTER * (2 * random - 1))
