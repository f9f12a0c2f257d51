"""The OpenAPI 3.1 document. It is made from the same endpoints as the routes, so both always agree."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from tracker.api.http.access import KeyUnknown, WrongHost
from tracker.api.http.base_schemas import Nothing
from tracker.api.http.body import Truncated
from tracker.api.http.endpoint import ApiEndpoint
from tracker.errors import (
    Forbidden,
    HomingError,
    InvalidRequest,
    NotFound,
    StoreUnavailable,
    TooLarge,
    TooMany,
    TooSlow,
    WrongMediaType,
)
from tracker.model.event import JSON_TYPE
from tracker.model.untrusted import ID_LENGTH, JsonObject, JsonValue

REF_TEMPLATE: Final = "#/components/schemas/{model}"

INTRODUCTION: Final = (
    "The task state API of Homing, and its gateways in the shapes of Kling and Replicate. Send `Authorization: Bearer "
    "KEY`. The HS256 token of Kling's clients works too. A client sees its own tasks, unless its key sees all clients. "
    "A task ID in a path may be Homing's ID, the provider's ID, or your external ID."
)
# The errors of every secured endpoint, and of every endpoint with a body.
AT_ADMISSION: Final = (KeyUnknown, WrongHost, TooMany, HomingError, StoreUnavailable)
AT_BODY: Final = (InvalidRequest, Truncated, TooSlow, TooLarge, WrongMediaType)


def describe(endpoints: Sequence[ApiEndpoint]) -> JsonObject:
    """Return the document."""
    paths: dict[str, JsonValue] = {}
    for endpoint in endpoints:
        operations = paths.setdefault(endpoint.path, {})
        assert isinstance(operations, dict)
        operations[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Homing", "version": version("homing"), "description": INTRODUCTION},
        "paths": paths,
        "components": {
            "schemas": _schemas(endpoints),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def errors_of(endpoint: ApiEndpoint) -> tuple[type[HomingError], ...]:
    """Return every error type that an endpoint may answer with."""
    errors = endpoint.errors
    if endpoint.all_clients:
        errors = (*errors, Forbidden)
    if endpoint.secured:
        errors = (*errors, *AT_ADMISSION)
    if _body_name(endpoint) is not None:
        errors = (*errors, *AT_BODY)
    if "{ref}" in endpoint.path:
        errors = (*errors, NotFound)
    # A query parameter may be out of its bounds. Outside the gateway, an unknown parameter is also refused.
    return (*errors, InvalidRequest)


def _operation(endpoint: ApiEndpoint) -> JsonObject:
    operation: JsonObject = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "tags": [endpoint.group],
        "parameters": _parameters(endpoint),
        "responses": _responses(endpoint),
        "security": [{"key": []}] if endpoint.secured else [],
    }
    body = _body_name(endpoint)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON_TYPE: {"schema": _reference(body)}}}
    return operation


def _body_name(endpoint: ApiEndpoint) -> str | None:
    if endpoint.documented_body is not None:
        return endpoint.documented_body.name
    return None if endpoint.body is Nothing else endpoint.body.__name__


def _responses(endpoint: ApiEndpoint) -> JsonObject:
    responses: JsonObject = {
        str(status.value): {"description": status.phrase, "content": _content(endpoint)}
        for status in (endpoint.status, *endpoint.also)
    }
    responses |= {str(status.value): {"description": status.phrase} for status in endpoint.bare}
    if endpoint.streams is not None:
        stream: JsonObject = {endpoint.streams: {"schema": {"type": "string"}}}
        responses["200"] = {"description": "A page, or a stream", "content": {**_content(endpoint), **stream}}
    dialect = endpoint.dialect
    titles: dict[int, list[str]] = {}
    for error in errors_of(endpoint):
        named = titles.setdefault(dialect.status(error), [])
        if error.title not in named:
            named.append(error.title)
    content: JsonObject = {dialect.media_type: {"schema": _reference(dialect.schema.__name__)}}
    for status in sorted(titles):
        if str(status) not in responses:
            responses[str(status)] = {"description": "; ".join(titles[status]), "content": content}
    return responses


def _content(endpoint: ApiEndpoint) -> JsonObject:
    return {JSON_TYPE: {"schema": _reference(endpoint.reply.__name__)}}


def _parameters(endpoint: ApiEndpoint) -> list[JsonValue]:
    """Return the parameters in the path, in the query and in the headers."""
    names = [segment[1:-1] for segment in endpoint.path.split("/") if segment.startswith("{")]
    parameters = [_text_parameter(name, "path", ID_LENGTH) for name in names]
    schema = endpoint.query.model_json_schema(ref_template=REF_TEMPLATE)
    for name, field in schema.get("properties", {}).items():
        required = name in schema.get("required", [])
        parameter: JsonObject = {"name": name, "in": "query", "required": required, "schema": field}
        if field.get("type") == "object":
            parameter |= {"style": "deepObject", "explode": True}
        parameters.append(parameter)
    return [*parameters, *(_text_parameter(header.name, "header", header.max_length) for header in endpoint.headers)]


def _text_parameter(name: str, where: str, max_length: int) -> JsonObject:
    schema: JsonObject = {"type": "string", "minLength": 1, "maxLength": max_length}
    return {"name": name, "in": where, "required": where == "path", "schema": schema}


def _schemas(endpoints: Sequence[ApiEndpoint]) -> dict[str, JsonValue]:
    """Return the schemas of all models that the operations use, and of the models within them."""
    models: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {}
    for endpoint in endpoints:
        for shown in (endpoint.reply, endpoint.dialect.schema):
            models[shown, "serialization"] = None
        for taken in (endpoint.body, endpoint.query):
            if taken is not Nothing:
                models[taken, "validation"] = None
    _, document = models_json_schema(list(models), ref_template=REF_TEMPLATE)
    schemas: dict[str, JsonValue] = document["$defs"]
    # Parameters describe a query. Only the schemas that they refer to are kept.
    queries = {endpoint.query.__name__ for endpoint in endpoints}
    kept = {name: schema for name, schema in schemas.items() if name not in queries}
    for endpoint in endpoints:
        if endpoint.documented_body is not None:
            kept |= endpoint.documented_body.schemas
        for name, alternatives in endpoint.alternatives.items():
            # References cost little, also to many large schemas.
            schema: Any = kept[endpoint.body.__name__]
            schema["properties"][name]["anyOf"] = [_reference(one) for one in alternatives]
    return kept


def _reference(model: str) -> JsonObject:
    return {"$ref": REF_TEMPLATE.format(model=model)}
