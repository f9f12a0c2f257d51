"""Whatever tasks have done before, the schedule goes on looking, neither too soon nor too late nor too often."""

from datetime import timedelta
from itertools import pairwise
from typing import Final

from hypothesis import example, given
from hypothesis import strategies as st

from tests.builders import NOW, OMNI, a_completion, a_task
from tracker.model.records import Completion
from tracker.model.task import Status
from tracker.rules import next_poll, schedule
from tracker.rules.learning import (
    ENOUGH,
    GROUPS,
    LEAST_LOST,
    LONGER,
    OUTCOMES,
    RUN_TIMES,
    SHORTER,
    Habits,
    learn,
    loss,
    quantiles,
)
from tracker.rules.schedule import Policy

POLICY: Final = Policy()
SECONDS = st.floats(0.001, 1e6) | st.sampled_from([1.0, 24.0, 24.000001])
RUNS = st.lists(SECONDS, min_size=ENOUGH, max_size=60)
LOST = st.floats(LEAST_LOST, 1.0)
RANDOM = st.floats(0, 1, exclude_max=True)


@st.composite
def completions(draw: st.DrawFn) -> list[Completion]:
    drawn = draw(
        st.lists(
            st.tuples(SECONDS, st.sampled_from(["a", "b", None]), st.booleans(), st.booleans(), st.integers(0, 50)),
            max_size=40,
        )
    )
    return [
        a_completion(
            n,
            timedelta(seconds=took),
            model=model,
            asked=was_asked,
            heard=heard,
            finished_at=NOW + timedelta(seconds=second),
        )
        for n, (took, model, was_asked, heard, second) in enumerate(drawn)
    ]


@given(runs=st.lists(SECONDS, min_size=1, max_size=60))
def test_quantiles_rise_from_a_little_less_than_the_least_to_a_little_more_than_the_greatest(runs: list[float]) -> None:
    edges = quantiles(runs)
    assert len(edges) == len(next_poll.LEVELS)
    assert all(low <= high for low, high in pairwise(edges))
    assert edges[0] == min(runs) * SHORTER
    assert edges[-1] == max(runs) * LONGER


@given(runs=RUNS, lost=LOST, age=st.floats(0, 1e7), gap=st.floats(0.01, 100), random=RANDOM)
@example(runs=[1.0] * 10 + [2.0], lost=1.0, age=1.0, gap=1.0, random=0.0)
def test_a_look_keeps_the_gap_and_does_not_lie_beyond_what_is_known(
    runs: list[float], lost: float, age: float, gap: float, random: float
) -> None:
    edges = quantiles(runs)
    look = next_poll.next_look(edges, lost=lost, age=age, gap=gap, random=random)
    if look is None:
        assert age >= edges[-1]
    else:
        assert age + gap <= look <= max(edges[-1], age + gap)


@given(runs=RUNS, heard=st.booleans(), asked=st.booleans(), hours=st.floats(0.001, 48), random=RANDOM)
def test_there_is_always_a_next_look_until_the_deadline_and_there_are_not_too_many(
    *, runs: list[float], heard: bool, asked: bool, hours: float, random: float
) -> None:
    habits = learn(Habits(), [a_completion(n, timedelta(seconds=run), heard=heard) for n, run in enumerate(runs)])
    deadline = NOW + timedelta(hours=hours)
    task = a_task(
        status=Status.SUBMITTED,
        submitted_at=NOW,
        deadline_at=deadline,
        callback_asked=asked,
        model="kling-v3-omni",
    )
    now, looks = NOW, 0
    again = schedule.first_check(task, now=now, policy=POLICY, habits=habits, random=random)
    while again < deadline:
        assert now + POLICY.least_gap <= again
        now, looks = again, looks + 1
        following = schedule.after_poll(
            task, now=now, policy=POLICY, habits=habits, lifetime=timedelta(days=30), random=random
        )
        assert following is not None
        again = following
    assert again <= max(deadline, now + POLICY.least_gap)
    # Every ten minutes at the least, which is what an age of hours leads to, and a few around each known run time.
    assert looks <= 6 * 48 * 1.25 + 2 * len(next_poll.LEVELS)


@given(every=completions(), cuts=st.lists(st.integers(0, 40), max_size=4))
def test_it_does_not_matter_how_what_came_home_is_cut_into_readings(every: list[Completion], cuts: list[int]) -> None:
    ordered = sorted(every, key=lambda one: (one.finished_at, one.task_id))
    bit_by_bit = Habits()
    for end in [*sorted(cuts), len(ordered)]:
        bit_by_bit = learn(bit_by_bit, ordered[:end])
    assert bit_by_bit == learn(Habits(), every)


@given(every=completions())
def test_what_is_learned_is_bounded(every: list[Completion]) -> None:
    habits = learn(Habits(), every)
    assert max(len(habits.run_times), len(habits.callbacks), len(habits.losses)) <= GROUPS
    assert all(len(known.seconds) <= RUN_TIMES for known in habits.run_times.values())
    assert all(len(came) <= OUTCOMES for came in habits.callbacks.values())
    assert LEAST_LOST <= habits.outlook(a_task(kind=OMNI, callback_asked=True)).lost <= 1


@given(came=st.lists(st.booleans(), max_size=OUTCOMES))
@example(came=[False] * 12)
def test_the_measured_loss_lies_within_its_own_bounds(came: list[bool]) -> None:
    measured = loss(came)
    assert 0 <= measured.low <= measured.rate <= measured.high <= 1
    assert 0 <= measured.lost <= measured.tasks <= len(came)
    assert (measured.tasks == 0) == (not came)
