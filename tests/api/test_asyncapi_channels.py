"""What really goes over each channel is what /asyncapi.json says of it: address, headers and payload, of every type."""

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
KINDS = [told.type for told in EVENTS]


@pytest.mark.parametrize("name", CASES)
async def test_a_broker_is_sent_what_is_documented(name: str) -> None:
    async with CASES[name]() as case:
        sink = case.sink()
        assert await sink.send(EVENTS) == [DELIVERED] * len(EVENTS)
        await sink.close()
        read = {message.headers[HEADERS[name]["type"]]: message for message in await raw.read(case, len(EVENTS))}
    assert sorted(read) == sorted(KINDS)
    for told in EVENTS:
        message = read[told.type]
        assert types_of(name, message.headers, message.payload) == [told.type]
        assert documented_headers(name, told.type) == set(message.headers)
        assert message.address == address_of(name, told.type)
        bindings = messages(name)[told.type].get("bindings", {})
        assert (message.key is not None) == ("kafka" in bindings)
        assert message.key in {None, told.subject}
        if name == "rabbitmq":
            operation = DOCUMENT["operations"]["publishToRabbitMq"]["bindings"]["amqp"]
            assert message.known == {
                "type": bindings["amqp"]["messageType"],
                "mode": operation["deliveryMode"],
                "id": told.id,
                "content_type": messages(name)[told.type]["contentType"],
                "timestamp": operation["timestamp"],
            }


async def test_a_webhook_is_posted_what_is_documented() -> None:
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


async def test_a_function_and_a_reader_of_the_output_are_given_what_is_documented() -> None:
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


def test_a_stream_has_what_is_documented() -> None:
    for told in EVENTS:
        lines = dict(line.split(": ", 1) for line in frame(told, SOURCE).decode().strip().split("\n"))
        assert lines["event"] == told.type
        assert types_of("stream", {}, json.loads(lines["data"])) == [told.type]
