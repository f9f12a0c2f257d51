"""Calls of the decisions with everything that a test does not speak about."""

from datetime import datetime, timedelta
from typing import Any

from tests.properties.observations import observed_in_turn
from tests.support.builders import NOW, OMNI, a_report, a_task, by_poll
from tracker.model.changes import Change, Known
from tracker.model.records import Arrived, SharedCallbackUrl
from tracker.model.task import Observation, Recorded, Report, Status, Task, Trust
from tracker.rules.callbacks import RecordCallback
from tracker.rules.create_requests import RecordSubmission, SubmitDecision
from tracker.rules.identity import ReplyTo
from tracker.rules.learning import Habits
from tracker.rules.outcomes import Rules
from tracker.rules.polls import PollResult, RecordPoll
from tracker.rules.schedule import Policy
from tracker.rules.submits import RecordAccepted

POLICY = Policy()
HABITS = Habits(usual={("kling", OMNI): timedelta(seconds=40)})
RULES = Rules(policy=POLICY, thresholds={"kling": Trust.TOKEN}, random=lambda: 0.5, owner="us", habits=lambda: HABITS)
LIFETIME = timedelta(days=30)
SOON = timedelta(seconds=1)
SUBMITTED = observed_in_turn(
    a_task(next_poll_at=NOW + timedelta(hours=1)), [by_poll(a_report(Status.SUBMITTED))], Trust.TOKEN
)
LATE = NOW + timedelta(hours=25)
SHARED_URL = SharedCallbackUrl(
    id=3, provider="kling", kind=None, client="studio", created_at=NOW, revoked_at=None, label=""
)


def intended(new: Task, *before: Task) -> SubmitDecision:
    return RecordSubmission(task=new, body=b"{}", policy=POLICY).decide(Known(before)).result


def in_flight(**changes: Any) -> Task:
    """Make a submit under way, as its intent was written."""
    until = NOW + POLICY.answer_within
    lease = until + POLICY.lease_margin
    usual: dict[str, Any] = {
        "attempts": 1,
        "attempt_deadline_at": until,
        "lease_owner": "us",
        "lease_until": lease,
        "next_poll_at": lease,
        "taken_by": "us",
        "request_hash": "h",
    }
    return a_task(**(usual | changes))


def accepted(task: Task, report: Report, *others: Task, prove_lookups: bool = False) -> Change[Task]:
    work = RecordAccepted(sent=task, report=report, now=NOW + SOON, prove_lookups=prove_lookups, rules=RULES)
    return work.decide(Known([task, *others]))


def delivered(task: Task, observation: Observation, *others: Task) -> Change[Recorded]:
    arrived = Arrived(provider="kling", observation=observation, task_id=task.id)
    return RecordCallback(arrived=arrived, account="default", rules=RULES).decide(Known([task, *others]))


def polled(task: Task, observation: Observation, *others: Task, reply_to: ReplyTo = ReplyTo.EXTERNAL_ID) -> Change[Any]:
    return settle(task, PollResult(observation=observation, reply_to=reply_to), *others, now=observation.at)


def unanswered(task: Task, why: str, *, now: datetime = NOW, **brought: Any) -> Change[Any]:
    """Record a poll that brought no observation."""
    return settle(task, PollResult(why=why, **brought), now=now)


def settle(task: Task, result: PollResult, *others: Task, now: datetime) -> Change[Any]:
    work = RecordPoll(polled=task, result=result, now=now, lifetime=LIFETIME, rules=RULES)
    return work.decide(Known([task, *others]))


def row(change: Change[Any]) -> Task:
    assert change.task is not None
    return change.task
