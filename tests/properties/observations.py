"""Hypothesis strategies for all observations of a task, and the part of the resulting task that tests compare."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import reduce

from hypothesis import strategies as st

from tests.support.builders import NOW, OUR_ID, THEIR_ID
from tracker.model import facts
from tracker.model.task import FINAL, Asset, Fact, Flaw, Observation, Report, Source, Status, Task, Trust
from tracker.model.untrusted import JsonValue
from tracker.rules import lifecycle

TRUSTS = st.sampled_from([Trust.SIGNED, Trust.TOKEN, Trust.UNVERIFIED, Trust.SIGNED])
THRESHOLDS = st.sampled_from([Trust.TOKEN, Trust.SIGNED, Trust.PROVIDER])
# Final statuses are more frequent, because contradictions between them depend on the order.
PROVIDER_STATUSES = st.sampled_from([Status.SUBMITTED, Status.PROCESSING, *[Status.SUCCEEDED, Status.FAILED] * 3])
# Few values, so that equal ones meet often; None is a provider that does not say when.
MOMENTS = st.sampled_from([None, *(NOW + timedelta(seconds=second) for second in range(3))])
URLS = st.sampled_from(["https://results.example/a.png", "https://results.example/b.png"])
ASSETS = st.lists(st.builds(Asset, kind=st.just("image"), url=URLS, index=st.integers(0, 1)), max_size=2).map(tuple)
PRICES = st.sampled_from([{}, {"final_unit_deduction": "1"}, {"final_unit_deduction": "2", "billing": 1}])
MESSAGES = st.sampled_from(["", "done", "content refused"])
TIMES = st.integers(0, 90_000).map(lambda seconds: NOW + timedelta(seconds=seconds))
BOTH_IDS: list[tuple[str | None, str | None]] = [(THEIR_ID, OUR_ID)]
OTHER_IDS: Sequence[tuple[str | None, str | None]] = [("another", "another's"), (None, None), ("another", None)]
HALF_IDS: Sequence[tuple[str | None, str | None]] = [
    (THEIR_ID, None),
    (None, OUR_ID),
    ("another", OUR_ID),
    (THEIR_ID, "another's"),
]


def reports(
    ids: Sequence[tuple[str | None, str | None]], statuses: st.SearchStrategy[Status]
) -> st.SearchStrategy[Report]:
    """Return a strategy for readable reports with one of the pairs of provider task ID and external ID."""
    return st.builds(
        lambda pair, status, facts: Report(
            provider_task_id=pair[0], external_id=pair[1], status=status, provider_status=status.value, **facts
        ),
        st.sampled_from(ids),
        statuses,
        st.fixed_dictionaries({"assets": ASSETS, "price": PRICES, "message": MESSAGES, "updated_at": MOMENTS}),
    )


OWN_UNREADABLE = [
    Report(flaw="the body is not JSON at character 0"),
    Report(provider_task_id=THEIR_ID, external_id=OUR_ID, provider_status="cancelled", message="an unknown word"),
]
UNREADABLE = [*OWN_UNREADABLE, Report(provider_task_id="another", provider_status="succeeded?")]


def readable(readable_reports: st.SearchStrategy[Report], unreadable: Sequence[Report]) -> st.SearchStrategy[Report]:
    """Return a strategy for reports, most of them readable."""
    return st.integers(0, 5).flatmap(lambda die: readable_reports if die else st.sampled_from(unreadable))


def deliveries(ids: Sequence[tuple[str | None, str | None]]) -> st.SearchStrategy[Observation]:
    """Return a strategy for callbacks to a task callback URL."""
    return st.builds(
        Observation,
        source=st.just(Source.CALLBACK),
        trust=TRUSTS,
        report=readable(reports(ids, PROVIDER_STATUSES), UNREADABLE),
        at=TIMES,
        flaw=st.sampled_from([None, *Flaw]),
    )


def answers(
    statuses: st.SearchStrategy[Status] = PROVIDER_STATUSES, sources: Sequence[Source] = (Source.POLL, Source.SUBMIT)
) -> st.SearchStrategy[Observation]:
    """Return a strategy for poll answers about this task; ``rules.identity`` rejects answers about other tasks."""
    return st.builds(
        Observation,
        source=st.sampled_from(sources),
        trust=st.just(Trust.PROVIDER),
        report=readable(reports(BOTH_IDS, statuses), OWN_UNREADABLE),
        at=TIMES,
    )


inferences = st.builds(
    Observation,
    source=st.sampled_from([Source.CLOCK, Source.OPERATOR, Source.SUBMIT]),
    trust=st.just(Trust.PROVIDER),
    report=st.sampled_from([Report(status=Status.EXPIRED), Report(status=Status.REJECTED)]),
    at=TIMES,
    note=st.sampled_from(["", "so it is"]),
)


def anything(ids: Sequence[tuple[str | None, str | None]]) -> st.SearchStrategy[Observation]:
    kinds = [deliveries(ids), answers()]
    return st.integers(0, 4).flatmap(lambda die: kinds[die % 2] if die else inferences)


@st.composite
def complete_final_polls(draw: st.DrawFn) -> Observation:
    """Return a final poll with all fields, later than every other observation."""
    status = draw(st.sampled_from(sorted(FINAL)))
    report = Report(
        provider_task_id=THEIR_ID,
        external_id=OUR_ID,
        status=status,
        provider_status=status.value,
        assets=(Asset(kind="image", url="https://results.example/true.png"),),
        price={"final_unit_deduction": "3"},
        message="the truth",
        updated_at=NOW + timedelta(days=1),
    )
    return Observation(source=Source.POLL, trust=Trust.PROVIDER, report=report, at=NOW + timedelta(days=2))


def observed_in_turn(task: Task, observations: Sequence[Observation], threshold: Trust) -> Task:
    """Apply ``observations`` to a task in order, and return the task."""
    return reduce(lambda now, each: lifecycle.advance(now, each, threshold=threshold).task, observations, task)


def belief(task: Task) -> tuple[Status, Mapping[str, Fact], tuple[Asset, ...], JsonValue]:
    """Return the parts that no order may change: the status and the facts, stored and shown."""
    return task.status, dict(task.facts), facts.assets(task), facts.price(task)
