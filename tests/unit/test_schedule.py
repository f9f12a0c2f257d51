"""When to look again."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tests.builders import NOW, PICTURE, THEIR_ID, a_claim, a_task, asked, inferred
from tests.properties.observations import told_in_turn
from tracker import schedule
from tracker.models import Status, Task, Trust
from tracker.schedule import Policy

POLICY = Policy()
SUBMITTED = a_task(status=Status.SUBMITTED, provider_task_id=THEIR_ID, submitted_at=NOW)
FULL = told_in_turn(SUBMITTED, [asked(a_claim(assets=(PICTURE,)))], Trust.TOKEN)
EMPTY = told_in_turn(SUBMITTED, [asked(a_claim())], Trust.TOKEN)
EXPIRED = told_in_turn(SUBMITTED, [inferred(Status.EXPIRED)], Trust.TOKEN)
MONTH = timedelta(days=30)


def after_poll(task: Task, now: datetime, *, random: float = 0.5, policy: Policy = POLICY) -> datetime | None:
    return schedule.after_poll(task, now=now, policy=policy, lifetime=MONTH, random=random)


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


def test_a_task_is_first_asked_about_when_such_tasks_usually_end() -> None:
    assert schedule.first_check(seconds(40), POLICY, 0.0) == seconds(40)
    assert seconds(40) < schedule.first_check(seconds(40), POLICY, 0.999) < seconds(48.1)
    assert schedule.first_check(seconds(40), Policy(first_check=seconds(3)), 0.0) == seconds(3)


def test_the_gap_grows_with_the_age_of_the_task_between_its_bounds() -> None:
    at = [NOW + seconds(age) for age in (4, 100, 400, 40_000)]
    gaps = [again - now for now in at if (again := after_poll(SUBMITTED, now)) is not None]
    assert gaps == [seconds(5), seconds(25), seconds(100), timedelta(minutes=10)]


def test_jitter_spreads_the_questions_to_both_sides() -> None:
    now = NOW + seconds(400)
    assert after_poll(SUBMITTED, now, random=0.0) == now + seconds(80)
    assert after_poll(SUBMITTED, now, random=1.0) == now + seconds(120)


def test_a_day_of_silence_costs_few_questions() -> None:
    task = replace(SUBMITTED, deadline_at=NOW + timedelta(hours=24))
    now, asked_for = NOW + seconds(40), 0
    while now < task.deadline_at:
        again = after_poll(task, now)
        assert again is not None
        assert again > now
        now, asked_for = again, asked_for + 1
    assert asked_for < 170


def test_the_last_question_is_asked_at_the_deadline() -> None:
    now = SUBMITTED.deadline_at - seconds(60)
    assert after_poll(SUBMITTED, now) == SUBMITTED.deadline_at


def test_a_settled_task_is_asked_about_no_more() -> None:
    assert after_poll(FULL, NOW) is None
    assert after_poll(replace(SUBMITTED, status=Status.REJECTED), NOW) is None


def test_a_success_without_files_is_asked_about_a_few_times_more_at_growing_gaps() -> None:
    gaps = []
    task = EMPTY
    while (again := after_poll(task, NOW)) is not None:
        gaps.append(again - NOW)
        task = replace(task, quiet_polls=task.quiet_polls + 1)
    assert gaps == [seconds(5 * 2**number) for number in range(schedule.EMPTY_RESULT_CHECKS)]


def test_an_expired_task_is_asked_about_once_a_day_while_results_could_exist() -> None:
    assert after_poll(EXPIRED, NOW) == NOW + timedelta(days=1)
    assert after_poll(EXPIRED, NOW + MONTH - timedelta(hours=25)) is not None
    assert after_poll(EXPIRED, NOW + MONTH - timedelta(hours=24)) is None


def test_a_hint_brings_the_next_question_forward() -> None:
    waiting = replace(SUBMITTED, next_poll_at=NOW + seconds(500))
    assert schedule.after_hint(waiting, now=NOW, policy=POLICY) == NOW + seconds(1)
    assert schedule.after_hint(replace(waiting, next_poll_at=None), now=NOW, policy=POLICY) == NOW + seconds(1)


def test_a_hint_never_puts_off_a_question_that_comes_sooner() -> None:
    soon = replace(SUBMITTED, next_poll_at=NOW)
    assert schedule.after_hint(soon, now=NOW, policy=POLICY) == NOW


def test_twenty_hints_cost_one_request() -> None:
    task, questions = replace(SUBMITTED, next_poll_at=NOW + timedelta(hours=1)), 0
    for number in range(20):
        now = NOW + seconds(number / 4)
        if task.next_poll_at is not None and task.next_poll_at <= now:
            questions += 1
            task = replace(task, polled_at=now, quiet_polls=task.quiet_polls + 1, next_poll_at=after_poll(task, now))
        task = replace(task, next_poll_at=schedule.after_hint(task, now=now, policy=POLICY))
    assert questions == 1


@pytest.mark.parametrize(("quiet", "gap"), [(0, 10), (1, 20), (3, 80), (6, 600), (60, 600)])
def test_hints_about_a_task_that_stays_the_same_are_worth_less_and_less(quiet: int, gap: int) -> None:
    task = replace(SUBMITTED, polled_at=NOW, quiet_polls=quiet)
    assert schedule.after_hint(task, now=NOW, policy=POLICY) == NOW + seconds(gap)


def test_a_lost_submit_is_looked_up_soon_and_then_at_the_gap_that_proves_absence() -> None:
    lost = a_task(attempts=1)
    assert schedule.after_lost_submit(lost, now=NOW, policy=POLICY) == NOW + POLICY.first_lookup
    again = replace(lost, quiet_polls=1)
    assert schedule.after_lost_submit(again, now=NOW, policy=POLICY) == NOW + POLICY.absence_gap


def test_busy_delays_double_and_never_undercut_what_the_provider_asked_for() -> None:
    delays = [schedule.busy_delay(n, policy=POLICY, told=None, random=1.0) for n in (1, 2, 3)]
    assert delays == [seconds(1), seconds(2), seconds(4)]
    assert schedule.busy_delay(1, policy=POLICY, told=None, random=0.0) == seconds(0.5)
    assert schedule.busy_delay(1, policy=POLICY, told=seconds(9), random=0.0) == seconds(9)


def test_the_deadline_is_the_kind_s_own_then_the_operator_s_then_the_provider_s() -> None:
    usual = timedelta(hours=24)
    chosen = Policy(deadline=timedelta(hours=2), deadlines={"videos/omni": timedelta(hours=3)})
    assert schedule.deadline_for("videos/omni", usual, chosen) == timedelta(hours=3)
    assert schedule.deadline_for("images/omni-image", usual, chosen) == timedelta(hours=2)
    assert schedule.deadline_for("images/omni-image", usual, POLICY) == usual
