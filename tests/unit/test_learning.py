"""What finished tasks teach: run times, lost callbacks, and where that makes the schedule look."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from statistics import mean, median

import pytest

from tests.builders import NOW, OMNI, a_completion, a_task
from tracker.model.task import Status, Task
from tracker.rules import schedule
from tracker.rules.learning import ENOUGH, GROUPS, LEAST_LOST, OUTCOMES, RUN_TIMES, Group, Habits, learn, loss
from tracker.rules.schedule import Policy

POLICY = Policy()
MODEL = "kling-v3-omni"
KIND = Group("kling", OMNI)
TASK = a_task(status=Status.SUBMITTED, submitted_at=NOW, callback_asked=True, model=MODEL)
SILENT = a_task(status=Status.SUBMITTED, submitted_at=NOW, model=MODEL)
USUAL = Habits(usual={("kling", OMNI): timedelta(seconds=40)})


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


def taught(took: Sequence[float], *, heard: bool = True) -> Habits:
    return learn(USUAL, [a_completion(n, seconds(each), heard=heard) for n, each in enumerate(took)])


# ---- run times


def test_a_model_is_known_by_its_own_tasks_and_a_new_one_by_those_of_its_kind() -> None:
    slow = [a_completion(n, seconds(100)) for n in range(ENOUGH)]
    quick = [a_completion(ENOUGH + n, seconds(10), model="quick") for n in range(ENOUGH)]
    habits = learn(USUAL, [*slow, *quick])
    middle = len(habits.outlook(TASK).edges) // 2
    assert habits.outlook(TASK).edges[middle] == pytest.approx(100)
    assert habits.outlook(a_task(model="quick")).edges[middle] == pytest.approx(10)
    assert 10 < habits.outlook(a_task(model="new")).edges[middle] < 100
    assert habits.outlook(a_task(kind="videos/other")).edges == ()


def test_too_few_tasks_teach_nothing_yet() -> None:
    assert taught([20] * (ENOUGH - 1)).outlook(TASK).edges == ()
    assert taught([20] * ENOUGH).outlook(TASK).edges != ()


def test_only_the_newest_run_times_count() -> None:
    habits = taught([1.0] * 500 + [50.0] * RUN_TIMES)
    assert set(habits.run_times[KIND].seconds) == {50.0}


@pytest.mark.parametrize("changes", [{"model": None}, {"took": timedelta()}, {"took": -seconds(3)}])
def test_a_run_time_that_cannot_be_known_is_not_learned(changes: dict[str, object]) -> None:
    habits = learn(USUAL, [a_completion(n, **changes) for n in range(50)])  # type: ignore[arg-type] # odd on purpose
    assert habits.run_times == {}
    assert habits.losses[KIND].tasks == 50


def test_what_was_learned_is_not_learned_twice_and_order_does_not_matter() -> None:
    every = [a_completion(n, seconds(10 + n), heard=n % 3 > 0) for n in range(40)]
    at_once = learn(USUAL, every)
    bit_by_bit = learn(learn(learn(USUAL, every[:7]), every[:20]), reversed(every))
    assert bit_by_bit == at_once
    assert learn(at_once, every) is at_once


def test_a_client_that_makes_up_models_does_not_make_us_grow() -> None:
    habits = learn(USUAL, [a_completion(n, model=f"made up {n}") for n in range(3 * GROUPS)])
    assert len(habits.run_times) == GROUPS
    assert KIND in habits.run_times


# ---- lost callbacks


def test_without_any_callback_asked_for_none_is_waited_for() -> None:
    assert taught([20] * 50).outlook(SILENT).lost == 1
    assert USUAL.outlook(TASK).lost == 0.5


def test_the_loss_is_told_with_its_uncertainty() -> None:
    few, many = loss([True] * 9 + [False]), loss(([True] * 9 + [False]) * 20)
    assert (few.rate, few.tasks, many.rate, many.tasks) == (0.1, 10, 0.1, 200)
    assert few.low < many.low < 0.1 < many.high < few.high


def test_callbacks_that_came_so_far_are_no_promise() -> None:
    assert taught([20] * 500).outlook(TASK).lost == LEAST_LOST


@pytest.mark.parametrize("before", [0, 30, OUTCOMES])
def test_a_few_lost_callbacks_in_a_row_are_an_outage_and_a_few_that_come_its_end(before: int) -> None:
    came = [True] * before
    assert loss([*came, *[False] * 4]).expected > 0.8
    assert loss([*came, *[False] * 60]).expected > 0.8
    lost = [False] * before
    assert loss([*lost, *[True] * 4]).expected < 0.2
    assert loss([*lost, *[True] * 60]).expected < 0.05


def test_one_lost_callback_is_no_outage() -> None:
    for since in range(1, 40):
        assert loss([True] * 150 + [False] + [True] * since).expected <= max(LEAST_LOST, 1.5 / 150)
    assert loss([True] * 199 + [False]).expected < 0.05


def test_a_steady_loss_is_measured_on_all_there_is() -> None:
    dice = Random(5)
    measured = [loss([dice.random() > 0.3 for _ in range(OUTCOMES)]) for _ in range(200)]
    assert mean(one.tasks == OUTCOMES for one in measured) > 0.9
    assert mean(one.low <= 0.3 <= one.high for one in measured) > 0.9


def test_an_outage_of_one_kind_is_seen_beside_kinds_that_are_well() -> None:
    well = [a_completion(n, kind="videos/well") for n in range(100)]
    lost = [a_completion(100 + n, heard=n < 30) for n in range(34)]
    habits = learn(USUAL, [*well, *lost, *(a_completion(134 + n, kind="videos/well") for n in range(20))])
    assert habits.outlook(TASK).lost > 0.8
    assert habits.outlook(a_task(kind="videos/well", callback_asked=True)).lost == LEAST_LOST


def test_a_kind_that_is_new_is_judged_by_its_provider() -> None:
    habits = taught([20] * 50, heard=False)
    assert habits.outlook(a_task(kind="videos/new", callback_asked=True)).lost > 0.9


# ---- what it is for: where the schedule looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The reads of each task, and the delay of those whose callback got lost, as a share of their run times."""

    reads: list[int]
    delays: list[float]


def followed(habits: Habits, task: Task, runs: Sequence[float], dice: Random, *, lost: float) -> Outcome:
    """Follow tasks that run so long to their end, as the reconciler would."""
    reads, delays = [], []
    for run in runs:
        end, gone, asked = NOW + seconds(run), dice.random() < lost, 0
        told = end + seconds(dice.random())
        now = schedule.first_check(task, now=NOW, policy=POLICY, habits=habits, random=dice.random())
        while gone or now < told:
            asked += 1
            if now >= end:
                break
            again = schedule.after_poll(
                task, now=now, policy=POLICY, habits=habits, lifetime=timedelta(days=30), random=dice.random()
            )
            assert again is not None
            assert now + POLICY.least_gap <= again <= task.deadline_at
            now = again
        reads.append(asked)
        if gone:
            delays.append((now - end).total_seconds() / run)
    return Outcome(reads=reads, delays=delays)


def lognormal(middle: float, sigma: float) -> Callable[[Random], float]:
    return lambda dice: middle * math.exp(dice.gauss(0, sigma))


def mixed(share: float, one: Callable[[Random], float], other: Callable[[Random], float]) -> Callable[[Random], float]:
    return lambda dice: one(dice) if dice.random() < share else other(dice)


def many(run: Callable[[Random], float], *, lost: float, learned: Sequence[bool], times: int = 8) -> Outcome:
    """Learn from 300 tasks and follow 400 more, ``times`` over; ``learned`` repeats as the fate of callbacks."""
    reads: list[int] = []
    delays: list[float] = []
    for seed in range(times):
        dice = Random(seed)
        fates = list(learned) * 300
        lesson = [a_completion(n, seconds(run(dice)), heard=fates[n]) for n in range(300)]
        outcome = followed(learn(USUAL, lesson), TASK, [run(dice) for _ in range(400)], dice, lost=lost)
        reads += outcome.reads
        delays += outcome.delays
    return Outcome(reads=reads, delays=delays)


CAME, LOST = [True], [False]
IMAGES = lognormal(24, 0.3)


@pytest.mark.parametrize("middle", [24, 120, 900])
def test_when_all_callbacks_get_lost_few_reads_find_the_end_soon(middle: float) -> None:
    outcome = many(lognormal(middle, 0.3), lost=1, learned=LOST)
    assert mean(outcome.reads) < 2.9
    assert median(outcome.delays) < 0.095


def test_while_callbacks_come_hardly_anything_is_asked() -> None:
    assert mean(many(IMAGES, lost=0, learned=CAME).reads) < 0.05


def test_tasks_that_are_out_when_callbacks_begin_to_get_lost_are_found_by_their_silence() -> None:
    outcome = many(IMAGES, lost=1, learned=CAME)
    assert mean(outcome.reads) < 1.1
    assert median(outcome.delays) < 1.25


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda _: 24.0, id="all alike"),
        pytest.param(lognormal(24, 0.1), id="narrow"),
        pytest.param(lognormal(24, 0.6), id="wide"),
        pytest.param(lognormal(60, 1.0), id="very wide"),
        pytest.param(mixed(0.1, lognormal(3, 0.2), IMAGES), id="a tenth fails early"),
        pytest.param(mixed(0.5, lognormal(8, 0.2), lognormal(90, 0.2)), id="two sorts"),
        pytest.param(mixed(0.02, lognormal(400, 0.2), IMAGES), id="a few take very long"),
    ],
)
def test_other_run_times_are_followed_with_sense(run: Callable[[Random], float]) -> None:
    lost = many(run, lost=1, learned=LOST)
    unlearned = followed(USUAL, TASK, [run(Random(n)) for n in range(400)], Random(0), lost=1)
    assert mean(lost.reads) < max(4.5, 2 * mean(unlearned.reads))
    assert median(lost.delays) < min(0.25, median(unlearned.delays))
    assert mean(many(run, lost=0, learned=CAME).reads) < 0.2


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_a_part_of_the_callbacks_is_worth_a_part_of_the_reads(share: float) -> None:
    fates = [number >= share * 20 for number in range(20)]
    Random(1).shuffle(fates)
    part, all_lost = many(IMAGES, lost=share, learned=fates), many(IMAGES, lost=1, learned=LOST)
    assert mean(part.reads) < mean(all_lost.reads)
    assert median(part.delays) < median(many(IMAGES, lost=share, learned=CAME).delays)


@pytest.mark.parametrize("count", [10, 30, 100])
def test_a_few_tasks_already_teach_something(count: int) -> None:
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
