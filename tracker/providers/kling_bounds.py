"""The bounds of a create request's fields in words, for errors and for documentation."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Final

import msgspec

from tracker.model.untrusted import JsonObject, JsonValue
from tracker.providers.kling_fields import Part

REFERENCE: Final = "#/components/schemas/{name}"
EMPTY: Final = "An empty text and a null count as a missing field."
_NULL: Final = {"type": "null"}
# The noun of a type, the end of the names of its limits, and the words for the limits.
_TYPES: Final = {
    "string": ("a text", "Length", " of {} characters"),
    "array": ("a list", "Items", " of {} entries"),
    "integer": ("an integer", "imum", " from {}"),
    "number": ("a number", "imum", " from {}"),
}
_STEP: Final = re.compile(r"[A-Za-z]\w*|\[")


@cache
def schemas_of(shape: type[Part]) -> dict[str, JsonObject]:
    """Return the JSON schemas of a body and of its parts, by name, for /openapi.json."""
    _, schemas = msgspec.json.schema_components([shape], ref_template=REFERENCE)
    schemas[shape.__name__]["description"] = f"{schemas[shape.__name__].get('description', '')} {EMPTY}".strip()
    for part in _parts(Part):
        if part.any_of and part.__name__ in schemas:
            groups: list[JsonValue] = [{"anyOf": [{"required": [name]} for name in names]} for names in part.any_of]
            schemas[part.__name__]["allOf"] = groups
    return schemas


def _parts(part: type[Part]) -> Iterator[type[Part]]:
    for below in part.__subclasses__():
        yield below
        yield from _parts(below)


@cache
def plain_schema(shape: type[Part]) -> JsonObject:
    """Return the schema of a body, without references and without null."""
    schemas = schemas_of(shape)
    return _plain(schemas[shape.__name__], schemas)


def bound_at(path: str, shape: type[Part]) -> str:
    """Return the bound of the field at a path such as ``image_list[0].image``."""
    schema = plain_schema(shape)
    for step in _STEP.findall(path):
        choices = schema.get("anyOf")
        for choice in choices if isinstance(choices, list) else [schema]:
            below = choice if isinstance(choice, dict) else {}
            found = below.get("items") if step == "[" else _object(below.get("properties")).get(step)
            if isinstance(found, dict):
                schema = found
                break
    return bound_of(schema)


def bound_of(schema: JsonObject) -> str:
    """Return a bound, such as "an integer from 1 to 9"."""
    if schema.get("type") == "object":
        return "an object"
    if isinstance(described := schema.get("description"), str):
        return described
    if isinstance(words := schema.get("enum"), list):
        return ("one of " if len(words) > 1 else "") + ", ".join(str(word) for word in words)
    if isinstance(choices := schema.get("anyOf"), list):
        return ", or ".join(bound_of(_object(choice)) for choice in choices)
    return _bound_of_type(schema)


def _bound_of_type(schema: JsonObject) -> str:
    if (words_of_type := _TYPES.get(str(schema.get("type")))) is None:
        return "true or false"
    noun, limit, between = words_of_type
    low, high = schema.get(f"min{limit}"), schema.get(f"max{limit}")
    if high is None:
        return noun if low is None else f"{noun} that is not empty"
    return noun + between.format(f"at most {high}" if low is None else f"{low} to {high}")


def _plain(schema: JsonObject, schemas: dict[str, JsonObject]) -> JsonObject:
    """Resolve the references in a schema, and leave out null."""
    if isinstance(reference := schema.get("$ref"), str):
        return _plain(schemas[reference.rpartition("/")[2]], schemas)
    plain = dict(schema)
    if isinstance(choices := plain.pop("anyOf", None), list):
        given: list[JsonValue] = [_plain(_object(choice), schemas) for choice in choices if choice != _NULL]
        plain = _object(given[0]) | plain if len(given) == 1 else plain | {"anyOf": given}
    if "items" in plain:
        plain["items"] = _plain(_object(plain["items"]), schemas)
    if "properties" in plain:
        below = _object(plain["properties"])
        plain["properties"] = {name: _plain(_object(field), schemas) for name, field in below.items()}
    return plain


def _object(value: JsonValue) -> JsonObject:
    return value if isinstance(value, dict) else {}
