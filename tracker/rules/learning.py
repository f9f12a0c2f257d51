"""The run times and callback losses that the schedule learns from finished tasks. Pure.

``learn`` adds finished tasks to an immutable snapshot. The snapshot is bounded: it keeps the latest run times and the
latest callbacks of a limited number of groups.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, NamedTuple, TypeVar

from tracker.model.records import Completion
from tracker.model.task import Task

MAX_RUN_TIMES: Final = 300
# A small number, so that an outage has an effect after a few tasks, and none soon after its end.
MAX_CALLBACKS: Final = 50
MAX_GROUPS: Final = 200
# With fewer finished tasks, the wider group is more reliable.
MIN_TASKS: Final = 10
# Standard deviations on each side of a measured share: 95 % confidence.
CONFIDENCE: Final = 1.96

V = TypeVar("V")
K = TypeVar("K")


class Group(NamedTuple):
    """A group of tasks. Without a model it is all tasks of a kind, without a kind all tasks of a provider."""

    provider: str
    kind: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class RunTimes:
    """The latest run times of a group in seconds, newest last."""

    seconds: tuple[float, ...]
    ascending: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ascending", tuple(sorted(self.seconds)))

    @property
    def median(self) -> float:
        return self.ascending[len(self.ascending) // 2]


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Whether the latest callbacks that a group's tasks requested arrived, newest last."""

    arrived: tuple[bool, ...] = ()

    @property
    def tasks(self) -> int:
        return len(self.arrived)

    @property
    def lost(self) -> int:
        return self.arrived.count(False)

    @property
    def loss_rate(self) -> float:
        """The measured share of lost callbacks. It is 0 without tasks."""
        return self.lost / self.tasks if self.tasks else 0.0

    @property
    def loss_bounds(self) -> tuple[float, float]:
        """The 95 % confidence interval of the loss rate (Wilson). It is 0 and 1 without tasks."""
        if not self.tasks:
            return 0.0, 1.0
        rate, spread = self.loss_rate, CONFIDENCE**2 / self.tasks
        center = (rate + spread / 2) / (1 + spread)
        reach = math.sqrt(spread * (rate * (1 - rate) + spread / 4)) / (1 + spread)
        # Rounding must not place the measured rate outside.
        return min(rate, max(center - reach, 0.0)), max(rate, min(center + reach, 1.0))

    @property
    def expected_loss(self) -> float:
        """The chance that the next callback is lost: never 0, and one half without any task."""
        return (self.lost + 0.5) / (len(self.arrived) + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """The expectations for one task.

    ``usual`` is the documented run time. ``run_times`` are the learned ones in seconds, ascending, or empty if there
    are too few. ``lost`` is the probability that no callback reports the end.
    """

    usual: timedelta = timedelta()
    run_times: tuple[float, ...] = ()
    lost: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """The snapshot. ``upto`` names the last finished task in it, by its time and ID."""

    usual: Mapping[tuple[str, str], timedelta] = field(default_factory=dict)
    upto: tuple[datetime, str] | None = None
    run_times: Mapping[Group, RunTimes] = field(default_factory=dict)
    callbacks: Mapping[Group, Callbacks] = field(default_factory=dict)

    def outlook(self, task: Task) -> Outlook:
        """Return what to expect of a task, from the narrowest group with enough finished tasks."""
        kind = Group(task.provider, task.kind)
        run_times: tuple[float, ...] = ()
        for group in (Group(task.provider, task.kind, task.model), kind):
            known = self.run_times.get(group)
            if known is not None and len(known.seconds) >= MIN_TASKS:
                run_times = known.ascending
                break
        callbacks = self.callbacks.get(kind, Callbacks())
        if len(callbacks.arrived) < MIN_TASKS:
            callbacks = self.callbacks.get(Group(task.provider), Callbacks())
        return Outlook(
            usual=self.usual.get((task.provider, task.kind), timedelta()),
            run_times=run_times,
            lost=callbacks.expected_loss if task.callback_requested else 1.0,
        )


def learn(before: Habits, completions: Iterable[Completion]) -> Habits:
    """Return a snapshot with the completions that are later than those in ``before``.

    Only run times of tasks with a model count: Homing submitted these and knows when they began.
    """
    later = sorted((one for one in completions if before.upto is None or _place(one) > before.upto), key=_place)
    if not later:
        return before
    took: dict[Group, list[float]] = defaultdict(list)
    arrived: dict[Group, list[bool]] = defaultdict(list)
    for one in later:
        if one.model is not None and one.took > timedelta():
            for group in (Group(one.provider, one.kind, one.model), Group(one.provider, one.kind)):
                took[group].append(one.took.total_seconds())
        if one.callback_requested:
            for group in (Group(one.provider, one.kind), Group(one.provider)):
                arrived[group].append(one.callback_arrived)
    run_times = {group: _with_run_times(before, group, took[group]) for group in sorted(took, key=_width)}
    callbacks = {group: _with_callbacks(before, group, arrived[group]) for group in arrived}
    return replace(
        before,
        upto=_place(later[-1]),
        run_times=_latest(before.run_times, run_times),
        callbacks=_latest(before.callbacks, callbacks),
    )


def _with_run_times(before: Habits, group: Group, took: Iterable[float]) -> RunTimes:
    known = before.run_times.get(group, RunTimes(()))
    return RunTimes((*known.seconds, *took)[-MAX_RUN_TIMES:])


def _with_callbacks(before: Habits, group: Group, arrived: Iterable[bool]) -> Callbacks:
    known = before.callbacks.get(group, Callbacks())
    return Callbacks((*known.arrived, *arrived)[-MAX_CALLBACKS:])


def _latest(before: Mapping[K, V], changed: Mapping[K, V]) -> Mapping[K, V]:
    """Return the groups with the changed ones last, without those that have not changed for longest."""
    merged = {key: value for key, value in before.items() if key not in changed} | dict(changed)
    return MappingProxyType(dict(list(merged.items())[-MAX_GROUPS:]))


def _width(group: Group) -> int:
    return group.count(None)


def _place(completion: Completion) -> tuple[datetime, str]:
    return completion.finished_at, completion.task_id
