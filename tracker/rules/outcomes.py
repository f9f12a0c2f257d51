"""The parts that all decisions share: their rules, and the rows of a verdict."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from tracker.errors import NotFound
from tracker.model.changes import Entry, Known, RaisedAlarm, by_id
from tracker.model.records import HistoryEntry
from tracker.model.task import SETTLED, Observation, Task, Transition, Trust, Verdict, changed
from tracker.rules import schedule
from tracker.rules.learning import Habits
from tracker.rules.schedule import Policy

UNCHANGED: Final = frozenset({Verdict.CONFIRMED, Verdict.OUTRANKED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The input of every decision besides the rows. ``owner`` is this process, ``habits`` is what it has learned.

    ``thresholds`` are the lowest trust levels for a final status, by provider.
    """

    policy: Policy
    thresholds: Mapping[str, Trust]
    random: Callable[[], float]
    owner: str
    habits: Callable[[], Habits]


def existing(known: Known, task_id: str) -> Task:
    """Return the row of a task. Raises: NotFound."""
    task = known.get(by_id(task_id))
    if task is None:
        raise NotFound(f"no task {task_id}")
    return task


def entry_of(transition: Transition, observation: Observation, dedupe_key: str, *, why: str = "") -> Entry:
    """Return the history entry of a transition. ``why`` is added to the reason of its verdict."""
    report = observation.report
    shown = HistoryEntry(
        id=0,
        task_id=transition.task.id,
        at=observation.at,
        source=observation.source,
        trust=transition.trust,
        provider_status=report.provider_status,
        status=report.status,
        verdict=transition.verdict,
        why=f"{transition.why}: {why}" if why else transition.why,
        provider_updated_at=report.updated_at,
        body=observation.body,
    )
    return Entry(dedupe_key=dedupe_key, shown=shown)


def alarms_of(transition: Transition, observation: Observation) -> tuple[RaisedAlarm, ...]:
    """Return the alarms of a transition."""
    return tuple(
        RaisedAlarm(
            kind=kind,
            provider=transition.task.provider,
            at=observation.at,
            task_id=transition.task.id,
            detail=transition.why,
        )
        for kind in transition.alarms
    )


def replanned(task: Task, *, now: datetime, rules: Rules, lifetime: timedelta, answered: bool = True) -> Task:
    """Return the task with its next poll planned. ``answered`` says whether the last poll got an answer."""
    again = schedule.after_poll(
        task,
        now=now,
        policy=rules.policy,
        habits=rules.habits(),
        lifetime=lifetime,
        random=rules.random(),
        answered=answered,
    )
    return changed(task, next_poll_at=again)


def begun(task: Task, *, now: datetime, rules: Rules) -> Task:
    """Return a task that begins now with its first poll planned."""
    first = schedule.first_poll_delay(task, now=now, policy=rules.policy, habits=rules.habits(), random=rules.random())
    return changed(task, next_poll_at=first)


def given_back(task: Task, rules: Rules) -> Task:
    """Release a lease: this process's own, or any lease of a finished task. Another process keeps the one it holds."""
    if task.lease_owner in {None, rules.owner} or task.status in SETTLED:
        return changed(task, lease_owner=None, lease_until=None)
    return task
