"""/asyncapi.json is valid and complete, and it matches the published events."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.support.api_harness import closed_client
from tests.support.asyncapi_document import DOCUMENT, faults, messages, resolved, types_of
from tests.support.builders import a_task
from tests.support.published_events import every_event
from tracker.api.asyncapi import ATTRIBUTES, HEADERS
from tracker.delivery.sinks.kafka import TOPIC
from tracker.delivery.sinks.rabbitmq import EXCHANGE
from tracker.delivery.sinks.redis_streams import STREAM
from tracker.delivery.sinks.urls import SINK_TYPES
from tracker.model.event import EVENT_TYPES, PublishedEvent, attributes, structured
from tracker.model.task import Status
from tracker.providers.kling_gateway import legacy_callback

EVENTS = every_event()
EVENT_CHANNELS = sorted(DOCUMENT["channels"].keys() - {"callbacks", "clients"})
SIGNED = {"webhook-id": "1", "webhook-timestamp": "2", "webhook-signature": "v1,3"}


def references(found: object) -> Iterator[dict[str, Any]]:
    if isinstance(found, dict):
        if isinstance(found.get("$ref"), str):
            yield found
        for each in found.values():
            yield from references(each)
    elif isinstance(found, list):
        for each in found:
            yield from references(each)


def test_reference_leads_to_an_object() -> None:
    found = [*references(DOCUMENT)]
    assert len(found) > len(EVENT_TYPES)
    for reference in found:
        assert isinstance(resolved(reference), dict)


async def test_document_is_served_by_app() -> None:
    async with closed_client() as client:
        assert (await client.get("/asyncapi.json")).json() == DOCUMENT


def test_sink_scheme_has_channel_with_all_types() -> None:
    schemes = [scheme for channel in DOCUMENT["channels"].values() for scheme in channel.get("x-schemes", ())]
    assert sorted(schemes) == sorted(SINK_TYPES)
    for channel in EVENT_CHANNELS:
        assert set(messages(channel)) == set(EVENT_TYPES)


def test_channel_has_one_operation() -> None:
    used = [operation["channel"]["$ref"].rpartition("/")[2] for operation in DOCUMENT["operations"].values()]
    assert sorted(used) == sorted(DOCUMENT["channels"])


def test_broker_names_equal_names_in_sinks() -> None:
    channels = DOCUMENT["channels"]
    assert channels["kafka"]["address"] == TOPIC
    assert channels["redis"]["address"] == STREAM
    assert channels["rabbitmq"]["bindings"]["amqp"]["exchange"]["name"] == EXCHANGE


@pytest.mark.parametrize("channel", [channel for channel in EVENT_CHANNELS if channel not in HEADERS])
@pytest.mark.parametrize("event", EVENTS, ids=[event.type for event in EVENTS])
def test_event_is_message_of_its_type_only(channel: str, event: PublishedEvent) -> None:
    message = json.loads(structured(event, "urn:homing"))
    assert types_of(channel, SIGNED, message) == [event.type]


@pytest.mark.parametrize("event", [EVENTS[0], EVENTS[-1]], ids=["a task", "an alarm"])
def test_published_event_is_fully_documented(event: PublishedEvent) -> None:
    assert [*attributes(event, "urn:homing")] == [*ATTRIBUTES]
    schemas = DOCUMENT["components"]["schemas"]
    assert set(json.loads(event.body)) == set(schemas["AlarmData" if event.task is None else "TaskShown"]["properties"])


@pytest.mark.parametrize("name", [*ATTRIBUTES, "data"])
def test_event_with_missing_attribute_is_no_message(name: str) -> None:
    event = json.loads(structured(EVENTS[0], "urn:homing"))
    del event[name]
    assert types_of("webhooks", SIGNED, event) == []


@pytest.mark.parametrize(
    "wrong",
    [{"sequence": "3"}, {"specversion": "0.3"}, {"time": "now"}, {"type": "homing.task.lost"}, {"data": {}}],
)
def test_event_with_wrong_attribute_is_no_message(wrong: Mapping[str, Any]) -> None:
    event = json.loads(structured(EVENTS[0], "urn:homing")) | wrong
    assert types_of("webhooks", SIGNED, event) == []


def test_webhook_without_signature_is_no_message() -> None:
    event = json.loads(structured(EVENTS[0], "urn:homing"))
    assert types_of("webhooks", {}, event) == []


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.PENDING])
def test_client_webhook_is_message_of_its_channel(status: Status) -> None:
    task = replace(a_task(external_id="order-1"), status=status)
    assert types_of("clients", SIGNED, legacy_callback(task)) == ["callback"]
    assert [*faults(messages("clients")["callback"]["payload"], legacy_callback(task) | {"task_id": 1})] != []
