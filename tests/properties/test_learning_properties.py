"""Test that each task is polled until its deadline, within the bounds on time and count, for any learned durations."""

from datetime import timedelta
from typing import Final

from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.builders import NOW, OMNI, a_completion, a_task
from tracker.model.records import Completion
from tracker.model.task import Status
from tracker.rules import next_poll, schedule
from tracker.rules.learning import MAX_CALLBACKS, MAX_GROUPS, MAX_RUN_TIMES, MIN_TASKS, Callbacks, Habits, learn
from tracker.rules.schedule import Policy

POLICY: Final = Policy()
SECONDS = st.floats(0.001, 1e6) | st.sampled_from([1.0, 24.0, 24.000001])
RUNS = st.lists(SECONDS, min_size=MIN_TASKS, max_size=60)
LOST = st.floats(0.001, 1.0)
AGE = st.floats(0, 1e7)
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
            callback_requested=requested,
            callback_arrived=arrived,
            finished_at=NOW + timedelta(seconds=second),
        )
        for n, (took, model, requested, arrived, second) in enumerate(drawn)
    ]


@given(runs=RUNS, lost=LOST, age=AGE)
@example(runs=[1.0] * 10 + [2.0], lost=1.0, age=1.0)
def test_next_poll_exists_only_with_longer_known_runs(runs: list[float], lost: float, age: float) -> None:
    planned = next_poll.next_poll_age(sorted(runs), lost=lost, age=age)

    assert (planned is None) == (age >= max(runs))


@given(runs=RUNS, lost=LOST, age=AGE)
def test_next_poll_is_later_and_within_its_bounds(runs: list[float], lost: float, age: float) -> None:
    planned = next_poll.next_poll_age(sorted(runs), lost=lost, age=age)

    if planned is not None:
        assert age < planned <= max(*runs, age * next_poll.MIN_AGE_GROWTH)
        first = next_poll.MAX_FIRST_PER_MEAN * sum(runs) / len(runs)
        assert planned <= max(first * (1 + 1e-9), age * next_poll.MAX_AGE_GROWTH)


@given(runs=RUNS, lost=LOST, ages=st.tuples(AGE, AGE))
def test_next_poll_of_older_task_is_not_sooner(runs: list[float], lost: float, ages: tuple[float, float]) -> None:
    younger, older = (next_poll.next_poll_age(sorted(runs), lost=lost, age=age) for age in sorted(ages))

    assert younger is None or older is None or younger <= older


@given(runs=RUNS, rates=st.tuples(LOST, LOST))
def test_first_poll_is_not_later_with_more_lost_callbacks(runs: list[float], rates: tuple[float, float]) -> None:
    fewer, more = (next_poll.next_poll_age(sorted(runs), lost=lost, age=0) for lost in sorted(rates))

    assert fewer is not None
    assert more is not None
    assert more <= fewer


@given(
    runs=RUNS,
    arrived=st.booleans(),
    requested=st.booleans(),
    hours=st.floats(0.001, 48),
    random=RANDOM,
)
def test_polls_last_until_the_deadline_and_are_few(
    *, runs: list[float], arrived: bool, requested: bool, hours: float, random: float
) -> None:
    habits = learn(
        Habits(), [a_completion(n, timedelta(seconds=run), callback_arrived=arrived) for n, run in enumerate(runs)]
    )
    deadline = NOW + timedelta(hours=hours)
    task = a_task(
        status=Status.SUBMITTED,
        submitted_at=NOW,
        deadline_at=deadline,
        callback_requested=requested,
        model="kling-v3-omni",
    )
    now, polls = NOW, 0
    again = schedule.first_poll_delay(task, now=now, policy=POLICY, habits=habits, random=random)
    while again < deadline:
        assert now + POLICY.least_gap <= again
        now, polls = again, polls + 1
        reading_events = schedule.after_poll(
            task, now=now, policy=POLICY, habits=habits, lifetime=timedelta(days=30), random=random
        )
        assert reading_events is not None
        again = reading_events
    assert again <= max(deadline, now + POLICY.least_gap)
    # After hours, the interval is ten minutes. Before that, the age grows by a tenth with each poll.
    assert polls <= 6 * 48 * 1.25 + 100


@given(every=completions(), cuts=st.lists(st.integers(0, 40), max_size=4))
def test_learning_is_independent_of_batches(every: list[Completion], cuts: list[int]) -> None:
    ordered = sorted(every, key=lambda one: (one.finished_at, one.task_id))
    bit_by_bit = Habits()
    for end in [*sorted(cuts), len(ordered)]:
        bit_by_bit = learn(bit_by_bit, ordered[:end])
    assert bit_by_bit == learn(Habits(), every)


@given(every=completions())
def test_snapshot_is_bounded(every: list[Completion]) -> None:
    habits = learn(Habits(), every)

    assert max(len(habits.run_times), len(habits.callbacks)) <= MAX_GROUPS
    assert all(len(known.seconds) <= MAX_RUN_TIMES for known in habits.run_times.values())
    assert all(known.tasks <= MAX_CALLBACKS for known in habits.callbacks.values())
    assert 0 < habits.outlook(a_task(kind=OMNI, callback_requested=True)).lost < 1


@given(arrived=st.lists(st.booleans(), max_size=MAX_CALLBACKS))
def test_expected_loss_is_between_measured_and_half(arrived: list[bool]) -> None:
    known = Callbacks(tuple(arrived))

    assert known.lost + arrived.count(True) == known.tasks
    if arrived:
        low, high = sorted((known.loss_rate, 0.5))
        assert low <= known.expected_loss <= high


@given(arrived=st.lists(st.booleans(), max_size=MAX_CALLBACKS))
def test_measured_loss_is_within_its_bounds(arrived: list[bool]) -> None:
    known = Callbacks(tuple(arrived))

    low, high = known.loss_bounds

    assert 0 <= low <= known.loss_rate <= high <= 1 or not arrived
    assert high - low < 1 or not arrived
