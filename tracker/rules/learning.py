"""What finished tasks teach the schedule: how long such tasks run, and how many of their callbacks get lost. Pure.

``learn`` folds completions into an immutable snapshot. Everything in it is bounded and recent: the last few hundred run
times of a group, the last couple of hundred callbacks, and of those only the stretch since they last visibly changed.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import accumulate
from types import MappingProxyType
from typing import Final, NamedTuple, TypeVar

from tracker.model.records import Completion
from tracker.model.task import Task
from tracker.rules.next_poll import LEVELS, Edges

RUN_TIMES: Final = 300
OUTCOMES: Final = 200
GROUPS: Final = 200
# Fewer run times than these say less than the next wider group, or than what the provider's documents say.
ENOUGH: Final = 10
# A quantile is the mean of the run times around it, up to this share of them on each side: a lone one decides nothing.
WINDOW: Final = 0.075
# The rarest tasks run shorter and longer than any that was seen.
SHORTER: Final = 0.8
LONGER: Final = 1.25
# However well callbacks come, that they will go on coming is no certainty: a silent task is never left for long.
LEAST_LOST: Final = 0.01
CONFIDENCE: Final = 1.96
# So much likelier (in nats) must a change be than none. Two or three lost callbacks in a row after two hundred that
# came are one, a single lost one is none; a rate that is steady is taken for a change in less than 0.5 % of the cases.
CHANGE: Final = 8.0

V = TypeVar("V")
K = TypeVar("K")


class Group(NamedTuple):
    """Tasks that run alike; without a model all of a kind, without a kind all of a provider."""

    provider: str
    kind: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTimes:
    """The last run times of a group in seconds, newest last, and their quantiles at LEVELS."""

    seconds: tuple[float, ...]
    edges: Edges

    @property
    def median(self) -> float:
        return sorted(self.seconds)[len(self.seconds) // 2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """How many of the callbacks that ``tasks`` asked for never came; the true share is between ``low`` and ``high``.

    That is Wilson's interval at 95 %. Measured on the tasks since the share last visibly changed.
    """

    tasks: int
    lost: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        return self.lost / self.tasks if self.tasks else 0.0

    @property
    def expected(self) -> float:
        """The chance that the next callback gets lost (Jeffreys' prior: with no task at all, one half)."""
        return max((self.lost + 0.5) / (self.tasks + 1), LEAST_LOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is known in advance about one task's end.

    ``usual`` is what the provider's documents lead to expect, ``edges`` what was learned (empty: nothing yet), ``lost``
    the chance that no callback will tell the end.
    """

    usual: timedelta = timedelta()
    edges: Edges = ()
    lost: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """The snapshot: ``upto`` is the last completion in it, ``callbacks`` tells of each whether it came, newest last."""

    usual: Mapping[tuple[str, str], timedelta] = field(default_factory=dict)
    upto: tuple[datetime, str] | None = None
    run_times: Mapping[Group, RunTimes] = field(default_factory=dict)
    callbacks: Mapping[Group, tuple[bool, ...]] = field(default_factory=dict)
    losses: Mapping[Group, Loss] = field(default_factory=dict)

    def outlook(self, task: Task) -> Outlook:
        """Return what to expect of a task, from the narrowest group with enough finished tasks."""
        for group in (Group(task.provider, task.kind, task.model), Group(task.provider, task.kind)):
            known = self.run_times.get(group)
            if known is not None and len(known.seconds) >= ENOUGH:
                break
        else:
            known = None
        return Outlook(
            usual=self.usual.get((task.provider, task.kind), timedelta()),
            edges=known.edges if known is not None else (),
            lost=self._lost(task),
        )

    def _lost(self, task: Task) -> float:
        if not task.callback_asked:
            return 1.0
        group = Group(task.provider, task.kind)
        # Not by the tasks since the last change: those of a fresh outage are few.
        if len(self.callbacks.get(group, ())) < ENOUGH:
            group = Group(task.provider)
        return self.losses.get(group, NOTHING_HEARD).expected


def learn(before: Habits, completions: Iterable[Completion]) -> Habits:
    """Fold in the completions after those that are in ``before`` already.

    A task without a model was not sent out by us: when it began is not known, so its run time teaches nothing.
    """
    news = sorted((one for one in completions if before.upto is None or _place(one) > before.upto), key=_place)
    if not news:
        return before
    took: dict[Group, list[float]] = defaultdict(list)
    heard: dict[Group, list[bool]] = defaultdict(list)
    for one in news:
        if one.model is not None and one.took > timedelta():
            for group in (Group(one.provider, one.kind, one.model), Group(one.provider, one.kind)):
                took[group].append(one.took.total_seconds())
        if one.asked:
            for group in (Group(one.provider, one.kind), Group(one.provider)):
                heard[group].append(one.heard)
    callbacks = {group: (*before.callbacks.get(group, ()), *heard[group])[-OUTCOMES:] for group in heard}
    return replace(
        before,
        upto=_place(news[-1]),
        run_times=_latest(
            before.run_times, {group: _longer(before, group, took[group]) for group in sorted(took, key=_width)}
        ),
        callbacks=_latest(before.callbacks, callbacks),
        losses=_latest(before.losses, {group: loss(callbacks[group]) for group in callbacks}),
    )


def quantiles(seconds: Sequence[float]) -> Edges:
    """Return the run times at LEVELS, smoothed; ``seconds`` are positive and at least one."""
    ordered = sorted(seconds)
    count = len(ordered)
    sums = [0.0, *accumulate(ordered)]

    def summed(share: float) -> float:
        place = min(max(share, 0.0), 1.0) * count
        whole = min(int(place), count - 1)
        return sums[whole] + (place - whole) * ordered[whole]

    edges = []
    for level in LEVELS[1:-1]:
        reach = max(min(WINDOW, level, 1 - level), 0.5 / count)
        low, high = max(level - reach, 0.0), min(level + reach, 1.0)
        edges.append((summed(high) - summed(low)) / ((high - low) * count))
    # Equal run times must not come out in disorder by a rounding error.
    return tuple(accumulate((ordered[0] * SHORTER, *edges, ordered[-1] * LONGER), max))


def loss(callbacks: Sequence[bool]) -> Loss:
    """Measure the loss on the stretch since it last visibly changed; ``callbacks`` tells what came, newest last."""
    recent = _since_change(callbacks)
    lost = recent.count(False)
    low, high = _interval(lost, len(recent))
    return Loss(tasks=len(recent), lost=lost, low=low, high=high)


def _interval(hits: int, trials: int) -> tuple[float, float]:
    """Return Wilson's interval for the share that ``hits`` of ``trials`` are a sample of."""
    if trials == 0:
        return 0.0, 1.0
    share, squared = hits / trials, CONFIDENCE**2 / trials
    reach = CONFIDENCE * math.sqrt((share * (1 - share) + squared / 4) / trials)
    middle = share + squared / 2
    # Rounded, a bound may lie on the wrong side of the share.
    return max(min((middle - reach) / (1 + squared), share), 0.0), min(
        max((middle + reach) / (1 + squared), share), 1.0
    )


def _since_change(callbacks: Sequence[bool]) -> Sequence[bool]:
    """Return the newest callbacks, back to where their rate most likely changed last; all if it never did."""
    count = len(callbacks)
    lost = [0, *accumulate(not came for came in reversed(callbacks))]
    steady = _likelihood(lost[count], count)

    def gain(newest: int) -> float:
        return _likelihood(lost[newest], newest) + _likelihood(lost[count] - lost[newest], count - newest) - steady

    newest = max(range(1, count), key=gain, default=count)
    return _since_change(callbacks[-newest:]) if newest < count and gain(newest) > CHANGE else callbacks


def _likelihood(lost: int, tasks: int) -> float:
    """Return the logarithm of the chance of this many lost ones, in their order, at the rate that makes it greatest."""
    return sum(part * math.log(part / tasks) for part in (lost, tasks - lost) if part)


def _longer(before: Habits, group: Group, took: Sequence[float]) -> RunTimes:
    known = before.run_times.get(group)
    seconds = (*(known.seconds if known is not None else ()), *took)[-RUN_TIMES:]
    return RunTimes(seconds=seconds, edges=quantiles(seconds))


def _latest(before: Mapping[K, V], changed: Mapping[K, V]) -> Mapping[K, V]:
    """Put what changed last, and forget the groups that have not changed for longest."""
    merged = {key: value for key, value in before.items() if key not in changed} | dict(changed)
    return MappingProxyType(dict(list(merged.items())[-GROUPS:]))


def _width(group: Group) -> int:
    return group.count(None)


def _place(completion: Completion) -> tuple[datetime, str]:
    return completion.finished_at, completion.task_id


NOTHING_HEARD: Final = loss(())
