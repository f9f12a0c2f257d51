"""Calls of the decisions with everything that a test does not speak about."""

from datetime import timedelta
from typing import Any

from tests.builders import NOW, OMNI, a_claim, a_task, asked
from tests.properties.observations import told_in_turn
from tracker.decisions import answers, deliveries, intents, submits
from tracker.decisions.identity import Asked
from tracker.decisions.intents import Intent
from tracker.decisions.verdicts import Rules
from tracker.learning import Habits
from tracker.models import Claim, Observation, Recorded, Status, Task, Trust
from tracker.schedule import Policy
from tracker.views import Arrived, StandingAddress
from tracker.work import Change, Known

POLICY = Policy()
HABITS = Habits(usual={("kling", OMNI): timedelta(seconds=40)})
RULES = Rules(policy=POLICY, threshold=Trust.TOKEN, random=lambda: 0.5, owner="us", habits=lambda: HABITS)
LIFETIME = timedelta(days=30)
SOON = timedelta(seconds=1)
SUBMITTED = told_in_turn(a_task(next_poll_at=NOW + timedelta(hours=1)), [asked(a_claim(Status.SUBMITTED))], Trust.TOKEN)
LATE = NOW + timedelta(hours=25)
STANDING = StandingAddress(
    id=3, provider="kling", kind=None, client="studio", created_at=NOW, revoked_at=None, label=""
)


def intended(new: Task, *before: Task) -> Intent:
    return intents.intended(Known(before), new, body=b"{}", policy=POLICY).result


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


def accepted(task: Task, claim: Claim, *others: Task, prove_lookups: bool = False) -> Change[Task]:
    return submits.accepted(
        Known([task, *others]), task.id, claim, b"", now=NOW + SOON, prove_lookups=prove_lookups, rules=RULES
    )


def delivered(task: Task, observation: Observation, *others: Task) -> Change[Recorded]:
    arrived = Arrived(provider="kling", observation=observation, task_id=task.id)
    return deliveries.delivered(Known([task, *others]), arrived, account="default", rules=RULES)


def polled(task: Task, observation: Observation, *others: Task, asked: Asked = Asked.EXTERNAL_ID) -> Change[Any]:
    return answers.polled(
        Known([task, *others]),
        task.id,
        observation,
        asked=asked,
        lifetime=LIFETIME,
        seen=(),
        rules=RULES,
    )


def row(change: Change[Any]) -> Task:
    assert change.task is not None
    return change.task
