"""Read the AsyncAPI document: list the messages of a channel and validate one."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import chain
from typing import Any, Final

from jsonschema import Draft7Validator, FormatChecker

from tracker.api.asyncapi import describe_events

DOCUMENT: Final[dict[str, Any]] = dict(describe_events())


def resolved(found: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference, where it is one."""
    while "$ref" in found:
        target: Any = DOCUMENT
        for step in found["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        found = target
    return found


def messages(channel: str) -> dict[str, dict[str, Any]]:
    return {name: resolved(message) for name, message in DOCUMENT["channels"][channel]["messages"].items()}


def faults(schema: Mapping[str, Any], instance: object) -> Iterator[str]:
    """Yield the validation errors of an instance of one of the document's schemas."""
    for error in _validator(json.dumps(schema)).iter_errors(instance):
        yield f"{error.json_path}: {error.message[:200]}"


@cache
def _validator(schema: str) -> Draft7Validator:
    # A validator resolves all references of the document once.
    return Draft7Validator({**json.loads(schema), "components": DOCUMENT["components"]}, format_checker=FormatChecker())


def is_of(message: Mapping[str, Any], headers: Mapping[str, str], payload: object) -> bool:
    return not any(chain(faults(message.get("headers", {}), dict(headers)), faults(message["payload"], payload)))


def types_of(channel: str, headers: Mapping[str, str], payload: object) -> list[str]:
    """Name the messages of a channel that this could be: exactly one, the document promises."""
    return [name for name, message in messages(channel).items() if is_of(message, headers, payload)]


def address_of(channel: str, kind: str) -> str:
    """Return where a channel's messages of a type go."""
    address: str = DOCUMENT["channels"][channel]["address"]
    return address.replace("{type}", kind)


def documented_headers(channel: str, kind: str) -> set[str]:
    """Return the names of all headers of a message, including those from composed schemas."""
    schema = resolved(messages(channel)[kind]["headers"])
    names = set(schema.get("properties", {}))
    for part in schema.get("allOf", ()):
        names |= set(resolved(part).get("properties", {}))
    return names
