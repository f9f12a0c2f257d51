"""Test that the next poll is never planned beyond the maximum, for any clock value."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import NOW, a_completion, a_task
from tests.support.decisions import HABITS
from tracker.model.task import FINAL, Status, Task
from tracker.rules import schedule
from tracker.rules.learning import Habits, learn
from tracker.rules.schedule import Policy

LEARNED = learn(HABITS, [a_completion(n, timedelta(minutes=n), callback_arrived=n % 2 == 0) for n in range(1, 90)])
AWAY = st.integers(-40_000, 40_000).map(lambda seconds: timedelta(seconds=seconds))
OPEN = st.sampled_from([Status.PENDING, Status.SUBMITTED, Status.PROCESSING, *sorted(FINAL)])


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    """Make a task whose times were written by clocks that were anywhere within hours of the present one."""
    at = NOW + draw(AWAY)
    return a_task(
        created_at=at,
        submitted_at=draw(st.sampled_from([None, at])),
        polled_at=draw(st.sampled_from([None, NOW + draw(AWAY)])),
        deadline_at=at + timedelta(hours=24),
        status=draw(OPEN),
        quiet_polls=draw(st.integers(0, 40)),
        attempts=draw(st.integers(0, 2)),
        callback_requested=draw(st.booleans()),
        model=draw(st.sampled_from([None, "kling-v3-omni"])),
        conflict_statuses=draw(st.sampled_from([(), (Status.FAILED,), (Status.SUCCEEDED,)])),
        conflict_at=NOW + draw(AWAY),
    )


@given(task=tasks(), habits=st.sampled_from([HABITS, LEARNED]), random=st.floats(0, 0.999), answered=st.booleans())
def test_poll_is_never_planned_beyond_the_maximum(task: Task, habits: Habits, random: float, *, answered: bool) -> None:
    for policy in (Policy(), Policy(first_poll_delay=timedelta(hours=2))):
        plans = [
            schedule.first_poll_delay(task, now=NOW, policy=policy, habits=habits, random=random),
            schedule.early_poll_at(task, now=NOW, policy=policy),
            schedule.after_poll(
                task,
                now=NOW,
                policy=policy,
                habits=habits,
                lifetime=timedelta(days=30),
                random=random,
                answered=answered,
            ),
        ]
        for plan in plans:
            assert plan is None or plan - NOW <= schedule.furthest(policy, habits)
