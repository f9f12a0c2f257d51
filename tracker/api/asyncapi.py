"""The AsyncAPI 3.0 document: where events go, and what each message there looks like.

Types, attributes and schemas are those of the code (``model.event``, the API's models); ``channels`` says where.
https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from importlib.metadata import version
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from tracker.api.channels import CHANNELS, HTTP_BINDING, POST, SERVERS, SIGNATURE, Channel
from tracker.api.gateway_schemas import TaskData
from tracker.api.http.openapi import REF_TEMPLATE
from tracker.api.schemas import TaskShown
from tracker.api.sink_schemas import AlarmTold, EventShown
from tracker.model.event import ALARM_SCHEMA, ALARM_TYPE, JSON_TYPE, STRUCTURED_TYPE, TASK_SCHEMA, TYPES
from tracker.model.event_numbers import LONG_DIGITS, SHORT_DIGITS
from tracker.model.untrusted import JsonObject, JsonValue

INTRODUCTION: Final = (
    "What Homing tells others, and what it hears. Every accepted change of a task is one event, told at least once and "
    "in order per task: drop what is not greater than the `sequence` that you know of its `subject`. `HOMING_SINKS` "
    "says which of these channels there are, by the schemes of its addresses (`x-schemes`)."
)
ATTRIBUTES: Final = tuple(name for name in EventShown.model_fields if name != "data")
STANDARD: Final = "Standard Webhooks: https://www.standardwebhooks.com"


def describe_events() -> JsonObject:
    """Make the document."""
    channels: dict[str, JsonValue] = {"callbacks": _callbacks(), "callers": _callers()}
    operations: dict[str, JsonValue] = {
        "receiveCallbacks": {"action": "receive", "channel": _to("channels", "callbacks"), "bindings": {**POST}},
        "callBack": {"action": "send", "channel": _to("channels", "callers"), "bindings": {**POST}},
    }
    for channel in CHANNELS:
        channels[channel.name] = _channel(channel)
        operations[channel.operation] = _operation(channel)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Homing",
            "version": version("homing"),
            "description": INTRODUCTION,
            "license": {"name": "MIT"},
        },
        "defaultContentType": JSON_TYPE,
        "servers": {name: _server(*told) for name, told in SERVERS.items()},
        "channels": channels,
        "operations": operations,
        "components": {
            "schemas": _schemas(),
            "messages": _messages(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _server(protocol: str, example: str) -> JsonObject:
    return {"host": "{host}", "protocol": protocol, "variables": {"host": {"default": example}}}


def _channel(channel: Channel) -> JsonObject:
    told: JsonObject = {
        "address": channel.address,
        "title": channel.title,
        "description": channel.description,
        "messages": {kind: _to("components/messages", _named(kind, channel)) for kind in TYPES},
        "x-schemes": [*channel.schemes],
    }
    if channel.server is not None:
        told["servers"] = [_to("servers", channel.server)]
    if channel.typed:
        told["parameters"] = {"type": {"enum": [*TYPES], "location": channel.typed}}
    if channel.binding:
        told["bindings"] = {**channel.binding}
    return told


def _operation(channel: Channel) -> JsonObject:
    told: JsonObject = {"action": "send", "channel": _to("channels", channel.name)}
    if channel.sending:
        told["bindings"] = {**channel.sending}
    if channel.query is not None:
        query: JsonObject = channel.query.model_json_schema(ref_template=REF_TEMPLATE)
        told["bindings"] = {"http": {"method": "GET", "query": query, "bindingVersion": HTTP_BINDING}}
        told["security"] = [_to("components/securitySchemes", "key")]
    return told


def _callbacks() -> JsonObject:
    """Return the only channel on which Homing receives."""
    return {
        "address": "/callbacks/{provider}/{token}",
        "title": "Callbacks of the providers",
        "description": "A task's own address, or a standing one. 200 once it is committed.",
        "servers": [_to("servers", "homing")],
        "parameters": {"provider": {}, "token": {"description": "A secret: whoever knows it may tell of the task."}},
        "messages": {
            "callback": {
                "contentType": JSON_TYPE,
                "headers": {"type": "object", "properties": _signature(), "description": STANDARD},
                "payload": {"description": "What the provider writes, in any of its dialects."},
            }
        },
    }


def _callers() -> JsonObject:
    return {
        "address": None,
        "title": "Callbacks to the callers",
        "description": "The `callback_url` of a submit is told what the provider would tell it, with our task id.",
        "servers": [_to("servers", "caller")],
        "messages": {
            "callback": {
                "contentType": f"{JSON_TYPE}; charset=utf-8",
                "headers": _signed_headers(),
                "payload": _schema(TaskData.__name__),
            }
        },
    }


def _messages() -> dict[str, JsonValue]:
    told: dict[str, JsonValue] = {}
    for channel in CHANNELS:
        for kind in TYPES:
            told[_named(kind, channel)] = _message(kind, channel)
    return told


def _named(kind: str, channel: Channel) -> str:
    return f"{kind}.{channel.encoding.name}"


def _message(kind: str, channel: Channel) -> JsonObject:
    encoding = channel.encoding
    # What is the same in every event of the type.
    fixed: dict[str, JsonValue] = {"type": kind, "dataschema": ALARM_SCHEMA if _is_alarm(kind) else TASK_SCHEMA}
    data = _schema(AlarmTold.__name__ if _is_alarm(kind) else TaskShown.__name__)
    told: JsonObject = {"name": kind, "title": kind}
    if encoding.prefix is None:
        properties: dict[str, JsonValue] = {name: {"const": value} for name, value in fixed.items()}
        told["contentType"] = STRUCTURED_TYPE
        told["payload"] = {"allOf": [_schema(EventShown.__name__), {"properties": {**properties, "data": data}}]}
        if encoding.more:
            told["headers"] = _signed_headers()
    else:
        properties = {f"{encoding.prefix}{name}": {"const": value} for name, value in fixed.items()}
        told["contentType"] = JSON_TYPE
        told["headers"] = {"type": "object", "allOf": [_schema(f"{encoding.name}.headers"), {"properties": properties}]}
        told["payload"] = data
    if bindings := channel.bound(kind):
        told["bindings"] = bindings
    return told


def _schemas() -> dict[str, JsonValue]:
    _, made = models_json_schema(
        [(EventShown, "serialization"), (TaskData, "serialization")], ref_template=REF_TEMPLATE
    )
    schemas: dict[str, Any] = made["$defs"]
    attributes = schemas[EventShown.__name__]["properties"]
    attributes["sequence"]["pattern"] = f"^[0-9]{{{SHORT_DIGITS}}}([0-9]{{{LONG_DIGITS - SHORT_DIGITS}}})?$"
    for encoding in {channel.encoding.name: channel.encoding for channel in CHANNELS}.values():
        if encoding.prefix is not None:
            named = {encoding.header(name): attributes[name] for name in ATTRIBUTES}
            headers = {name: told for name, told in named.items() if name is not None}
            headers |= {name: {"type": "string", "description": "The event's id."} for name in encoding.more}
            schemas[f"{encoding.name}.headers"] = {
                "type": "object",
                "properties": headers,
                "required": [*headers],
            }
    return schemas


def _signed_headers() -> JsonObject:
    return {"type": "object", "properties": _signature(), "required": [*SIGNATURE], "description": STANDARD}


def _signature() -> JsonObject:
    return {name: {"type": "string"} for name in SIGNATURE}


def _is_alarm(kind: str) -> bool:
    return kind.startswith(ALARM_TYPE)


def _schema(name: str) -> JsonObject:
    return {"$ref": REF_TEMPLATE.format(model=name)}


def _to(where: str, name: str) -> JsonObject:
    return {"$ref": f"#/{where}/{name}"}
