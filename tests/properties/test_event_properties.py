"""Test that event data equals the API's task, and that the public SDK parses every event."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from receiver.verification import CallbackRequest, StandardWebhooks
from tests.properties.observations import PROVIDER_STATUSES, observed_in_turn, reports
from tests.support.asyncapi_document import is_of, messages
from tests.support.builders import NOW, a_task, by_callback, by_poll
from tests.support.published_events import an_event, every_event
from tracker.api import rendering
from tracker.api.schemas import TaskShown
from tracker.delivery.sinks.http_post import signature_headers
from tracker.model.event import STRUCTURED_TYPE, TASK_TYPES, PublishedEvent, as_dict, structured
from tracker.model.task import Status, Task, Trust
from tracker.providers.kling import Kling
from tracker.providers.kling_gateway import legacy_callback

# NUL is in no text that comes in: PostgreSQL cannot store it.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXTS, below, max_size=3),
    max_leaves=8,
)
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds have none
IDS = [("provider-1", a_task().id)]


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    """Make tasks that something was learned about, with fields of any values."""
    observed = draw(st.lists(reports(IDS, PROVIDER_STATUSES), max_size=3))
    task = observed_in_turn(
        a_task(), [draw(st.sampled_from([by_poll, by_callback]))(report) for report in observed], Trust.TOKEN
    )
    names = ("submitted_at", "last_observed_at", "polled_at", "next_poll_at")
    times: dict[str, Any] = {name: draw(st.none() | MOMENTS) for name in names}
    return replace(
        task,
        request=draw(st.dictionaries(TEXTS, VALUES, max_size=3)),
        tags=tuple(draw(st.lists(TEXTS, max_size=3))),
        external_id=draw(st.none() | TEXTS),
        reason=draw(st.none() | TEXTS),
        callback_requested=draw(st.booleans()),
        poll_count=draw(st.integers(0, 2**31 - 1)),
        created_at=draw(MOMENTS),
        **times,
    )


@given(tasks())
def test_event_data_is_the_task_as_the_api_shows_it(task: Task) -> None:
    data = json.loads(an_event(task).body)
    assert data == json.loads(json.dumps(rendering.task(task).model_dump(mode="json")))
    assert TaskShown.model_validate(data) == rendering.task(task)


@given(tasks(), st.sampled_from([status for status in Status if status is not Status.PENDING]))
def test_event_is_parsed_by_the_public_sdk(task: Task, status: Status) -> None:
    event = an_event(task, status.value)
    body = structured(event, "urn:homing")
    read = from_http(HTTPMessage(headers={"content-type": STRUCTURED_TYPE}, body=body), JSONFormat())
    assert (read.get_id(), read.get_type(), read.get_subject(), read.get_time()) == (
        event.id,
        event.type,
        task.id,
        NOW,
    )
    assert read.get_data() == json.loads(event.body)


@given(tasks(), st.sampled_from(TASK_TYPES))
def test_event_matches_its_one_documented_message(task: Task, kind: str) -> None:
    event = PublishedEvent(cursor=1, type=kind, sequence=task.version, at=NOW, task=task)
    written = json.loads(structured(event, "urn:homing"))
    others = [name for name in TASK_TYPES if name != kind][:1]
    assert is_of(messages("stream")[kind], {}, written)
    assert not any(is_of(messages("stream")[name], {}, written) for name in others)


@given(tasks())
def test_subscriber_gets_the_documented_event(task: Task) -> None:
    event = an_event(task)
    assert as_dict(event, "urn:homing") == json.loads(structured(event, "urn:homing"))


@pytest.mark.parametrize("event", every_event(), ids=lambda event: event.type)
def test_event_id_of_any_type_is_a_valid_webhook_id(event: PublishedEvent) -> None:
    headers = signature_headers([b"k" * 32], webhook_id=event.id, at=NOW, body=event.body)
    delivered = [(name.encode(), value.encode()) for name, value in headers.items()]

    proof = StandardWebhooks(keys=[b"k" * 32]).verify(CallbackRequest(headers=delivered, body=event.body), now=NOW)

    assert proof.webhook_id == event.id


@given(tasks())
def test_sent_callback_passes_homing_verification(task: Task) -> None:
    body = json.dumps(legacy_callback(task)).encode()
    report = Kling().read_callback(body)
    if task.status not in {Status.PENDING, Status.EXPIRED, Status.REJECTED}:
        assert (report.provider_task_id, report.status, report.flaw) == (task.id, task.status, None)
    headers = signature_headers([b"k" * 32, b"l" * 32], webhook_id=f"{task.id}-1", at=NOW, body=body)
    header_pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    for key in (b"k" * 32, b"l" * 32):
        StandardWebhooks(keys=[key]).verify(CallbackRequest(headers=header_pairs, body=body), now=NOW)
