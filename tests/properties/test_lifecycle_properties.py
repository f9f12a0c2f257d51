"""Test that the end of a task does not depend on the order or the repetition of its observations."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tests.properties.observations import (
    BOTH_IDS,
    HALF_IDS,
    OTHER_IDS,
    THRESHOLDS,
    answers,
    anything,
    belief,
    complete_final_polls,
    deliveries,
    inferences,
    observed_in_turn,
    reports,
)
from tests.support.builders import NOW, THEIR_ID, a_task
from tracker.model import facts
from tracker.model.task import FINAL, Alarm, Observation, Report, Source, Status, Task, Trust, Verdict
from tracker.rules import lifecycle
from tracker.storage.rows import stamp

# Matching IDs are frequent. Otherwise contradictions between trusted reports would be rare.
ANY_IDS = [*BOTH_IDS * 8, *OTHER_IDS, *HALF_IDS]
KNOWN = a_task(provider_task_id=THEIR_ID)
PENDING = a_task()
tasks = st.sampled_from([KNOWN, PENDING])
finals = st.sampled_from(sorted(FINAL))


@st.composite
def reordered_observations(
    draw: st.DrawFn, ids: Sequence[tuple[str | None, str | None]]
) -> tuple[list[Observation], list[Observation]]:
    """Return some observations, and the same ones in another order with some of them repeated."""
    observations = draw(st.lists(anything(ids), max_size=7))
    repeated = observations + draw(st.lists(st.sampled_from(observations), max_size=4)) if observations else []
    return observations, draw(st.permutations(repeated))


@given(orders=reordered_observations(ANY_IDS), threshold=THRESHOLDS)
def test_order_and_repeats_do_not_change_a_known_task(
    orders: tuple[list[Observation], list[Observation]], threshold: Trust
) -> None:
    first, second = (observed_in_turn(KNOWN, observations, threshold) for observations in orders)
    assert belief(first) == belief(second)


@given(orders=reordered_observations([*BOTH_IDS, *OTHER_IDS]), threshold=THRESHOLDS)
def test_order_and_repeats_do_not_change_an_unresolved_task(
    orders: tuple[list[Observation], list[Observation]], threshold: Trust
) -> None:
    first, second = (observed_in_turn(PENDING, observations, threshold) for observations in orders)
    assert belief(first) == belief(second)


@given(orders=reordered_observations(ANY_IDS), last=answers(finals, [Source.POLL]), threshold=THRESHOLDS, task=tasks)
def test_final_poll_makes_the_status_independent_of_order(
    orders: tuple[list[Observation], list[Observation]], last: Observation, threshold: Trust, task: Task
) -> None:
    first, second = (observed_in_turn(task, [*observations, last], threshold) for observations in orders)
    if last.report.status is not None:
        assert first.status in FINAL
        assert first.status is second.status


@given(data=st.data(), last=complete_final_polls(), threshold=THRESHOLDS, task=tasks)
def test_complete_last_poll_gives_the_same_end(
    data: st.DataObject, last: Observation, threshold: Trust, task: Task
) -> None:
    observations = data.draw(st.lists(anything(ANY_IDS), max_size=7))
    arrived = data.draw(st.permutations([each for each in observations if data.draw(st.booleans())]))
    whole = observed_in_turn(task, [*observations, last], threshold)
    assert whole.status is last.report.status
    assert belief(whole) == belief(observed_in_turn(task, [*arrived, last], threshold))
    assert belief(whole) == belief(observed_in_turn(task, [last, *arrived], threshold))


@given(observations=st.lists(anything(ANY_IDS), max_size=10), threshold=THRESHOLDS, task=tasks)
def test_each_transition_is_one_version_and_one_event(
    observations: list[Observation], threshold: Trust, task: Task
) -> None:
    event_count = 0
    for each in observations:
        transition = lifecycle.advance(task, each, threshold=threshold)
        after = transition.task
        changed = transition.verdict in {Verdict.APPLIED, Verdict.COMPLETED}
        assert len(transition.events) == after.version - task.version == int(changed)
        assert [event.task.version for event in transition.events] == [after.version] * len(transition.events)
        assert (after.status is not task.status) == (transition.verdict is Verdict.APPLIED)
        assert transition.why
        task, event_count = after, event_count + len(transition.events)
    assert task.version == 1 + event_count


@given(observations=st.lists(anything(ANY_IDS), max_size=10), threshold=THRESHOLDS, task=tasks)
def test_status_changes_only_as_the_table_allows(observations: list[Observation], threshold: Trust, task: Task) -> None:
    for each in observations:
        transition = lifecycle.advance(task, each, threshold=threshold)
        after = transition.task
        assert after.precedence >= task.precedence
        assert after.precedence.rank == facts.RANK[after.status]
        if after.status is not task.status:
            assert after.status in lifecycle.TRANSITIONS[task.status]
        if task.status in FINAL:
            assert after.status in FINAL
            corrected = after.status is not task.status
            assert corrected == any(event.type == "homing.task.corrected" for event in transition.events)
            assert not corrected or Alarm.CONTRADICTION in transition.alarms
        task = after


@given(observations=st.lists(anything(ANY_IDS), max_size=8), threshold=THRESHOLDS)
def test_status_is_the_highest_verified_report(observations: list[Observation], threshold: Trust) -> None:
    """State the precedence a second time, independently of the code: the finals first, then the rest by rank."""
    ended = observed_in_turn(KNOWN, observations, threshold)
    verified = [each for each in observations if is_trusted(KNOWN, each, threshold)]
    last = [each for each in verified if each.report.status in FINAL]
    if last:
        of_polls = [each for each in last if each.source is Source.POLL] or last
        latest = max(time_of(each) for each in of_polls)
        statuses = {each.report.status for each in of_polls if time_of(each) == latest}
        assert ended.status is (Status.SUCCEEDED if Status.SUCCEEDED in statuses else Status.FAILED)
        return
    ladder = [Status.PENDING, Status.REJECTED, Status.SUBMITTED, Status.PROCESSING, Status.EXPIRED]
    reported = {each.report.status for each in verified} | {Status.PENDING}
    assert ended.status is max((status for status in ladder if status in reported), key=ladder.index)


@given(observations=st.lists(deliveries(ANY_IDS), max_size=8), threshold=THRESHOLDS, task=tasks)
def test_callback_never_sets_the_provider_id(observations: list[Observation], threshold: Trust, task: Task) -> None:
    assert observed_in_turn(task, observations, threshold).provider_task_id == task.provider_task_id


@given(
    observations=st.lists(anything(ANY_IDS), max_size=8),
    unverified_callbacks=st.lists(deliveries(ANY_IDS), max_size=4),
    data=st.data(),
)
def test_unverified_callback_changes_no_trusted_field(
    observations: list[Observation], unverified_callbacks: list[Observation], data: st.DataObject
) -> None:
    unverified = [callback for callback in unverified_callbacks if callback.trust is Trust.UNVERIFIED]
    mixed = data.draw(st.permutations([*observations, *unverified]))
    order = [each for each in mixed if each not in unverified]
    with_unverified, without = observed_in_turn(KNOWN, mixed, Trust.TOKEN), observed_in_turn(KNOWN, order, Trust.TOKEN)
    assert (belief(with_unverified), with_unverified.version) == (belief(without), without.version)


@given(observations=st.lists(st.one_of(inferences, answers()), max_size=6), report=reports(BOTH_IDS, finals))
def test_verified_final_report_ends_every_inference(observations: list[Observation], report: Report) -> None:
    poll = Observation(source=Source.POLL, trust=Trust.PROVIDER, report=report, at=NOW)
    assert observed_in_turn(observed_in_turn(PENDING, observations, Trust.TOKEN), [poll], Trust.TOKEN).status in FINAL


def is_trusted(task: Task, each: Observation, threshold: Trust) -> bool:
    if each.report.flaw is not None or each.report.status is None:
        return False
    if each.source is not Source.CALLBACK:
        return True
    if each.report.provider_task_id != task.provider_task_id or each.trust is Trust.UNVERIFIED:
        return False
    return each.report.status not in FINAL or each.trust >= threshold


def time_of(each: Observation) -> int:
    return 0 if each.report.updated_at is None else stamp(each.report.updated_at)
