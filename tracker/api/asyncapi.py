"""The AsyncAPI 3.0 document: a channel for each kind of sink and stream, and a message for each event type.

Types, attributes and schemas come from the code. Tests compare each channel with what Homing really sends.
https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from importlib.metadata import version
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from tracker.api.gateway_schemas import TaskData
from tracker.api.http.openapi import REF_TEMPLATE
from tracker.api.schemas import TaskShown
from tracker.api.sink_schemas import AlarmData, EventQuery, EventShown
from tracker.model.event import (
    ALARM_SCHEMA,
    ALARM_TYPES,
    EVENT_TYPES,
    JSON_TYPE,
    LONG_DIGITS,
    SHORT_DIGITS,
    STRUCTURED_TYPE,
    TASK_SCHEMA,
)

Document = dict[str, Any]
INTRODUCTION: Final = (
    "Every accepted change of a task is one event. Homing delivers it at least once and in order per task: drop an "
    "event whose `sequence` is not greater than the last one of its `subject`. `HOMING_SINKS` decides which of these "
    "channels exist, by the schemes of its URLs (`x-schemes`)."
)
# Name, protocol and an example. The settings decide where each server is.
SERVERS: Final = (
    ("homing", "http", "127.0.0.1:8000"),
    ("endpoint", "https", "shop.example"),
    ("client", "https", "client.example"),
    ("nats", "nats", "nats.example:4222"),
    ("kafka", "kafka", "kafka.example:9092"),
    ("rabbitmq", "amqp", "rabbit.example:5672"),
    ("redis", "redis", "redis.example:6379"),
)
# Name, operation, server, address, schemes in HOMING_SINKS, title and description.
CHANNELS: Final[tuple[tuple[str, str, str | None, str | None, list[str], str, str], ...]] = (
    ("callbacks", "receiveCallbacks", "homing", "/callbacks/{provider}/{token}", [],
        "Callbacks of the providers", "A task callback URL or a shared one. 200 means that the callback is committed."),
    ("clients", "callBack", "client", None, [],
        "Callbacks to the clients", "The client's `callback_url` gets the callbacks that the provider would send."),
    ("webhooks", "postEvents", "endpoint", None, ["https", "http"],
        "Webhooks", "The endpoint of the sink. Any 2xx accepts the event; 410 turns the sink off."),
    ("stream", "streamEvents", "homing", "/v1/events", [],
        "Server-Sent Events", "Each event is a `data:` line, with its type as `event:` and its cursor as `id:`."),
    ("function", "callFunction", None, None, ["python"],
        "A function in the process", "`python:module:callable` gets the event as a dict, and accepts it by returning."),
    ("stdout", "printEvents", None, None, ["stdout"], "The standard output", "One event per line."),
    ("jetstream", "publishToJetStream", "nats", "{type}", ["nats", "tls"],
        "NATS JetStream", "One subject per type. If the URL of the sink has a path, the path and a dot precede it."),
    ("kafka", "publishToKafka", "kafka", "homing", ["kafka"],
        "Kafka", "The topic is the path of the sink's URL, or `homing` without a path."),
    ("rabbitmq", "publishToRabbitMq", "rabbitmq", "{type}", ["amqp", "amqps"],
        "RabbitMQ", "One routing key per type. `exchange=`, `headers=` and `mandatory=` in the URL change this."),
    ("redis", "addToRedis", "redis", "homing:events", ["redis", "rediss"],
        "Redis Streams", "The key of the stream, unless `stream=` sets another. The field `data` is the payload."),
)  # fmt: skip
ATTRIBUTES: Final = tuple(name for name in EventShown.model_fields if name != "data")
# The channels that send attributes as headers, with the header names. In all others, an event is one JSON document.
HEADERS: Final = {
    "jetstream": {name: f"ce-{name}" for name in ATTRIBUTES} | {"datacontenttype": "content-type"},
    "kafka": {name: f"ce_{name}" for name in ATTRIBUTES} | {"datacontenttype": "content-type"},
    "rabbitmq": {name: f"ce-{name}" for name in ATTRIBUTES if name != "datacontenttype"},
    "redis": {name: name for name in ATTRIBUTES},
}
TEXT: Final = {"type": "string"}
SIGNATURE: Final[Document] = {
    "type": "object",
    "properties": dict.fromkeys(("webhook-id", "webhook-timestamp", "webhook-signature"), TEXT),
    "description": "Standard Webhooks: https://www.standardwebhooks.com",
}
SIGNED: Final[Document] = {**SIGNATURE, "required": [*SIGNATURE["properties"]]}


def describe_events() -> Document:
    """Return the document."""
    channels: Document = {}
    operations: Document = {}
    for name, operation, server, address, schemes, title, description in CHANNELS:
        channels[name] = {"address": address, "title": title, "description": description, "x-schemes": schemes}
        channels[name]["messages"] = _messages(name)
        if server is not None:
            channels[name]["servers"] = [_to("servers", server)]
        action = "receive" if name == "callbacks" else "send"
        operations[operation] = {"action": action, "channel": _to("channels", name)}
    for name in ("receiveCallbacks", "callBack", "postEvents"):
        operations[name] |= _http("POST")
    operations["streamEvents"] |= _http("GET", query=EventQuery.model_json_schema(ref_template=REF_TEMPLATE))
    operations["streamEvents"]["security"] = [_to("components", "securitySchemes", "key")]
    operations["publishToRabbitMq"] |= _amqp(deliveryMode=2, mandatory=True, timestamp=True)
    exchange = {"name": "homing", "type": "topic", "durable": True, "vhost": "/"}
    channels["rabbitmq"] |= _amqp(exchange=exchange, **{"is": "routingKey"})
    token = {"description": "A secret. A sender that knows it can report about the task."}
    channels["callbacks"]["parameters"] = {"provider": {}, "token": token}
    for name in ("jetstream", "rabbitmq"):
        channels[name]["parameters"] = {"type": {"enum": [*EVENT_TYPES], "location": "$message.header#/ce-type"}}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Homing",
            "version": version("homing"),
            "description": INTRODUCTION,
            "license": {"name": "MIT"},
        },
        "defaultContentType": JSON_TYPE,
        "servers": {name: _server(protocol, example) for name, protocol, example in SERVERS},
        "channels": channels,
        "operations": operations,
        "components": {"schemas": _schemas(), "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _messages(channel: str) -> Document:
    if channel == "callbacks":
        payload = {"description": "The provider's report, in any of its formats."}
        return {"callback": {"contentType": JSON_TYPE, "headers": SIGNATURE, "payload": payload}}
    if channel == "clients":
        payload = _schema(TaskData.__name__)
        return {"callback": {"contentType": f"{JSON_TYPE}; charset=utf-8", "headers": SIGNED, "payload": payload}}
    return {kind: _message(channel, kind) for kind in EVENT_TYPES}


def _message(channel: str, kind: str) -> Document:
    """Return how a channel writes an event of a type."""
    alarm = kind in ALARM_TYPES
    data = _schema(AlarmData.__name__ if alarm else TaskShown.__name__)
    fixed = {"type": {"const": kind}, "dataschema": {"const": ALARM_SCHEMA if alarm else TASK_SCHEMA}}
    message: Document = {"name": kind, "title": kind}
    if names := HEADERS.get(channel):
        properties = {names[attribute]: value for attribute, value in fixed.items()}
        headers = {"type": "object", "allOf": [_schema(f"{channel}.headers"), {"properties": properties}]}
        message |= {"contentType": JSON_TYPE, "headers": headers, "payload": data}
    else:
        whole = {"allOf": [_schema(EventShown.__name__), {"properties": {**fixed, "data": data}}]}
        message |= {"contentType": STRUCTURED_TYPE, "payload": whole}
    if channel == "webhooks":
        message["headers"] = SIGNED
    if channel == "kafka":
        key = {**TEXT, "description": "The subject."}
        message["bindings"] = {"kafka": {"key": key, "bindingVersion": "0.5.0"}}
    if channel == "rabbitmq":
        message |= _amqp(messageType=kind)
    return message


def _schemas() -> Document:
    """Return the schemas of the payloads, and of the headers that hold attributes."""
    models = models_json_schema([(EventShown, "serialization"), (TaskData, "serialization")], ref_template=REF_TEMPLATE)
    schemas: Document = models[1]["$defs"]
    attributes = schemas[EventShown.__name__]["properties"]
    attributes["sequence"]["pattern"] = f"^[0-9]{{{SHORT_DIGITS}}}([0-9]{{{LONG_DIGITS - SHORT_DIGITS}}})?$"
    for channel, names in HEADERS.items():
        headers = {header: attributes[attribute] for attribute, header in names.items()}
        if channel == "jetstream":
            headers["Nats-Msg-Id"] = {**TEXT, "description": "The event's ID."}
        schemas[f"{channel}.headers"] = {"type": "object", "properties": headers, "required": [*headers]}
    return schemas


def _to(*steps: str) -> Document:
    return {"$ref": "/".join(("#", *steps))}


def _schema(name: str) -> Document:
    return {"$ref": REF_TEMPLATE.format(model=name)}


def _server(protocol: str, example: str) -> Document:
    return {"host": "{host}", "protocol": protocol, "variables": {"host": {"default": example}}}


def _http(method: str, **more: object) -> Document:
    return {"bindings": {"http": {"method": method, "bindingVersion": "0.3.0", **more}}}


def _amqp(**more: object) -> Document:
    return {"bindings": {"amqp": {"bindingVersion": "0.3.0", **more}}}
