"""Each channel sends what /asyncapi.json documents: address, headers and payload, for every event type."""

import json
import os
from typing import Any

import pytest

from tests.delivery.test_webhook import LOOPBACK, SECRETS
from tests.support.asyncapi_document import DOCUMENT, address_of, documented_headers, messages, types_of
from tests.support.brokers import raw
from tests.support.brokers.cases import CASES
from tests.support.fakes import new_secret
from tests.support.published_events import every_event
from tests.support.web_receiver import WebReceiver
from tracker.api.asyncapi import HEADERS
from tracker.api.events import frame
from tracker.delivery.sinks.base import DELIVERED
from tracker.delivery.sinks.function import Function
from tracker.delivery.sinks.stdout import Lines
from tracker.delivery.sinks.urls import SinkContext, create_sinks, parse_sinks
from tracker.model.clock import utc_now
from tracker.service.sink_secrets import SinkSecrets

SOURCE = "https://homing.example.com"
EVENTS = every_event()
KINDS = [event.type for event in EVENTS]


@pytest.mark.parametrize("name", CASES)
async def test_broker_messages_match_asyncapi(name: str) -> None:
    async with CASES[name]() as case:
        sink = case.sink()
        assert await sink.send(EVENTS) == [DELIVERED] * len(EVENTS)
        await sink.close()
        read = {message.headers[HEADERS[name]["type"]]: message for message in await raw.read(case, len(EVENTS))}
    assert sorted(read) == sorted(KINDS)
    for event in EVENTS:
        message = read[event.type]
        assert types_of(name, message.headers, message.payload) == [event.type]
        assert documented_headers(name, event.type) == set(message.headers)
        assert message.address == address_of(name, event.type)
        bindings = messages(name)[event.type].get("bindings", {})
        assert (message.key is not None) == ("kafka" in bindings)
        assert message.key in {None, event.subject}
        if name == "rabbitmq":
            operation = DOCUMENT["operations"]["publishToRabbitMq"]["bindings"]["amqp"]
            assert message.known == {
                "type": bindings["amqp"]["messageType"],
                "mode": operation["deliveryMode"],
                "id": event.id,
                "content_type": messages(name)[event.type]["contentType"],
                "timestamp": operation["timestamp"],
            }


async def test_webhook_requests_match_asyncapi() -> None:
    context = SinkContext(source=SOURCE, secrets=SinkSecrets(new_secret, SECRETS), clock=utc_now, allowed=LOOPBACK)
    async with WebReceiver() as receiver:
        _, (_, sink) = create_sinks(parse_sinks(f"{receiver.url}#name=shop"), context=context)
        await sink.open()
        await sink.send(EVENTS)
        await sink.close()
    found = [(request.headers, json.loads(request.body)) for request in receiver.got]
    assert sorted(event["type"] for _, event in found) == sorted(KINDS)
    for headers, event in found:
        assert types_of("webhooks", headers, event) == [event["type"]]
        assert headers["content-type"] == messages("webhooks")[event["type"]]["contentType"]
    assert {request.line.split()[0] for request in receiver.got} == {
        DOCUMENT["operations"]["postEvents"]["bindings"]["http"]["method"]
    }


async def test_subscriber_and_stdout_events_match_asyncapi() -> None:
    called: list[dict[str, Any]] = []
    await Function(called.append, name="function", source=SOURCE).send(EVENTS)
    assert [types_of("function", {}, event) for event in called] == [[kind] for kind in KINDS]
    out, into = os.pipe()
    try:
        await Lines(name="stdout", source=SOURCE, descriptor=into).send(EVENTS)
        lines = os.read(out, 1 << 20).splitlines()
    finally:
        os.close(out)
        os.close(into)
    assert [types_of("stdout", {}, json.loads(line)) for line in lines] == [[kind] for kind in KINDS]


def test_stream_events_match_asyncapi() -> None:
    for event in EVENTS:
        lines = dict(line.split(": ", 1) for line in frame(event, SOURCE).decode().strip().split("\n"))
        assert lines["event"] == event.type
        assert types_of("stream", {}, json.loads(lines["data"])) == [event.type]
