"""Test that a report about one row never changes another row, for every source and every state of the other row."""

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.properties.observations import ASSETS, MESSAGES, PRICES, PROVIDER_STATUSES, TRUSTS, belief
from tests.support.builders import NOW, OUR_ID, THEIR_ID, a_task
from tests.support.decisions import LIFETIME, RULES
from tracker.model.changes import Change, Known
from tracker.model.records import Arrived
from tracker.model.task import Alarm, Flaw, IdSource, Observation, Report, Source, Status, Task, Trust
from tracker.rules.callbacks import RecordCallback
from tracker.rules.identity import ReplyTo
from tracker.rules.polls import PollResult, RecordPoll
from tracker.rules.submits import RecordAccepted

# The row that the reports are about. Its provider task ID is verified.
TRUE = a_task(1, provider_task_id=THEIR_ID, client="victim", status=Status.PROCESSING, attempts=1)
SENT_IDS = st.sampled_from([None, "its own", THEIR_ID])
NAMED_BY = st.sampled_from([None, *IdSource])
Delivering = Callable[[Known, Task, Report], Change[Any]]


@st.composite
def other_rows(draw: st.DrawFn) -> Task:
    """Make another row, which may name the id of the true one in every way that a client or a callback can."""
    sent, own = draw(SENT_IDS), draw(st.sampled_from([None, None, "provider-2"]))
    return a_task(
        2,
        client="thief",
        sent_external_id=sent,
        external_id=sent,
        provider_task_id=own,
        candidate_id=draw(st.sampled_from([None, THEIR_ID])) if own is None else None,
        unproven_id_from=draw(NAMED_BY),
        attempts=draw(st.integers(0, 1)),
        status=draw(st.sampled_from([Status.PENDING, Status.PROCESSING, Status.SUCCEEDED])),
        next_poll_at=NOW,
    )


reports = st.builds(
    lambda ids, status, facts: Report(
        provider_task_id=ids[0],
        external_id=ids[1],
        status=status,
        provider_status=status.value,
        created_at=NOW,
        **facts,
    ),
    st.sampled_from([(THEIR_ID, OUR_ID), (THEIR_ID, None), (THEIR_ID, THEIR_ID), (None, OUR_ID)]),
    PROVIDER_STATUSES,
    st.fixed_dictionaries({"assets": ASSETS, "price": PRICES, "message": MESSAGES}),
)


def polled(polled_by: ReplyTo) -> Delivering:
    def deliver(known: Known, task: Task, report: Report) -> Change[Any]:
        observation = Observation(source=Source.POLL, trust=Trust.PROVIDER, report=report, at=NOW, body=b"the body")
        result = PollResult(observation=observation, reply_to=polled_by)
        return RecordPoll(polled=task, result=result, now=NOW, lifetime=LIFETIME, rules=RULES).decide(known)

    return deliver


def accepted(known: Known, task: Task, report: Report) -> Change[Any]:
    return RecordAccepted(sent=task, report=report, now=NOW, prove_lookups=False, rules=RULES).decide(known)


def called_back(trust: Trust) -> Delivering:
    def deliver(known: Known, task: Task, report: Report) -> Change[Any]:
        flaw = Flaw.UNSIGNED if trust is Trust.UNVERIFIED else None
        observation = Observation(
            source=Source.CALLBACK, trust=trust, report=report, at=NOW, body=b"the body", flaw=flaw
        )
        arrived = Arrived(provider="kling", observation=observation, task_id=task.id)
        return RecordCallback(arrived=arrived, account="default", rules=RULES).decide(known)

    return deliver


ANSWERS = st.sampled_from([ReplyTo.PROVIDER_ID, ReplyTo.EXTERNAL_ID, ReplyTo.CANDIDATE]).map(polled)
SOURCES = st.one_of(ANSWERS, ANSWERS, st.just(accepted), TRUSTS.map(called_back))


@given(task=other_rows(), report=reports, deliver=SOURCES)
def test_report_about_another_row_merges_nothing(task: Task, report: Report, deliver: Delivering) -> None:
    known = Known([TRUE, task])

    change = deliver(known, task, report)

    after = change.task
    assert after is not None
    assert (after.id, after.provider_task_id) == (task.id, task.provider_task_id)
    assert (belief(after), after.version) == (belief(task), task.version)
    assert after.candidate_id in {None, task.candidate_id}
    assert (change.others, change.events) == ((), ())
    assert Alarm.MISMATCH in {alarm.kind for alarm in change.alarms}
    texts = " ".join(entry.shown.why for entry in change.entries) + " ".join(alarm.detail for alarm in change.alarms)
    assert not {THEIR_ID, OUR_ID} & set(texts.replace(",", " ").split())
    if change.entries[0].shown.source is not Source.CALLBACK:
        assert [(entry.shown.provider_status, entry.shown.status) for entry in change.entries] == [(None, None)]


@given(holder=other_rows(), named_by=NAMED_BY, report=reports)
def test_unverified_id_is_taken_only_by_submitted_row(holder: Task, named_by: IdSource | None, report: Report) -> None:
    """The true row has lost its reply, and another row holds its id."""
    holding = a_task(
        2,
        client="thief",
        sent_external_id=holder.sent_external_id,
        provider_task_id=THEIR_ID,
        unproven_id_from=named_by,
        status=holder.status,
    )
    for attempts in (0, 1):
        waiting = a_task(1, client="victim", attempts=attempts, next_poll_at=NOW)

        change = polled(ReplyTo.EXTERNAL_ID)(Known([waiting, holding]), waiting, report)

        after = change.task
        assert after is not None
        names_it = report.provider_task_id == THEIR_ID and report.external_id == OUR_ID
        found = report.provider_task_id == THEIR_ID and report.external_id is None
        outranks = named_by is not None and (names_it or (found and named_by is not IdSource.LOOKUP))
        takes = attempts > 0 and outranks
        assert (after.provider_task_id == THEIR_ID) == takes
        assert [(lost.id, lost.provider_task_id, lost.facts) for lost in change.others] == (
            [(holding.id, None, {})] if takes else []
        )
