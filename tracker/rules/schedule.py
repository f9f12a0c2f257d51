"""When to poll a task: pure functions of the task, the time, a policy, what was learned, and a random number.

After enough tasks of a model have finished, ``next_poll`` places each poll by their run times and by the share of lost
callbacks. Before that, a task is first polled when the provider's documentation says that such tasks end. Beyond all
known run times, each gap is a share of the task's age: the extra delay stays a fraction of the run time, and the number
of polls grows with its logarithm.

An unverified callback brings the next poll forward, but not closer to the last poll than a gap that itself grows:
twenty of them cost one request. The poll after that is planned as if there had been none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from tracker.model import facts
from tracker.model.task import FINAL, Status, Task
from tracker.rules import next_poll
from tracker.rules.learning import Habits, Outlook

JITTER: Final = 0.2
# The jitter of a learned poll, just large enough to separate tasks that began together.
LEARNED_JITTER: Final = 0.05
AGE_SHARE: Final = 0.25
EMPTY_RESULT_CHECKS: Final = 7
REPEATS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """All durations and counts of the schedule. The defaults are for the real provider.

    ``answer_within`` is the whole time of a submit as our client sees it; ``attempt`` the hard total deadline of one
    call that creates; ``lease_margin`` what a lease outlives the deadline by; ``absence_wait`` how long after the
    attempt's deadline a not-found answer begins to count, ``absence_gap`` the time between two, ``absences`` how many
    prove that the provider never had the task. Homing retries a resubmission that the busy provider refuses until
    the task is ``repeat_within`` old; then the task is rejected.
    ``budget`` is how many polls and lookups a minute are sent, ``client_budget`` how many of these one client
    may cause. A poll within ``fresh`` of the last one gets its answer. If more than ``lists_above``
    tasks of an account are due, Homing reads the provider's list. ``retention`` is how long rows are kept, None
    forever: an older task of the provider may be one whose row was deleted.
    ``submission_capacity`` is how many bytes of bodies may wait at once for the provider's answer to their submit.
    ``helper_call`` is the hard total deadline of one helper call. ``helper_capacity`` is how many bytes of their bodies
    may wait at once for the provider's answer.
    ``first_poll_delay`` is the operator's own. Every ``learn_every`` the schedule learns from the tasks that ended
    ``callback_grace`` ago or earlier: a callback may arrive so late and still count. While a
    task is in conflict, two polls are at most ``conflict_gap`` apart. Polling stops after ``conflict_patience``.
    The reconciler pauses for ``reconciler_idle`` if nothing is due. Without a notice, the feed reads events every
    ``feed_scan_interval``.
    """

    answer_within: timedelta = timedelta(seconds=18)
    attempt: timedelta = timedelta(seconds=14)
    query: timedelta = timedelta(seconds=10)
    lease_margin: timedelta = timedelta(seconds=10)
    absence_wait: timedelta = timedelta(seconds=30)
    absence_gap: timedelta = timedelta(seconds=5)
    absences: int = 2
    attempts: int = 5
    repeat_within: timedelta = timedelta(minutes=30)
    first_lookup: timedelta = timedelta(seconds=2)
    busy_delay: timedelta = timedelta(seconds=1)
    first_poll_delay: timedelta | None = None
    least_gap: timedelta = timedelta(seconds=2)
    greatest_gap: timedelta = timedelta(minutes=10)
    early_poll_delay: timedelta = timedelta(seconds=1)
    early_poll_gap: timedelta = timedelta(seconds=10)
    expired_gap: timedelta = timedelta(days=1)
    deadline: timedelta | None = None
    deadlines: Mapping[str, timedelta] = field(default_factory=dict)
    adopt_window: timedelta = timedelta(minutes=2)
    retention: timedelta | None = None
    resend_window: timedelta = timedelta(minutes=10)
    budget: int = 120
    client_budget: int = 30
    lists_above: int = 200
    fresh: timedelta = timedelta(seconds=3)
    submission_capacity: int = 384 << 20
    helper_call: timedelta = timedelta(seconds=30)
    helper_capacity: int = 96 << 20
    learn_every: timedelta = timedelta(seconds=10)
    callback_grace: timedelta = timedelta(seconds=60)
    conflict_gap: timedelta = timedelta(hours=1)
    conflict_patience: timedelta = timedelta(days=3)
    reconciler_idle: timedelta = timedelta(seconds=0.1)
    feed_scan_interval: timedelta = timedelta(seconds=1)


def deadline_for(kind: str, usual: timedelta, policy: Policy) -> timedelta:
    """Return after how long a task of ``kind`` expires. ``usual`` is the deadline of the provider."""
    return policy.deadlines.get(kind) or policy.deadline or usual


def first_poll_delay(task: Task, *, now: datetime, policy: Policy, habits: Habits, random: float) -> datetime:
    """Return the delay until the first poll of a task that begins now. 0 ≤ ``random`` < 1."""
    first = _planned(habits.outlook(task), timedelta(), policy, random)
    return _in_time(task, now, policy, timedelta() if first is None else first)


def after_poll(
    task: Task,
    *,
    now: datetime,
    policy: Policy,
    habits: Habits,
    lifetime: timedelta,
    random: float,
    answered: bool = True,
) -> datetime | None:
    """Return when to poll a task again, or None if no poll is needed.

    ``lifetime`` is how long the provider keeps results. Until then, an expired task may still get one. ``answered`` is
    false if the poll failed. Then even a finished task is polled again.
    """
    if facts.in_conflict(task):
        return conflict_due(task, now=now, policy=policy)
    if task.status is Status.EXPIRED:
        again = now + policy.expired_gap
        return again if again < task.created_at + lifetime else None
    if task.status in FINAL or task.status is Status.REJECTED:
        most = REPEATS if not answered else EMPTY_RESULT_CHECKS if lacks_result(task) else 0
        if task.quiet_polls >= most:
            return None
        return now + min(policy.least_gap * (1 << task.quiet_polls), policy.greatest_gap)
    return _in_time(task, now, policy, _gap(task, now, policy, habits, random, answered=answered))


def early_poll_at(task: Task, *, now: datetime, policy: Policy) -> datetime:
    """Return the time of an early poll, for example after an unverified callback: soon, but not right after another."""
    soon = now + policy.early_poll_delay
    if task.polled_at is not None and task.polled_at <= now:
        gap = min(policy.early_poll_gap * (1 << min(task.quiet_polls, 6)), policy.greatest_gap)
        soon = max(soon, task.polled_at + gap)
    return soon if task.next_poll_at is None else min(soon, task.next_poll_at)


def furthest(policy: Policy, habits: Habits) -> timedelta:
    """Return how far away the next poll of a task can be planned. Expired tasks have ``expired_gap`` instead."""
    usual = max(habits.usual.values(), default=timedelta())
    learned = max((known.ascending[-1] for known in habits.run_times.values()), default=0.0)
    first = max(policy.first_poll_delay or timedelta(), usual, timedelta(seconds=learned)) * (1 + JITTER)
    return max(first, policy.greatest_gap * (1 + JITTER), policy.conflict_gap) + policy.answer_within


def conflict_due(task: Task, *, now: datetime, policy: Policy) -> datetime | None:
    """Return when to poll a task in conflict, or None after ``conflict_patience``.

    The polls end later if there were fewer than ``REPEATS`` (Homing may have been down), but after twice that time in
    any case (there may be no way to poll).
    """
    age = now - (task.conflict_at or now)
    tried = task.quiet_polls >= REPEATS or age >= 2 * policy.conflict_patience
    if age >= policy.conflict_patience and tried:
        return None
    # If the clock was set back, the age is negative: the further back, the longer the gap.
    return now + min(max(abs(age) * AGE_SHARE, policy.least_gap), policy.conflict_gap)


def busy_delay(attempt: int, *, policy: Policy, retry_after: timedelta | None, random: float) -> timedelta:
    """Return the delay before the ``attempt``-th resubmission (from 1) after the provider was busy, with jitter."""
    own = policy.busy_delay * (1 << (attempt - 1))
    return max(own * (0.5 + random / 2), retry_after or timedelta())


def repeat_delay(task: Task, *, now: datetime, policy: Policy, retry_after: timedelta | None) -> timedelta:
    """Return the delay before an accepted task is resubmitted, after the provider was busy."""
    own = max((now - task.created_at) * AGE_SHARE, policy.busy_delay, retry_after or timedelta())
    return min(own, policy.greatest_gap)


def lacks_result(task: Task) -> bool:
    """Return whether the task succeeded but its results are not known yet."""
    return task.status is Status.SUCCEEDED and not facts.has_assets(task) and facts.output(task) is None


def _in_time(task: Task, now: datetime, policy: Policy, gap: timedelta) -> datetime:
    """Return now plus ``gap``, at least ``least_gap`` and at most up to the deadline."""
    return min(now + max(gap, policy.least_gap), max(task.deadline_at, now + policy.least_gap))


def _gap(task: Task, now: datetime, policy: Policy, habits: Habits, random: float, *, answered: bool) -> timedelta:
    # If the clock was set back, the task counts as new.
    age = max(now - (task.submitted_at or task.created_at), timedelta())
    swing = 1 + JITTER * (2 * random - 1)
    if not answered or (task.status is Status.PENDING and task.attempts > 0):
        # The poll said nothing about the task, so the learned run times do not apply.
        return max(_growing(age, policy), policy.absence_gap) * swing
    planned = _planned(habits.outlook(task), age, policy, random)
    return planned - age if planned is not None else _growing(age, policy) * swing


def _growing(age: timedelta, policy: Policy) -> timedelta:
    return min(age * AGE_SHARE, policy.greatest_gap)


def _planned(outlook: Outlook, age: timedelta, policy: Policy, random: float) -> timedelta | None:
    """Return the age at which to poll next, or None beyond all known run times.

    The configured first delay has precedence, also after an unverified callback caused an earlier poll.
    """
    first = policy.first_poll_delay or (None if outlook.run_times else outlook.usual)
    if first is not None and age < first:
        return first * (1 + JITTER * random)
    planned = next_poll.next_poll_age(outlook.run_times, lost=outlook.lost, age=age.total_seconds())
    if planned is None:
        return None
    # A callback arrives shortly after the end. The more likely it is, the longer the poll waits for it.
    later = timedelta(seconds=planned) + policy.least_gap * (1 - outlook.lost)
    return age + (later - age) * (1 + LEARNED_JITTER * random)
