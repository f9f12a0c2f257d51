"""Tests of learned run times, of learned callback loss, and of the poll schedule that uses them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from statistics import mean, median

import pytest

from tests.support.builders import NOW, OMNI, a_completion, a_task
from tracker.model.task import Status, Task
from tracker.rules import schedule
from tracker.rules.learning import MAX_CALLBACKS, MAX_GROUPS, MAX_RUN_TIMES, MIN_TASKS, Callbacks, Group, Habits, learn
from tracker.rules.schedule import Policy

POLICY = Policy()
MODEL = "kling-v3-omni"
KIND = Group("kling", OMNI)
TASK = a_task(status=Status.SUBMITTED, submitted_at=NOW, callback_requested=True, model=MODEL)
SILENT = a_task(status=Status.SUBMITTED, submitted_at=NOW, model=MODEL)
USUAL = Habits(usual={("kling", OMNI): timedelta(seconds=40)})


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


def taught(took: Sequence[float], *, heard: bool = True) -> Habits:
    return learn(USUAL, [a_completion(n, seconds(each), callback_arrived=heard) for n, each in enumerate(took)])


# ---- run times


def test_run_times_of_a_model_are_its_own() -> None:
    slow = [a_completion(n, seconds(100)) for n in range(MIN_TASKS)]
    quick = [a_completion(MIN_TASKS + n, seconds(10), model="quick") for n in range(MIN_TASKS)]

    habits = learn(USUAL, [*slow, *quick])

    assert set(habits.outlook(TASK).run_times) == {100}
    assert set(habits.outlook(a_task(model="quick")).run_times) == {10}


def test_run_times_of_new_model_are_of_its_kind() -> None:
    slow = [a_completion(n, seconds(100)) for n in range(MIN_TASKS)]
    quick = [a_completion(MIN_TASKS + n, seconds(10), model="quick") for n in range(MIN_TASKS)]

    habits = learn(USUAL, [*slow, *quick])

    assert habits.outlook(a_task(model="new")).run_times == (10,) * MIN_TASKS + (100,) * MIN_TASKS
    assert habits.outlook(a_task(kind="videos/other")).run_times == ()


def test_run_times_of_few_tasks_are_not_used() -> None:
    assert taught([20] * (MIN_TASKS - 1)).outlook(TASK).run_times == ()
    assert taught([20] * MIN_TASKS).outlook(TASK).run_times == (20,) * MIN_TASKS


def test_run_times_are_the_newest() -> None:
    habits = taught([1.0] * 500 + [50.0] * MAX_RUN_TIMES)

    assert set(habits.run_times[KIND].seconds) == {50.0}


@pytest.mark.parametrize("changes", [{"model": None}, {"took": timedelta()}, {"took": -seconds(3)}])
def test_unknown_run_time_is_not_learned(changes: dict[str, object]) -> None:
    habits = learn(USUAL, [a_completion(n, **changes) for n in range(50)])  # type: ignore[arg-type] # any field may vary

    assert habits.run_times == {}
    assert habits.callbacks[KIND].tasks == 50


def test_completions_in_any_order_are_learned_once() -> None:
    every = [a_completion(n, seconds(10 + n), callback_arrived=n % 3 > 0) for n in range(40)]

    at_once = learn(USUAL, every)
    bit_by_bit = learn(learn(learn(USUAL, every[:7]), every[:20]), reversed(every))

    assert bit_by_bit == at_once
    assert learn(at_once, every) is at_once


def test_groups_of_invented_models_are_bounded() -> None:
    habits = learn(USUAL, [a_completion(n, model=f"made up {n}") for n in range(3 * MAX_GROUPS)])

    assert len(habits.run_times) == MAX_GROUPS
    assert KIND in habits.run_times


# ---- lost callbacks


def test_loss_without_requested_callback_is_certain() -> None:
    assert taught([20] * 50).outlook(SILENT).lost == 1


def test_loss_before_learning_is_one_half() -> None:
    assert USUAL.outlook(TASK).lost == 0.5


def test_loss_counts_the_newest_callbacks() -> None:
    habits = taught([20] * 100, heard=False)

    habits = learn(habits, [a_completion(100 + n, callback_arrived=n >= 5) for n in range(MAX_CALLBACKS)])

    assert (habits.callbacks[KIND].tasks, habits.callbacks[KIND].lost) == (MAX_CALLBACKS, 5)
    assert habits.callbacks[KIND].loss_rate == 0.1


def test_loss_is_never_expected_to_be_zero() -> None:
    assert 0 < taught([20] * 500).outlook(TASK).lost < 0.01


def test_loss_after_an_outage_is_forgotten() -> None:
    came, lost = (True,) * MAX_CALLBACKS, (False,) * MAX_CALLBACKS

    assert Callbacks(lost).expected_loss > 0.98
    assert Callbacks((*lost, *came)[-MAX_CALLBACKS:]).expected_loss < 0.01


def test_loss_of_one_kind_is_separate() -> None:
    well = [a_completion(n, kind="videos/well") for n in range(100)]
    lost = [a_completion(100 + n, callback_arrived=n < 10) for n in range(50)]

    habits = learn(USUAL, [*well, *lost, *(a_completion(150 + n, kind="videos/well") for n in range(20))])

    assert habits.outlook(TASK).lost > 0.7
    assert habits.outlook(a_task(kind="videos/well", callback_requested=True)).lost < 0.01


def test_loss_of_new_kind_is_of_its_provider() -> None:
    habits = taught([20] * 50, heard=False)

    assert habits.outlook(a_task(kind="videos/new", callback_requested=True)).lost > 0.9


# ---- the poll schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Polls of each task, and delays of tasks whose callback was lost, as shares of their run times."""

    reads: list[int]
    delays: list[float]


def followed(habits: Habits, task: Task, runs: Sequence[float], dice: Random, *, lost: float) -> Outcome:
    """Poll tasks with these run times until they end, as the reconciler does."""
    reads, delays = [], []
    for run in runs:
        end, callback_lost, poll_count = NOW + seconds(run), dice.random() < lost, 0
        callback_at = end + seconds(dice.random())
        now = schedule.first_poll_delay(task, now=NOW, policy=POLICY, habits=habits, random=dice.random())
        while callback_lost or now < callback_at:
            poll_count += 1
            if now >= end:
                break
            again = schedule.after_poll(
                task, now=now, policy=POLICY, habits=habits, lifetime=timedelta(days=30), random=dice.random()
            )
            assert again is not None
            assert now + POLICY.least_gap <= again <= task.deadline_at
            now = again
        reads.append(poll_count)
        if callback_lost:
            delays.append((now - end).total_seconds() / run)
    return Outcome(reads=reads, delays=delays)


def lognormal(middle: float, sigma: float) -> Callable[[Random], float]:
    return lambda dice: middle * math.exp(dice.gauss(0, sigma))


def mixed(share: float, one: Callable[[Random], float], other: Callable[[Random], float]) -> Callable[[Random], float]:
    return lambda dice: one(dice) if dice.random() < share else other(dice)


def many(run: Callable[[Random], float], *, lost: float, learned: Sequence[bool], times: int = 8) -> Outcome:
    """Learn from 300 tasks and follow 400 more, ``times`` times.

    ``learned`` says for each task whether its callback arrives; the sequence repeats.
    """
    reads: list[int] = []
    delays: list[float] = []
    for seed in range(times):
        dice = Random(seed)
        arrivals = list(learned) * 300
        completions = [a_completion(n, seconds(run(dice)), callback_arrived=arrivals[n]) for n in range(300)]
        outcome = followed(learn(USUAL, completions), TASK, [run(dice) for _ in range(400)], dice, lost=lost)
        reads += outcome.reads
        delays += outcome.delays
    return Outcome(reads=reads, delays=delays)


CAME, LOST = [True], [False]
IMAGES = lognormal(24, 0.3)


@pytest.mark.parametrize("middle", [24, 120, 900])
def test_total_callback_loss_needs_few_polls(middle: float) -> None:
    outcome = many(lognormal(middle, 0.3), lost=1, learned=LOST)
    assert mean(outcome.reads) < 2.9
    assert median(outcome.delays) < 0.095


def test_arriving_callbacks_need_hardly_any_polls() -> None:
    assert mean(many(IMAGES, lost=0, learned=CAME).reads) < 0.05


def test_tasks_at_start_of_outage_are_found_late() -> None:
    outcome = many(IMAGES, lost=1, learned=CAME)

    assert mean(outcome.reads) < 1.2
    assert median(outcome.delays) < 1.25


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda _: 24.0, id="all alike"),
        pytest.param(lognormal(24, 0.1), id="narrow"),
        pytest.param(lognormal(24, 0.6), id="wide"),
        pytest.param(lognormal(60, 1.0), id="very wide"),
        pytest.param(mixed(0.1, lognormal(3, 0.2), IMAGES), id="a tenth fails early"),
        pytest.param(mixed(0.5, lognormal(8, 0.2), lognormal(90, 0.2)), id="two modes"),
        pytest.param(mixed(0.02, lognormal(400, 0.2), IMAGES), id="a few take very long"),
    ],
)
def test_other_run_times_cost_few_polls(run: Callable[[Random], float]) -> None:
    lost, came = many(run, lost=1, learned=LOST), many(run, lost=0, learned=CAME)

    assert mean(lost.reads) < 3.8
    assert median(lost.delays) < 0.35
    assert mean(came.reads) < 0.1


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_partial_loss_costs_fewer_polls(share: float) -> None:
    arrivals = [number >= share * 20 for number in range(20)]
    Random(1).shuffle(arrivals)

    part, all_lost = many(IMAGES, lost=share, learned=arrivals), many(IMAGES, lost=1, learned=LOST)

    assert mean(part.reads) < mean(all_lost.reads)
    assert median(part.delays) < median(many(IMAGES, lost=share, learned=CAME).delays)


@pytest.mark.parametrize("count", [10, 30, 100])
def test_few_finished_tasks_shorten_the_delay(count: int) -> None:
    delays: list[float] = []
    reads: list[int] = []
    for seed in range(20):
        dice = Random(seed)
        habits = taught([IMAGES(dice) for _ in range(count)], heard=False)
        outcome = followed(habits, TASK, [IMAGES(dice) for _ in range(100)], dice, lost=1)
        delays += outcome.delays
        reads += outcome.reads

    assert median(delays) < 0.15
    assert mean(reads) < 3.5


def test_loss_bounds_are_those_of_wilson() -> None:
    """A public table has this example: for 1 of 10, the bounds are 1.8 % and 40.4 %."""
    low, high = Callbacks((True,) * 9 + (False,)).loss_bounds

    assert (round(low, 3), round(high, 3)) == (0.018, 0.404)
    assert Callbacks().loss_bounds == (0.0, 1.0)
