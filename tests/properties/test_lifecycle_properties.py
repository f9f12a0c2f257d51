"""Whatever is said about a task, in whatever order and however often, it ends the same."""

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
    deliveries,
    inferences,
    last_words,
    reports,
    told_in_turn,
)
from tests.support.builders import NOW, THEIR_ID, a_task
from tracker.model import facts
from tracker.model.task import FINAL, Alarm, Observation, Report, Source, Status, Task, Trust, Verdict
from tracker.rules import lifecycle
from tracker.storage.rows import stamp

# The true ones often, or contradictions between believed words would be rare.
ANY_IDS = [*BOTH_IDS * 8, *OTHER_IDS, *HALF_IDS]
KNOWN = a_task(provider_task_id=THEIR_ID)
PENDING = a_task()
tasks = st.sampled_from([KNOWN, PENDING])
finals = st.sampled_from(sorted(FINAL))


@st.composite
def retellings(
    draw: st.DrawFn, ids: Sequence[tuple[str | None, str | None]]
) -> tuple[list[Observation], list[Observation]]:
    """Return some observations, and the same ones in another order with some of them repeated."""
    said = draw(st.lists(anything(ids), max_size=7))
    repeated = said + draw(st.lists(st.sampled_from(said), max_size=4)) if said else []
    return said, draw(st.permutations(repeated))


@given(told=retellings(ANY_IDS), threshold=THRESHOLDS)
def test_order_and_repeats_do_not_change_a_known_task(
    told: tuple[list[Observation], list[Observation]], threshold: Trust
) -> None:
    first, second = (told_in_turn(KNOWN, said, threshold) for said in told)
    assert belief(first) == belief(second)


@given(told=retellings([*BOTH_IDS, *OTHER_IDS]), threshold=THRESHOLDS)
def test_order_and_repeats_do_not_change_an_unresolved_task(
    told: tuple[list[Observation], list[Observation]], threshold: Trust
) -> None:
    first, second = (told_in_turn(PENDING, said, threshold) for said in told)
    assert belief(first) == belief(second)


@given(told=retellings(ANY_IDS), last=answers(finals, [Source.POLL]), threshold=THRESHOLDS, task=tasks)
def test_final_poll_makes_the_status_independent_of_order(
    told: tuple[list[Observation], list[Observation]], last: Observation, threshold: Trust, task: Task
) -> None:
    first, second = (told_in_turn(task, [*said, last], threshold) for said in told)
    if last.report.status is not None:
        assert first.status in FINAL
        assert first.status is second.status


@given(data=st.data(), last=last_words(), threshold=THRESHOLDS, task=tasks)
def test_complete_last_poll_gives_the_same_end(
    data: st.DataObject, last: Observation, threshold: Trust, task: Task
) -> None:
    said = data.draw(st.lists(anything(ANY_IDS), max_size=7))
    arrived = data.draw(st.permutations([each for each in said if data.draw(st.booleans())]))
    whole = told_in_turn(task, [*said, last], threshold)
    assert whole.status is last.report.status
    assert belief(whole) == belief(told_in_turn(task, [*arrived, last], threshold))
    assert belief(whole) == belief(told_in_turn(task, [last, *arrived], threshold))


@given(said=st.lists(anything(ANY_IDS), max_size=10), threshold=THRESHOLDS, task=tasks)
def test_each_transition_is_one_version_and_one_event(said: list[Observation], threshold: Trust, task: Task) -> None:
    told = 0
    for each in said:
        transition = lifecycle.advance(task, each, threshold=threshold)
        after = transition.task
        changed = transition.verdict in {Verdict.APPLIED, Verdict.COMPLETED}
        assert len(transition.events) == after.version - task.version == int(changed)
        assert [event.sequence for event in transition.events] == [after.version] * len(transition.events)
        assert (after.status is not task.status) == (transition.verdict is Verdict.APPLIED)
        assert transition.why
        task, told = after, told + len(transition.events)
    assert task.version == 1 + told


@given(said=st.lists(anything(ANY_IDS), max_size=10), threshold=THRESHOLDS, task=tasks)
def test_status_changes_only_as_the_table_allows(said: list[Observation], threshold: Trust, task: Task) -> None:
    for each in said:
        transition = lifecycle.advance(task, each, threshold=threshold)
        after = transition.task
        assert after.precedence >= task.precedence
        assert after.precedence.rank == facts.RANK[after.status]
        if after.status is not task.status:
            assert after.status in lifecycle.MOVES[task.status]
        if task.status in FINAL:
            assert after.status in FINAL
            corrected = after.status is not task.status
            assert corrected == any(event.type == "homing.task.corrected" for event in transition.events)
            assert not corrected or Alarm.CONTRADICTION in transition.alarms
        task = after


@given(said=st.lists(anything(ANY_IDS), max_size=8), threshold=THRESHOLDS)
def test_status_is_the_highest_verified_report(said: list[Observation], threshold: Trust) -> None:
    """State the precedence a second time, independently of the code: the finals first, then the rest by rank."""
    ended = told_in_turn(KNOWN, said, threshold)
    proven = [each for each in said if believed(KNOWN, each, threshold)]
    last = [each for each in proven if each.report.status in FINAL]
    if last:
        of_polls = [each for each in last if each.source is Source.POLL] or last
        latest = max(time_of(each) for each in of_polls)
        words = {each.report.status for each in of_polls if time_of(each) == latest}
        assert ended.status is (Status.SUCCEEDED if Status.SUCCEEDED in words else Status.FAILED)
        return
    ladder = [Status.PENDING, Status.REJECTED, Status.SUBMITTED, Status.PROCESSING, Status.EXPIRED]
    heard = {each.report.status for each in proven} | {Status.PENDING}
    assert ended.status is max((status for status in ladder if status in heard), key=ladder.index)


@given(said=st.lists(deliveries(ANY_IDS), max_size=8), threshold=THRESHOLDS, task=tasks)
def test_callback_never_sets_the_provider_id(said: list[Observation], threshold: Trust, task: Task) -> None:
    assert told_in_turn(task, said, threshold).provider_task_id == task.provider_task_id


@given(
    said=st.lists(anything(ANY_IDS), max_size=8),
    unverified_callbacks=st.lists(deliveries(ANY_IDS), max_size=4),
    data=st.data(),
)
def test_unverified_callback_changes_no_trusted_field(
    said: list[Observation], unverified_callbacks: list[Observation], data: st.DataObject
) -> None:
    doubtful = [hint for hint in unverified_callbacks if hint.trust is Trust.UNVERIFIED]
    mixed = data.draw(st.permutations([*said, *doubtful]))
    order = [each for each in mixed if each not in doubtful]
    told, without = told_in_turn(KNOWN, mixed, Trust.TOKEN), told_in_turn(KNOWN, order, Trust.TOKEN)
    assert (belief(told), told.version) == (belief(without), without.version)


@given(said=st.lists(st.one_of(inferences, answers()), max_size=6), report=reports(BOTH_IDS, finals))
def test_verified_final_report_ends_every_inference(said: list[Observation], report: Report) -> None:
    poll = Observation(source=Source.POLL, trust=Trust.PROVIDER, report=report, at=NOW)
    assert told_in_turn(told_in_turn(PENDING, said, Trust.TOKEN), [poll], Trust.TOKEN).status in FINAL


def believed(task: Task, each: Observation, threshold: Trust) -> bool:
    if each.report.flaw is not None or each.report.status is None:
        return False
    if each.source is not Source.CALLBACK:
        return True
    if each.report.provider_task_id != task.provider_task_id or each.trust is Trust.UNVERIFIED:
        return False
    return each.report.status not in FINAL or each.trust >= threshold


def time_of(each: Observation) -> int:
    return 0 if each.report.updated_at is None else stamp(each.report.updated_at)
