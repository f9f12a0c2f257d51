"""Test that no sequence of steps loses an open conflict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from tests.properties.observations import BOTH_IDS, HALF_IDS, OTHER_IDS, deliveries, observed_in_turn
from tests.support.builders import NOW, PICTURE, a_report, a_task, by_callback, by_poll
from tests.support.decisions import LIFETIME, POLICY, RULES, in_flight
from tracker.errors import Conflict
from tracker.model import event, facts
from tracker.model.changes import Change, Known
from tracker.model.records import Arrived
from tracker.model.task import FINAL, Alarm, Observation, Source, Status, Task, Trust
from tracker.rules.callbacks import RecordCallback
from tracker.rules.polls import PollResult, RecordPoll, Resolve
from tracker.rules.submits import RecordAccepted, RecordRefused, RecordUnanswered

ENDS = sorted(FINAL)
IDS = [*BOTH_IDS * 6, *OTHER_IDS, *HALF_IDS]
GAPS = st.sampled_from([timedelta(), timedelta(milliseconds=1), timedelta(seconds=3), timedelta(minutes=20)])


@dataclass(slots=True)
class Story:
    """One task, the steps applied to it, and the final statuses that were reported."""

    task: Task = field(default_factory=in_flight)
    now: datetime = NOW
    reported: set[Status] = field(default_factory=set)
    answered: bool = False
    alarms: list[Alarm] = field(default_factory=list)

    def take(self, change: Change[Any]) -> None:
        assert change.task is not None
        self.task = change.task
        self.alarms.extend(alarm.kind for alarm in change.alarms)

    @property
    def open(self) -> bool:
        return self.task.status in FINAL and self.reported == FINAL and not self.answered


Step = Callable[[Story], None]


def callback(observation: Observation) -> Step:
    def step(story: Story) -> None:
        if observation.report.flaw is None and observation.report.status in FINAL:
            story.reported.add(observation.report.status)
        arrived = Arrived(
            provider="kling", observation=structs.replace(observation, at=story.now), task_id=story.task.id
        )
        story.take(RecordCallback(arrived=arrived, account="default", rules=RULES).decide(Known([story.task])))

    return step


def reply(status: Status) -> Step:
    def step(story: Story) -> None:
        story.reported |= {status} & FINAL
        task, report = story.task, a_report(status)
        work = RecordAccepted(sent=task, report=report, now=story.now, prove_lookups=False, rules=RULES)
        story.take(work.decide(Known([task])))

    return step


def lost_reply(story: Story) -> None:
    work = RecordUnanswered(sent=story.task, why="lost", now=story.now, ended_at=story.now, reason="lost", rules=RULES)
    story.take(work.decide(Known([story.task])))


def refusal(story: Story) -> None:
    work = RecordRefused(sent=story.task, why="no", now=story.now, rules=RULES)
    story.take(work.decide(Known([story.task])))


def settle(story: Story, result: PollResult) -> Change[Any]:
    work = RecordPoll(polled=story.task, result=result, now=story.now, lifetime=LIFETIME, rules=RULES)
    return work.decide(Known([story.task]))


def poll(status: Status) -> Step:
    def step(story: Story) -> None:
        story.answered |= status in FINAL
        observation = by_poll(a_report(status, assets=(PICTURE,)), at=story.now)
        story.take(settle(story, PollResult(observation=observation)))

    return step


def silence(**how: Any) -> Step:
    """Make a poll that is answered without news, or that the account's pause puts off."""

    def step(story: Story) -> None:
        wait = how.get("wait")
        again_at = None if wait is None else story.now + wait
        result = PollResult(why="no news", again_at=again_at, sent=how.get("sent", True))
        story.take(settle(story, result))

    return step


def resolution(status: Status) -> Step:
    def step(story: Story) -> None:
        known = Known([story.task])
        work = Resolve(task_id=story.task.id, status=status, note="", now=story.now, lifetime=LIFETIME, rules=RULES)
        if status in FINAL and not story.open:
            with pytest.raises(Conflict):
                work.decide(known)
            return
        try:
            story.take(work.decide(known))
        except Conflict:
            # An expired task may still get a result, so it is never rejected.
            assert (story.task.status, status) == (Status.EXPIRED, Status.REJECTED) or story.task.status not in {
                Status.REJECTED,
                Status.EXPIRED,
            }
            return
        story.answered |= status in FINAL

    return step


STEPS: st.SearchStrategy[Step] = st.one_of(
    deliveries(IDS).map(callback),
    deliveries(IDS).map(callback),
    st.sampled_from(
        [
            *map(reply, (Status.SUBMITTED, Status.SUBMITTED, *ENDS)),
            *map(poll, (Status.SUBMITTED, Status.PROCESSING, *ENDS)),
            lost_reply,
            refusal,
            silence(),
            silence(wait=timedelta(minutes=10)),
            silence(wait=timedelta(days=1), sent=False),
            *map(resolution, (*ENDS, Status.EXPIRED, Status.REJECTED)),
        ]
    ),
)
BOTH_ENDS: Sequence[Step] = [callback(by_callback(a_report(end))) for end in (Status.SUCCEEDED, Status.FAILED)]


@given(steps=st.lists(st.tuples(GAPS, STEPS), max_size=12))
@example(steps=[*((timedelta(), step) for step in BOTH_ENDS), (timedelta(), reply(Status.SUBMITTED))])
@example(steps=[*((timedelta(), step) for step in (*BOTH_ENDS, BOTH_ENDS[0]))])
@example(steps=[(timedelta(), resolution(status)) for status in (Status.EXPIRED, Status.REJECTED)])
@example(steps=[*((timedelta(), step) for step in BOTH_ENDS), *((timedelta(minutes=20), silence()),) * 25])
def test_open_conflict_is_polled_until_decided(steps: list[tuple[timedelta, Step]]) -> None:
    story = Story()
    for gap, step in steps:
        story.now += gap
        step(story)

        assert facts.in_conflict(story.task) == story.open
        if story.open:
            assert story.task.next_poll_at is not None
            assert story.task.next_poll_at <= story.now + POLICY.conflict_gap
    if story.open:
        poll(Status.FAILED)(story)
        assert (story.task.status, story.task.next_poll_at) == (Status.FAILED, None)
        assert not facts.in_conflict(story.task)


@given(observations=st.lists(deliveries(BOTH_IDS), max_size=6), data=st.data())
def test_callback_order_never_hides_a_conflict(observations: list[Observation], data: st.DataObject) -> None:
    task = a_task(provider_task_id="provider-1")
    order = data.draw(st.permutations(observations))

    first, second = (observed_in_turn(task, each, Trust.TOKEN) for each in (observations, order))

    assert first.conflict_statuses == second.conflict_statuses
    assert facts.in_conflict(first) == facts.in_conflict(second)


def test_three_contradictory_callbacks_open_a_conflict() -> None:
    ends = [by_callback(a_report(end, updated_at=NOW + timedelta(seconds=n))) for n, end in enumerate([*ENDS, ENDS[0]])]
    task = a_task(provider_task_id="provider-1")

    for order in permutations(ends):
        assert facts.in_conflict(observed_in_turn(task, order, Trust.TOKEN))


@pytest.mark.parametrize("how", [{}, {"sent": False, "wait": timedelta(days=1)}])
def test_undecided_conflict_ends_as_a_lasting_alarm(how: dict[str, Any]) -> None:
    story = Story()
    for step in BOTH_ENDS:
        step(story)

    polls = 0
    while (due := story.task.next_poll_at) is not None:
        story.now, polls = max(due, story.now), polls + 1
        silence(**how)(story)

    assert polls < 200
    assert POLICY.conflict_patience <= story.now - NOW <= 2 * POLICY.conflict_patience + POLICY.conflict_gap
    assert story.alarms.count(Alarm.CONFLICT) == 1
    shown = event.task_data(story.task)
    assert (shown["conflict"], shown["conflict_at"]) == ("unanswered", NOW)


def test_late_callback_resumes_polls_of_a_conflict() -> None:
    story = Story()
    for step in BOTH_ENDS:
        step(story)
    story.task, story.now = replace(story.task, next_poll_at=None), NOW + 9 * POLICY.conflict_patience

    BOTH_ENDS[0](story)

    assert story.task.next_poll_at == story.now + POLICY.early_poll_delay


@pytest.mark.parametrize("end", ENDS)
def test_manual_resolution_ends_conflict_until_a_poll(end: Status) -> None:
    story = Story()
    for step in BOTH_ENDS:
        step(story)
    other = next(each for each in ENDS if each is not end)

    resolution(end)(story)
    callback(by_callback(a_report(other, updated_at=NOW)))(story)
    decided = story.task
    poll(other)(story)

    assert (decided.status, decided.status_source) == (end, Source.OPERATOR)
    assert not facts.in_conflict(decided)
    assert story.task.status is other
