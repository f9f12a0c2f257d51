"""How often a task is polled, and how late a lost callback is noticed: many sorts of tasks, in virtual time.

Only the rules of the schedule are real: there is no database, no provider and no poll budget. A case submits one task
every ten seconds on average. Each round is a seed of its own.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from multiprocessing import get_context
from random import Random
from statistics import mean
from typing import Final

from bench import deliveries
from bench.results import Row
from tracker.model.records import Completion
from tracker.model.task import Status, Task
from tracker.rules import schedule
from tracker.rules.learning import Habits, learn
from tracker.rules.schedule import Policy

SEEDS: Final = (1, 2, 3, 4)
POLICY: Final = Policy()
EPOCH: Final = deliveries.created_at(0)
MODEL: Final = "kling-v3-omni"
# What the provider's documentation leads to expect: a third of the run time in most cases.
EXPECTED_RUN_SECONDS: Final = 40.0
MEDIAN_SECONDS: Final = 120.0
SUBMIT_INTERVAL_SECONDS: Final = 10.0
CALLBACK_SECONDS: Final = (0.5, 1.5)
WARM_UP_TASKS: Final = 300
MEASURED_TASKS: Final = 500
FEW_TASKS: Final = 60
LIFETIME: Final = timedelta(days=30)

# Both take how far the measured tasks have advanced, from 0 to 1.
RunTime = Callable[[Random, float], float]
LossRate = Callable[[float], float]


class Schedule:
    """The schedule of one model, in seconds since each task's submission."""

    def __init__(self) -> None:
        self._habits = Habits(usual={(deliveries.PROVIDER, deliveries.KIND): timedelta(seconds=EXPECTED_RUN_SECONDS)})
        self._task = Task(
            id=deliveries.task_id(0),
            provider=deliveries.PROVIDER,
            kind=deliveries.KIND,
            account=deliveries.ACCOUNT,
            client=deliveries.CLIENT,
            created_at=EPOCH,
            updated_at=EPOCH,
            submitted_at=EPOCH,
            deadline_at=EPOCH + timedelta(days=1),
            origin="submit",
            status=Status.SUBMITTED,
            callback_requested=True,
            model=MODEL,
        )

    def learn(self, completions: Sequence[Completion]) -> None:
        """Take in finished tasks, in the order in which they finished."""
        self._habits = learn(self._habits, completions)

    def next_poll(self, age: float, random: float) -> float:
        """Return the age at which to poll a task next that runs at ``age``; 0 ≤ ``random`` < 1."""
        now = EPOCH + timedelta(seconds=age)
        if age == 0:
            at = schedule.first_poll_delay(self._task, now=now, policy=POLICY, habits=self._habits, random=random)
        else:
            planned = schedule.after_poll(
                self._task, now=now, policy=POLICY, habits=self._habits, lifetime=LIFETIME, random=random
            )
            assert planned is not None
            at = planned
        return (at - EPOCH).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How long tasks run, in seconds, and the chance that a callback is lost."""

    name: str
    run_time: str = "lognormal"
    loss: str
    warm_up: int = WARM_UP_TASKS
    measured: int = MEASURED_TASKS


def _lognormal(random: Random, median: float, sigma: float = 0.3) -> float:
    return median * math.exp(random.gauss(0, sigma))


def _two_modes(random: Random, _: float) -> float:
    return _lognormal(random, 30 if random.random() < 0.5 else 180, 0.2)  # noqa: PLR2004 - half of them are short


RUN_TIMES: Final[dict[str, RunTime]] = {
    "lognormal": lambda random, _: _lognormal(random, MEDIAN_SECONDS),
    "two_modes": _two_modes,
    "heavy_tail": lambda random, _: min(60 * random.paretovariate(1.5), 7200),
    "drift": lambda random, progress: _lognormal(random, 60 * 4**progress),
    "step": lambda random, progress: _lognormal(random, MEDIAN_SECONDS if progress < 1 / 2 else 2 * MEDIAN_SECONDS),
}
LOSS_RATES: Final[dict[str, LossRate]] = {
    "no_loss": lambda _: 0.0,
    "1_percent": lambda _: 0.01,
    "10_percent": lambda _: 0.1,
    "all_lost": lambda _: 1.0,
    "outage": lambda progress: 1.0 if 1 / 3 <= progress < 2 / 3 else 0.0,
}
CASES: Final = (
    *(Case(name="lognormal", loss=loss) for loss in LOSS_RATES),
    *(
        Case(name=name, run_time=name, loss=loss)
        for name in ("two_modes", "heavy_tail", "drift", "step")
        for loss in ("10_percent", "all_lost")
    ),
    *(Case(name="first_tasks", loss=loss, warm_up=0, measured=FEW_TASKS) for loss in ("10_percent", "all_lost")),
)


@dataclass(slots=True, kw_only=True)
class Life:
    """One task of a simulation; times in seconds. ``callback_at`` is None where the callback is lost."""

    submitted_at: float
    ends_at: float
    callback_at: float | None
    polls: int = 0
    known_at: float | None = None
    heard: bool = False

    @property
    def extra_delay(self) -> float:
        """The time from its end until a poll or a callback reported it, as a share of its run time."""
        assert self.known_at is not None
        return (self.known_at - self.ends_at) / (self.ends_at - self.submitted_at)


@dataclass(slots=True, kw_only=True)
class _Simulation:
    """Runs the events in order: a submission, a poll, a callback, or a lesson for the schedule."""

    schedule: Schedule
    lives: Sequence[Life]
    random: Random
    events: list[tuple[float, int, Callable[[float], None]]] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)
    unlearned: list[Life] = field(default_factory=list)
    unfinished: int = 0

    def run(self) -> None:
        self.unfinished = len(self.lives)
        for life in self.lives:
            self._at(life.submitted_at, partial(self._poll_later, life))
            if life.callback_at is not None:
                self._at(life.callback_at, partial(self._callback, life))
        self._at(0.0, self._learn)
        while self.unfinished:
            now, _, action = heapq.heappop(self.events)
            action(now)

    def _at(self, at: float, action: Callable[[float], None]) -> None:
        heapq.heappush(self.events, (at, next(self.numbers), action))

    def _poll_later(self, life: Life, now: float) -> None:
        at = life.submitted_at + self.schedule.next_poll(now - life.submitted_at, self.random.random())
        self._at(at, partial(self._poll, life))

    def _poll(self, life: Life, now: float) -> None:
        if life.known_at is not None:
            return
        life.polls += 1
        if now >= life.ends_at:
            self._finish(life, now)
        else:
            self._poll_later(life, now)

    def _callback(self, life: Life, now: float) -> None:
        life.heard = True
        if life.known_at is None:
            self._finish(life, now)

    def _finish(self, life: Life, now: float) -> None:
        life.known_at = now
        self.unlearned.append(life)
        self.unfinished -= 1

    def _learn(self, now: float) -> None:
        until = now - POLICY.callback_grace.total_seconds()
        ready = [life for life in self.unlearned if life.known_at is not None and life.known_at <= until]
        self.unlearned = self.unlearned[len(ready) :]
        self.schedule.learn([_completion(life) for life in ready])
        self._at(now + POLICY.learn_every.total_seconds(), self._learn)


def _completion(life: Life) -> Completion:
    assert life.known_at is not None
    return Completion(
        task_id=f"{life.submitted_at:020.6f}",
        provider=deliveries.PROVIDER,
        kind=deliveries.KIND,
        model=MODEL,
        took=timedelta(seconds=life.ends_at - life.submitted_at),
        finished_at=_moment(life.known_at),
        callback_requested=True,
        callback_arrived=life.heard,
    )


def _moment(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


def simulate(case: Case, seed: int) -> Sequence[Life]:
    """Return the measured tasks of a case, each finished."""
    random = Random(seed)
    run_time, loss_rate = RUN_TIMES[case.run_time], LOSS_RATES[case.loss]
    lives: list[Life] = []
    at = 0.0
    for number in range(case.warm_up + case.measured):
        at += SUBMIT_INTERVAL_SECONDS * random.expovariate(1)
        progress = max(number - case.warm_up, 0) / case.measured
        ends_at = at + run_time(random, progress)
        callback_at = ends_at + random.uniform(*CALLBACK_SECONDS)
        lost = random.random() < loss_rate(progress)
        lives.append(Life(submitted_at=at, ends_at=ends_at, callback_at=None if lost else callback_at))
    # The polls draw from their own source, so that another schedule meets the same tasks.
    _Simulation(schedule=Schedule(), lives=lives, random=Random(-seed - 1)).run()
    return lives[case.warm_up :]


def measure() -> Iterator[Row]:
    """Measure each case."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as workers:
        for case in CASES:
            yield from _rows(f"{case.name}_{case.loss}", list(workers.map(partial(_measured, case), SEEDS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The numbers of one seed; the delays are those of the tasks whose callback was lost."""

    polls: float
    delays: Sequence[float]


def _measured(case: Case, seed: int) -> Outcome:
    lives = simulate(case, seed)
    return Outcome(
        polls=mean(life.polls for life in lives),
        delays=sorted(life.extra_delay for life in lives if life.callback_at is None),
    )


def _rows(name: str, outcomes: Sequence[Outcome]) -> Iterator[Row]:
    yield Row(key=f"{name}_polls", what="polls per task", rounds=[outcome.polls for outcome in outcomes])
    delays = sorted(delay for outcome in outcomes for delay in outcome.delays)
    if delays:
        yield Row(
            key=f"{name}_delay",
            what="… mean extra delay ÷ run time",
            rounds=[mean(outcome.delays) for outcome in outcomes if outcome.delays],
            note=f"median {delays[len(delays) // 2]:.1%}, p95 {delays[len(delays) * 95 // 100]:.1%}",
        )
