"""Tests of the poll schedule."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.properties.observations import observed_in_turn
from tests.support.builders import NOW, OMNI, PICTURE, THEIR_ID, a_completion, a_report, a_task, by_poll, inferred
from tracker.model.task import Status, Task, Trust
from tracker.rules import schedule
from tracker.rules.learning import Habits, learn
from tracker.rules.schedule import Policy

POLICY = Policy()
UNTAUGHT = Habits()
USUAL = Habits(usual={("kling", OMNI): timedelta(seconds=40)})
SUBMITTED = a_task(status=Status.SUBMITTED, provider_task_id=THEIR_ID, submitted_at=NOW)
FULL = observed_in_turn(SUBMITTED, [by_poll(a_report(assets=(PICTURE,)))], Trust.TOKEN)
EMPTY = observed_in_turn(SUBMITTED, [by_poll(a_report())], Trust.TOKEN)
EXPIRED = observed_in_turn(SUBMITTED, [inferred(Status.EXPIRED)], Trust.TOKEN)
LISTENING = replace(SUBMITTED, callback_requested=True, model="kling-v3-omni")
MONTH = timedelta(days=30)
RUNS = [16 + number / 5 for number in range(41)]


def after_poll(
    task: Task,
    now: datetime,
    *,
    random: float = 0.5,
    policy: Policy = POLICY,
    habits: Habits = UNTAUGHT,
    answered: bool = True,
) -> datetime | None:
    return schedule.after_poll(
        task, now=now, policy=policy, habits=habits, lifetime=MONTH, random=random, answered=answered
    )


def first_poll_delay(
    task: Task = SUBMITTED, *, habits: Habits, policy: Policy = POLICY, random: float = 0.0
) -> timedelta:
    return schedule.first_poll_delay(task, now=NOW, policy=policy, habits=habits, random=random) - NOW


def taught(took: Sequence[float], *, heard: bool = True) -> Habits:
    """Learn from tasks with these run times in seconds. All their callbacks arrived, or all were lost."""
    return learn(USUAL, [a_completion(n, seconds(each), callback_arrived=heard) for n, each in enumerate(took)])


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


def test_first_poll_is_at_the_usual_run_time() -> None:
    assert first_poll_delay(habits=USUAL) == seconds(40)
    assert seconds(47) < first_poll_delay(habits=USUAL, random=0.999) < seconds(48.1)
    assert first_poll_delay(habits=USUAL, policy=Policy(first_poll_delay=seconds(3))) == seconds(3)


@pytest.mark.parametrize("heard", [True, False])
def test_configured_first_poll_delay_is_always_used(*, heard: bool) -> None:
    policy = Policy(first_poll_delay=seconds(300))
    habits = taught(RUNS, heard=heard)
    assert first_poll_delay(habits=habits, policy=policy) == seconds(300)
    assert after_poll(SUBMITTED, NOW + seconds(2), habits=habits, policy=policy, random=0.0) == NOW + seconds(300)
    assert after_poll(SUBMITTED, NOW + seconds(301), habits=habits, policy=policy) != NOW + seconds(300)


def test_lost_callbacks_cause_polls_near_usual_end() -> None:
    now, polls = NOW, []
    while now < NOW + seconds(50):
        again = after_poll(LISTENING, now, habits=taught(RUNS, heard=False), random=0.0)
        assert again is not None
        polls.append((again - NOW).total_seconds())
        now = again

    # The tasks run for 16 to 24 seconds.
    assert 16 <= polls[0] <= 20
    assert len([age for age in polls if age <= 25]) >= 2


def test_arriving_callbacks_delay_the_first_poll() -> None:
    habits = taught(RUNS, heard=True)

    assert seconds(24) <= first_poll_delay(LISTENING, habits=habits) <= seconds(24) + POLICY.least_gap
    assert first_poll_delay(replace(LISTENING, callback_requested=False), habits=habits) < seconds(20)


@pytest.mark.parametrize("heard", [True, False])
def test_gap_beyond_known_run_times_grows_with_age(*, heard: bool) -> None:
    habits = taught(RUNS, heard=heard)

    for age in (100, 400):
        now = NOW + seconds(age)
        assert after_poll(LISTENING, now, habits=habits) == now + seconds(age / 4)


@pytest.mark.parametrize("habits", [USUAL, "lost", "heard"])
def test_poll_after_unverified_callback_keeps_the_plan(habits: Any) -> None:
    """An early unverified callback must not start a series of polls at the minimum interval."""
    learned = habits if isinstance(habits, Habits) else taught(RUNS, heard=habits == "heard")
    planned = NOW + first_poll_delay(LISTENING, habits=learned)
    assert after_poll(LISTENING, NOW + seconds(1), habits=learned, random=0.0) == planned


def test_failed_poll_is_retried_sooner() -> None:
    habits = taught(RUNS, heard=True)
    now = NOW + seconds(30)
    assert after_poll(LISTENING, now, habits=habits, answered=False) == now + seconds(7.5)


def test_lost_submission_ignores_usual_run_times() -> None:
    lost = a_task(attempts=1)
    assert after_poll(lost, NOW + seconds(4), habits=taught(RUNS)) == NOW + seconds(4) + POLICY.absence_gap


@pytest.mark.parametrize("habits", [USUAL, "lost", "heard"])
def test_first_poll_is_not_after_the_deadline(habits: Any) -> None:
    learned = habits if isinstance(habits, Habits) else taught(RUNS, heard=habits == "heard")
    hurried = replace(LISTENING, deadline_at=NOW + seconds(10))
    assert first_poll_delay(hurried, habits=learned) == seconds(10)


def test_poll_gap_grows_with_task_age() -> None:
    at = [NOW + seconds(age) for age in (4, 100, 400, 40_000)]
    gaps = [again - now for now in at if (again := after_poll(SUBMITTED, now)) is not None]
    assert gaps == [POLICY.least_gap, seconds(25), seconds(100), timedelta(minutes=10)]


def test_jitter_spreads_polls_to_both_sides() -> None:
    now = NOW + seconds(400)
    assert after_poll(SUBMITTED, now, random=0.0) == now + seconds(80)
    assert after_poll(SUBMITTED, now, random=1.0) == now + seconds(120)


def test_day_without_answer_costs_few_polls() -> None:
    task = replace(SUBMITTED, deadline_at=NOW + timedelta(hours=24))
    now, polls = NOW + seconds(40), 0
    while now < task.deadline_at:
        again = after_poll(task, now)
        assert again is not None
        assert again > now
        now, polls = again, polls + 1
    assert polls < 170


def test_last_poll_is_at_the_deadline() -> None:
    now = SUBMITTED.deadline_at - seconds(60)
    assert after_poll(SUBMITTED, now) == SUBMITTED.deadline_at


def test_finished_task_is_not_polled() -> None:
    assert after_poll(FULL, NOW) is None
    assert after_poll(replace(SUBMITTED, status=Status.REJECTED), NOW) is None


def test_success_without_files_is_polled_a_few_times() -> None:
    gaps = []
    task = EMPTY
    while (again := after_poll(task, NOW)) is not None:
        gaps.append(again - NOW)
        task = replace(task, quiet_polls=task.quiet_polls + 1)
    assert gaps == [POLICY.least_gap * 2**number for number in range(schedule.EMPTY_RESULT_CHECKS)]


def test_expired_task_is_polled_once_a_day() -> None:
    assert after_poll(EXPIRED, NOW) == NOW + timedelta(days=1)
    assert after_poll(EXPIRED, NOW + MONTH - timedelta(hours=25)) is not None
    assert after_poll(EXPIRED, NOW + MONTH - timedelta(hours=24)) is None


def test_unverified_callback_makes_poll_earlier() -> None:
    waiting = replace(SUBMITTED, next_poll_at=NOW + seconds(500))
    assert schedule.early_poll_at(waiting, now=NOW, policy=POLICY) == NOW + seconds(1)
    assert schedule.early_poll_at(replace(waiting, next_poll_at=None), now=NOW, policy=POLICY) == NOW + seconds(1)


def test_unverified_callback_never_delays_a_poll() -> None:
    soon = replace(SUBMITTED, next_poll_at=NOW)
    assert schedule.early_poll_at(soon, now=NOW, policy=POLICY) == NOW


def test_twenty_unverified_callbacks_cost_one_poll() -> None:
    task, polls = replace(SUBMITTED, next_poll_at=NOW + timedelta(hours=1)), 0
    for number in range(20):
        now = NOW + seconds(number / 4)
        if task.next_poll_at is not None and task.next_poll_at <= now:
            polls += 1
            again = after_poll(task, now, habits=USUAL)
            task = replace(task, polled_at=now, quiet_polls=task.quiet_polls + 1, next_poll_at=again)
        task = replace(task, next_poll_at=schedule.early_poll_at(task, now=now, policy=POLICY))
    assert polls == 1


@pytest.mark.parametrize(("quiet", "gap"), [(0, 10), (1, 20), (3, 80), (6, 600), (60, 600)])
def test_unverified_callbacks_in_vain_delay_polls(quiet: int, gap: int) -> None:
    task = replace(SUBMITTED, polled_at=NOW, quiet_polls=quiet)
    assert schedule.early_poll_at(task, now=NOW, policy=POLICY) == NOW + seconds(gap)


def test_busy_delay_doubles_and_respects_retry_after() -> None:
    delays = [schedule.busy_delay(n, policy=POLICY, retry_after=None, random=1.0) for n in (1, 2, 3)]
    assert delays == [seconds(1), seconds(2), seconds(4)]
    assert schedule.busy_delay(1, policy=POLICY, retry_after=None, random=0.0) == seconds(0.5)
    assert schedule.busy_delay(1, policy=POLICY, retry_after=seconds(9), random=0.0) == seconds(9)


def test_deadline_prefers_kind_then_operator() -> None:
    usual = timedelta(hours=24)
    chosen = Policy(deadline=timedelta(hours=2), deadlines={"videos/omni": timedelta(hours=3)})
    assert schedule.deadline_for("videos/omni", usual, chosen) == timedelta(hours=3)
    assert schedule.deadline_for("images/omni-image", usual, chosen) == timedelta(hours=2)
    assert schedule.deadline_for("images/omni-image", usual, POLICY) == usual


def test_conflict_is_polled_rarely_while_clock_is_behind() -> None:
    """The clock was set back by hours after the conflict began. Polls must not use up the budget in this time."""
    torn = replace(FULL, conflict_statuses=(Status.FAILED,), conflict_at=NOW + timedelta(hours=5))
    polls, now = 0, NOW
    while now < NOW + timedelta(hours=4):
        again = schedule.conflict_due(replace(torn, quiet_polls=polls), now=now, policy=POLICY)
        assert again is not None
        polls, now = polls + 1, again
    assert 4 <= polls <= 30
